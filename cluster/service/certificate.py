"""The certificate that the service shows: each connection that begins has the one of the files as they are then."""

from __future__ import annotations

import ssl
from pathlib import Path

from coordinator.certificates import Renewed, load_chain


class ServedCertificate:
    """A TLS context to listen with, for as long as the service runs. Connections that are open stay as they are."""

    def __init__(self, certificate: Path, private_key: Path) -> None:
        """InvalidCertificate if the files are not there, cannot be read, or do not belong together."""
        self._renewed = Renewed((certificate, private_key), lambda: _context(certificate, private_key))
        self.context = _context(certificate, private_key)
        # OpenSSL asks for every connection, whether the client names a server or not.
        self.context.sni_callback = self._choose

    def good_until(self) -> float:
        """When it expires, in seconds since 1970."""
        return self._renewed.good_until()

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        connection.context = self._renewed.current()


def _context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, certificate, private_key)
    return context
