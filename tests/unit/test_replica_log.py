"""What one shard decided, carried out by another: by entries, and by catching up from what the first has now."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shard import catchup, segments
from shard.catchup import changes_after, is_part_of
from shard.compaction import compact
from shard.errors import CorruptData, OutOfStep, StaleRoute
from shard.log import Entry, Position
from shard.shard import Shard
from tests.faces_like import batch_of, unit_rows
from tests.replicas import assert_alike, catch_up, content

DIM = 64


def create(directory: Path) -> Shard:
    return Shard.create(directory, dim=DIM, load_model={}.__getitem__)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 1,024 rows, and pieces of 300."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1_024 * DIM * 4)
    monkeypatch.setattr(catchup, "PIECE_BYTES", 300 * DIM * 4)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Shard, Shard]]:
    with create(tmp_path / "primary") as primary, create(tmp_path / "backup") as backup:
        yield primary, backup


def work(shard: Shard, seed: int = 0) -> None:
    """Every verb there is."""
    rng = np.random.default_rng(seed)
    shard.enroll(batch_of(unit_rows(1_500, DIM, seed=seed), prefix=f"a{seed}-", identity="Ada"))
    shard.enroll(batch_of(unit_rows(40, DIM, seed=seed + 100), prefix=f"b{seed}-"), operation=b"op%d" % seed)
    shard.delete(template_ids=[f"a{seed}-{i}" for i in rng.choice(1_500, 300, replace=False).tolist()])
    shard.flush()
    shard.enroll(batch_of(unit_rows(700, DIM, seed=seed + 200), prefix=f"c{seed}-"))
    compact(shard)
    shard.enroll(batch_of(unit_rows(3, DIM, seed=seed + 300), prefix=f"d{seed}-"))
    shard.delete(template_ids=[f"c{seed}-5", f"d{seed}-1"])
    shard.amend([f"b{seed}-{i}" for i in range(20)], [b'{"n":%d}' % i for i in range(20)])
    shard.rename("Ada", "Eve", limit=50)


@pytest.mark.usefixtures("small")
def test_entries_make_replicas_alike(pair: tuple[Shard, Shard]) -> None:
    primary, backup = pair
    sent: list[Entry] = []
    primary.on_commit = sent.extend
    primary.take_epoch(3, decides=True)
    work(primary)
    half = len(sent) // 2
    backup.apply(sent[:half])
    backup.apply(sent[half - 1 :])  # the one that is there already is passed over
    assert_alike(primary, backup)
    assert backup._store.operation(b"op0") == primary._store.operation(b"op0") != None  # noqa: E711
    with pytest.raises(OutOfStep, match="expected entry"):
        backup.apply([sent[-1].__class__(*(getattr(sent[-1], f) if f != "lsn" else 999 for f in Entry.__slots__))])
    assert_alike(primary, backup)


@pytest.mark.usefixtures("small")
def test_a_replica_catches_up_from_nothing_and_from_the_middle(pair: tuple[Shard, Shard], tmp_path: Path) -> None:
    primary, backup = pair
    work(primary, seed=0)
    assert catch_up(backup, primary) >= 3
    assert_alike(primary, backup)
    work(primary, seed=1)
    catch_up(backup, primary)
    assert_alike(primary, backup)
    assert catch_up(backup, primary) == 1
    backup.close()
    with create(tmp_path / "backup") as again:
        assert_alike(primary, again)


@pytest.mark.usefixtures("small")
def test_a_catch_up_survives_interruptions_and_writes_beside_it(pair: tuple[Shard, Shard], tmp_path: Path) -> None:
    primary, backup = pair
    work(primary)
    for round_ in range(400):
        changes = changes_after(primary, *backup.progress())
        backup.absorb(changes)
        if changes.is_last:
            break
        assert backup.is_catching_up
        backup.close()
        backup = create(tmp_path / "backup")
        if round_ < 4:
            work(primary, seed=round_ + 1)  # deletes what was sent, moves it, drops its segments
    assert changes.is_last
    assert not backup.is_catching_up
    assert_alike(primary, backup)
    backup.close()


def test_what_little_a_replica_lacks_comes_in_one_step(pair: tuple[Shard, Shard]) -> None:
    """It is never found in the middle of it, so it can become primary at any moment."""
    primary, backup = pair
    primary.enroll(batch_of(unit_rows(40, DIM, seed=1), prefix="a"), operation=b"one")
    catch_up(backup, primary)
    primary.enroll(batch_of(unit_rows(30, DIM, seed=2), prefix="b"), operation=b"two")
    primary.delete(template_ids=["a3", "b4"])
    changes = changes_after(primary, *backup.progress())
    assert changes.is_last
    assert len(changes.embeddings) == 30
    backup.absorb(changes)
    assert not backup.is_catching_up
    assert_alike(primary, backup)
    assert backup.enroll(batch_of(unit_rows(30, DIM, seed=2), prefix="b"), operation=b"two").enrolled == 30


@pytest.mark.parametrize("last", ["enroll", "amend", "rename", "move"])
def test_a_tail_that_was_sealed_meanwhile_is_sealed_here_too(pair: tuple[Shard, Shard], last: str) -> None:
    """In the one piece that brings its last rows; else the next row would be in another segment than the primary's."""
    primary, backup = pair
    primary.enroll(batch_of(unit_rows(40, DIM, seed=1), prefix="a", identity="Ada"))
    catch_up(backup, primary)
    if last == "enroll":
        primary.enroll(batch_of(unit_rows(30, DIM, seed=2), prefix="b"))
    elif last == "amend":
        assert primary.amend(["a1", "a7", "nobody"], [b'{"n":1}', None, b"{}"]) == 2
    elif last == "rename":
        assert primary.rename("Ada", "Eve", limit=30) == 30
    else:
        primary.move(np.arange(10))
    primary.flush()
    assert catch_up(backup, primary) == 1
    assert_alike(primary, backup)
    entries: list[Entry] = []
    primary.on_commit = entries.extend
    primary.enroll(batch_of(unit_rows(5, DIM, seed=3), prefix="c"))
    backup.apply(entries)
    assert_alike(primary, backup)


def test_another_past_is_divergent(pair: tuple[Shard, Shard]) -> None:
    primary, backup = pair
    for shard in pair:
        shard.take_epoch(1, decides=shard is primary)
    sent: list[Entry] = []
    primary.on_commit = sent.extend
    primary.enroll(batch_of(unit_rows(5, DIM, seed=1), prefix="a"))
    backup.apply(sent)
    # The primary writes once more and is lost; the backup goes on under the next configuration.
    primary.enroll(batch_of(unit_rows(1, DIM, seed=2), prefix="lost"))
    backup.take_epoch(2, decides=True)
    backup.enroll(batch_of(unit_rows(2, DIM, seed=3), prefix="b"))
    assert changes_after(backup, *primary.progress()).is_divergent
    with pytest.raises(OutOfStep):
        backup.apply(sent[1:])
    with pytest.raises(StaleRoute):
        backup.take_epoch(1)


@pytest.mark.parametrize(
    ("lsn", "epoch", "expected"),
    [(0, 0, True), (4, 1, True), (5, 1, False), (5, 3, True), (9, 3, True), (10, 3, False), (3, 3, False)],
)
def test_log_matching(lsn: int, epoch: int, expected: bool) -> None:
    own = Position(9, 3, 100)
    assert is_part_of(Position(lsn, epoch, 50), own, [(1, 1), (3, 5)]) is expected


@pytest.mark.usefixtures("small")
def test_a_copy_that_is_not_what_was_sealed_is_refused(pair: tuple[Shard, Shard]) -> None:
    primary, backup = pair
    primary.enroll(batch_of(unit_rows(1_100, DIM, seed=1), prefix="a"))
    with pytest.raises(CorruptData, match="not what the source sealed"):
        catch_up(backup, primary, damage=True)


@pytest.mark.usefixtures("small")
def test_compaction_leaves_no_byte_of_what_was_deleted(pair: tuple[Shard, Shard], tmp_path: Path) -> None:
    primary, _ = pair
    rows = unit_rows(2_500, DIM, seed=1)
    primary.enroll(batch_of(rows, prefix="person-", identity="Nobody Special"))
    doomed = [7, 1_030, 2_400]
    primary.delete(template_ids=[f"person-{i}" for i in doomed])
    assert primary.erasure().dead_rows == 3
    before = primary.stats()
    report = compact(primary)
    assert (report.segments, report.erased, report.moved) == (3, 3, 2_497)
    after = primary.stats()
    assert (after.templates, after.deleted) == (2_497, 0)
    assert after.segments == before.segments
    assert primary.erasure().dead_rows == 0
    assert primary.erasure().oldest is None
    files = [path for path in (tmp_path / "primary").rglob("*") if path.is_file()]
    raw = b"".join(path.read_bytes() for path in files)
    for i in doomed:
        assert rows[i].tobytes() not in raw
        assert f"person-{i}".encode() not in raw.replace(f"person-{i}0".encode(), b"") or i == 7
    assert rows[8].tobytes() in raw
    assert compact(primary).segments == 0


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.sampled_from(["enroll", "delete", "flush", "compact", "reopen", "catch up"]), max_size=25),
    seed=st.integers(0, 1 << 30),
)
def test_any_history_can_be_caught_up_with(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    directory, rng = tmp_path_factory.mktemp("replicas"), np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", 1)
        patch.setattr(catchup, "PIECE_BYTES", 100 * DIM * 4)
        primary, backup = create(directory / "primary"), create(directory / "backup")
        for number, step in enumerate(steps):
            if step == "enroll":
                primary.enroll(batch_of(unit_rows(int(rng.integers(1, 900)), DIM, seed=number), prefix=f"{number}-"))
            elif step == "delete" and (ids := list(content(primary))):
                primary.delete(template_ids=rng.choice(ids, min(len(ids), int(rng.integers(1, 300)))).tolist())
            elif step == "flush":
                primary.flush()
            elif step == "compact":
                compact(primary, least_dead=float(rng.choice([0.0, 0.3])))
            elif step == "reopen":
                primary.close()
                primary = create(directory / "primary")
            else:
                catch_up(backup, primary)
        catch_up(backup, primary)
        assert_alike(primary, backup)
        primary.close()
        backup.close()
