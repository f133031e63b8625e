"""Who wraps the tenants' data keys: a master key of the operator, or a key management service of theirs.

A service is given a data key and gives back bytes that only it can turn into the key again; those are kept in the
catalog. `context` is what the key is for, and has to be the same both times: a wrapped key that was put in another
tenant's place is refused.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from coordinator.kept import kept
from shard.encryption import KEY_BYTES, check_key, seal, unseal
from shard.errors import InvalidParameter, KeyUnavailable


@runtime_checkable
class KeyService(Protocol):
    """Wraps keys. Thread-safe; what it raises that is no FacegridError is taken for KeyUnavailable."""

    def wrap(self, key: bytes, context: str) -> bytes:
        """Bytes that only this service can unwrap, at most a few kilobytes."""

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """The key that was wrapped for this context; WrongKey, or KeyUnavailable if it was revoked."""


class MasterKey:
    """A key of 32 bytes in this process's memory, which wraps others with AES-256-GCM."""

    def __init__(self, key: bytes) -> None:
        """InvalidParameter unless it is 32 bytes."""
        self._key = check_key(key)

    def wrap(self, key: bytes, context: str) -> bytes:
        """See KeyService."""
        return seal(self._key, context, key)

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """See KeyService; WrongKey."""
        return unseal(self._key, context, wrapped)


@kept
@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the master key comes from, as settings say; one of these at most. Not one is in what is printed of it.

    file: of a key. text: a key. kms: `module:function` that gives a KeyService.
    """

    file: Path | None = None
    text: str | None = field(default=None, repr=False)
    kms: str | None = None

    def service(self) -> KeyService | None:
        """What wraps keys; None where nothing was set. InvalidParameter, which never shows a key."""
        given = [name for name in ("file", "text", "kms") if getattr(self, name)]
        if len(given) > 1:
            raise InvalidParameter(
                "encryption: expected one of encryption_key_file, encryption_key and encryption_kms, got several"
            )
        if self.file is not None:
            return MasterKey(_read_key(self.file))
        if self.text:
            return MasterKey(parse_key(self.text, "encryption_key"))
        return _load_service(self.kms) if self.kms else None


def parse_key(text: str, where: str) -> bytes:
    """A key from 64 hex digits or from base64; InvalidParameter, which does not show it."""
    text = text.strip()
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}", text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidParameter(f"{where}: expected {KEY_BYTES} bytes as {2 * KEY_BYTES} hex digits or as base64")
    return key


def _read_key(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KeyUnavailable(f"encryption_key_file: could not read {path}: {error.strerror}") from error
    if len(data) == KEY_BYTES:
        return data
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    return parse_key(text, f"encryption_key_file {path}")


def _load_service(entry: str) -> KeyService:
    module, _, function = entry.partition(":")
    try:
        service = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InvalidParameter(
            f"encryption_kms: expected module:function, could not load {entry!r}: {error}"
        ) from error
    if not isinstance(service, KeyService):
        raise InvalidParameter(f"encryption_kms: {entry!r} gave {type(service).__name__}, which has no wrap and unwrap")
    return service
