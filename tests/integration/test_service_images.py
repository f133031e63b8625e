"""Bad images over HTTP: a named reason or a right answer, in bounded memory and time; never a fault of the service.

And no request makes the service connect to anywhere.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service import Running, running

pytestmark = pytest.mark.data
REASONS = {
    "unreadable", "empty", "too_many_bytes", "not_an_image", "unsupported_format", "truncated", "too_many_pixels",
    "undecodable", "no_face", "several_faces",
}  # fmt: skip
TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
BMP_HEAD = b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 1)
"""Of run-length pixels, which say nothing of how many there are."""
GROWTH = 1 << 30
"""Bytes that a bad image may take at most, beyond what a good one has taken."""
ANSWER_S = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("images") / "home"
    with running(home, models=(data_dir / "models",), embedder="sface_int8") as s:
        s.tenant("acme")
        s.cluster.gallery("acme/staff", create=True, embedder="sface_int8", shards=1)
        yield s


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client(service.key("acme", "write")) as found:
        yield found


@pytest.fixture(scope="module")
def photo(client: httpx.Client, data_dir: Path) -> bytes:
    """A real one, with one good face, small."""
    for path in sorted((data_dir / "photos").glob("*.jpg")):
        with Image.open(path) as picture:
            picture.thumbnail((500, 500))
            data = encoded(picture.convert("RGB"), "JPEG", quality=95)
        faces = client.post("/v1/detect", content=data, headers={"content-type": "image/jpeg"}).json()["faces"]
        if len(faces) == 1 and faces[0]["is_usable"]:
            return data
    raise AssertionError("no photo of one face")


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *middle: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it is so large, of these chunks."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(middle) + chunk(b"IEND", b"")


@cache
def zeros(size: int) -> bytes:
    """A zlib stream that is so long when it is inflated."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """Bytes of memory that this process, and the service in it, took more than before, at the most."""
    found, ended, before = [0], threading.Event(), resident()

    def watch() -> None:
        while not ended.wait(0.005):
            found[0] = max(found[0], resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def jpeg_that_says(photo: bytes, width: int, height: int) -> bytes:
    at = photo.index(b"\xff\xc0")
    return photo[: at + 5] + struct.pack(">HH", height, width) + photo[at + 9 :]


def webp_that_says(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def two_headers(width: int, height: int) -> bytes:
    """A PNG that is large, and says at its end that it is small."""
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0))
    return png(width, height, chunk(b"IDAT", zeros(64 << 20)), small)


def small_pictures(photo: bytes) -> dict[str, bytes]:
    """Files that are refused, or are what they are."""
    with Image.open(io.BytesIO(photo)) as opened:
        face = opened.convert("RGB")
    other = Image.new("RGB", face.size)
    line = Image.new("RGB", (65_000, 1))
    noise = random.Random(5).randbytes(20_000)
    return {
        "bomb 50k x 50k": png(50_000, 50_000, chunk(b"IDAT", zeros(64 << 20))),
        "bomb 2^31": png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")),
        "bomb 2^32": png(2**32 - 1, 1, chunk(b"IDAT", b"")),
        "two headers": two_headers(20_000, 20_000),
        "header last": b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"") + png(10, 10)[8:],
        "no header": b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
        "iCCP bomb": png(4, 4, chunk(b"iCCP", b"a\0\0" + zeros(256 << 20)), chunk(b"IDAT", zlib.compress(bytes(52)))),
        "zTXt bomb": png(4, 4, chunk(b"zTXt", b"a\0\0" + zeros(256 << 20)), chunk(b"IDAT", zlib.compress(bytes(52)))),
        "IDAT bomb": png(4, 4, chunk(b"IDAT", zeros(256 << 20))),
        "many chunks": png(4, 4, chunk(b"tEXt", b"a\0b") * 100_000, chunk(b"IDAT", zlib.compress(bytes(52)))),
        "0 x 0": png(0, 0, chunk(b"IDAT", b"")),
        "line": encoded(line, "PNG"),
        "line 100k": png(100_000, 1, chunk(b"IDAT", zlib.compress(bytes(300_001)))),
        "column 100k": png(1, 100_000, chunk(b"IDAT", zlib.compress(bytes(400_000)))),
        "one pixel": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "jpeg claims 65k": jpeg_that_says(photo, 65_000, 65_000),
        "jpeg claims 0": jpeg_that_says(photo, 0, 0),
        "webp claims 16k x 16k": webp_that_says(1 << 24, 1 << 24),
        "webp without picture": webp_that_says(10, 10),
        "bmp claims": BMP_HEAD + bytes(16),
        "jpeg and zip": photo + b"PK\x03\x04" + noise,
        "gif and script": b"GIF89a/*" + noise + b"*/=1;alert(1)",
        "pdf and jpeg": b"%PDF-1.4\n" + photo,
        "html named jpeg": b"<html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>',
        "svg bomb": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa">]><svg>&a;</svg>',
        "empty": b"",
        "nul": b"\0",
        "noise": noise,
        "jpeg of noise": b"\xff\xd8\xff\xe0" + noise + b"\xff\xd9",
        "png of noise": b"\x89PNG\r\n\x1a\n" + noise,
        "webp of noise": b"RIFF" + struct.pack("<I", len(noise) + 4) + b"WEBP" + noise,
        "gif": encoded(face, "GIF"),
        "tiff": encoded(face, "TIFF"),
        "animated gif": encoded(face, "GIF", save_all=True, append_images=[other]),
        "animated png": encoded(face, "PNG", save_all=True, append_images=[other] * 3),
        "animated webp": encoded(face, "WEBP", save_all=True, append_images=[other] * 3),
        "cmyk": encoded(face.convert("CMYK"), "JPEG", quality=95),
        "grey": encoded(face.convert("L"), "JPEG"),
        "palette": encoded(face.convert("P"), "PNG"),
        "alpha": encoded(face.convert("RGBA"), "PNG"),
        "16 bit": encoded(Image.fromarray(np.array(face.convert("L")).astype(np.uint16) << 8), "PNG"),
    }


@pytest.fixture(scope="module")
def pictures(photo: bytes) -> dict[str, bytes]:
    return small_pictures(photo)


def ways(client: httpx.Client) -> dict[str, Callable[[bytes, str], httpx.Response]]:
    """How a picture is sent: as the body, with any type; and as base64."""
    base = "/v1/galleries/acme/staff"

    def raw(path: str) -> Callable[[bytes, str], httpx.Response]:
        return lambda data, kind: client.post(path, content=data, headers={"content-type": kind})

    def inside(path: str, name: str) -> Callable[[bytes, str], httpx.Response]:
        extra = {"identity": "x"} if path.endswith("staff/verify") else {}
        return lambda data, _: client.post(path, json={name: base64.b64encode(data).decode(), **extra})

    return {
        "detect": raw("/v1/detect"),
        "enroll": raw(f"{base}/images"),
        "search": raw(f"{base}/search/image"),
        "detect, base64": inside("/v1/detect", "image"),
        "identity": inside(f"{base}/verify", "image"),
        "pair": lambda data, _: client.post(
            "/v1/verify", json={"image_a": base64.b64encode(data).decode(), "image_b": base64.b64encode(data).decode()}
        ),
    }


def check(answer: httpx.Response, what: object) -> None:
    assert answer.status_code in (200, 404, 422), (what, answer.status_code, answer.text[:500])
    body = answer.json()
    if answer.status_code == 422 and body["code"] == "invalid_image":
        assert body["reason"] in REASONS or body["reason"].startswith(("face_", "too_")), (what, body)
        assert body["detail"], what
    elif answer.status_code == 422:
        assert body["code"] == "invalid_parameter", (what, body)


def test_bad_pictures_are_refused_by_name_in_bounded_memory(
    client: httpx.Client, photo: bytes, pictures: dict[str, bytes]
) -> None:
    send = ways(client)["detect"]
    assert send(photo, "image/jpeg").json()["faces"]
    for what, data in pictures.items():
        began = time.monotonic()
        with peak() as grown:
            answer = send(data, "image/jpeg")
        check(answer, what)
        assert grown[0] < GROWTH, (what, grown[0] >> 20)
        assert time.monotonic() - began < ANSWER_S, what


def test_each_way_in_refuses_them_alike(client: httpx.Client, pictures: dict[str, bytes]) -> None:
    some = ("bomb 50k x 50k", "two headers", "iCCP bomb", "svg", "empty", "noise", "pdf and jpeg", "one pixel")
    for way, send in ways(client).items():
        for what in some:
            check(send(pictures[what], "image/png"), (way, what))
    assert client.get("/v1/galleries/acme/staff/faces").json()["templates"] == []


@pytest.mark.parametrize("what", ["animated png", "animated webp", "cmyk", "palette", "alpha", "jpeg and zip"])
def test_what_is_unusual_but_right_is_read(client: httpx.Client, pictures: dict[str, bytes], what: str) -> None:
    answer = ways(client)["detect"](pictures[what], "image/bmp")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["faces"]) >= 1


def test_cut_files_are_refused_by_name(client: httpx.Client, photo: bytes) -> None:
    with Image.open(io.BytesIO(photo)) as opened:
        files = [photo, encoded(opened, "PNG"), encoded(opened, "WEBP"), encoded(opened, "BMP")]
    send = ways(client)["detect"]
    for data, kind in zip(files, TYPES, strict=True):
        for cut in sorted({*range(0, 64, 7), *np.linspace(64, len(data) - 1, 12).astype(int).tolist()}):
            answer = send(data[:cut], kind)
            check(answer, (kind, cut))
            assert answer.status_code == 422, (kind, cut)


def test_the_content_type_decides_nothing(client: httpx.Client, photo: bytes) -> None:
    answers = {client.post("/v1/detect", content=photo, headers={"content-type": kind}).text for kind in TYPES}
    assert len(answers) == 1
    for kind in (
        "image/svg+xml",
        "image/gif",
        "text/html",
        "application/octet-stream",
        "multipart/form-data",
        "a",
        "é",
    ):
        answer = client.post("/v1/detect", content=photo, headers={"content-type": kind.encode("latin-1")})  # type: ignore[dict-item]
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_turned_photo_has_the_embedding_of_the_upright_one(
    service: Running, client: httpx.Client, photo: bytes
) -> None:
    with Image.open(io.BytesIO(photo)) as opened:
        upright = opened.convert("RGB")
    plain = encoded(upright, "PNG")
    enrolled = client.post("/v1/galleries/acme/staff/images", content=plain, headers={"content-type": "image/png"})
    assert enrolled.json()["enrolled"] == 1, enrolled.text
    scores = []
    for orientation, turn in ((1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90),
                              (8, Image.Transpose.ROTATE_270)):  # fmt: skip
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright if turn is None else upright.transpose(turn)
        answer = ways(client)["search"](encoded(stored, "PNG", exif=exif), "image/png")
        assert answer.status_code == 200, answer.text
        scores.append(answer.json()["candidates"][0]["score"])
    assert scores == [scores[0]] * 4
    assert scores[0] > 0.999
    service.cluster.gallery("acme/staff").delete(identities=[], template_ids=[
        t.template_id for t in service.cluster.gallery("acme/staff").list().templates
    ])  # fmt: skip


def test_large_pictures_are_decoded_two_at_a_time(client: httpx.Client) -> None:
    """Half the pixels that are allowed, transparent, from several callers at once: a few hundred KB each."""
    data = png(7_000, 7_000, chunk(b"IDAT", zlib.compress(bytes((7_000 * 4 + 1) * 7_000), 9)), colour=6)
    assert len(data) < 1 << 20
    with peak() as grown:
        threads = [threading.Thread(target=lambda: ways(client)["detect"](data, "image/png")) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert grown[0] < 2 << 30, grown[0] >> 20


def test_nothing_is_ever_fetched(client: httpx.Client) -> None:
    """Texts that look like addresses are refused where an image is expected, and nobody connects to them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        texts = [
            f"http://127.0.0.1:{port}/a.jpg", f"https://127.0.0.1:{port}/a.jpg", f"ftp://127.0.0.1:{port}/a",
            f"//127.0.0.1:{port}/a", f"http://localhost:{port}", f"gopher://127.0.0.1:{port}/_x",
            "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "data:image/jpeg;base64,/9j/4AAQSkZJRg==",
        ]  # fmt: skip
        base = "/v1/galleries/acme/staff"
        for text in texts:
            for path, body in (
                ("/v1/detect", {"image": text}),
                ("/v1/verify", {"image_a": text, "image_b": text}),
                (f"{base}/images", {"images": [{"data": text}]}),
                (f"{base}/search/image", {"image": text}),
                (f"{base}/verify", {"image": text, "identity": "x"}),
            ):
                answer = client.post(path, json=body)
                assert answer.status_code == 422, (path, text, answer.text)
            coded = base64.b64encode(text.encode()).decode()
            answer = client.post("/v1/detect", json={"image": coded})
            assert answer.json().get("reason") == "not_an_image", answer.text
            answer = client.post("/v1/detect", content=text.encode(), headers={"content-type": "image/jpeg"})
            assert answer.json().get("reason") == "not_an_image", answer.text
            for extra in ({"url": text}, {"image_url": text}, {"images": [{"url": text}]}):
                assert client.post("/v1/detect", content=json.dumps(extra)).status_code == 422
        with pytest.raises(BlockingIOError):
            listener.accept()
