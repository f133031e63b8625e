"""Acting on groups and taking it back: exact to the bit, repeated after a kill, nothing of others touched."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.dedup import apply_plan
from cluster.dedup.apply import applied, apply, settle, undo
from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.apply_lock import only_apply
from cluster.dedup.apply_plan import TAG_KEY
from cluster.dedup.result_files import DedupResult
from cluster.dedup.retention import remove_copies, undo_seconds
from cluster.dedup.review import ReviewQueue
from cluster.dedup.sweeping import sweep
from cluster.gallery import Gallery
from coordinator.router import Router
from shard.errors import FacegridError, InvalidParameter, NotFound, ResultBusy, UndoExpired, UnknownJob
from shard.files import DirectoryLock
from tests.dedup_results import DIM, NAME, contents, enroll, faces_of, make_job

PEOPLE = [["a1:ann", "a2:ann", "a3"], ["b1", "b2"], ["c1:carl", "c2:carla"], ["d1:dan", "d2:dan"], ["e1:eve"]]
SAME = {"done_already": 2}
"""What a merging skips: a1 and a2 are ann's."""
GROUPS = [["a1", "a2", "a3"], ["b1", "b2"], ["c1", "c2"], ["d1", "d2"]]
REVIEW = {3: "split"}


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def gallery(grid: Cluster) -> Gallery:
    made = grid.gallery(NAME, create=True, shards=3, dim=DIM)
    enroll(made, faces_of(PEOPLE))
    return made


@pytest.fixture
def result(grid: Cluster, gallery: Gallery) -> DedupResult:
    return make_job(grid, GROUPS, REVIEW)


class Home:
    """Looks at the gallery to the byte."""

    def __init__(self, grid: Cluster, place: Path) -> None:
        self.grid, self.place, self.count = grid, place, 0

    def __call__(self) -> dict[str, tuple[str | None, bytes | None, bytes]]:
        self.count += 1
        return contents(self.grid, NAME, self.place / f"look-{self.count}")


@pytest.fixture
def look(grid: Cluster, tmp_path: Path) -> Home:
    return Home(grid, tmp_path)


def ids_of(report: Any) -> list[str]:
    return sorted(change.key.template_id for change in report.changes)


def test_a_dry_run_says_and_does_nothing(grid: Cluster, result: DedupResult, look: Home) -> None:
    before = look()
    report = apply(grid, result, "delete")
    assert ids_of(report) == ["a2", "a3", "b2"]
    assert (report.dry_run, report.number, report.groups, report.templates) == (True, None, 2, 3)
    assert report.left_out == {"needs_review": 2, "several_identities": 2}
    assert look() == before
    assert applied(result) == ()
    assert ids_of(apply(grid, result, "merge")) == ["a3", "b1", "b2"]
    assert ids_of(apply(grid, result, "tag")) == ["a1", "a2", "a3", "b1", "b2", "c1", "c2"]
    assert ids_of(apply(grid, result, "delete", accept_all=True)) == ["a2", "a3", "b2", "c2", "d2"]


@pytest.mark.parametrize("action", ["delete", "merge", "tag"])
def test_there_and_back_to_the_byte(grid: Cluster, result: DedupResult, look: Home, action: Any) -> None:
    before = look()
    planned = apply(grid, result, action)
    done = apply(grid, result, action, dry_run=False, by="ann")
    assert (done.number, done.state, done.templates, done.groups) == (1, "applied", planned.templates, planned.groups)
    after = look()
    assert after != before
    assert apply(grid, result, action).templates == 0
    assert undo(grid, result).dry_run
    assert look() == after
    back = undo(grid, result, dry_run=False)
    assert (back.state, back.templates, back.skipped) == ("undone", planned.templates, {})
    assert look() == before
    with pytest.raises(NotFound, match="nothing"):
        undo(grid, result)
    assert [entry.state for entry in applied(result)] == ["undone"]


def test_delete_removes_the_duplicates_alone(grid: Cluster, result: DedupResult, look: Home) -> None:
    before = look()
    apply(grid, result, "delete", dry_run=False)
    assert look() == {name: value for name, value in before.items() if name not in ("a2", "a3", "b2")}


def test_merge_gives_one_identity(grid: Cluster, gallery: Gallery, result: DedupResult, look: Home) -> None:
    before = look()
    apply(grid, result, "merge", dry_run=False)
    after = look()
    new = f"dedup-{result.job_id}-1"
    assert {name: value[0] for name, value in after.items()} == {
        "a1": "ann", "a2": "ann", "a3": "ann", "b1": new, "b2": new, "c1": "carl", "c2": "carla", "d1": "dan",
        "d2": "dan", "e1": "eve",
    }  # fmt: skip
    assert {name: value[1:] for name, value in after.items()} == {name: value[1:] for name, value in before.items()}
    found = gallery.search(np.frombuffer(before["a3"][2], np.float32)[None], 1, identities=["ann"], exact=True)
    assert found.template_ids == (("a3",),)


def test_tag_adds_a_key(grid: Cluster, gallery: Gallery, result: DedupResult) -> None:
    apply(grid, result, "tag", dry_run=False)
    assert gallery.get("a2").metadata == {"n": 1, TAG_KEY: f"{result.job_id}/0"}
    assert gallery.get("a1").metadata == {TAG_KEY: f"{result.job_id}/0"}
    assert gallery.get("d1").metadata is None or TAG_KEY not in (gallery.get("d1").metadata or {})
    apply(grid, result, "tag", key="same", dry_run=False)
    assert (gallery.get("a1").metadata or {})["same"] == f"{result.job_id}/0"
    gallery.update("a1", {**(gallery.get("a1").metadata or {}), "new": 1})
    undo(grid, result, dry_run=False)
    assert gallery.get("a1").metadata == {TAG_KEY: f"{result.job_id}/0", "new": 1}
    gallery.update("a2", {TAG_KEY: "another"})
    report = undo(grid, result, dry_run=False)
    assert report.skipped == {"metadata_changed": 1}
    assert gallery.get("a2").metadata == {TAG_KEY: "another"}
    assert gallery.get("a1").metadata == {"new": 1}


def test_an_accepted_group_of_several_identities_is_merged(grid: Cluster, result: DedupResult, look: Home) -> None:
    queue = ReviewQueue(result)
    queue.accept(2, by="ann")
    queue.split(0, [["a1", "a2"]], by="ann")
    report = apply(grid, result, "merge", dry_run=False)
    assert report.left_out == {"needs_review": 2, "split_off": 1}
    after = look()
    assert (after["c1"][0], after["c2"][0], after["a3"][0]) == ("carl", "carl", None)


def test_rejected_and_merged_groups(grid: Cluster, result: DedupResult) -> None:
    queue = ReviewQueue(result)
    queue.reject(0, by="ann")
    queue.merge([1, 3], by="ann")
    report = apply(grid, result, "delete")
    assert ids_of(report) == ["b2", "d1", "d2"]
    assert report.left_out == {"rejected": 3, "several_identities": 2}


def test_what_changed_since_is_skipped(grid: Cluster, gallery: Gallery, result: DedupResult, look: Home) -> None:
    floats = look()["b2"][2]
    gallery.delete(template_ids=["a2"])
    gallery.update("a3", {"n": "mine"})
    gallery.delete(template_ids=["b2"])
    gallery.enroll(np.frombuffer(floats, np.float32)[None], template_ids=["b2"])
    report = apply(grid, result, "delete", dry_run=False)
    assert report.skipped == {"deleted": 1, "enrolled_again": 1, "metadata_changed": 1}
    assert (report.templates, report.number, report.state) == (0, None, "applied")
    assert applied(result) == ()
    assert {entry.reason.value for entry in apply(grid, result, "delete").skips} == set(report.skipped)


def test_without_the_one_that_is_kept_nothing_is_deleted(grid: Cluster, gallery: Gallery, result: DedupResult) -> None:
    gallery.delete(template_ids=["a1"])
    gallery.rename_identity("carl", "karl")
    ReviewQueue(result).accept(2, by="ann")
    report = apply(grid, result, "delete")
    assert (ids_of(report), report.skipped) == (["b2"], {"keep_changed": 3})


def test_what_others_did_after_an_apply_stays(grid: Cluster, gallery: Gallery, result: DedupResult, look: Home) -> None:
    apply(grid, result, "delete", dry_run=False)
    gallery.enroll(faces_of([["x"]], seed=9)[0].floats[None], template_ids=["a2"], identities=["new"])
    there = look()["a2"]
    report = undo(grid, result, dry_run=False)
    assert report.skipped == {"there_again": 1}
    assert look()["a2"] == there
    apply(grid, result, "merge", dry_run=False)
    gallery.delete(template_ids=["b1"])
    gallery.rename_identity(f"dedup-{result.job_id}-1", "bob")
    report = undo(grid, result, dry_run=False)
    assert report.skipped == {"deleted": 1, "identity_changed": 1}
    assert look()["b2"][0] == "bob"


def test_actions_of_one_result_follow_each_other(grid: Cluster, result: DedupResult, look: Home) -> None:
    before = look()
    apply(grid, result, "tag", key="dup", dry_run=False)
    apply(grid, result, "merge", dry_run=False)
    report = apply(grid, result, "delete", dry_run=False)
    assert (report.number, report.templates, report.skipped) == (3, 3, {})
    assert sorted(look()) == ["a1", "b1", "c1", "c2", "d1", "d2", "e1"]
    for _ in range(3):
        undo(grid, result, dry_run=False)
    assert look() == before
    assert apply(grid, result, "delete", dry_run=False).templates == 3


def test_a_gallery_that_was_made_again_is_refused(grid: Cluster, result: DedupResult) -> None:
    grid.drop(NAME)
    grid.gallery(NAME, create=True, dim=DIM)
    with pytest.raises(InvalidParameter, match="not the gallery"):
        apply(grid, result, "delete", dry_run=False)


@pytest.mark.parametrize(
    "options", [{"key": "facegrid:thumbnail"}, {"key": "a.b"}, {"key": ""}, {"gallery": "acme/other"}]
)
def test_options_are_checked(grid: Cluster, result: DedupResult, options: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(options))):
        apply(grid, result, "tag", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="action"):
        apply(grid, result, "drop")  # type: ignore[arg-type]


def test_two_galleries(grid: Cluster, gallery: Gallery, tmp_path: Path) -> None:
    other = "acme/watch"
    enroll(grid.gallery(other, create=True, shards=2, dim=DIM), faces_of([["w1:ann"], ["w2"]]))
    result = make_job(grid, [["a1", "a2", "w1"], ["b1", "w2"]], names=(NAME, other))
    before = (contents(grid, NAME, tmp_path / "a"), contents(grid, other, tmp_path / "b"))
    assert ids_of(apply(grid, result, "delete")) == ["a2", "w1", "w2"]
    assert ids_of(apply(grid, result, "delete", gallery=other)) == ["w1", "w2"]
    apply(grid, result, "merge", gallery=other, dry_run=False)
    assert contents(grid, NAME, tmp_path / "c") == before[0]
    assert contents(grid, other, tmp_path / "d")["w2"][0] == f"dedup-{result.job_id}-1"
    apply(grid, result, "delete", dry_run=False)
    assert contents(grid, other, tmp_path / "e") == {}
    for _ in range(2):
        undo(grid, result, dry_run=False)
    assert (contents(grid, NAME, tmp_path / "f"), contents(grid, other, tmp_path / "g")) == before


# Interrupted


class Crash(Exception):
    """The process is gone, as far as the apply can tell."""


POINTS = ["begin", "changed", "end"]


@pytest.mark.parametrize("action", ["delete", "merge", "tag"])
@pytest.mark.parametrize("phase", ["do", "undo"])
@pytest.mark.parametrize("point", POINTS)
def test_interrupted_anywhere_it_goes_on(
    grid: Cluster,
    result: DedupResult,
    look: Home,
    monkeypatch: pytest.MonkeyPatch,
    action: Any,
    phase: Any,
    point: str,
) -> None:
    """Batches of two templates, of which the second fails at a point; then the same call completes it."""
    monkeypatch.setattr("cluster.dedup.apply_plan.BATCH", 2)
    before = look()
    if phase == "undo":
        apply(grid, result, action, dry_run=False)
    with monkeypatch.context() as patch:
        crash_at(patch, phase, point, batch=1)
        with pytest.raises(Crash):
            apply(grid, result, action, dry_run=False) if phase == "do" else undo(grid, result, dry_run=False)
    (record,) = applied(result)
    assert record.state == ("applying" if phase == "do" else "undoing")
    others: Sequence[Any] = [a for a in ("delete", "merge", "tag") if a != action]
    with pytest.raises(InvalidParameter, match="complete it, or undo it"):
        apply(grid, result, others[0], dry_run=False)
    if phase == "do":
        done = apply(grid, result, action, dry_run=False)
        assert (done.number, done.skipped) == (1, SAME if action == "merge" else {})
    assert undo(grid, result, dry_run=False).skipped == {}
    assert look() == before


def crash_at(patch: pytest.MonkeyPatch, phase: str, point: str, batch: int) -> None:
    own_begin, own_end, own_changes = ApplyJournal.begin, ApplyJournal.end, {}

    def begin(self: ApplyJournal, at: Any, number: int) -> bool:
        found = own_begin(self, at, number)
        if (at, number, point) == (phase, batch, "begin"):
            raise Crash
        if (at, number, point) == (phase, batch, "changed"):
            for name in ("delete", "amend_many", "enroll"):
                own_changes[name] = getattr(Router, name)
                patch.setattr(Router, name, after(name))
        return found

    def after(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            own_changes[name](*args, **options)
            raise Crash

        return call

    def end(self: ApplyJournal, at: Any, number: int, outcomes: Any) -> None:
        if (at, number, point) == (phase, batch, "end"):
            raise Crash
        own_end(self, at, number, outcomes)

    patch.setattr(ApplyJournal, "begin", begin)
    patch.setattr(ApplyJournal, "end", end)


def crash_in_a_merge(grid: Cluster, result: DedupResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of its first batch: what is deleted is not enrolled again yet."""
    monkeypatch.setattr("cluster.dedup.apply_plan.BATCH", 2)
    with monkeypatch.context() as patch:
        crash_at(patch, "do", "changed", batch=0)
        with pytest.raises(Crash):
            apply(grid, result, "merge", dry_run=False)


def test_an_interrupted_apply_can_be_taken_back(
    grid: Cluster, result: DedupResult, look: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look()
    crash_in_a_merge(grid, result, monkeypatch)
    assert len(look()) < len(before)  # deleted, and not enrolled again yet
    undo(grid, result, dry_run=False)
    assert look() == before


def test_settling_completes_the_batch_and_no_more(
    grid: Cluster, result: DedupResult, look: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_in_a_merge(grid, result, monkeypatch)
    settle(grid, result)
    assert len(look()) == 10
    (record,) = applied(result)
    assert (record.state, record.templates) == ("applying", 2)


def test_what_is_deleted_while_an_apply_is_interrupted_stays_deleted(
    grid: Cluster, gallery: Gallery, result: DedupResult, look: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that a later batch was to change, and one that an earlier batch had changed."""
    monkeypatch.setattr("cluster.dedup.apply_plan.BATCH", 1)
    with monkeypatch.context() as patch:
        crash_at(patch, "do", "begin", batch=1)
        with pytest.raises(Crash):
            apply(grid, result, "merge", dry_run=False)
    order = [row.change.key.template_id for batch in range(3) for row in journal(result).rows(batch)]
    gallery.delete(template_ids=[order[0], order[2]])
    done = apply(grid, result, "merge", dry_run=False)
    assert done.skipped == {"deleted": 1, **SAME}
    assert not {order[0], order[2]} & set(look())
    undo(grid, result, dry_run=False)
    assert not {order[0], order[2]} & set(look())


def journal(result: DedupResult) -> ApplyJournal:
    return ApplyJournal.all(result.directory)[-1]


def _apply_and_die(home: Path, job_id: str, number: int) -> None:
    """In a process of its own: killed when it is going to write its `number`-th file."""
    import os

    from cluster.dedup import apply_journal

    own, count = apply_journal.write_file, iter(range(1, 1_000))

    def write(*args: Any, **options: Any) -> None:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        own(*args, **options)

    apply_journal.write_file = write
    apply_plan.BATCH = 1
    with Cluster.open(home) as grid:
        apply(grid, DedupResult.open(home / "jobs" / job_id), "merge", dry_run=False)


def test_killed_again_and_again(tmp_path: Path) -> None:
    """SIGKILL before files that an apply writes; what is there afterwards is whole, and the last attempt completes."""
    home = tmp_path / "home"
    with Cluster.open(home) as grid:
        enroll(grid.gallery(NAME, create=True, shards=3, dim=DIM), faces_of(PEOPLE))
        result = make_job(grid, GROUPS, REVIEW)
        before = contents(grid, NAME, tmp_path / "before")
    spawn = multiprocessing.get_context("spawn")
    for number in (1, 2, 3):
        process = spawn.Process(target=_apply_and_die, args=(home, result.job_id, number))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    with Cluster.open(home) as grid:
        result = DedupResult.open(result.directory)
        done = apply(grid, result, "merge", dry_run=False)
        assert (done.templates, done.skipped, done.number) == (3, SAME, 1)
        assert len(contents(grid, NAME, tmp_path / "done")) == len(before)
        undo(grid, result, dry_run=False)
        assert contents(grid, NAME, tmp_path / "back") == before


def test_two_at_once_are_refused(grid: Cluster, result: DedupResult) -> None:
    apply(grid, result, "tag", dry_run=False)
    with DirectoryLock(result.directory / "apply"):
        with pytest.raises(ResultBusy):
            apply(grid, result, "tag", dry_run=False)
        with pytest.raises(ResultBusy):
            undo(grid, result, dry_run=False)
        assert apply(grid, result, "tag").templates == 0


def test_a_job_is_deleted_when_what_was_begun_is_done(
    grid: Cluster, result: DedupResult, look: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge deletes and enrolls: a template that is away at that moment must not go with the journal."""
    before = look()
    with monkeypatch.context() as patch:
        crash_at(patch, "do", "changed", batch=0)
        with pytest.raises(Crash):
            apply(grid, result, "merge", dry_run=False)
    assert len(look()) < len(before)
    with only_apply(result.directory), ThreadPoolExecutor(1) as other, pytest.raises(ResultBusy):
        other.submit(grid.jobs.delete, result.job_id).result()
    assert result.directory.is_dir()
    grid.jobs.delete(result.job_id)
    assert sorted(look()) == sorted(before)
    assert not result.directory.exists()
    with pytest.raises(UnknownJob):
        grid.jobs.get(result.job_id)


# By the deadline


def bytes_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_copies_of_deleted_templates_are_gone_by_the_deadline(
    grid: Cluster, gallery: Gallery, result: DedupResult, look: Home
) -> None:
    floats = look()["a2"][2]
    done = apply(grid, result, "delete", dry_run=False)
    assert done.undo_until is not None
    assert floats in bytes_below(result.directory)
    hours = grid.settings.erasure_hours
    early = remove_copies(result.directory, hours, now=done.undo_until - undo_seconds(hours) - 60)
    assert (early.input, early.applies) == (False, ())
    removed = remove_copies(result.directory, hours, now=done.undo_until + 1)
    assert (removed.input, removed.applies) == (True, (1,))
    assert floats not in bytes_below(result.directory)
    with pytest.raises(UndoExpired, match="could be undone until"):
        undo(grid, result, dry_run=False)
    assert [entry.state for entry in applied(result)] == ["expired"]
    assert remove_copies(result.directory, hours, now=done.undo_until + 2).applies == ()
    gallery.erase()
    assert floats not in bytes_below(grid.settings.home)


def test_an_open_home_removes_them_and_completes_what_was_begun(
    grid: Cluster, result: DedupResult, look: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look()
    crash_in_a_merge(grid, result, monkeypatch)
    assert len(look()) == len(before) - 2
    jobs = result.directory.parent
    assert sweep(grid, jobs) == 0
    assert len(look()) == len(before)
    (record,) = applied(result)
    assert record.state == "applying"
    assert record.undo_until is not None
    assert sweep(grid, jobs, now=record.undo_until) == 1
    assert len(look()) == len(before)
    assert [entry.state for entry in applied(result)] == ["expired"]
    assert sweep(grid, jobs, now=record.undo_until) == 0
    assert apply(grid, result, "delete", dry_run=False).number == 2


def test_undo_is_refused_in_time_even_if_the_copies_are_there(grid: Cluster, result: DedupResult) -> None:
    done = apply(grid, result, "delete", dry_run=False)
    assert done.undo_until is not None
    with pytest.raises(UndoExpired):
        undo(grid, result, dry_run=False, now=done.undo_until)
    undo(grid, result, dry_run=False, now=done.undo_until - 1)


def test_an_apply_does_not_need_the_snapshot_of_the_job(grid: Cluster, result: DedupResult, look: Home) -> None:
    before = look()
    later = time.time() + undo_seconds(grid.settings.erasure_hours) + 60
    assert remove_copies(result.directory, grid.settings.erasure_hours, now=later).input
    assert not (result.directory / "input").exists()
    apply(grid, result, "delete", dry_run=False)
    assert not (result.directory / "apply" / "source").exists()
    assert sorted(look()) == sorted(set(before) - {"a2", "a3", "b2"})
    undo(grid, result, dry_run=False)
    assert look() == before


def test_thumbnails_leave_the_report(grid: Cluster, tmp_path: Path) -> None:
    from cluster.thumbnails import with_thumbnail

    jpeg = b"\xff\xd8\xff\xe0 a face of somebody"
    gallery = grid.gallery(NAME, create=True, dim=DIM)
    faces = faces_of([["a1", "a2"]])
    gallery.enroll(
        np.stack([face.floats for face in faces]),
        template_ids=["a1", "a2"],
        metadata=[with_thumbnail(None, jpeg), None],
    )
    result = make_job(grid, [["a1", "a2"]])
    text = json.dumps(with_thumbnail(None, jpeg)).split('"')[3]
    assert text in result.report()
    done = apply(grid, result, "tag", dry_run=False)
    assert done.undo_until is None
    later = time.time() + undo_seconds(grid.settings.erasure_hours) + 60
    removed = remove_copies(result.directory, grid.settings.erasure_hours, now=later)
    assert removed.pictures >= 1
    assert text not in result.report()
    assert text.encode() not in bytes_below(result.directory)
    assert undo(grid, result, dry_run=False).templates == 2


def test_damage_of_a_journal_is_named(grid: Cluster, result: DedupResult) -> None:
    apply(grid, result, "delete", dry_run=False)
    path = journal(result).directory / "rows.arrow"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FacegridError, match=r"rows\.arrow"):
        undo(grid, result, dry_run=False)
