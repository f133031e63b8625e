"""One shard from model to model: prepared, staged, switched, rolled back, with writes and searches in between."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shard import catchup, rollout, segments
from shard.catchup import changes_after
from shard.check import check_shard
from shard.compaction import compact
from shard.errors import ModelMismatch, ShardClosed, WriteFailed
from shard.log import Entry
from shard.model import SearchModel
from shard.search import search_by_model, search_shards
from shard.segments import SegmentFiles
from shard.shard import Shard
from shard.training import train
from shard.types import CodeArray, SearchParams
from tests.faces_like import batch_of, exact, unit_rows

DIM = 64
OLD = train(unit_rows(1_500, DIM, seed=3), code_bits=256)
NEW = train(unit_rows(1_500, DIM, seed=4), code_bits=128)
WIDE = train(unit_rows(1_500, 128, seed=4), code_bits=128)
MODELS = {model.model_id: model for model in (OLD, NEW)}
ROWS = unit_rows(6_000, DIM, seed=5)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 1,024 rows."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1_024 * DIM * 4)


def opened(directory: Path) -> Shard:
    return Shard.create(directory, dim=DIM, load_model=MODELS.__getitem__)


@pytest.fixture
def shard(tmp_path: Path):  # type: ignore[no-untyped-def]
    """2,600 rows searched by OLD: two sealed segments and a tail."""
    with opened(tmp_path / "shard") as found:
        found.enroll(batch_of(ROWS[:2_600]))
        found.activate(OLD)
        yield found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were encoded, call by call."""
    counts: list[int] = []
    real = SearchModel.encode

    def counted(model: SearchModel, rows: np.ndarray) -> CodeArray:  # type: ignore[type-arg]
        counts.append(len(rows))
        return real(model, rows)

    monkeypatch.setattr(SearchModel, "encode", counted)
    return counts


def code_files(shard: Shard) -> dict[str, int]:
    """Model id to its code files on disk."""
    counts: dict[str, int] = {}
    for path in shard.directory.rglob("codes-*.rows"):
        model_id = path.stem.removeprefix("codes-")
        counts[model_id] = counts.get(model_id, 0) + 1
    return counts


def assert_answers(shard: Shard, kept: list[int], model: SearchModel | None) -> None:
    """Exact answers are the oracle's, and the model's find every template by itself."""
    probes = ROWS[kept[:: max(1, len(kept) // 40)]]
    ids = [f"t{i}" for i in kept]
    assert list(search_shards([shard], probes, SearchParams(5, exact=True)).template_ids) == exact(
        ids, ROWS[kept], probes, 5
    )
    found, model_id = search_by_model([shard], probes, SearchParams(1))
    assert model_id == (None if model is None else model.model_id)
    assert list(found.template_ids) == exact(ids, ROWS[kept], probes, 1)
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)


def test_a_prepared_model_takes_a_switch_and_no_memory_before(shard: Shard, encoded: list[int]) -> None:
    before = shard.index.code_bytes
    assert shard.prepare(NEW) == 2
    assert (shard.index.code_bytes, shard.model) == (before, OLD)
    assert code_files(shard) == {OLD.model_id: 2, NEW.model_id: 2}
    assert sum(encoded) == 2 * 1_024
    assert shard.prepare(NEW) == 0
    encoded.clear()
    shard.activate(NEW)
    assert sum(encoded) == 2_600 - 2 * 1_024, "only the tail"
    assert_answers(shard, list(range(2_600)), NEW)


def test_what_is_written_between_the_steps_is_searched_by_the_new_model(tmp_path: Path, shard: Shard) -> None:
    shard.prepare(NEW)
    shard.enroll(batch_of(ROWS[2_600:3_200], first=2_600))  # seals the third segment
    shard.delete(template_ids=["t0", "t2500", "t2700"])
    staged = shard.stage(NEW)
    assert shard.model is OLD
    shard.enroll(batch_of(ROWS[3_200:4_200], first=3_200))  # seals the fourth
    shard.delete(template_ids=["t1", "t3300"])
    kept = [i for i in range(4_200) if i not in (0, 1, 2_500, 2_700, 3_300)]
    assert_answers(shard, kept, OLD)
    shard.switch(staged)
    assert_answers(shard, kept, NEW)
    shard.enroll(batch_of(ROWS[4_200:5_200], first=4_200))
    kept += range(4_200, 5_200)
    assert_answers(shard, kept, NEW)
    shard.flush()
    shard.close()
    with opened(shard.directory) as again:
        assert_answers(again, kept, NEW)
        assert check_shard(again) == []


def test_the_way_back_is_a_switch_until_the_old_codes_are_discarded(shard: Shard, encoded: list[int]) -> None:
    shard.activate(NEW)
    assert shard.model_ids() == {OLD.model_id, NEW.model_id}
    encoded.clear()
    shard.activate(OLD)
    assert sum(encoded) == 2_600 - 2 * 1_024
    assert_answers(shard, list(range(2_600)), OLD)
    shard.discard([])
    assert code_files(shard) == {OLD.model_id: 2}, "the active model's are always kept"
    assert shard.model_ids() == {OLD.model_id}
    encoded.clear()
    shard.activate(NEW)
    assert sum(encoded) == 2_600
    shard.activate(None)
    assert_answers(shard, list(range(2_600)), None)
    assert shard.index.planes == 0
    shard.close()
    with opened(shard.directory) as again:
        assert_answers(again, list(range(2_600)), None)
        encoded.clear()
        again.activate(NEW)
        assert sum(encoded) == 2_600 - 2 * 1_024, "codes were kept while the shard had no model"


def test_only_codes_that_are_lost_or_damaged_are_made_again(shard: Shard, encoded: list[int]) -> None:
    shard.prepare(NEW)
    path = SegmentFiles(shard.directory, 1, DIM).codes_path(NEW.model_id)
    good = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))):
        damage()
        encoded.clear()
        assert shard.prepare(NEW) == 1
        assert encoded == [1_024]
        assert path.read_bytes() == good


class _Killed(BaseException):
    """The process ends here."""


def roll_out(shard: Shard) -> None:
    shard.prepare(NEW)
    shard.activate(NEW)
    shard.discard([])


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", range(10))
def test_a_kill_between_any_two_steps_leaves_one_model_and_is_resumed(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch, step: int, moment: str
) -> None:
    """The files of that moment are copied and opened, as the next process finds them."""
    left = [step]

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if left[0] == 0 and moment == "before":
                raise _Killed
            result = real(*args, **kwargs)
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return result

        return call

    copy = tmp_path / "as it was"
    with monkeypatch.context() as patch:
        for owner, name in (
            (SegmentFiles, "write_codes"),
            (rollout, "keep_models"),
            (rollout, "put_codes"),
            (rollout, "stage"),
            (rollout, "complete"),
            (rollout, "discard"),
        ):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(_Killed):
            roll_out(shard)
        shutil.copytree(shard.directory, copy)
    kept = list(range(2_600))
    with opened(copy) as found:
        assert found.model in (OLD, NEW)
        assert found.model is (NEW if step >= 8 else OLD)
        assert_answers(found, kept, found.model)
        assert check_shard(found) == []
        found.activate(NEW)
        assert_answers(found, kept, NEW)
        found.discard([])
        assert code_files(found) == {NEW.model_id: 2}
    with opened(copy) as found:
        assert_answers(found, kept, NEW)


def test_a_disk_that_fills_while_preparing_does_not_stop_writes(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise WriteFailed("could not write: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SegmentFiles, "write_codes", full)
        with pytest.raises(WriteFailed, match="no space"):
            shard.prepare(NEW)
    shard.enroll(batch_of(ROWS[2_600:2_610], first=2_600))
    assert_answers(shard, list(range(2_610)), OLD)
    shard.activate(NEW)
    assert_answers(shard, list(range(2_610)), NEW)


def test_a_shard_that_is_closed_meanwhile_stops_preparing(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SegmentFiles.write_codes
    closing = threading.Thread(target=shard.close)

    def close_first(files: SegmentFiles, model_id: str, codes: CodeArray) -> bytes:
        closing.start()
        while not shard._is_closing:
            closing.join(0.001)
        return real(files, model_id, codes)

    monkeypatch.setattr(SegmentFiles, "write_codes", close_first)
    with pytest.raises(ShardClosed, match="being closed"):
        shard.prepare(NEW)
    closing.join()
    monkeypatch.undo()
    with opened(shard.directory) as again:
        assert code_files(again) == {OLD.model_id: len(again._store.segments()) - 1}


def left_files(shard: Shard) -> set[str]:
    """Directories of segments on disk."""
    return {path.name for path in shard.directory.glob("segment-*")}


def drop_first(shard: Shard) -> None:
    """Compaction gives up the first segment: its live rows are at the end, its files are gone."""
    compact(shard)
    assert shard.segments[0].is_dropped


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


STEPS = (
    (SegmentFiles, "check_floats"),
    (SegmentFiles, "floats"),
    (SegmentFiles, "write_codes"),
    (SegmentFiles, "read_codes"),
    (rollout, "put_codes"),
    (rollout, "encode_rows"),
    (rollout, "_staged"),
    (rollout, "_add_segment"),
    (Shard, "switch"),
)


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("is_prepared", [False, True], ids=["prepare", "switch"])
def test_a_segment_that_is_dropped_at_any_step_is_passed_over(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, is_prepared: bool
) -> None:
    """Its codes are nowhere, and every row that was moved has codes of the model that is searched."""
    doomed = list(range(0, 1_024, 2))
    shard.delete(template_ids=[f"t{i}" for i in doomed])
    if is_prepared:
        shard.prepare(NEW)
    real = getattr(owner, name)
    done: list[bool] = []

    def dropping(*args: object, **kwargs: object) -> object:
        if not done:
            done.append(True)
            other = threading.Thread(target=drop_first, args=(shard,))
            other.start()
            waiting.append(other)
            if name == "write_codes":  # its files stay until the code file is written
                wait_until(lambda: shard.segments[0].is_dropped)
            elif name != "put_codes":  # which is in this shard's turn to write
                other.join()
        return real(*args, **kwargs)

    waiting: list[threading.Thread] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dropping)
        shard.activate(NEW)
        for other in waiting:
            other.join()
    if not done:
        drop_first(shard)
    kept = [i for i in range(2_600) if i not in set(doomed)]
    assert_answers(shard, kept, NEW)
    assert "segment-000001" not in left_files(shard)
    assert shard._store.code_models(1) == set()
    shard.prepare(OLD)
    shard.activate(OLD)
    assert_answers(shard, kept, OLD)
    shard.flush()
    sealed = {row.segment for row in shard.segments if row.is_sealed and not row.is_dropped}
    assert all(OLD.model_id in shard._store.code_models(segment) for segment in sealed)
    shard.close()
    with opened(shard.directory) as again:
        assert_answers(again, kept, OLD)
        assert check_shard(again) == []


def test_a_switch_back_after_compaction_and_segments_that_came_since(shard: Shard) -> None:
    shard.prepare(NEW)
    staged = shard.stage(NEW)
    shard.delete(template_ids=[f"t{i}" for i in range(1_500)])
    shard.flush()
    compact(shard)
    shard.enroll(batch_of(ROWS[2_600:4_000], first=2_600))
    shard.delete(template_ids=["t3000"])
    shard.flush()
    compact(shard)
    kept = [i for i in range(1_500, 4_000) if i != 3_000]
    shard.switch(staged)
    assert_answers(shard, kept, NEW)
    shard.activate(OLD)
    assert_answers(shard, kept, OLD)
    assert left_files(shard) == {f"segment-{s.segment:06d}" for s in shard.segments if not s.is_dropped}


def test_a_switch_that_fails_at_its_commit_leaves_the_model_in_use(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the database has it or not: whoever asked was told that it was not done."""
    staged = shard.stage(NEW)
    real = shard._store.transaction

    @contextlib.contextmanager
    def failing() -> Iterator[sqlite3.Connection]:
        with real() as db:
            yield db
        raise WriteFailed("the disk failed when it was done")

    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "transaction", failing)
        with pytest.raises(WriteFailed, match="the disk failed"):
            shard.switch(staged)
    assert shard.model is OLD
    with pytest.raises(WriteFailed, match="refuses writes"):
        shard.enroll(batch_of(ROWS[2_600:2_610], first=2_600))
    shard.recover()
    shard.enroll(batch_of(ROWS[2_600:2_610], first=2_600))
    assert_answers(shard, list(range(2_610)), OLD)
    shard.close()
    with opened(shard.directory) as again:
        assert again.model is OLD
        assert_answers(again, list(range(2_610)), OLD)
        again.activate(NEW)
        assert_answers(again, list(range(2_610)), NEW)


@pytest.mark.parametrize("after", range(5))
def test_a_replica_that_catches_up_is_switched_at_any_piece(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Its rows have the codes of the model that its index has when they come."""
    monkeypatch.setattr(catchup, "PIECE_BYTES", 600 * DIM * 4)
    shard.delete(template_ids=[f"t{i}" for i in range(0, 1_100, 3)])
    compact(shard)
    kept = [i for i in range(2_600) if i >= 1_100 or i % 3]
    with opened(tmp_path / "replica") as replica:
        replica.activate(OLD)
        piece = 0
        while True:
            if piece == after:
                replica.prepare(NEW)
                replica.activate(NEW)
            changes = changes_after(shard, *replica.progress())
            replica.absorb(changes)
            piece += 1
            if changes.is_last:
                break
        assert piece > after
        assert_answers(replica, kept, NEW)
        sent: list[Entry] = []
        shard.on_commit = sent.extend
        shard.enroll(batch_of(ROWS[2_600:3_900], first=2_600))
        shard.delete(template_ids=["t1500"])
        shard.flush()
        compact(shard)
        half = len(sent) // 2
        replica.apply(sent[:half])
        staged = replica.stage(OLD)
        replica.apply(sent[half:])
        replica.switch(staged)
        kept = [i for i in [*kept, *range(2_600, 3_900)] if i != 1_500]
        assert_answers(replica, kept, OLD)
        assert_answers(shard, kept, OLD)


def test_recent_templates_are_those_enrolled_since_wherever_they_are(shard: Shard) -> None:
    """Compaction moves old rows behind new ones."""
    since = shard.lsn
    shard.enroll(batch_of(ROWS[2_600:2_700], first=2_600))
    shard.delete(template_ids=[f"t{i}" for i in [*range(0, 1_024, 2), 2_650]])
    compact(shard)
    shard.enroll(batch_of(ROWS[2_700:2_720], first=2_700))
    expected = {row.tobytes() for i, row in enumerate(ROWS[2_600:2_720], 2_600) if i != 2_650}
    floats, count = shard.recent(1_000, 0, since)
    assert (len(floats), count) == (119, 119)
    assert {row.tobytes() for row in floats} == expected
    floats, count = shard.recent(30, 0, since)
    assert (len(floats), count) == (30, 119)
    assert {row.tobytes() for row in floats} < expected
    assert shard.recent(10, 0, shard.lsn)[1] == 0


def test_a_model_of_another_dimension_is_refused(shard: Shard) -> None:
    for verb in (shard.prepare, shard.stage, shard.activate):
        with pytest.raises(ModelMismatch, match="dimension 128, not 64"):
            verb(WIDE)
    shard.enroll(batch_of(ROWS[2_600:2_601], first=2_600))


def test_shards_of_two_models_answer_by_that_of_most_rows(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as first, opened(tmp_path / "b") as second, opened(tmp_path / "c") as third:
        first.enroll(batch_of(ROWS[:2_000]))
        second.enroll(batch_of(ROWS[2_000:3_000], first=2_000))
        shards = [first, second, third]
        probes = ROWS[:3_000:100]
        expected = exact([f"t{i}" for i in range(3_000)], ROWS[:3_000], probes, 1)
        for models, answered in (
            ((None, None, None), None),
            ((OLD, None, NEW), OLD),
            ((OLD, NEW, NEW), OLD),
            ((None, NEW, OLD), NEW),
            ((NEW, NEW, NEW), NEW),
        ):
            for shard, model in zip(shards, models, strict=True):
                shard.activate(model)
            found, model_id = search_by_model(shards, probes, SearchParams(1))
            assert model_id == (answered and answered.model_id)
            assert list(found.template_ids) == expected
            assert search_by_model(shards, probes, SearchParams(1, exact=True))[1] is None


def test_searches_and_writes_during_rollouts_keep_recall_and_one_model(tmp_path: Path) -> None:
    """Enrolled templates are found by themselves, with their true score, by one of the two models, all the while."""
    probes = ROWS[:2_000:20]
    wanted = [(f"t{i}",) for i in range(0, 2_000, 20)]
    stop = threading.Event()
    answers, failures = [0, 0], []
    by = set()

    def search(number: int) -> None:
        try:
            while not stop.is_set() or not answers[number]:
                found, model_id = search_by_model(shards, probes, SearchParams(1))
                by.add(model_id)
                assert list(found.template_ids) == wanted
                np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)
                answers[number] += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    with opened(tmp_path / "a") as first, opened(tmp_path / "b") as second:
        shards = [first, second]
        first.enroll(batch_of(ROWS[:1_500]))
        second.enroll(batch_of(ROWS[1_500:2_000], first=1_500))
        for shard in shards:
            shard.activate(OLD)
        threads = [threading.Thread(target=search, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        enrolled = 2_000
        for turn in range(6):
            model = (NEW, OLD)[turn % 2]
            for shard in shards:
                shard.prepare(model)
                # Vectors that no probe meets at 1.
                shard.enroll(batch_of(ROWS[enrolled : enrolled + 150], first=enrolled))
                enrolled += 150
                shard.activate(model)
                shard.delete(template_ids=[f"t{enrolled - 1}"])
            for shard in shards:
                shard.discard([])
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert by <= {OLD.model_id, NEW.model_id}
        assert sum(map(len, shards)) == enrolled - 12
