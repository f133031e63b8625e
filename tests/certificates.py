"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.dataplane.tls import TlsFiles

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates of hosts, each with a key of its own."""

    def __init__(self, name: str = "an authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        builder = _builder(self._name, self._name, self._key, NOW + 365 * DAY)
        self.certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
            self._key, hashes.SHA256()
        )

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def signed(self, name: str, *, until: datetime.datetime = NOW + 30 * DAY) -> tuple[bytes, bytes]:
        """A certificate and its private key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _builder(_name(name), self._name, key, until).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private

    def issue(self, directory: Path, name: str, *, until: datetime.datetime = NOW + 30 * DAY) -> TlsFiles:
        """Files of one end in a directory, which are those of before no more."""
        return mount(directory, *self.signed(name, until=until), self.pem)


def mount(directory: Path, certificate: bytes, private_key: bytes, authority: bytes) -> TlsFiles:
    """As a Secret is mounted: links lead through one link to the files, and that one is replaced."""
    directory.mkdir(exist_ok=True)
    version = directory / f"..{len(list(directory.glob('..*')))}"
    version.mkdir()
    for name, content in (("tls.crt", certificate), ("tls.key", private_key), ("ca.crt", authority)):
        (version / name).write_bytes(content)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path("..data") / name)
    fresh = directory / "..data_fresh"
    fresh.symlink_to(version.name)
    os.replace(fresh, directory / "..data")
    return TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(NOW, until) - DAY)
        .not_valid_after(until)
    )
