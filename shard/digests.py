"""Checksums of what the database says of a template, so that a damaged page never becomes a wrong name.

SQLite has no checksums of its own. A flipped bit in a label would be read as another label; here it is CorruptData.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable


def label_crc(row: int, template_id: str, identity: str | None) -> int:
    """CRC-32 of the row's number and labels; the row belongs to it, so that labels cannot change places."""
    named = "" if identity is None else f"i{identity}"
    return zlib.crc32(f"{row}\0{template_id}\0{named}".encode())


def record_digest(row: int, template_id: str, identity: str | None, metadata: bytes | None, lsn: int) -> int:
    """The stored digest, a signed 64-bit integer: `label_crc` in the upper half, the rest in the lower."""
    rest = zlib.crc32(metadata or b"", lsn & 0xFFFFFFFF)
    if metadata is None:
        rest ^= 0xFFFFFFFF
    digest = label_crc(row, template_id, identity) << 32 | rest
    return digest - (1 << 64) if digest >> 63 else digest


def label_half(digest: int) -> int:
    """The `label_crc` that a stored digest holds."""
    return (digest >> 32) & 0xFFFFFFFF


def combined(digests: Iterable[int]) -> int:
    """One number for a set of records, whatever their order: equal on replicas that hold the same."""
    return sum(digests) & 0xFFFFFFFFFFFFFFFF
