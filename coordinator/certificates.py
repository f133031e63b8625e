"""Certificates that are renewed while in use: what is made of PEM files, and made again when they have changed.

Whoever shows a certificate asks for `Renewed.current` at each connection, so that nothing has to be restarted and no
signal sent. Knows files and OpenSSL's contexts, neither sockets nor who is at the other end.
"""

from __future__ import annotations

import datetime
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from shard.errors import InvalidCertificate

log = logging.getLogger("facegrid.certificates")

READS = 3
"""How often files are read again that change while they are read."""
AGAIN_S = 10.0
"""Files that cannot be used and do not change are read again, and named in the log again, after this long."""

Stamp = tuple[tuple[int, int, int], ...]
T = TypeVar("T")

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _VERSION = 0x17, 0xA0


class Renewed(Generic[T]):
    """What `read` makes of files as they are now. Thread-safe."""

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        """paths: the certificate first, then all else that `read` reads. InvalidCertificate if the files are not there,
        cannot be read, or do not belong together.
        """
        self._paths, self._read = paths, read
        self._lock = threading.Lock()
        self._refused: Stamp | None = None
        self._again = 0.0
        self._stamp, self._value, self._until = self._read_steady()
        log.info("the certificate %s is good until %s", paths[0], _said_time(self._until))

    def current(self) -> T:
        """Costs a `stat` of each file unless they have changed. Files that cannot be used leave those of before."""
        with self._lock:
            self._look()
            return self._value

    def good_until(self) -> float:
        """When the certificate that `current` is made of expires, in seconds since 1970."""
        with self._lock:
            self._look()
            return self._until

    def _look(self) -> None:
        stamp: Stamp | None = None
        now = time.monotonic()
        try:
            stamp = _stamp(self._paths)
            if stamp == self._stamp or (stamp == self._refused and now < self._again):
                return
            self._stamp, self._value, self._until = self._read_steady()
            log.info("the certificate %s was renewed, it is good until %s", self._paths[0], _said_time(self._until))
        except InvalidCertificate as error:
            # Somebody may be in the middle of renewing them; what is in use serves until it expires.
            if stamp != self._refused or now >= self._again:
                log.error("renewed certificates cannot be used, those read before still are: %s", error)
                self._refused, self._again = stamp, now + AGAIN_S

    def _read_steady(self) -> tuple[Stamp, T, float]:
        """What is made of files that did not change meanwhile, and what tells those files from later ones."""
        for left in reversed(range(READS)):
            stamp = _stamp(self._paths)
            try:
                value, until = self._read(), good_until(self._paths[0])
            except InvalidCertificate:
                if left == 0 or _stamp(self._paths) == stamp:
                    raise
            else:
                if _stamp(self._paths) == stamp:
                    return stamp, value, until
        raise InvalidCertificate(f"{', '.join(map(str, self._paths))} change all the time")


def load_chain(context: ssl.SSLContext, certificate: Path, private_key: Path) -> None:
    """Have a context show a certificate. InvalidCertificate if it, or its key, is not in these files."""
    try:
        # A password, so that OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(certificate, private_key, password="")
    except (ssl.SSLError, OSError) as error:
        raise InvalidCertificate(
            f"expected a PEM certificate in {certificate} and its unencrypted private key in"
            f" {private_key}: {said(error)}"
        ) from error


def good_until(certificate: Path) -> float:
    """When the first certificate of a PEM file expires, in seconds since 1970. InvalidCertificate."""
    try:
        found = _PEM.search(certificate.read_text("utf-8", "replace"))
        if found is None:
            raise ValueError("it has no certificate")
        return _not_after(ssl.PEM_cert_to_DER_cert(found[0]))
    except (OSError, ValueError, IndexError) as error:
        raise InvalidCertificate(f"expected a PEM certificate in {certificate}: {error}") from error


def said(error: OSError) -> str:
    """What OpenSSL or the system says, in words."""
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return (reason or str(error)).replace("_", " ").lower()


def _said_time(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def _stamp(paths: tuple[Path, ...]) -> Stamp:
    """Whatever the links lead to: a mounted Secret is renewed by another target of a link."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InvalidCertificate(f"{path} cannot be read: {error.strerror}") from error
        found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _not_after(der: bytes) -> float:
    """The end of `validity` in `tbsCertificate` (RFC 5280, 4.1). Python's ssl says it of the other end's only."""
    ((_, certificate),) = _elements(der)
    fields = _elements(_elements(certificate)[0][1])
    # [version], serial number, signature, issuer, validity
    _, validity = fields[4] if fields[0][0] == _VERSION else fields[3]
    _, (kind, moment) = _elements(validity)
    text = moment.decode("ascii")
    if kind == _UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    return datetime.datetime.strptime(text + "+0000", "%Y%m%d%H%M%SZ%z").timestamp()


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each DER element of a sequence of them."""
    found, at = [], 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            octets = size & 0x7F
            size, at = int.from_bytes(data[at : at + octets], "big"), at + octets
        if at + size > len(data):
            raise ValueError("a certificate that is cut off")
        found.append((tag, data[at : at + size]))
        at += size
    return found
