"""Keys of an encrypted shard: what is derived from its tenant's data key, and the file that says so.

    data key (32 bytes, of the tenant; given by the caller, never written)
      └─ HKDF-SHA256, salted with 32 random bytes of this directory
           ├─ check value          in encryption.json: tells a wrong key before anything is read with it
           ├─ key of shard.db      SQLCipher (`shard.cipher_database`)
           └─ key of each segment's floats, of its keys, of its codes by a model: AES-256-GCM (`BlockCipher`)

No two directories, segments or files share a key, and segment numbers are never used again, so a block cannot be put in
another's place, and random nonces are drawn for some hundred thousand blocks under one key. Knows nothing of where keys
come from (`coordinator.encryption`). The only importer of `cryptography`.
"""

from __future__ import annotations

import hmac
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shard.errors import CorruptData, FormatTooNew, InvalidParameter, KeyUnavailable, MissingExtra, WrongKey
from shard.files import write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HEADER = "encryption.json"
CIPHER = "aes-256-gcm, sqlcipher-4"
KEY_BYTES = 32
_FORMAT = 1
_NONCE, _TAG = 12, 16
OVERHEAD = _NONCE + _TAG
"""Bytes that a block is longer on the disk: the nonce before the ciphertext, the tag after it."""


def check_key(key: bytes) -> bytes:
    """The key; InvalidParameter, which does not show it, unless it is KEY_BYTES long."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise InvalidParameter(f"encryption key: expected {KEY_BYTES} bytes, got {len(key)}")
    return key


def is_encrypted(directory: Path) -> bool:
    """Whether the shard in the directory is, or began to be made, an encrypted one."""
    return (directory / HEADER).is_file()


class ShardCipher:
    """The keys of one shard's directory."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        """key: the tenant's data key, KEY_BYTES long. salt: that of the directory."""
        self._key, self._salt = check_key(key), salt
        self.database_key = self._derived("shard.db")

    @classmethod
    def create(cls, directory: Path, key: bytes) -> ShardCipher:
        """Make the directory, which exists, an encrypted shard's, durably; one that is already is opened."""
        if is_encrypted(directory):
            return cls.open(directory, key)
        if (directory / "shard.db").exists():
            raise _not_encrypted(directory)
        cipher = cls(key, os.urandom(32))
        fields = {"format": _FORMAT, "cipher": CIPHER, "salt": cipher._salt.hex(), "check": cipher._check()}
        text = json.dumps({**fields, "crc": _crc(fields)}, indent=1)
        write_file(directory / HEADER, text.encode())
        return cipher

    @classmethod
    def open(cls, directory: Path, key: bytes) -> ShardCipher:
        """WrongKey if the shard was not encrypted with this key, or not at all; CorruptData, FormatTooNew."""
        path = directory / HEADER
        if not is_encrypted(directory):
            raise _not_encrypted(directory)
        header = _read_header(path)
        cipher = cls(key, header.salt)
        if not hmac.compare_digest(cipher._check(), header.check):
            raise WrongKey(f"{path}: the key given is not the one that this shard was encrypted with")
        return cipher

    def blocks(self, name: str, segment: int, block: int) -> BlockCipher:
        """The cipher of one file of a segment, in blocks of `block` bytes. name: of the file's kind."""
        return BlockCipher(_aes_gcm(self._derived(f"segment {segment} {name}")), block)

    def _check(self) -> str:
        return self._derived("check").hex()

    def _derived(self, purpose: str) -> bytes:
        """HKDF-SHA256 (RFC 5869) of the data key, KEY_BYTES long: one block of its expansion is enough."""
        extracted = hmac.digest(self._salt, self._key, "sha256")
        return hmac.digest(extracted, f"facegrid 1 {purpose}".encode() + b"\x01", "sha256")


class BlockCipher:
    """AES-256-GCM over a file of blocks: block n is 12 bytes nonce, ciphertext, 16 bytes tag, at n * (block + 28).

    Each writing of a block draws a nonce of its own; the block's number is authenticated with it. Sizes and offsets are
    of plaintext unless they are called `stored`.
    """

    def __init__(self, aes: AESGCM, block: int) -> None:
        self._aes, self.block = aes, block

    def stored(self, size: int) -> int:
        """Bytes on the disk of so many bytes from block 0 on."""
        return size + -(-size // self.block) * OVERHEAD

    def size(self, stored: int) -> int:
        """Bytes that so many on the disk are. Bytes too few for a block count as one: no sound file has them."""
        blocks, rest = divmod(stored, self.block + OVERHEAD)
        return blocks * self.block + (max(rest - OVERHEAD, 1) if rest else 0)

    def encrypt(self, first: int, data: memoryview | bytes) -> bytes:
        """What the disk gets of blocks from number `first` on; only the last may be shorter."""
        view = memoryview(data).cast("B")
        count = -(-len(view) // self.block)
        nonces = os.urandom(count * _NONCE)
        parts = []
        for i in range(count):
            nonce = nonces[i * _NONCE : (i + 1) * _NONCE]
            block = view[i * self.block : (i + 1) * self.block]
            parts += [nonce, self._aes.encrypt(nonce, block, _number(first + i))]
        return b"".join(parts)

    def decrypt(self, first: int, stored: memoryview | bytes) -> tuple[bytes, list[int]]:
        """The plaintext of blocks from number `first` on, and the numbers of those that are not what was written.

        Of these nothing is given but zeros.
        """
        from cryptography.exceptions import InvalidTag

        view = memoryview(stored).cast("B")
        parts, wrong = [], []
        for number, start in enumerate(range(0, len(view), self.block + OVERHEAD), start=first):
            piece = view[start : start + self.block + OVERHEAD]
            try:
                parts.append(self._aes.decrypt(piece[:_NONCE], piece[_NONCE:], _number(number)))
            except (InvalidTag, ValueError):  # ValueError: too short to have a nonce
                parts.append(bytes(max(len(piece) - OVERHEAD, 0)))
                wrong.append(number)
        return b"".join(parts), wrong


@dataclass(frozen=True, slots=True)
class _Header:
    salt: bytes
    check: str


def _read_header(path: Path) -> _Header:
    try:
        fields = json.loads(path.read_bytes())
        crc = fields.pop("crc")
        if crc != _crc(fields):
            raise ValueError("wrong CRC-32")
        if fields["format"] > _FORMAT:
            raise FormatTooNew(f"{path} has format {fields['format']}; this Facegrid reads up to {_FORMAT}")
        if fields["cipher"] != CIPHER:
            raise FormatTooNew(f"{path}: expected the cipher {CIPHER!r}, got {fields['cipher']!r}")
        return _Header(bytes.fromhex(fields["salt"]), fields["check"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptData(f"{path} is not what was written: {error}", path=str(path)) from error


def _crc(fields: dict[str, object]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def cipher_of(directory: Path, key: bytes | None) -> ShardCipher | None:
    """The cipher of a shard's directory, None for one in the clear.

    Raises KeyUnavailable for an encrypted one without a key, WrongKey for another's key, or for any key where nothing
    is encrypted: whoever has one expects ciphertext.
    """
    if key is not None:
        return ShardCipher.open(directory, key)
    if is_encrypted(directory):
        raise KeyUnavailable(f"{directory} is encrypted and its key was not given, or was destroyed")
    return None


def _not_encrypted(directory: Path) -> WrongKey:
    return WrongKey(f"{directory}: a key was given, but the shard there is not encrypted")


def _number(block: int) -> bytes:
    return block.to_bytes(8, "little")


def _aes_gcm(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra(f"encrypted shards need the extra `encryption`: {error}") from error
    return AESGCM(key)


_SEALED = b"FGSEAL1\n"


def seal(key: bytes, purpose: str, data: bytes) -> bytes:
    """The data encrypted as a whole under a key derived for this purpose, which `unseal` has to name too."""
    return _SEALED + BlockCipher(_aes_gcm(_for_purpose(key, purpose)), max(len(data), 1)).encrypt(0, data)


def unseal(key: bytes, purpose: str, sealed: bytes) -> bytes:
    """What was sealed; WrongKey if it was not sealed with this key for this purpose, or is not what was written."""
    body = memoryview(sealed)[len(_SEALED) :]
    if bytes(sealed[: len(_SEALED)]) == _SEALED and len(body) > OVERHEAD:
        data, wrong = BlockCipher(_aes_gcm(_for_purpose(key, purpose)), len(body) - OVERHEAD).decrypt(0, body)
        if not wrong:
            return data
    raise WrongKey(f"{purpose}: not what was sealed with this key")


def key_tag(key: bytes) -> str:
    """16 hex digits that tell keys apart and nothing else about them."""
    return _for_purpose(key, "tag").hex()[:16]


def _for_purpose(key: bytes, purpose: str) -> bytes:
    return hmac.digest(check_key(key), f"facegrid seal 1 {purpose}".encode(), "sha256")
