"""An encrypted shard: nothing of it is in its files, without its key it is a named error, and what is not authentic is
never taken for data. That it answers as another does is in tests/property/test_shard_stateful.py."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shard import tail
from shard.check import check_files, check_shard
from shard.closed import ClosedShard
from shard.compaction import compact
from shard.encryption import OVERHEAD, BlockCipher, ShardCipher
from shard.errors import CorruptData, EncryptedGallery, InvalidParameter, KeyUnavailable, StorageError, WrongKey
from shard.mending import mend
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import EnrollBatch, FloatArray, SearchParams
from tests.faces_like import unit_rows

DIM, N, SEGMENT_ROWS = 64, 1_500, 1_024
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
MODELS: dict[str, SearchModel] = {}
ROWS = unit_rows(N, DIM, seed=1)
ROW_BYTES = DIM * 4


def opened(directory: Path, key: bytes | None = KEY) -> Shard:
    return Shard(directory, MODELS.__getitem__, key=key)


def batch(rows: FloatArray, name: str = "secret-id") -> EnrollBatch:
    n = len(rows)
    return EnrollBatch(
        np.ascontiguousarray(rows),
        tuple(f"{name}-{i}" for i in range(n)),
        tuple(f"secret-person-{i % 50}" for i in range(n)),
        tuple(b'{"secret-metadata":%d}' % i for i in range(n)),
    )


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shard with a sealed segment with codes, and an open tail."""
    monkeypatch.setattr(tail, "segment_capacity", lambda _dim: SEGMENT_ROWS)
    model = train(ROWS, code_bits=128)
    MODELS[model.model_id] = model
    with Shard.create(tmp_path / "shard", dim=DIM, load_model=MODELS.__getitem__, key=KEY) as shard:
        shard.activate(model)
        shard.enroll(batch(ROWS))
    return tmp_path / "shard"


def plaintexts() -> list[bytes]:
    """What must not be found: labels, their keys, floats of rows of the sealed segment and of the tail, codes."""
    (model,) = list(MODELS.values())[-1:]
    codes = model.encode(np.ascontiguousarray(ROWS[:64]))
    floats = [ROWS[i].tobytes()[at : at + 12] for i in (0, 700, 1_100, N - 1) for at in (0, 100)]
    return [b"secret-id", b"secret-person", b"secret-metadata", b"CREATE TABLE", *floats, codes.tobytes()[:24]]


def leaks(directory: Path) -> list[tuple[str, bytes]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [(path.name, found) for path in files for found in plaintexts() if found in path.read_bytes()]


def test_no_byte_of_labels_floats_or_codes_is_in_the_files(directory: Path) -> None:
    assert leaks(directory) == []
    with opened(directory) as shard:
        shard.delete(identities=["secret-person-3"])
        assert leaks(directory) == []  # SQLite's log, and the open tail's file
        shard.flush()
        compact(shard)
        assert leaks(directory) == []
        names = {path.name for path in directory.rglob("*")}
        assert not names & {"floats.f32", "keys.u64", "codes.tmp"}
    assert leaks(directory) == []


def test_the_search_for_leaks_finds_them_in_a_shard_in_the_clear(tmp_path: Path, directory: Path) -> None:
    with Shard.create(tmp_path / "clear", dim=DIM, load_model=MODELS.__getitem__) as shard:
        shard.activate(MODELS[next(reversed(MODELS))])
        shard.enroll(batch(ROWS))
        found = {pattern for _, pattern in leaks(tmp_path / "clear")}
    assert found == set(plaintexts())


def test_without_its_key_a_shard_is_a_named_error(directory: Path) -> None:
    for open_it in (opened, lambda path, key: ClosedShard(path, MODELS.__getitem__, key=key)):
        with pytest.raises(KeyUnavailable, match="is encrypted"):
            open_it(directory, None)
        with pytest.raises(WrongKey, match="not the one") as caught:
            open_it(directory, OTHER_KEY)
        assert OTHER_KEY.hex() not in str(caught.value)
    with pytest.raises(KeyUnavailable):
        Shard.create(directory, dim=DIM, load_model=MODELS.__getitem__)
    with pytest.raises(WrongKey):
        Shard.create(directory, dim=DIM, load_model=MODELS.__getitem__, key=OTHER_KEY)
    with opened(directory) as shard:
        assert len(shard) == N


def test_a_key_for_a_shard_in_the_clear_is_refused(tmp_path: Path, directory: Path) -> None:
    Shard.create(tmp_path / "clear", dim=DIM, load_model=MODELS.__getitem__).close()
    with pytest.raises(WrongKey, match="not encrypted"):
        opened(tmp_path / "clear")
    with pytest.raises(WrongKey, match="not encrypted"):
        Shard.create(tmp_path / "clear", dim=DIM, load_model=MODELS.__getitem__, key=KEY)
    (directory / "encryption.json").unlink()
    with pytest.raises(CorruptData):
        opened(directory, None)
    with pytest.raises(WrongKey):
        opened(directory)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_keys_of_another_length_are_refused(tmp_path: Path, key: bytes) -> None:
    with pytest.raises(InvalidParameter, match="expected 32 bytes"):
        Shard.create(tmp_path / "shard", dim=DIM, load_model=MODELS.__getitem__, key=key)


def test_two_shards_under_one_key_share_no_ciphertext(tmp_path: Path, directory: Path) -> None:
    with Shard.create(tmp_path / "twin", dim=DIM, load_model=MODELS.__getitem__, key=KEY) as twin:
        twin.enroll(batch(ROWS))
    ours, theirs = ((p / "segment-000001/floats.enc").read_bytes() for p in (directory, tmp_path / "twin"))
    step = ROW_BYTES + OVERHEAD
    nonces = [data[at : at + 12] for data in (ours, theirs) for at in range(0, SEGMENT_ROWS * step, step)]
    assert len(set(nonces)) == 2 * SEGMENT_ROWS
    shutil.copy(tmp_path / "twin/segment-000001/floats.enc", directory / "segment-000001/floats.enc")
    assert_floats_are_refused(directory)


def assert_floats_are_refused(directory: Path, row: int = 0) -> None:
    """Whoever needs the row is told which file is damaged; fsck finds it; nobody gets other floats."""
    path = directory / "segment-000001" / "floats.enc"
    with opened(directory) as shard:
        with pytest.raises(CorruptData) as caught:
            shard.gather(np.array([row]))
        assert caught.value.path == str(path)
        with pytest.raises(CorruptData):
            search_shards([shard], ROWS[:1], SearchParams(k=3, exact=True))
        assert {damage.part for damage in check_shard(shard)} >= {"floats"}
        assert {damage.path for damage in check_files(shard)} == {path}


def test_rows_cannot_change_places(directory: Path) -> None:
    path, step = directory / "segment-000001" / "floats.enc", ROW_BYTES + OVERHEAD
    data = bytearray(path.read_bytes())
    data[:step], data[step : 2 * step] = data[step : 2 * step], data[:step]
    path.write_bytes(data)
    assert_floats_are_refused(directory)


@pytest.mark.parametrize("at", [0, 13, ROW_BYTES + 20])
def test_a_flipped_bit_of_sealed_floats_is_damage_of_that_block_only(directory: Path, at: int) -> None:
    path, row = directory / "segment-000001" / "floats.enc", 400
    flip(path, row * (ROW_BYTES + OVERHEAD) + at)
    with opened(directory) as shard:
        np.testing.assert_array_equal(shard.gather(np.array([10])), ROWS[10:11])
    assert_floats_are_refused(directory, row)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_damaged_floats_are_mended_from_another_replica_open_or_closed(directory: Path) -> None:
    path = directory / "segment-000001" / "floats.enc"
    for is_open in (True, False):
        flip(path, 400 * (ROW_BYTES + OVERHEAD) + 50)
        flip(path, 700 * (ROW_BYTES + OVERHEAD) + 3)
        shard = opened(directory) if is_open else ClosedShard(directory, MODELS.__getitem__, key=KEY)
        with shard:
            damages = check_shard(shard)
            assert {damage.part for damage in damages} == {"floats"}
            assert mend(shard, damages, lambda first, last: ROWS[first:last]) == []
            assert check_shard(shard) == []
            if isinstance(shard, Shard):
                np.testing.assert_array_equal(shard.gather(np.arange(N)), ROWS)
    with opened(directory) as shard:
        np.testing.assert_array_equal(shard.gather(np.arange(N)), ROWS)
    assert leaks(directory) == []


def test_rows_that_lie_across_blocks_are_mended(tmp_path: Path) -> None:
    rows = unit_rows(1_000, 100, seed=3)  # 400 bytes each: blocks of 64 KiB end within rows
    with Shard.create(tmp_path / "shard", dim=100, load_model=MODELS.__getitem__, key=KEY) as shard:
        shard.enroll(batch(rows))
        for is_sealed in (False, True):
            if is_sealed:
                shard.flush()
            path = tmp_path / "shard" / "segment-000001" / "floats.enc"
            for row in (163, 164, 327, 999):  # those with the first two ends of blocks, and others
                flip(path, row * (400 + OVERHEAD) + 200)
            damages = check_shard(shard)
            assert damages
            wrong = rows.copy()
            wrong[163] = rows[0]
            assert mend(shard, damages, lambda first, last, wrong=wrong: wrong[first:last])  # not taken
            assert mend(shard, check_shard(shard), lambda first, last: rows[first:last]) == []
            assert check_shard(shard) == []
            np.testing.assert_array_equal(shard.gather(np.arange(1_000)), rows)
    with Shard(tmp_path / "shard", MODELS.__getitem__, key=KEY) as shard:
        np.testing.assert_array_equal(shard.gather(np.arange(1_000)), rows)


@pytest.mark.parametrize("name", ["keys.enc", "codes"])
def test_damaged_keys_and_codes_are_made_again(directory: Path, name: str) -> None:
    (path,) = (directory / "segment-000001").glob(f"{name}*")
    flip(path, 40)
    with opened(directory) as shard:
        assert check_shard(shard) == []
        found = search_shards([shard], ROWS[:1], SearchParams(k=1))
        assert found.template_ids == (("secret-id-0",),)
    assert leaks(directory) == []


def test_a_damaged_tail_does_not_open(directory: Path) -> None:
    flip(directory / "segment-000002" / "floats.enc", 40)
    with pytest.raises(CorruptData, match=r"floats\.enc"):
        opened(directory)


def test_a_damaged_database_or_header_is_corrupt_data(directory: Path) -> None:
    whole = (directory / "shard.db").read_bytes()
    flip(directory / "shard.db", 4_096 + 100)
    with pytest.raises(CorruptData):
        read_all(directory)
    (directory / "shard.db").write_bytes(whole)
    flip(directory / "encryption.json", 60)
    with pytest.raises(StorageError):
        opened(directory)


def read_all(directory: Path) -> None:
    with opened(directory) as shard:
        shard.templates_between(0, N)


def test_plaintext_in_an_encrypted_shards_directory_is_foreign(directory: Path) -> None:
    (directory / "segment-000001" / "floats.f32").write_bytes(b"x")
    with opened(directory) as shard:
        assert [damage.part for damage in check_shard(shard)] == ["file"]


def test_snapshots_are_refused(directory: Path) -> None:
    with opened(directory) as shard, pytest.raises(EncryptedGallery):
        shard.point(0)


_WRITER = """
import sys
from pathlib import Path
from shard import tail
from shard.shard import Shard
from tests.unit.test_encryption import DIM, KEY, ROWS, batch
tail.segment_capacity = lambda _dim: 256
shard = Shard(Path(sys.argv[1]), {}.__getitem__, key=KEY)
for number in range(1_000_000):
    shard.enroll(batch(ROWS[number % 1_000 : number % 1_000 + 7], f"secret-id-{number}"))
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "shard"
    Shard.create(directory, dim=DIM, load_model=MODELS.__getitem__, key=KEY).close()
    count = 0
    for acknowledgements in (5, 60, 90):
        shutil.rmtree(directory)
        Shard.create(directory, dim=DIM, load_model=MODELS.__getitem__, key=KEY).close()
        with writing(directory) as writer:
            assert writer.stdout is not None
            for _ in range(acknowledgements):
                count = int(writer.stdout.readline()) + 1
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        assert leaks(directory) == []
        with opened(directory) as shard:
            assert len(shard) in (7 * count, 7 * (count + 1), 7 * (count + 2))
            rows = shard.gather(np.arange(len(shard)))
            expected = np.concatenate([ROWS[i % 1_000 : i % 1_000 + 7] for i in range(len(shard) // 7)])
            np.testing.assert_array_equal(rows, expected)
            assert check_shard(shard) == []


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _WRITER, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            yield process
        finally:
            process.kill()


# Blocks


@pytest.fixture
def cipher(tmp_path: Path) -> BlockCipher:
    return ShardCipher.create(tmp_path, KEY).blocks("floats", 1, 100)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1_000])
def test_blocks_come_back(cipher: BlockCipher, size: int) -> None:
    data = os.urandom(size)
    stored = cipher.encrypt(3, data)
    assert len(stored) == cipher.stored(size)
    assert cipher.size(len(stored)) == size
    assert cipher.decrypt(3, stored) == (data, [])
    assert cipher.encrypt(3, data) != stored or not data
    if data:
        numbers = list(range(4, 4 + -(-size // 100)))
        assert cipher.decrypt(4, stored) == (bytes(size), numbers)


def test_a_cut_block_is_wrong(cipher: BlockCipher) -> None:
    stored = cipher.encrypt(0, bytes(range(200)))
    for cut in (1, 100, 101, 115, 127):
        assert cipher.decrypt(0, stored[:-cut])[1] == [1]
        assert cipher.size(len(stored) - cut) < 200


def test_every_file_has_a_key_of_its_own(tmp_path: Path) -> None:
    cipher = ShardCipher.create(tmp_path, KEY)
    stored = cipher.blocks("floats", 1, 100).encrypt(0, b"x" * 100)
    for other in (cipher.blocks("floats", 2, 100), cipher.blocks("keys", 1, 100)):
        assert other.decrypt(0, stored) == (bytes(100), [0])
    assert ShardCipher.open(tmp_path, KEY).blocks("floats", 1, 100).decrypt(0, stored) == (b"x" * 100, [])
