"""Mutual proof of the cluster's secret, before any frame is decoded. Pure: bytes in, bytes out, no sockets, no clock.

The server greets with a nonce; the client answers with its own nonce, a digest of the name of the host that it means,
and an HMAC-SHA256 over all; the server checks it in constant time and answers with its own HMAC. Each proof names its
role, so one cannot be reflected as the other. The secret itself never travels. The name is there because an address may
be another host's by now (pods get those of others), and what was meant for one must not be confirmed by another.
This authenticates the ends; it does not encrypt: `tunnel.py` does, around it. `channel` is what tells its connection
from every other, so that a proof is worth nothing on another one: who holds a good certificate cannot relay it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct

from shard.errors import (
    AuthenticationFailed,
    FacegridError,
    HostBusy,
    InvalidParameter,
    ProtocolError,
    TlsMismatch,
    WrongHost,
)

MAGIC = b"FGDP"
HANDSHAKE_VERSION = 2
NONCE_BYTES = 32
PROOF_BYTES = 32
NAME_BYTES = 32
MIN_SECRET_BYTES = 16

_GREETING = struct.Struct("<4sBBH32s")
_VERDICT = struct.Struct("<4sBBH32s")
_OK, _FULL, _REFUSED, _TLS, _OTHER = 0, 1, 2, 3, 4
_TLS_HELLO = b"\x16\x03"
"""How a client begins that speaks TLS."""

GREETING_BYTES = _GREETING.size
ANSWER_BYTES = NONCE_BYTES + NAME_BYTES + PROOF_BYTES
VERDICT_BYTES = _VERDICT.size


def checked_secret(secret: bytes) -> bytes:
    """The secret. InvalidParameter if it is shorter than MIN_SECRET_BYTES."""
    if not isinstance(secret, bytes) or len(secret) < MIN_SECRET_BYTES:
        got = f"{len(secret)} bytes" if isinstance(secret, bytes) else type(secret).__name__
        raise InvalidParameter(f"the cluster's secret must be at least {MIN_SECRET_BYTES} bytes, got {got}")
    return secret


class ServerHandshake:
    """The server's side of one connection."""

    def __init__(self, secret: bytes, *, is_full: bool, host: str | None = None) -> None:
        """host: the server's name; whatever name the client means if None."""
        self.is_full = is_full
        self._host = host
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self.greeting = _GREETING.pack(MAGIC, HANDSHAKE_VERSION, _FULL if is_full else _OK, 0, self._nonce)

    def tls_is_expected(self) -> bytes:
        """What to send in the clear to a client that does not begin TLS."""
        return _GREETING.pack(MAGIC, HANDSHAKE_VERSION, _TLS, 0, bytes(NONCE_BYTES))

    def verdict(self, answer: bytes, channel: bytes = b"") -> tuple[FacegridError | None, bytes]:
        """Why the client is refused, None if it is not, and what to send it. answer: ANSWER_BYTES. channel: of the TLS
        connection around it, b"" without.
        """
        asked, proof = answer[:-PROOF_BYTES], answer[-PROOF_BYTES:]
        if not hmac.compare_digest(proof, _proof(self._secret, b"client", self._nonce, asked, channel)):
            relayed = ", or is relayed by somebody who ends its TLS" if channel else ""
            refused: FacegridError = AuthenticationFailed(f"the client does not know the cluster's secret{relayed}")
            if answer.startswith(_TLS_HELLO):
                refused = TlsMismatch("the client speaks TLS; data_certificate is not set at this end")
            return refused, _VERDICT.pack(MAGIC, HANDSHAKE_VERSION, _REFUSED, 0, bytes(PROOF_BYTES))
        own = _proof(self._secret, b"server", self._nonce, asked, channel)
        if self._host is not None and asked[NONCE_BYTES:] != _digest(self._host):
            other = WrongHost(f"the client means another shard host than {self._host}")
            return other, _VERDICT.pack(MAGIC, HANDSHAKE_VERSION, _OTHER, 0, own)
        return None, _VERDICT.pack(MAGIC, HANDSHAKE_VERSION, _OK, 0, own)


class ClientHandshake:
    """The client's side of one connection. `where` names the server in messages, `host` is whom the client means."""

    def __init__(self, secret: bytes, where: str, host: str = "") -> None:
        self._secret = secret
        self._where = where
        self._asked = secrets.token_bytes(NONCE_BYTES) + _digest(host)
        self._server_nonce = b""
        self._channel = b""

    def answer(self, greeting: bytes, channel: bytes = b"") -> bytes:
        """What to answer. channel: as of `ServerHandshake.verdict`. ProtocolError for another protocol or version,
        HostBusy when the server is full, TlsMismatch when it expects TLS.
        """
        self._channel = channel
        magic, version, status, _, self._server_nonce = _GREETING.unpack(greeting)
        self._check(magic, version)
        if status == _FULL:
            raise HostBusy(f"{self._where} has all the connections it takes")
        if status == _TLS:
            raise TlsMismatch(f"{self._where} expects TLS; data_certificate is not set at this end")
        return self._asked + _proof(self._secret, b"client", self._server_nonce, self._asked, channel)

    def in_the_clear(self, data: bytes) -> FacegridError | None:
        """What it means if these are the first bytes that come where TLS was begun; None if they may be of TLS."""
        if not data.startswith(MAGIC):
            return None
        try:
            if len(data) >= GREETING_BYTES:
                self.answer(data[:GREETING_BYTES])
        except FacegridError as error:
            return error
        return TlsMismatch(f"{self._where} does not speak TLS, which data_certificate of this end asks for")

    def check(self, verdict: bytes) -> None:
        """AuthenticationFailed unless the server accepted and proved that it knows the secret too; WrongHost if it is
        another one than the client means.
        """
        magic, version, status, _, proof = _VERDICT.unpack(verdict)
        self._check(magic, version)
        if status not in (_OK, _OTHER):
            relayed = ", or somebody between ends the TLS" if self._channel else ""
            raise AuthenticationFailed(f"{self._where} refused this client: its cluster secret is another one{relayed}")
        own = _proof(self._secret, b"server", self._server_nonce, self._asked, self._channel)
        if not hmac.compare_digest(proof, own):
            raise AuthenticationFailed(f"{self._where} does not know the cluster's secret")
        if status == _OTHER:
            raise WrongHost(f"{self._where} is another shard host by now")

    def _check(self, magic: bytes, version: int) -> None:
        if magic != MAGIC:
            raise ProtocolError(f"{self._where} does not speak the data plane: expected {MAGIC!r}, got {magic!r}")
        if version != HANDSHAKE_VERSION:
            raise ProtocolError(
                f"{self._where} speaks handshake version {version}; this end speaks {HANDSHAKE_VERSION}"
            )


def _digest(host: str) -> bytes:
    return hashlib.sha256(host.encode()).digest()


def _proof(secret: bytes, role: bytes, server_nonce: bytes, asked: bytes, channel: bytes) -> bytes:
    """asked: the client's nonce and the digest of the host that it means. All but channel have fixed lengths."""
    transcript = MAGIC + bytes([HANDSHAKE_VERSION]) + role + server_nonce + asked + channel
    return hmac.digest(secret, transcript, "sha256")
