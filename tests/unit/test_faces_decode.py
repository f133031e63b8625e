"""Decoding: formats, orientation, transparency, limits, and every named refusal."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.faces import ImageLimits, decode_image, read_image
from cluster.faces.headers import read_header
from shard.errors import InvalidImage, InvalidParameter

Pixels = npt.NDArray[np.uint8]


def scene() -> Pixels:
    """RGB, 40 high and 64 wide: red upper left, green upper right, blue lower left, white lower right."""
    picture = np.full((40, 64, 3), 255, np.uint8)
    picture[:20, :32], picture[:20, 32:], picture[20:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return picture


def encoded(suffix: str, picture: Pixels | None = None, *flags: int) -> bytes:
    rgb = scene() if picture is None else picture
    stored = rgb[..., [2, 1, 0, *range(3, rgb.shape[2])]] if rgb.ndim == 3 else rgb
    return bytes(cv2.imencode(suffix, stored, list(flags))[1])


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def reason_of(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(InvalidImage) as raised:
        decode_image(data, limits=limits or ImageLimits())
    return raised.value.reason


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_formats_give_upright_rgb(suffix: str, tmp_path: Path) -> None:
    picture = decode_image(encoded(suffix))
    assert picture.shape == (40, 64, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - scene())[8:12, 8:12].max() < 12
    path = tmp_path / "name without suffix"
    path.write_bytes(encoded(suffix))
    assert np.array_equal(decode_image(path), picture)
    assert np.array_equal(decode_image(str(path)), picture)


def with_exif(jpeg: bytes, orientation: int, order: str) -> bytes:
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\x00\x00" + mark + entry
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


# How a camera stores an upright picture for each orientation (Exif 3.0, tag 0x0112).
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation: int, order: str) -> None:
    jpeg = encoded(".jpg", np.ascontiguousarray(STORED[orientation](scene())), cv2.IMWRITE_JPEG_QUALITY, 100)
    picture = decode_image(with_exif(jpeg, orientation, order))
    assert picture.shape == (40, 64, 3)
    for y, x in ((8, 8), (8, 56), (32, 8), (32, 56)):
        assert np.abs(picture[y, x].astype(int) - scene()[y, x]).max() < 30


def test_exif_orientation_of_png_and_a_foolish_value() -> None:
    png = encoded(".png", np.ascontiguousarray(scene()[::-1, ::-1]))
    exif = png_chunk(b"eXIf", b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0))
    assert np.array_equal(decode_image(png[:33] + exif + png[33:]), scene())
    assert decode_image(with_exif(encoded(".jpg"), 99, "<")).shape == (40, 64, 3)


def test_grey_16_bit_and_transparent() -> None:
    grey = decode_image(encoded(".png", scene()[:, :, 0]))
    assert np.array_equal(grey, np.repeat(scene()[:, :, :1], 3, axis=2))
    deep = bytes(cv2.imencode(".png", scene()[:, :, ::-1].astype(np.uint16) * 257)[1])
    assert np.array_equal(decode_image(deep), scene())
    alpha = np.full((40, 64, 1), 0, np.uint8)
    alpha[:, 32:] = 255
    over_white = decode_image(encoded(".png", np.concatenate([scene(), alpha], axis=2)))
    assert (over_white[:, :32] == 255).all()
    assert np.array_equal(over_white[:, 32:], scene()[:, 32:])


def test_palette_with_transparency() -> None:
    pixels = zlib.compress(b"".join(b"\x00" + bytes([0, 1]) for _ in range(2)))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
    palette = png_chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255])) + png_chunk(b"tRNS", bytes([255, 0]))
    data = b"\x89PNG\r\n\x1a\n" + header + palette + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    assert decode_image(data).tolist() == [[[255, 0, 0], [255, 255, 255]]] * 2


def test_cmyk_jpeg_becomes_rgb() -> None:
    """An Adobe CMYK JPEG holds inverted inks: 255 of all four is white."""
    grey = encoded(".jpg", np.full((16, 16), 255, np.uint8))
    at = grey.index(b"\xff\xc0")
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 20, 8, 16, 16, 4) + b"".join(bytes([i, 0x11, 0]) for i in range(1, 5))
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    scan_at = grey.index(b"\xff\xda")
    (frame_bytes,) = struct.unpack_from(">H", grey, at + 2)
    tables = grey[at + 2 + frame_bytes : scan_at]
    scan = b"\xff\xda" + struct.pack(">HB", 14, 4) + b"".join(bytes([i, 0]) for i in range(1, 5)) + b"\x00\x3f\x00"
    # Four blocks of each ink. The first is DC = 4 (code 100, bits 100) and end of block (1010), which the quantiser
    # makes 127 above the middle: 255. The later ones do not differ (00).
    quantiser = b"\xff\xdb\x00\x43\x00" + bytes([254] * 64)
    bits = ("100" + "100" + "1010") * 4 + ("00" + "1010") * 12
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    cmyk = b"\xff\xd8" + adobe + quantiser + frame + tables + scan + data + b"\xff\xd9"
    picture = decode_image(cmyk)
    assert picture.shape == (16, 16, 3)
    assert picture.min() > 230


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_every_truncation_is_refused(suffix: str) -> None:
    data = encoded(suffix)
    for length in range(4, len(data), max(1, len(data) // 200)):
        assert reason_of(data[:length]) in {"truncated", "not_an_image", "undecodable"}, length
    assert reason_of(data[: len(data) * 2 // 3]) == "truncated"
    assert reason_of(data[:-1]) == "truncated"


def test_progressive_and_trailing_bytes_are_fine() -> None:
    jpeg = encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_image(jpeg + b"camera notes").shape == (40, 64, 3)
    assert reason_of(jpeg[:-2]) == "truncated"


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    bomb = png_header(60_000, 60_000) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    assert reason_of(bomb) == "too_many_pixels"
    long = png_header(1_000_000, 1) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    assert reason_of(long) == "too_many_pixels"
    jpeg = bytearray(encoded(".jpg"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    assert reason_of(bytes(jpeg)) == "too_many_pixels"


def test_limits_are_the_callers(tmp_path: Path) -> None:
    data = encoded(".png")
    assert reason_of(data, ImageLimits(max_pixels=64 * 40 - 1)) == "too_many_pixels"
    assert decode_image(data, limits=ImageLimits(max_pixels=64 * 40)).shape == (40, 64, 3)
    assert reason_of(data, ImageLimits(max_bytes=len(data) - 1)) == "too_many_bytes"
    path = tmp_path / "big.png"
    path.write_bytes(data)
    with pytest.raises(InvalidImage, match=r"big\.png.*at most"):
        decode_image(path, limits=ImageLimits(max_bytes=len(data) - 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some text, named photo.jpg", "not_an_image"),
        (b"GIF89a" + bytes(50), "unsupported_format"),
        (b"\x00\x00\x00\x20ftypheic" + bytes(50), "unsupported_format"),
        (b"II*\x00" + bytes(50), "unsupported_format"),
        (b"%PDF-1.7", "unsupported_format"),
        (png_header(0, 5) + png_chunk(b"IEND", b""), "undecodable"),
        (png_header(5, 5) + png_chunk(b"IEND", b""), "undecodable"),
    ],
)
def test_other_content_is_refused_by_name(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_a_flipped_bit_in_a_png_is_refused() -> None:
    data = bytearray(encoded(".png"))
    data[len(data) // 2] ^= 1
    assert reason_of(bytes(data)) in {"undecodable", "truncated"}


def test_missing_file_and_wrong_arrays(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=r"absent\.jpg") as raised:
        decode_image(tmp_path / "absent.jpg")
    assert raised.value.reason == "unreadable"
    assert np.array_equal(decode_image(scene()), scene())
    with pytest.raises(InvalidImage, match="uint8 RGB"):
        decode_image(scene().astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(InvalidImage, match="at least one pixel"):
        decode_image(np.empty((0, 4, 3), np.uint8))


def test_an_endless_file_is_read_no_further_than_the_limit() -> None:
    for read in (read_image, decode_image):
        with pytest.raises(InvalidImage, match=r"/dev/zero.*at most 1,000 bytes") as raised:
            read("/dev/zero", limits=ImageLimits(max_bytes=1_000))
        assert raised.value.reason == "too_many_bytes"


def test_every_kind_of_source_is_read_alike(tmp_path: Path) -> None:
    class Link:
        def __fspath__(self) -> str:
            return str(tmp_path / "a.png")

    data = encoded(".png")
    (tmp_path / "a.png").write_bytes(data)
    sources = (data, bytearray(data), memoryview(data), str(tmp_path / "a.png"), tmp_path / "a.png", Link())
    assert [read_image(source) for source in sources] == [data] * len(sources)
    for source in sources[:3]:
        with pytest.raises(InvalidImage, match="at most 9 bytes"):
            read_image(source, limits=ImageLimits(max_bytes=9))


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    for wrong in (scene(), None, 5):
        with pytest.raises(InvalidParameter, match="path or encoded bytes"):
            read_image(wrong)  # type: ignore[arg-type]
    for path in ("a\0b.png", "\ud800.png", tmp_path):
        with pytest.raises(InvalidImage, match="cannot be read") as raised:
            read_image(path)
        assert raised.value.reason == "unreadable"


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x10\x00\x00\x00WEBP"]),
)
def test_garbage_never_escapes_as_another_error(garbage: bytes, magic: bytes) -> None:
    try:
        header = read_header(magic + garbage)
    except InvalidImage:
        return
    assert header.width >= 0
