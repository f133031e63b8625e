"""Members of a tar stream, read forward only: what each is, where its bytes begin, or what is wrong with the archive.

Not the standard library's `tarfile`: that one ends an archive at a damaged header without a word, keeps every member in
memory, and reads extended headers of any size. Knows nothing of photos.
Sources: POSIX.1-2017, pax; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK = 512
MAX_EXTENSION = 1 << 20
"""Bytes of a long name or of extended attributes."""
_REGULAR, _DIRECTORY, _LINKS = b"0\x007", b"5", b"12"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"


class ForwardReader(Protocol):
    """A stream that is read from its beginning to its end."""

    @property
    def position(self) -> int:
        """Bytes read and skipped."""

    def read(self, size: int) -> bytes:
        """So many bytes; fewer at the end."""

    def skip_to(self, position: int) -> None:
        """Go on there; DamagedTar if the stream ends before."""


class DamagedTar(ValueError):
    """The archive cannot be read on; `reason` is truncated, damaged or decompression_bomb."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """A member: name as it is in the archive, kind "file", "directory", "link" or "other", where its bytes are."""

    name: str
    kind: str
    offset: int
    size: int


def members(stream: ForwardReader) -> Iterator[Member]:
    """Every member, in order. What the caller reads of one must not go beyond it. Raises DamagedTar."""
    extended: dict[str, str] = {}
    while (header := _header(stream)) is not None:
        flag, size = header[156:157], _number(header[124:136], stream)
        start = stream.position
        if flag in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            body = _extension(stream, size)
            if flag == _LONG_NAME:
                extended["path"] = _text(body)
            elif flag == _PAX:
                extended |= _pax(body, stream)
        else:
            size = _pax_size(extended, size, stream)
            name = extended.get("path") or _name(header)
            yield Member(name, _kind(flag, extended), start, size)
            size = 0 if flag == _DIRECTORY or flag in _LINKS else size
            extended = {}
        stream.skip_to(start + -(-size // BLOCK) * BLOCK)


def _header(stream: ForwardReader) -> bytes | None:
    """The next header, None at the end of the archive."""
    at = stream.position
    header = stream.read(BLOCK)
    if len(header) < BLOCK:
        where = "without its end mark" if not header else "within a header"
        raise DamagedTar(f"the archive ends {where} at byte {at}", reason="truncated")
    if not header.strip(b"\0"):
        return None
    # Old archives sum signed bytes.
    body = header[:148] + b" " * 8 + header[156:]
    sums = sum(body), sum(byte - 256 if byte > 127 else byte for byte in body)
    if _number(header[148:156], stream) not in sums:
        raise DamagedTar(f"the header at byte {at} has another checksum than it says", reason="damaged")
    return header


def _number(digits: bytes, stream: ForwardReader) -> int:
    if digits[0] == 0x80:  # of base 256
        return int.from_bytes(digits[1:], "big")
    try:
        value = int(digits.strip(b" \0") or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise DamagedTar(f"the header before byte {stream.position} has a number {digits!r}", reason="damaged")
    return value


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _extension(stream: ForwardReader, size: int) -> bytes:
    if size > MAX_EXTENSION:
        message = f"extended attributes before byte {stream.position} have {size} bytes, expected {MAX_EXTENSION}"
        raise DamagedTar(message, reason="damaged")
    body = stream.read(size)
    if len(body) < size:
        raise DamagedTar(f"the archive ends within extended attributes at byte {stream.position}", reason="truncated")
    return body


def _pax(body: bytes, stream: ForwardReader) -> dict[str, str]:
    """Records `length key=value\\n`."""
    found: dict[str, str] = {}
    while body.strip(b"\0"):
        digits, _, _ = body.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = body[len(digits) + 1 : length]
        if not 4 < length <= len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise DamagedTar(f"the attributes before byte {stream.position} are malformed", reason="damaged")
        key, _, value = record[:-1].partition(b"=")
        found[_text(key)] = value.decode(errors="surrogateescape")
        body = body[length:]
    return found


def _pax_size(extended: dict[str, str], size: int, stream: ForwardReader) -> int:
    text = extended.get("size")
    if text is None:
        return size
    if not text.isdecimal() or len(text) > 19:
        raise DamagedTar(f"the attributes before byte {stream.position} have a size {text[:40]!r}", reason="damaged")
    return int(text)


def _kind(flag: bytes, extended: dict[str, str]) -> str:
    if flag in _LINKS:
        return "link"
    if flag == _DIRECTORY:
        return "directory"
    is_sparse = any(key.startswith("GNU.sparse") for key in extended)
    return "file" if flag in _REGULAR and not is_sparse else "other"
