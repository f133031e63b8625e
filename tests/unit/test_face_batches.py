"""Images that travel to the embedder together: order, bits, errors of one, limits, turns of tenants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.faces import Face, FaceBatches, FacePipeline, FoundFaces, ImageSource, ModelPlaces, PipelineOptions
from cluster.faces.quality import Quality
from cluster.service.face_pool import FacePool, OwnFaces, Room
from shard.errors import HostBusy, InvalidEmbedding, InvalidImage, RateLimited, ShardClosed

BAD, BROKEN = b"bad", b"broken"
"""An image that cannot be decoded, and one whose embedding is none."""


class Letters:
    """A pipeline whose images are texts: each letter is a face, embedded as its code, capitals being refused.

    `gate` holds the embedder up, so that a test decides what waits meanwhile.
    """

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.embedding = threading.Semaphore(0)
        self.found: list[bytes] = []
        self.batches: list[list[bytes]] = []

    def find(self, image: ImageSource) -> FoundFaces:
        assert isinstance(image, bytes)
        self.found.append(image)
        if image == BAD:
            raise InvalidImage("expected an image", reason="not_an_image")
        faces = tuple(_letter(bytes([code])) for code in image)
        return FoundFaces(faces, tuple(np.full((1,), code, np.uint8) for code in image))

    def embed(self, batch: Sequence[FoundFaces], embed_refused: Sequence[bool]) -> list[tuple[Face, ...]]:
        images = [bytes(int(crop[0]) for crop in found.crops) for found in batch]
        self.batches.append(images)
        self.embedding.release()
        assert self.gate.acquire(timeout=30)
        if BROKEN in images:
            raise InvalidEmbedding("a zero embedding")
        return [
            tuple(
                replace(face, embedding=crop.astype(np.float32)) if also or face.refused is None else face
                for face, crop in zip(found.faces, found.crops, strict=True)
            )
            for found, also in zip(batch, embed_refused, strict=True)
        ]


def _letter(letter: bytes) -> Face:
    quality = Quality(1.0, 40.0, 1.0, 5.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    return Face((0, 0, 1, 1), np.zeros((5, 2), np.float32), 1.0, quality, "pose" if letter.isupper() else None, None)


def text_of(faces: tuple[Face, ...]) -> bytes:
    return b"".join(b"-" if face.embedding is None else bytes([int(face.embedding[0])]) for face in faces)


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def batches(letters: Letters) -> Iterator[FaceBatches]:
    made = FaceBatches(letters, batch_faces=4)
    yield made
    letters.gate.release(1000)
    made.close()


def test_what_waits_while_a_batch_is_under_way_travels_in_the_next(letters: Letters, batches: FaceBatches) -> None:
    first = batches.begin(b"a")
    assert letters.embedding.acquire(timeout=30)
    others = [batches.begin(b"b"), batches.begin(b"Cd"), batches.begin(b"Ef", embed_refused=True)]
    assert text_of(batches.begin(b"G").result(0)) == b"-"  # nothing to embed: it waits for nobody
    letters.gate.release(2)
    assert text_of(first.result(30)) == b"a"
    assert [text_of(other.result(30)) for other in others] == [b"b", b"-d", b"Ef"]
    assert letters.batches == [[b"a"], [b"b", b"Cd", b"Ef"]]
    assert batches.taken_batches() == [1, 4]
    assert batches.taken_batches() == []


def test_a_batch_is_cut_where_it_is_full(letters: Letters, batches: FaceBatches) -> None:
    letters.gate.release(100)
    with ThreadPoolExecutor(4) as threads:
        images = [b"abc", b"de", b"fghijkl", b"m", b"n", b"o"]
        found = list(threads.map(lambda image: text_of(batches.begin(image).result(30)), images))
    assert found == images
    assert sorted(image for batch in letters.batches for image in batch) == sorted(images)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= 4 for batch in letters.batches)


def test_who_finds_faster_than_is_embedded_waits(letters: Letters, batches: FaceBatches) -> None:
    batches.begin(b"a")
    assert letters.embedding.acquire(timeout=30)
    batches.begin(b"bcde")
    begun: list[Future[tuple[Face, ...]]] = []
    waits = threading.Thread(target=lambda: begun.append(batches.begin(b"f")))
    waits.start()
    assert not begun
    letters.gate.release(3)
    waits.join(30)
    assert text_of(begun[0].result(30)) == b"f"


def test_an_image_that_is_refused_is_so_at_once(letters: Letters, batches: FaceBatches) -> None:
    first = batches.begin(b"a")
    with pytest.raises(InvalidImage):
        batches.begin(BAD)
    letters.gate.release(100)
    assert text_of(first.result(30)) == b"a"


def test_an_embedding_that_fails_is_its_own_images(letters: Letters) -> None:
    made = FaceBatches(letters, batch_faces=16)
    made.begin(b"a")
    assert letters.embedding.acquire(timeout=30)
    good, broken, last = made.begin(b"b"), made.begin(BROKEN), made.begin(b"c")
    letters.gate.release(100)
    assert text_of(good.result(30)) == b"b"
    assert text_of(last.result(30)) == b"c"
    with pytest.raises(InvalidEmbedding):
        broken.result(30)
    made.close()
    with pytest.raises(ShardClosed):
        made.begin(b"d")


@dataclass(frozen=True)
class Asker:
    """As much of a Principal as the pool needs."""

    flow: str
    weight: float = 10.0


def pool_of(letters: Letters, room: Room | None = None) -> Any:
    return FacePool(OwnFaces(lambda embedder: letters, 1), room)


def test_an_image_that_is_none_leaves_the_others(letters: Letters) -> None:
    letters.gate.release(1000)

    async def ask() -> list[tuple[Face, ...] | InvalidImage]:
        return await pool.faces_of_many(Asker("t"), [b"a", BAD, b"bc"], embedder="e")

    pool = pool_of(letters)
    first, bad, last = asyncio.run(ask())
    pool.close()
    assert isinstance(bad, InvalidImage)
    assert bad.reason == "not_an_image"
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert (text_of(first), text_of(last)) == (b"a", b"bc")
    assert pool.waiting() == {}


def test_more_than_fits_is_refused_as_a_whole(letters: Letters) -> None:
    async def ask() -> None:
        many = asyncio.ensure_future(pool.faces_of_many(acme, [b"a"] * 6, embedder="e"))  # more than its share: alone
        await asyncio.sleep(0)
        assert pool.waiting() == {"acme": 6}
        with pytest.raises(RateLimited, match="6 images of this tenant"):
            await pool.faces(acme, b"b", embedder="e")
        other = asyncio.ensure_future(pool.faces(bee, b"c", embedder="e"))
        await asyncio.sleep(0)
        with pytest.raises(HostBusy, match="7 images"):
            await pool.faces_of_many(cow, [b"d", b"e"], embedder="e")
        assert pool.waiting() == {"acme": 6, "bee": 1}
        letters.gate.release(1000)
        assert text_of(await other) == b"c"
        assert len(await many) == 6
        assert text_of(await pool.faces(cow, b"f", embedder="e")) == b"f"

    acme, bee, cow = (Asker(name) for name in ("acme", "bee", "cow"))
    pool = pool_of(letters, Room(images=8, tenant_images=4))
    asyncio.run(ask())
    pool.close()


def test_a_flood_of_one_tenant_lets_another_pass(letters: Letters) -> None:
    async def ask() -> None:
        flood = asyncio.ensure_future(pool.faces_of_many(acme, [b"abcd"] * 20, embedder="e"))
        await asyncio.to_thread(letters.embedding.acquire)
        single = asyncio.ensure_future(pool.faces(bee, b"z", embedder="e"))
        await asyncio.sleep(0)
        letters.gate.release(1000)
        await asyncio.gather(single, flood)

    acme, bee = Asker("acme"), Asker("bee")
    pool = pool_of(letters)
    asyncio.run(ask())
    pool.close()
    # Before it came, at most a batch was under way, a batch waited, and a piece was in the worker's hands.
    assert letters.found.index(b"z") <= 8


def test_who_has_gone_is_not_worked_for(letters: Letters) -> None:
    async def ask() -> None:
        held = asyncio.ensure_future(pool.faces_of_many(acme, [b"abcd"] * 30, embedder="e"))
        await asyncio.to_thread(letters.embedding.acquire)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        assert pool.waiting() == {}
        letters.gate.release(1000)
        assert text_of(await pool.faces(acme, b"x", embedder="e")) == b"x"

    acme = Asker("acme")
    pool = pool_of(letters)
    asyncio.run(ask())
    pool.close()
    assert len(letters.found) < 15


@pytest.mark.data
@pytest.mark.parametrize("embedder", ["edgeface_xs", "mobilefacenet_512"])
def test_a_batch_has_the_bits_of_each_image_alone(data_dir: Path, embedder: str) -> None:
    names = ("img10.jpg", "img12.jpg", "img62.jpg", "couple.jpg", "img16.jpg", "img17.jpg")
    images = [(data_dir / "photos" / name).read_bytes() for name in names]
    pipeline = FacePipeline(PipelineOptions(embedder=embedder, places=ModelPlaces((data_dir / "models",)), threads=2))
    wanted = [pipeline.faces(image, embed_refused=True) for image in images]

    async def ask() -> list[tuple[Face, ...] | InvalidImage]:
        asker = Asker("t")
        many = pool.faces_of_many(asker, [*images, b"no image"], embedder=embedder, embed_refused=True)
        one = pool.faces(asker, images[0], embedder=embedder)
        found, alone = await asyncio.gather(many, one)
        return [alone, *found]

    pool: Any = FacePool(OwnFaces(lambda name: pipeline, 2))
    alone, *found, refused = asyncio.run(ask())
    pool.close()
    assert isinstance(refused, InvalidImage)
    for got, expected in zip([alone, *found], [pipeline.faces(images[0]), *wanted], strict=True):
        assert isinstance(got, tuple)
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert (a.box, a.refused, a.quality) == (b.box, b.refused, b.quality)
            assert (a.embedding is None) == (b.embedding is None)
            if a.embedding is not None and b.embedding is not None:
                assert a.embedding.tobytes() == b.embedding.tobytes()
