"""TLS of the data plane: which files an end has, the contexts made of them, and names for what goes wrong.

Both ends show a certificate, and each checks that an authority of `TlsFiles.authority` signed the other's. Names in
certificates are not compared with addresses: a pod that restarts has another one. Knows files and contexts, no sockets.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from coordinator.certificates import Renewed, load_chain, said
from coordinator.kept import kept
from shard.errors import CertificateRefused, FacegridError, InvalidCertificate, ProtocolError, TlsMismatch

_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE"}
"""What OpenSSL calls bytes that are not the beginning of TLS."""

_ABOUT_CERTIFICATES = {"UNKNOWN_CA", "DECRYPT_ERROR", "ACCESS_DENIED"}
"""Alerts about certificates that do not say so. The second is a signature that does not verify, mostly that of an
authority which was made anew under its old name."""


@kept
@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end, at the same path on every node: the certificate (with what links it to the authority),
    its private key, and the certificates of the authority that signed those of all ends.
    """

    certificate: Path
    private_key: Path
    authority: Path


class TlsContexts:
    """The contexts of the files as they are now: they are read again when they change. Thread-safe."""

    def __init__(self, files: TlsFiles) -> None:
        """InvalidCertificate if the files are not there, cannot be read, or do not belong together."""
        paths = (files.certificate, files.private_key, files.authority)
        self._renewed = Renewed(
            paths, lambda: (_context(files, ssl.PROTOCOL_TLS_SERVER), _context(files, ssl.PROTOCOL_TLS_CLIENT))
        )

    def server(self) -> ssl.SSLContext:
        """For the end that was connected to."""
        return self._renewed.current()[0]

    def client(self) -> ssl.SSLContext:
        """For the end that connects."""
        return self._renewed.current()[1]


def tls_contexts(files: TlsFiles | None) -> TlsContexts | None:
    """The contexts; None for plain connections. InvalidCertificate."""
    return None if files is None else TlsContexts(files)


def named(error: ssl.SSLError, where: str) -> FacegridError:
    """The error that says what OpenSSL's means. where: the other end, for the message."""
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(
            f"{where} shows a certificate that is not accepted here: {error.verify_message};"
            " expected one that data_authority signed and that is valid now"
        )
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return CertificateRefused(f"{where} shows no certificate; expected one that data_authority signed")
    _, is_alert, alert = reason.partition("_ALERT_")
    if is_alert:
        told = alert.replace("_", " ").lower()
        if "CERTIFICATE" in alert or alert in _ABOUT_CERTIFICATES:
            return CertificateRefused(f"{where} does not accept the certificate of this end: {told}")
        return ProtocolError(f"{where} has ended TLS 1.3: {told}")
    if reason in _NOT_TLS:
        return TlsMismatch(f"{where} does not speak TLS, which data_certificate of this end asks for")
    return ProtocolError(f"{where}: TLS 1.3 failed: {reason}")


def _context(files: TlsFiles, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no connection is resumed on what an earlier one was believed
    load_chain(context, files.certificate, files.private_key)
    try:
        context.load_verify_locations(files.authority)
    except (ssl.SSLError, OSError) as error:
        raise InvalidCertificate(f"expected PEM certificates in {files.authority}: {said(error)}") from error
    return context
