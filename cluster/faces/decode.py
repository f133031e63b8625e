"""Encoded bytes to pixels: RGB, upright, within stated limits, or a named refusal.

First step of the face pipeline. Owns limits and orientation; the structure of the files is `headers.py`'s.
Must not know faces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.faces.extras import require_cv2
from cluster.faces.headers import ImageHeader, read_header
from shard.errors import InvalidImage, InvalidParameter

ImageArray = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, RGB, upright."""
ImageSource = bytes | bytearray | memoryview | str | os.PathLike[str] | ImageArray
"""Encoded bytes, the path of an image file, or pixels that are decoded already."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before it is decoded: larger files, pictures of more pixels or with a longer side."""

    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 100_000_000
    max_side: int = 65_535


_STRIP_PIXELS = 1 << 20
DEFAULT_LIMITS = ImageLimits()


def decode_image(source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> ImageArray:
    """Pixels of an image, (height, width, 3) uint8 RGB, C-contiguous, Exif orientation applied.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparency is laid over white; of an animation, the first
    picture counts. JPEG, PNG, WebP and BMP are told apart by content, never by name. An array is checked and returned.
    Raises InvalidImage with reason unreadable, empty, too_many_bytes, not_an_image, unsupported_format, truncated,
    too_many_pixels or undecodable; InvalidParameter for another type; MissingExtra without OpenCV.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source, limits)
    data = read_image(source, limits=limits)
    with naming(source):
        return _decode_bytes(data, limits)


def decode_grey(source: ImageSource, *, least_side: int, limits: ImageLimits = DEFAULT_LIMITS) -> ImageArray:
    """Grey levels of an image, upright, (h, w) uint8, a 2nd, 4th or 8th of it where that has `least_side`.

    For what needs no detail: of a large JPEG it takes a fifth of the time of its pixels. Transparency does not count.
    Raises as `decode_image`.
    """
    cv2 = require_cv2()
    if isinstance(source, np.ndarray):
        return np.asarray(cv2.cvtColor(_checked_array(source, limits), cv2.COLOR_RGB2GRAY), np.uint8)
    data = read_image(source, limits=limits)
    with naming(source):
        header = read_header(data)
        _check_size(header.width, header.height, limits)
        side = min(header.width, header.height)
        shrunk = {
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
            4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        }
        flags = next((flag for by, flag in shrunk.items() if side >= by * least_side), cv2.IMREAD_GRAYSCALE)
        try:
            grey = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise InvalidImage(f"OpenCV cannot decode this {header.format}: {error}", reason="undecodable") from error
        if grey is None:
            raise InvalidImage(f"OpenCV cannot decode this {header.format}", reason="undecodable")
        return np.asarray(grey, np.uint8)


def read_image(source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The encoded bytes of an image. Of a longer file, or one without an end, no more than the limit is read.

    Raises InvalidImage with reason unreadable or too_many_bytes; InvalidParameter for pixels and other types.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(memoryview(source).nbytes, limits)
        return bytes(source)
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidParameter(f"image: expected a path or encoded bytes, got {type(source).__name__}")
    with naming(source):
        data = _read(Path(os.fsdecode(source)), limits)
        _check_bytes(len(data), limits)
        return data


@contextlib.contextmanager
def naming(source: ImageSource) -> Iterator[None]:
    """Put the image's path, where it has one, before the message of an InvalidImage."""
    try:
        yield
    except InvalidImage as error:
        if not isinstance(source, (str, os.PathLike)):
            raise
        raise InvalidImage(f"{os.fsdecode(source)}: {error}", reason=error.reason) from error


def _read(path: Path, limits: ImageLimits) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InvalidImage(f"cannot be read: {reason}", reason="unreadable") from error


def _check_bytes(size: int, limits: ImageLimits) -> None:
    if size > limits.max_bytes:
        raise InvalidImage(f"expected at most {limits.max_bytes:,} bytes, got more", reason="too_many_bytes")


def _decode_bytes(data: bytes, limits: ImageLimits) -> ImageArray:
    header = read_header(data)
    _check_size(header.width, header.height, limits)
    cv2 = require_cv2()
    flags = cv2.IMREAD_UNCHANGED if header.has_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InvalidImage(f"OpenCV cannot decode this {header.format}: {error}", reason="undecodable") from error
    if pixels is None:
        raise InvalidImage(f"OpenCV cannot decode this {header.format}", reason="undecodable")
    if pixels.shape[:2] != (header.height, header.width):
        raise InvalidImage(
            f"the header says {header.width}×{header.height}, the pixels are {pixels.shape[1]}×{pixels.shape[0]}",
            reason="undecodable",
        )
    return _upright(_to_rgb(pixels), header)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise InvalidImage(f"expected at least one pixel, the header says {width}×{height}", reason="undecodable")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise InvalidImage(
            f"expected at most {limits.max_pixels:,} pixels and {limits.max_side:,} a side, "
            f"the header says {width}×{height} = {width * height:,}",
            reason="too_many_pixels",
        )


def _to_rgb(pixels: npt.NDArray[np.generic]) -> ImageArray:
    """OpenCV's grey, BGR or BGRA of 8 or 16 bits as 8-bit RGB, transparency over white."""
    eight = (pixels.astype(np.uint16) >> 8 if pixels.dtype == np.uint16 else pixels).astype(np.uint8, copy=False)
    if eight.ndim == 2:
        return np.repeat(eight[:, :, None], 3, axis=2)
    if eight.shape[2] == 3:
        return np.ascontiguousarray(eight[:, :, ::-1])
    found = np.empty((*eight.shape[:2], 3), np.uint8)
    step = max(1, _STRIP_PIXELS // eight.shape[1])
    for top in range(0, len(eight), step):  # in strips: sums of 16 bits of a large picture take gigabytes
        strip = eight[top : top + step]
        alpha = strip[:, :, 3:].astype(np.uint16)
        over_white = strip[:, :, 2::-1] * alpha + 255 * (255 - alpha)
        found[top : top + step] = (over_white + 127) // 255
    return found


def _upright(pixels: ImageArray, header: ImageHeader) -> ImageArray:
    """Undo an Exif orientation: 2 mirrored, 3 upside down, 4 flipped, 5 transposed, 6 and 8 turned, 7 transverse."""
    turned = pixels.transpose(1, 0, 2) if header.orientation >= 5 else pixels
    if header.orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if header.orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)


def _checked_array(pixels: npt.NDArray[np.generic], limits: ImageLimits) -> ImageArray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InvalidImage(
            f"expected decoded pixels as (height, width, 3) uint8 RGB, got {pixels.shape} {pixels.dtype}",
            reason="undecodable",
        )
    _check_size(pixels.shape[1], pixels.shape[0], limits)
    return np.ascontiguousarray(pixels, np.uint8)
