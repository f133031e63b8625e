"""Mutual proof of the cluster's secret, before any frame is decoded. Pure: bytes in, bytes out, no sockets, no clock.

The server greets with a nonce; the client answers with its own nonce and an HMAC-SHA256 over both; the server checks it
in constant time and answers with its own HMAC. Each proof names its role, so one cannot be reflected as the other.
The secret itself never travels. This authenticates the ends; it does not encrypt (TLS is not there yet).
"""

from __future__ import annotations

import hmac
import secrets
import struct

from shard.errors import AuthenticationFailed, HostBusy, InvalidParameter, ProtocolError

MAGIC = b"FGDP"
HANDSHAKE_VERSION = 1
NONCE_BYTES = 32
PROOF_BYTES = 32
MIN_SECRET_BYTES = 16

_GREETING = struct.Struct("<4sBBH32s")
_VERDICT = struct.Struct("<4sBBH32s")
_OK, _FULL, _REFUSED = 0, 1, 2

GREETING_BYTES = _GREETING.size
ANSWER_BYTES = NONCE_BYTES + PROOF_BYTES
VERDICT_BYTES = _VERDICT.size


def checked_secret(secret: bytes) -> bytes:
    """The secret. InvalidParameter if it is shorter than MIN_SECRET_BYTES."""
    if not isinstance(secret, bytes) or len(secret) < MIN_SECRET_BYTES:
        got = f"{len(secret)} bytes" if isinstance(secret, bytes) else type(secret).__name__
        raise InvalidParameter(f"the cluster's secret must be at least {MIN_SECRET_BYTES} bytes, got {got}")
    return secret


class ServerHandshake:
    """The server's side of one connection."""

    def __init__(self, secret: bytes, *, is_full: bool) -> None:
        self.is_full = is_full
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self.greeting = _GREETING.pack(MAGIC, HANDSHAKE_VERSION, _FULL if is_full else _OK, 0, self._nonce)

    def verdict(self, answer: bytes) -> tuple[bool, bytes]:
        """Whether the client's answer proves the secret, and what to send it. answer: ANSWER_BYTES."""
        client_nonce, proof = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
        if not hmac.compare_digest(proof, _proof(self._secret, b"client", self._nonce, client_nonce)):
            return False, _VERDICT.pack(MAGIC, HANDSHAKE_VERSION, _REFUSED, 0, bytes(PROOF_BYTES))
        own = _proof(self._secret, b"server", self._nonce, client_nonce)
        return True, _VERDICT.pack(MAGIC, HANDSHAKE_VERSION, _OK, 0, own)


class ClientHandshake:
    """The client's side of one connection. `where` names the server in messages."""

    def __init__(self, secret: bytes, where: str) -> None:
        self._secret = secret
        self._where = where
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._server_nonce = b""

    def answer(self, greeting: bytes) -> bytes:
        """What to answer. ProtocolError for another protocol or version, HostBusy when the server is full."""
        magic, version, status, _, self._server_nonce = _GREETING.unpack(greeting)
        self._check(magic, version)
        if status == _FULL:
            raise HostBusy(f"{self._where} has all the connections it takes")
        return self._nonce + _proof(self._secret, b"client", self._server_nonce, self._nonce)

    def check(self, verdict: bytes) -> None:
        """AuthenticationFailed unless the server accepted and proved that it knows the secret too."""
        magic, version, status, _, proof = _VERDICT.unpack(verdict)
        self._check(magic, version)
        if status != _OK:
            raise AuthenticationFailed(f"{self._where} refused this client: its cluster secret is another one")
        if not hmac.compare_digest(proof, _proof(self._secret, b"server", self._server_nonce, self._nonce)):
            raise AuthenticationFailed(f"{self._where} does not know the cluster's secret")

    def _check(self, magic: bytes, version: int) -> None:
        if magic != MAGIC:
            raise ProtocolError(f"{self._where} does not speak the data plane: expected {MAGIC!r}, got {magic!r}")
        if version != HANDSHAKE_VERSION:
            raise ProtocolError(
                f"{self._where} speaks handshake version {version}; this end speaks {HANDSHAKE_VERSION}"
            )


def _proof(secret: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    transcript = MAGIC + bytes([HANDSHAKE_VERSION]) + role + server_nonce + client_nonce
    return hmac.digest(secret, transcript, "sha256")
