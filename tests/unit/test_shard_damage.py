"""A flipped bit in a sealed segment's floats: a named error, or the right answer where the block was not needed."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shard import segments
from shard.check import check_shard
from shard.damage import Span
from shard.errors import CorruptData
from shard.index import CHECKSUM_BLOCK, crc32c_blocks
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import SearchParams
from tests.faces_like import batch_of, unit_rows

DIM, SEGMENT = 64, 6_000
ROW_BYTES = DIM * 4
OLD_BLOCK = 1 << 20
"""What earlier versions sealed: two blocks of floats, one of codes."""
BLOCKS = -(-SEGMENT * ROW_BYTES // CHECKSUM_BLOCK)
MODEL = train(unit_rows(3_000, DIM, seed=3), code_bits=256)
OTHER = train(unit_rows(3_000, DIM, seed=4), code_bits=128)
ROWS = unit_rows(SEGMENT + 700, DIM, seed=5)
Answer = list[npt.NDArray[np.generic]]


def opened(directory: Path) -> Shard:
    models = {model.model_id: model for model in (MODEL, OTHER)}
    return Shard.create(directory, dim=DIM, load_model=models.__getitem__)


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed shard of one full segment and an open tail of 700 rows."""
    monkeypatch.setattr(segments, "SEGMENT_ROWS", SEGMENT)
    with opened(tmp_path / "s") as shard:
        shard.activate(MODEL)
        shard.enroll(batch_of(ROWS))
        shard.delete(template_ids=["t3", "t4000"])
    return tmp_path / "s"


def floats_path(directory: Path) -> Path:
    return directory / "segment-000001" / "floats.f32"


@contextmanager
def flipped(path: Path, at: int) -> Iterator[None]:
    """The file with one bit wrong; sound again afterwards. Written in place, as a mapping sees it."""
    with path.open("r+b", buffering=0) as file:
        sound = np.fromfile(path, np.uint8, 1, offset=at)
        file.seek(at)
        file.write((sound ^ 0x10).tobytes())
        try:
            yield
        finally:
            file.seek(at)
            file.write(sound.tobytes())


def search(shard: Shard, probes: npt.NDArray[np.float32], *, exact: bool) -> Answer:
    found = search_shards([shard], probes, SearchParams(k=3, exact=exact))
    return [found.scores, found.keys, np.array(found.template_ids)]


CALLS: dict[str, Callable[[Shard, int], Answer]] = {
    "exact search": lambda shard, _: search(shard, ROWS[:20], exact=True),
    "search for a row of the block": lambda shard, row: search(shard, ROWS[row : row + 1], exact=False),
    "search for another row": lambda shard, row: search(shard, ROWS[(row + 3_000) % SEGMENT][None], exact=False),
    "search for a row of the tail": lambda shard, _: search(shard, ROWS[SEGMENT + 5 : SEGMENT + 6], exact=False),
    "sample of all": lambda shard, _: [shard.sample(len(ROWS), 1)],
    "sample of few": lambda shard, _: [shard.sample(4, 1)],
}
ALWAYS_REFUSED = {
    "exact search",
    "search for a row of the block",
    "sample of all",
}


def refusal(call: Callable[[], Answer]) -> tuple[CorruptData | None, Answer]:
    """What the call raised, or what it gave."""
    try:
        return None, call()
    except CorruptData as error:
        return error, []


def assert_same(got: Answer, expected: Answer) -> None:
    for left, right in zip(got, expected, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_flipped_bit_in_any_block_is_an_error_or_does_not_matter(sealed: Path, tmp_path: Path) -> None:
    path = floats_path(sealed)
    shutil.copytree(sealed, tmp_path / "sound")
    rng = np.random.default_rng(1)
    answered = 0
    with opened(tmp_path / "sound") as sound:
        for block in range(BLOCKS):
            start = block * CHECKSUM_BLOCK
            at = int(rng.integers(start, min(start + CHECKSUM_BLOCK, SEGMENT * ROW_BYTES)))
            row = start // ROW_BYTES + 5
            expected = {name: call(sound, row) for name, call in CALLS.items()}
            with opened(sealed) as shard:
                with flipped(path, at):
                    for name, call in CALLS.items():
                        error, got = refusal(partial(call, shard, row))
                        if error is None:
                            assert name not in ALWAYS_REFUSED
                            assert_same(got, expected[name])
                            answered += 1
                            continue
                        message = f"{path}: wrong CRC32C in the block at byte {start}"
                        assert (str(error), error.path) == (message, str(path))
                # What was wrong is read again once it is sound.
                for name, call in CALLS.items():
                    assert_same(call(shard, row), expected[name])
    assert answered >= BLOCKS, "no call could do without the damaged blocks"


def test_a_block_that_is_damaged_before_its_first_touch_is_found_in_a_shard_that_sealed_it(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as shard:
        shard.enroll(batch_of(ROWS[:2_000]))
        assert search(shard, ROWS[:1], exact=True)[0][0, 0] == pytest.approx(1)
        shard.flush()
        path = floats_path(tmp_path / "s")
        with flipped(path, 5 * CHECKSUM_BLOCK), pytest.raises(CorruptData, match=f"at byte {5 * CHECKSUM_BLOCK}$"):
            search(shard, ROWS[:1], exact=True)
        assert search(shard, ROWS[:1], exact=True)[0][0, 0] == pytest.approx(1)


def test_damaged_floats_are_not_encoded(sealed: Path) -> None:
    path = floats_path(sealed)
    with opened(sealed) as shard:
        with flipped(path, 70_000), pytest.raises(CorruptData, match=r"floats\.f32: .*block at byte 65536") as caught:
            shard.activate(OTHER)
        assert caught.value.path == str(path)
        assert shard.model is MODEL
        shard.activate(OTHER)
    codes = sealed / "segment-000001" / f"codes-{OTHER.model_id}.rows"
    with flipped(codes, 9), flipped(path, 70_000), pytest.raises(CorruptData, match=r"floats\.f32"):
        opened(sealed)
    with opened(sealed) as shard:
        assert len(shard) == len(ROWS) - 2


def seal_as_before(directory: Path) -> None:
    """Give the sealed segment the checksums of earlier versions, of one MiB each."""
    folder = floats_path(directory).parent
    sums = {path.name: crc32c_blocks(np.fromfile(path, np.uint8), OLD_BLOCK) for path in folder.iterdir()}
    assert len(sums["floats.f32"]) == 8
    with sqlite3.connect(directory / "shard.db") as db:
        values = (sums["floats.f32"], sums["keys.u64"])
        db.execute("UPDATE segments SET floats_crc = ?, keys_crc = ? WHERE segment = 1", values)
        db.execute("UPDATE codes SET crc = ?", (sums[f"codes-{MODEL.model_id}.rows"],))
    db.close()


def test_a_shard_sealed_with_blocks_of_a_mebibyte_is_read_and_checked(
    sealed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(sealed) as shard:
        expected = search(shard, ROWS[:50], exact=False)
    seal_as_before(sealed)
    with opened(sealed) as shard:
        for left, right in zip(search(shard, ROWS[:50], exact=False), expected, strict=True):
            np.testing.assert_array_equal(left, right)
        assert check_shard(shard) == []
    assert not caplog.records, "codes were encoded again, so their checksums were not understood"
    for at, block in ((OLD_BLOCK - 1, 0), (OLD_BLOCK, OLD_BLOCK), (SEGMENT * ROW_BYTES - 1, OLD_BLOCK)):
        with opened(sealed) as shard, flipped(floats_path(sealed), at):
            with pytest.raises(CorruptData, match=rf"floats\.f32: wrong CRC32C in the block at byte {block}$"):
                search(shard, ROWS[:1], exact=True)
            (damage,) = check_shard(shard)
            assert damage.span == Span(1, block, min(OLD_BLOCK, SEGMENT * ROW_BYTES - block))
    codes = floats_path(sealed).parent / f"codes-{MODEL.model_id}.rows"
    with opened(sealed) as shard, flipped(codes, 100_000):
        (damage,) = check_shard(shard)
        assert (damage.path, damage.part, damage.first_row, damage.last_row) == (codes, "codes", 0, SEGMENT)


@pytest.mark.parametrize("size", [4, 8, 4 * BLOCKS - 1, 4 * (BLOCKS + 1)])
def test_a_manifest_with_too_few_or_too_many_checksums_is_refused(sealed: Path, size: int) -> None:
    with sqlite3.connect(sealed / "shard.db") as db:
        db.execute("UPDATE segments SET floats_crc = ? WHERE segment = 1", (b"\0" * size,))
    db.close()
    message = "wrong CRC32C" if size == 8 else f"floats.f32: the manifest has {size} bytes of checksums"
    with pytest.raises(CorruptData, match=message) as caught, opened(sealed) as shard:
        search(shard, ROWS[:1], exact=True)  # two checksums are those of two old blocks, which are wrong
    assert caught.value.path == str(floats_path(sealed))


def test_the_file_of_damaged_data_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(CorruptData("a block is wrong", path="floats.f32")))
    assert (str(error), error.path) == ("a block is wrong", "floats.f32")
    assert CorruptData("a page is wrong").path is None
