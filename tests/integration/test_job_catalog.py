"""Jobs in the catalog, on SQLite and on a real PostgreSQL: who may have one, who loses it, what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.catalog import READY, Catalog
from coordinator.job_rows import STALE_S
from coordinator.job_types import JobRecord, JobState
from coordinator.jobs import MAX_LOSSES, JobCatalog
from coordinator.tenants import Tenants
from coordinator.types import GallerySpec
from shard.errors import (
    InvalidParameter,
    JobEnded,
    JobTaken,
    JobUnfinished,
    QuotaExceeded,
    UnknownGallery,
    UnknownJob,
)

SPEC = GallerySpec("acme/staff", 64, 1, 256, None)
WAIT_S = 120.0
QUEUED, RUNNING, CANCELLING = JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = Catalog(url)
    for number, name in enumerate(("acme/staff", "acme/more", "other/staff")):
        opened.add_gallery(f"{number:016x}", replace(SPEC, name=name), [("a",)])
        opened.set_state(f"{number:016x}", READY)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(catalog: Catalog, clock: Clock, tmp_path: Path) -> JobCatalog:
    return JobCatalog(catalog, tmp_path / "jobs", clock=clock)


@pytest.fixture
def submit(jobs: JobCatalog, clock: Clock) -> Callable[..., JobRecord]:
    def submitted(gallery: str = "acme/staff", kind: str = "dedup") -> JobRecord:
        clock.pass_by(1)
        return jobs.submit(kind, gallery, {"threshold": 0.5}, "0" * 12)

    return submitted


Submit = Callable[..., JobRecord]


def test_a_job_is_what_was_submitted(jobs: JobCatalog, submit: Submit, clock: Clock) -> None:
    job = submit()
    assert job == jobs.get(job.job_id)
    assert (job.kind, job.gallery, job.parameters, job.state) == ("dedup", "acme/staff", {"threshold": 0.5}, QUEUED)
    assert (job.created_at, job.started_at, job.key_id, job.owner) == (clock.now, None, "0" * 12, None)
    with pytest.raises(UnknownJob):
        jobs.get("20261122T031500Z-00000000")
    with pytest.raises(UnknownGallery):
        jobs.submit("dedup", "acme/nobody", {})
    with pytest.raises(UnknownJob):
        jobs.claim("a", "20261122T031500Z-00000000")


def test_jobs_are_listed_newest_first(jobs: JobCatalog, submit: Submit, catalog: Catalog) -> None:
    made = [submit(), submit("acme/more"), submit(kind="enroll"), submit("other/staff")]
    ids = [job.job_id for job in reversed(made)]

    def listed(**wanted: object) -> list[str]:
        return [job.job_id for job in jobs.list(**wanted)]  # type: ignore[arg-type]

    assert listed() == ids
    assert listed(limit=2) == ids[:2]
    assert listed(before=ids[1], limit=1) == [ids[2]]
    assert listed(tenant_id=made[0].tenant_id) == ids[1:]
    assert listed(gallery="acme/staff", kind="dedup") == [ids[3]]
    jobs.claim("a", ids[0])
    assert listed(state=RUNNING) == [ids[0]]
    with pytest.raises(InvalidParameter):
        jobs.list(limit=0)


def test_the_oldest_is_claimed_first_and_once(jobs: JobCatalog, submit: Submit) -> None:
    made = [submit().job_id for _ in range(6)]
    start = threading.Barrier(4)

    def claim(owner: str) -> list[str]:
        start.wait(WAIT_S)
        return [record.job_id for _ in made if (record := jobs.claim(owner)) is not None]

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(claim, "abcd"))
    assert sorted(job for each in taken for job in each) == made
    assert all(each == sorted(each) for each in taken)
    assert jobs.claim("a") is None
    assert jobs.claim("a", made[0]) is None


def test_progress_tells_rate_and_rest(jobs: JobCatalog, submit: Submit, clock: Clock) -> None:
    job = submit()
    record = jobs.claim("a")
    assert record is not None
    assert (record.state, record.attempts, record.started_at, record.owner) == (RUNNING, 1, clock.now, "a")
    assert jobs.progress(job.job_id, "a", 4, 100, "blocks", "joining") is RUNNING
    assert jobs.get(job.job_id).rate is None
    clock.pass_by(10)
    jobs.progress(job.job_id, "a", 24, 100, "blocks", "joining")
    now = jobs.get(job.job_id)
    assert (now.done, now.total, now.rate, now.eta_s) == (24, 100, 2.0, 38.0)
    clock.pass_by(1)
    jobs.progress(job.job_id, "a", 1, 5, "groups", "grouping")  # another phase is timed by itself
    assert jobs.get(job.job_id).rate is None
    with pytest.raises(JobTaken, match="run by a"):
        jobs.progress(job.job_id, "b", 0, 0, "", "")
    ended = jobs.finish(job.job_id, "a", JobState.SUCCEEDED)
    assert (ended.state, ended.finished_at, ended.owner, ended.eta_s) == (JobState.SUCCEEDED, clock.now, None, None)
    with pytest.raises(JobTaken):
        jobs.progress(job.job_id, "a", 1, 5, "groups", "grouping")
    for change in (jobs.cancel, jobs.resume):
        with pytest.raises(JobEnded):
            change(job.job_id)


def test_a_job_whose_owner_is_silent_is_taken_over(jobs: JobCatalog, submit: Submit, clock: Clock) -> None:
    job = submit()
    jobs.claim("a")
    clock.pass_by(STALE_S - 1)
    assert jobs.claim("b") is None
    jobs.progress(job.job_id, "a", 1, 2, "blocks", "joining")
    clock.pass_by(STALE_S + 1)
    taken = jobs.claim("b")
    assert taken is not None
    assert (taken.attempts, taken.owner) == (2, "b")
    with pytest.raises(JobTaken, match="run by b"):
        jobs.finish(job.job_id, "a", JobState.SUCCEEDED)
    assert jobs.finish(job.job_id, "b", QUEUED).state is QUEUED
    assert jobs.disown() == 0


def test_a_job_that_kills_its_owners_fails(jobs: JobCatalog, submit: Submit, clock: Clock) -> None:
    job = submit()
    for attempt in range(MAX_LOSSES):
        assert jobs.claim("a") is not None, attempt
        assert jobs.disown() == 1  # all that runs has died: another process opened the home
    assert jobs.claim("a") is None
    failed = jobs.get(job.job_id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "worker_lost")
    assert jobs.resume(job.job_id).state is QUEUED
    assert jobs.claim("a") is not None


def test_cancelling(jobs: JobCatalog, submit: Submit, clock: Clock) -> None:
    waiting, running, lost = submit(), submit(), submit()
    assert jobs.cancel(waiting.job_id).state is JobState.CANCELLED
    assert jobs.cancel(waiting.job_id).state is JobState.CANCELLED
    for job in (running, lost):
        assert jobs.claim("a", job.job_id) is not None
        assert jobs.cancel(job.job_id).state is CANCELLING
    assert jobs.progress(running.job_id, "a", 0, 0, "", "") is CANCELLING
    with pytest.raises(JobUnfinished):
        jobs.resume(running.job_id)
    assert jobs.finish(running.job_id, "a", QUEUED).state is JobState.CANCELLED  # given back, as at closing
    clock.pass_by(STALE_S + 1)
    assert jobs.claim("b") is None  # and the one whose owner died is cancelled by who looks
    assert jobs.get(lost.job_id).state is JobState.CANCELLED
    assert jobs.resume(lost.job_id).state is QUEUED
    with pytest.raises(InvalidParameter):
        jobs.finish(lost.job_id, "a", RUNNING)


def test_failed_jobs_are_resumed(jobs: JobCatalog, submit: Submit) -> None:
    job = submit()
    jobs.claim("a")
    failed = jobs.finish(job.job_id, "a", JobState.FAILED, "corrupt_data", "x" * 10_000)
    assert (failed.state, failed.error_code, len(failed.error or "")) == (JobState.FAILED, "corrupt_data", 4_000)
    resumed = jobs.resume(job.job_id)
    assert (resumed.state, resumed.error, resumed.finished_at, resumed.attempts) == (QUEUED, None, None, 1)
    assert jobs.resume(job.job_id) == resumed


def test_a_tenant_has_so_many_jobs_under_way(jobs: JobCatalog, submit: Submit) -> None:
    made = [submit(), submit("acme/more")]
    jobs.claim("a")
    with pytest.raises(QuotaExceeded, match="2 jobs"):
        jobs.submit("dedup", "acme/staff", {}, max_unfinished=2)
    jobs.submit("dedup", "other/staff", {}, max_unfinished=2)
    jobs.finish(made[0].job_id, "a", JobState.SUCCEEDED)
    jobs.submit("dedup", "acme/staff", {}, max_unfinished=2)


def test_what_is_dropped_takes_its_jobs_along(
    jobs: JobCatalog, submit: Submit, catalog: Catalog, tmp_path: Path
) -> None:
    staff, more, other = submit(), submit("acme/more"), submit("other/staff")
    for job in (staff, more, other):
        (tmp_path / "jobs" / job.job_id).mkdir(parents=True)
        jobs.claim("a", job.job_id)
    catalog.begin_drop(staff.gallery_id)
    with pytest.raises(UnknownGallery, match="acme/staff"):
        jobs.progress(staff.job_id, "a", 0, 0, "", "")
    jobs.finish(staff.job_id, "a", JobState.FAILED, "unknown_gallery", "dropped")
    with pytest.raises(UnknownGallery):
        jobs.resume(staff.job_id)
    Tenants(catalog, lambda: None).drop("acme")
    assert [job.job_id for job in jobs.list()] == [other.job_id]
    with pytest.raises(UnknownJob):
        jobs.progress(more.job_id, "a", 0, 0, "", "")
    assert jobs.sweep() == 2
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [other.job_id]


def test_a_job_is_forgotten_with_its_files(jobs: JobCatalog, submit: Submit, tmp_path: Path) -> None:
    job, kept = submit(), submit()
    for each in (job, kept):
        (tmp_path / "jobs" / each.job_id).mkdir(parents=True)
    (tmp_path / "jobs" / "somebody's").mkdir()
    with pytest.raises(JobUnfinished):
        jobs.forget(job.job_id)
    jobs.cancel(job.job_id)
    jobs.forget(job.job_id)
    with pytest.raises(UnknownJob):
        jobs.forget(job.job_id)
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {kept.job_id, "somebody's"}


def test_a_catalog_of_an_earlier_version_gets_the_table(url: str, clock: Clock) -> None:
    first = Catalog(url)
    with first.writing() as db:
        db.exec_driver_sql("DROP TABLE jobs")
    first.close()
    again = Catalog(url)
    assert JobCatalog(again, clock=clock).list() == []
    again.close()
