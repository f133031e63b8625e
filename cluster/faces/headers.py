"""Reads an image's format, size and orientation from its header, and finds out whether the file is whole.

OpenCV allocates before anyone can object and decodes truncated files without a word, so this walks the containers of
JPEG, PNG, WebP and BMP first. Owns the formats' structure; must not know pixels, limits or OpenCV.
Sources: ITU T.81 (JPEG), W3C PNG 3rd edition, RFC 9649 (WebP), Exif 3.0 (tag 0x0112).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from shard.errors import InvalidImage


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a header says. width, height: as stored, before `orientation` (Exif, 1 to 8) is applied."""

    format: str
    width: int
    height: int
    orientation: int = 1
    has_alpha: bool = False


def read_header(data: bytes) -> ImageHeader:
    """Format and size of an encoded image that is whole.

    Raises InvalidImage with reason empty, not_an_image, unsupported_format (an image, but of no format above),
    truncated or undecodable.
    """
    if not data:
        raise InvalidImage("expected an image, got 0 bytes", reason="empty")
    for magic, reader in _READERS.items():
        if data.startswith(magic):
            try:
                return reader(data)
            except (struct.error, IndexError) as error:
                raise _truncated(f"the header ends early at byte {len(data)}") from error
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        try:
            return _read_webp(data)
        except (struct.error, IndexError) as error:
            raise _truncated(f"the header ends early at byte {len(data)}") from error
    known = _foreign_format(data)
    if known is not None:
        raise InvalidImage(f"expected JPEG, PNG, WebP or BMP, got {known}", reason="unsupported_format")
    raise InvalidImage(
        f"expected JPEG, PNG, WebP or BMP, got {len(data)} bytes that begin with {data[:8]!r}", reason="not_an_image"
    )


def _truncated(what: str) -> InvalidImage:
    return InvalidImage(f"the image is cut short: {what}", reason="truncated")


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
# Inside entropy-coded data 0xFF is followed by a stuffed zero or a restart marker; anything else ends the scan.
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def _read_jpeg(data: bytes) -> ImageHeader:
    size: tuple[int, int] | None = None
    orientation, at = 1, 2
    while True:
        marker, at = _jpeg_marker(data, at)
        if marker == _EOI:
            break
        if marker in _JPEG_BARE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        body = data[at + 2 : at + length]
        if length < 2 or at + length > len(data):
            raise _truncated(f"segment 0xFF{marker:02X} at byte {at} needs {length} bytes of {len(data) - at}")
        if marker in _JPEG_FRAMES and size is None:
            height, width = struct.unpack_from(">HH", body, 1)
            size = (width, height)
        elif marker == _APP1 and body.startswith(b"Exif\x00\x00"):
            orientation = _exif_orientation(body[6:])
        at += length
        if marker == _SOS:
            at = _jpeg_skip_scan(data, at)
    if size is None:
        raise _truncated("the end marker comes before any frame")
    return ImageHeader("JPEG", *size, orientation)


def _jpeg_marker(data: bytes, at: int) -> tuple[int, int]:
    """The next marker and where its segment begins; junk between segments is skipped, as libjpeg does."""
    found = _JPEG_SCAN_END.search(data, at)
    if found is None:
        raise _truncated(f"no end marker (FF D9) in {len(data)} bytes")
    return data[found.start() + 1], found.end()


def _jpeg_skip_scan(data: bytes, at: int) -> int:
    found = _JPEG_SCAN_END.search(data, at)
    if found is None:
        raise _truncated(f"the pixel data has no end marker (FF D9) in {len(data)} bytes")
    return found.start()


_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def _read_png(data: bytes) -> ImageHeader:
    width = height = 0
    orientation, has_alpha, at = 1, False, len(_PNG_MAGIC)
    while True:
        if at + 12 > len(data):
            raise _truncated(f"no IEND chunk in {len(data)} bytes")
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if at + 12 + length > len(data):
            raise _truncated(f"chunk {kind!r} at byte {at} needs {length} bytes of {len(data) - at}")
        _check_png_chunk(data, at, length, kind)
        if (kind == b"IHDR") != (at == len(_PNG_MAGIC)):
            # A second one would say another size than the one that is decoded.
            raise InvalidImage(f"PNG chunk {kind!r} at byte {at}: expected IHDR first, and once", reason="undecodable")
        if kind == b"IHDR":
            width, height, _depth, colour = struct.unpack_from(">IIBB", body)
            has_alpha = has_alpha or bool(colour & 4)
        elif kind == b"tRNS":
            has_alpha = True
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
        elif kind == b"IEND":
            return ImageHeader("PNG", width, height, orientation, has_alpha)
        at += 12 + length


def _check_png_chunk(data: bytes, at: int, length: int, kind: bytes) -> None:
    (stated,) = struct.unpack_from(">I", data, at + 8 + length)
    if zlib.crc32(data[at + 4 : at + 8 + length]) != stated:
        raise InvalidImage(f"PNG chunk {kind!r} at byte {at} fails its checksum", reason="undecodable")


def _read_webp(data: bytes) -> ImageHeader:
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    end = 8 + riff_bytes
    if end > len(data):
        raise _truncated(f"the RIFF header promises {end} bytes, there are {len(data)}")
    size: tuple[int, int] | None = None
    orientation, has_alpha, at = 1, False, 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if at + 8 + length > end:
            raise _truncated(f"chunk {kind!r} at byte {at} needs {length} bytes of {end - at}")
        if kind in _WEBP_SIZES and size is None:
            width, height, alpha = _WEBP_SIZES[kind](body)
            size, has_alpha = (width, height), alpha
        elif kind == b"EXIF":
            orientation = _exif_orientation(body.removeprefix(b"Exif\x00\x00"))
        at += 8 + length + (length & 1)
    if size is None:
        raise InvalidImage("the WebP file has no picture in it", reason="undecodable")
    return ImageHeader("WebP", *size, orientation, has_alpha)


def _webp_extended(body: bytes) -> tuple[int, int, bool]:
    width = int.from_bytes(body[4:7], "little") + 1
    height = int.from_bytes(body[7:10], "little") + 1
    return width, height, bool(body[0] & 0x10)


def _webp_lossy(body: bytes) -> tuple[int, int, bool]:
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF, False


def _webp_lossless(body: bytes) -> tuple[int, int, bool]:
    (bits,) = struct.unpack_from("<I", body, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)


_WEBP_SIZES = {b"VP8X": _webp_extended, b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless}


_BMP_UNCOMPRESSED = (0, 3, 6)


def _read_bmp(data: bytes) -> ImageHeader:
    offset, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:
        width, height, _planes, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in _BMP_UNCOMPRESSED:
        row_bytes = (abs(width) * bits + 31) // 32 * 4
        needed = offset + row_bytes * abs(height)
        if needed > len(data):
            raise _truncated(f"a {width}×{abs(height)} BMP of {bits} bits needs {needed} bytes, there are {len(data)}")
    return ImageHeader("BMP", abs(width), abs(height))


_READERS = {b"\xff\xd8\xff": _read_jpeg, _PNG_MAGIC: _read_png, b"BM": _read_bmp}


_ORIENTATION_TAG = 0x0112


def _exif_orientation(tiff: bytes) -> int:
    """Orientation 1 to 8 of an Exif block; 1 where the block is malformed or silent, as browsers do."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for index in range(entries):
        at = directory + 2 + 12 * index
        if at + 12 > len(tiff):
            return 1
        tag, _kind, _count, value = struct.unpack_from(order + "HHIH", tiff, at)
        if tag == _ORIENTATION_TAG:
            return value if 1 <= value <= 8 else 1
    return 1


def _foreign_format(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1").strip()
        return f"an ISO media file of brand {brand!r} (HEIC, AVIF or video)"
    magics = {
        b"GIF8": "GIF",
        b"II*\x00": "TIFF",
        b"MM\x00*": "TIFF",
        b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
        b"\xff\x4f\xff\x51": "JPEG 2000",
        b"\xff\x0a": "JPEG XL",
        b"\x00\x00\x00\x0cJXL ": "JPEG XL",
        b"8BPS": "Photoshop",
        b"%PDF": "PDF",
        b"\x00\x00\x01\x00": "an icon",
    }
    return next((name for magic, name in magics.items() if data.startswith(magic)), None)
