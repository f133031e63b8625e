"""No path leaves templates in a job's directory beyond the deadline of erasure, or after their gallery is dropped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from cluster.dedup.apply import apply
from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.retention import undo_seconds
from cluster.dedup.sweeping import sweep
from cluster.thumbnails import with_thumbnail
from coordinator.job_types import JobRecord, JobState
from tests.dedup import DIM, doubled_rows, enroll_doubled
from tests.dedup_results import NAME, make_job

PEOPLE = 30


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        enroll_doubled(opened, NAME, PEOPLE)
        yield opened


def ended(grid: Cluster, parameters: dict[str, Any]) -> JobRecord:
    return grid.jobs.run(grid.jobs.submit("dedup", NAME, parameters).job_id)


def cancelled_while_reading(grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> JobRecord:
    """A job that has its snapshot and nothing else."""
    from cluster.dedup import job as module

    job_id = grid.jobs.submit("dedup", NAME, {"threshold": 0.8}).job_id

    def verify(job: Any, corpus: Any) -> None:
        grid.jobs.cancel(job_id)
        job.check()

    with monkeypatch.context() as patch:
        patch.setattr(module, "verify", verify)
        return grid.jobs.run(job_id)


def holds(directory: Path, floats: bytes) -> bool:
    return any(floats in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_a_job_that_has_no_result_keeps_no_templates(grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed, cancelled, an analysis: before the time all is there to be resumed, after it nothing is."""
    failed = ended(grid, {"threshold": 0.8, "max_pairs": 1})
    analysed = ended(grid, {"analyse": True})
    cancelled = cancelled_while_reading(grid, monkeypatch)
    states = [record.state for record in (failed, analysed, cancelled)]
    assert states == [JobState.FAILED, JobState.SUCCEEDED, JobState.CANCELLED]
    floats = doubled_rows(PEOPLE, seed=1)[0].tobytes()
    directories = [grid.jobs.files(record.job_id).directory for record in (failed, analysed, cancelled)]
    assert all(holds(directory, floats) for directory in directories)
    assert len(grid.coordinator.snapshots.made()) == 3
    due = time.time() + undo_seconds(grid.settings.erasure_hours)
    assert sweep(grid, grid.jobs.directory, now=due - 60) == 0
    assert sweep(grid, grid.jobs.directory, now=due + 1) == 3
    assert not any(holds(directory, floats) for directory in directories)
    assert grid.coordinator.snapshots.made() == []
    for record in (failed, cancelled):
        grid.jobs.resume(record.job_id)
        again = grid.jobs.run(record.job_id)
        assert (again.state, again.error_code) == (JobState.FAILED, "input_expired")
    assert grid.jobs.result(analysed.job_id).summary["pairs"] >= PEOPLE


def test_a_job_that_takes_too_long_ends_by_itself(tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "brief", erasure_hours=1e-6) as grid:
        enroll_doubled(grid, NAME, PEOPLE)
        record = ended(grid, {"threshold": 0.8})
        assert (record.state, record.error_code) == (JobState.FAILED, "input_expired")
        sweep(grid, grid.jobs.directory)
        assert not (grid.jobs.files(record.job_id).directory / "input").exists()
        assert grid.coordinator.snapshots.made() == []


def test_a_running_job_reads_until_it_has_had_time_to_end(grid: Cluster) -> None:
    record = grid.jobs.submit("dedup", NAME, {"threshold": 0.8}, is_ours=True)
    store = grid.jobs.files(record.job_id).directory / "input"
    grid.snapshots(store).create(NAME, progress=False)
    hours = grid.settings.erasure_hours
    assert sweep(grid, grid.jobs.directory, now=time.time() + undo_seconds(hours) + 60) == 0
    assert sweep(grid, grid.jobs.directory, now=time.time() + 0.9 * hours * 3_600) == 1
    assert not store.exists()


def test_what_an_attempt_left_half_read_is_made_anew(grid: Cluster) -> None:
    record = grid.jobs.submit("dedup", NAME, {"threshold": 0.8})
    half = grid.jobs.files(record.job_id).directory / "input" / "objects" / "ab"
    half.mkdir(parents=True)
    (half / "ab12").write_bytes(b"a block")
    long_ago = time.time() - 24 * 3_600
    os.utime(half / "ab12", (long_ago, long_ago))
    assert grid.jobs.run(record.job_id).state is JobState.SUCCEEDED
    assert not (half / "ab12").exists()


def test_dropping_a_gallery_removes_what_its_jobs_hold(grid: Cluster) -> None:
    other = grid.gallery("acme/list", create=True, dim=DIM)
    rows = doubled_rows(2, seed=7)
    face = with_thumbnail(None, b"\xff\xd8\xff\xe0 a face of somebody")
    other.enroll(rows, template_ids=["a1", "a2", "b1", "b2"], metadata=[face, None, None, None])
    result = make_job(grid, [["a1", "b1"], ["a2", "b2"]], names=("acme/list",))
    apply(grid, result, "delete", dry_run=False)
    assert b"data:image/jpeg" in (result.directory / "result" / "report.html").read_bytes()
    cross = ended(grid, {"threshold": 0.8, "other": "acme/list"})
    own = ended(grid, {"threshold": 0.8})
    for left in (result.directory / "apply" / "source" / "objects", result.directory / ".result.tmp"):
        left.mkdir(parents=True)
        (left / "x").write_bytes(rows.tobytes())
    grid.drop("acme/list")
    assert not any(holds(result.directory, row.tobytes()) for row in rows)
    assert not ApplyJournal.all(result.directory)[0].has_rows
    assert b"data:image/jpeg" not in (result.directory / "result" / "report.html").read_bytes()
    assert not (grid.jobs.files(cross.job_id).directory / "input").exists()
    assert (grid.jobs.files(own.job_id).directory / "input").exists()
    assert {made.gallery for made in grid.coordinator.snapshots.made()} == {NAME}
    grid.gallery("acme/list", create=True, dim=DIM)  # another of that name brings nothing back
    assert sweep(grid, grid.jobs.directory) == 0


def test_dropping_a_tenant_forgets_the_snapshots_of_its_jobs(grid: Cluster) -> None:
    record = ended(grid, {"threshold": 0.8})
    grid.tenants.drop("acme")
    assert not grid.jobs.files(record.job_id).directory.exists()
    assert grid.coordinator.snapshots.made() == []
