"""Certificates for tests: an authority, and what it signs, in files or in a Secret."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.dataplane.tls import TlsFiles

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
USES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class Authority:
    """Signs certificates of servers and clients, each with a key of its own."""

    def __init__(self, name: str = "an authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        made = (
            _builder(self._name, self._name, self._key, NOW + 365 * DAY, is_authority=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = made.public_bytes(serialization.Encoding.PEM)
        """Its own certificate."""

    def signed(
        self,
        name: str,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        *,
        until: datetime.datetime = NOW + 30 * DAY,
        uses: Sequence[x509.ObjectIdentifier] = USES,
        is_bare: bool = False,
    ) -> tuple[bytes, bytes]:
        """A certificate and its private key, in PEM. dns, addresses: of a server whose name is looked at. is_bare: with
        no extensions, as `openssl x509 -req` makes them, which name neither uses nor the key of their authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._name, key, until)
        if not is_bare:
            own_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            builder = builder.add_extension(own_key, critical=False)
        names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private

    def issue(self, directory: Path, name: str, *, until: datetime.datetime = NOW + 30 * DAY) -> TlsFiles:
        """Files of one end in a directory, which are those of before no more."""
        return mount(directory, *self.signed(name, until=until), self.pem)

    def secret(self, name: str, dns: Sequence[str], addresses: Sequence[str] = ()) -> dict[str, bytes]:
        """A Secret as cert-manager writes it: tls.crt, tls.key, ca.crt."""
        certificate, private_key = self.signed(name, dns, addresses)
        return {"tls.crt": certificate, "tls.key": private_key, "ca.crt": self.pem}


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
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    until: datetime.datetime,
    *,
    is_authority: bool = False,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(NOW, until) - DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(usage, critical=True)
    )
