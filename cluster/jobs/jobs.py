"""`Jobs`: the batch jobs of an open cluster.

    with Cluster.open("home/") as grid:
        job = grid.jobs.submit("calibrate", "acme/staff", {})
        grid.jobs.run(job.job_id)

A job is run by the process that calls `run`, or by the one that has called `start`, one at a time.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cluster.jobs.drive import Attempt
from cluster.jobs.files import JobFiles
from cluster.jobs.kinds import KINDS, ChecksFirst, SettlesFirst, checked_parameters, kind_of
from cluster.jobs.runner import Runner
from coordinator.home import jobs_directory
from coordinator.job_types import JobRecord, JobState
from coordinator.jobs import JobCatalog
from coordinator.names import check_gallery_name
from coordinator.ray_jobs import RayJobs
from shard.errors import (
    HostUnavailable,
    JobCancelled,
    JobFailed,
    JobTaken,
    JobUnfinished,
    ShardClosed,
    UnknownJob,
)

if TYPE_CHECKING:
    from cluster.api import Cluster

Records = list[JobRecord]


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job that has succeeded left. files: paths below `directory`, sorted. run: attempts, hosts and times."""

    directory: Path
    files: tuple[str, ...]
    summary: dict[str, Any]
    run: dict[str, Any]


class Jobs:
    """Jobs of one cluster, found as `Cluster.jobs`. Thread-safe."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.directory = jobs_directory(home)
        self._cluster = cluster
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-128:]
        self._running: dict[str, Attempt] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._runner = Runner(self)

    @property
    def control(self) -> JobCatalog | RayJobs:
        """The jobs in the catalog."""
        return self._cluster.coordinator.jobs

    def submit(
        self,
        kind: str,
        gallery: str,
        parameters: Mapping[str, Any] | BaseModel,
        *,
        key_id: str | None = None,
        max_unfinished: int | None = None,
        is_ours: bool = False,
    ) -> JobRecord:
        """Queue a job. key_id: of the API key that asks. max_unfinished: jobs that its tenant may have under way.

        is_ours: this process will `run` it, and no other.

        Raises InvalidParameter for a kind or parameters that are none, UnknownGallery, QuotaExceeded, MissingExtra, and
        what else the kind refuses at once.
        """
        self._check_open()
        found, name = kind_of(kind), check_gallery_name(gallery)
        checked = checked_parameters(found, parameters)
        if isinstance(found, ChecksFirst):
            found.check(self._cluster, name, checked, key_id)
        record = self.control.submit(
            kind,
            name,
            checked.model_dump(mode="json"),
            key_id,
            max_unfinished=max_unfinished,
            owner=self._owner if is_ours else None,
        )
        self._runner.wake()
        return record

    def get(self, job_id: str) -> JobRecord:
        """A job by its id; UnknownJob."""
        self._check_open()
        return self.control.get(job_id)

    def list(
        self,
        tenant_id: str | None = None,
        gallery: str | None = None,
        kind: str | None = None,
        state: JobState | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Records:
        """Jobs that meet all that is given, newest first; see JobCatalog.list."""
        self._check_open()
        return self.control.list(tenant_id, gallery, kind, state, limit, before)

    def cancel(self, job_id: str) -> JobRecord:
        """Have a job stopped; see JobCatalog.cancel. What it has done so far stays, for `resume`."""
        self._check_open()
        record = self.control.cancel(job_id)
        with self._changed:
            attempt = self._running.get(job_id)
        if attempt is not None and record.state is JobState.CANCELLING:
            attempt.stop(JobCancelled(f"job {job_id} was cancelled"))
        return record

    def resume(self, job_id: str, *, is_ours: bool = False) -> JobRecord:
        """Queue a job that failed, was cancelled or lost its process; see JobCatalog.resume. is_ours: as `submit`."""
        self._check_open()
        record = self.control.resume(job_id, self._owner if is_ours else None)
        self._runner.wake()
        return record

    def logs(self, job_id: str, *, skip: int = 0) -> Iterator[dict[str, Any]]:
        """Lines of a job's log, oldest first, without the first `skip`; each has `at` (unix seconds) and `message`.

        UnknownJob; HostUnavailable where the home's directory is on another machine.
        """
        return self._files_here(self.get(job_id)).lines(skip)

    def result(self, job_id: str) -> JobResult:
        """What a job has left.

        Raises JobUnfinished before it has ended, JobFailed or JobCancelled; UnknownJob; HostUnavailable where the
        home's directory is on another machine.
        """
        record = self.get(job_id)
        if not record.state.has_ended:
            raise JobUnfinished(f"job {job_id} is {record.state.value}; it has no result yet")
        if record.state is JobState.CANCELLED:
            raise JobCancelled(f"job {job_id} was cancelled and has no result")
        if record.state is JobState.FAILED:
            raise JobFailed(f"job {job_id} has no result; it failed by {record.error_code}: {record.error}")
        files = self._files_here(record)
        summary, run = files.summary(), files.run()
        paths = sorted(str(path.relative_to(files.result)) for path in files.result.rglob("*") if path.is_file())
        return JobResult(files.result, tuple(paths), summary, run)

    def delete(self, job_id: str) -> None:
        """Remove a job with all its files. What was begun with its result is completed first.

        Raises JobUnfinished if it is queued or runs, ResultBusy while its result is applied; UnknownJob;
        HostUnavailable where the home's directory is on another machine and something may have been begun.
        """
        self._check_open()
        with self._settled(self.get(job_id)):
            self.control.forget(job_id)

    def _settled(self, record: JobRecord) -> AbstractContextManager[None]:
        kind: object = kind_of(record.kind) if record.kind in KINDS else None
        if not record.state.has_ended or not isinstance(kind, SettlesFirst):
            return nullcontext()
        has_joined = not self._cluster.is_local and self._cluster.ray is None
        files = self._files_here(record) if has_joined else self.files(record.job_id)
        return kind.deleting(self._cluster, files.directory) if files.directory.is_dir() else nullcontext()

    def run(self, job_id: str) -> JobRecord:
        """Run a queued job, or one whose process has died, in this process until it ends; the job as it is then.

        One that has ended is returned as it is. Raises JobTaken if another process runs it, UnknownJob, ShardClosed if
        the cluster is closed meanwhile: the job is queued again then.
        """
        self._check_open()
        record = self.control.claim(self._owner, job_id)
        if record is None:
            record = self.control.get(job_id)
            if record.state.has_ended:
                return record
            if record.owner != self._owner:
                raise JobTaken(f"job {job_id} is run by {record.owner}")
        return self.drive(record)

    def start(self) -> None:
        """Run queued jobs in the background from now on, one at a time, until the cluster is closed. Idempotent."""
        self._check_open()
        self._runner.start()

    def take_over(self) -> None:
        """For the process that has just opened the home: whoever ran jobs had it open, or had joined who had."""
        self.control.disown()
        self.control.sweep()

    def files(self, job_id: str) -> JobFiles:
        """Where a job keeps its files, which are on the machine that has the home. Nothing is looked up."""
        return JobFiles(self.directory / job_id)

    def _files_here(self, record: JobRecord) -> JobFiles:
        files = self.files(record.job_id)
        if record.attempts and not files.directory.is_dir():
            raise HostUnavailable(
                f"job {record.job_id} has its files in {files.directory}, which is not on this machine"
            )
        return files

    def claim(self) -> JobRecord | None:
        """The next job to run, which is this process's then; None if there is none."""
        return self.control.claim(self._owner)

    def drive(self, record: JobRecord) -> JobRecord:
        """Run a job that this process has claimed."""
        attempt = Attempt(self._cluster, record, self._owner, self.files(record.job_id))
        with self._changed:
            if record.job_id in self._running:
                raise JobTaken(f"job {record.job_id} is run by another thread of this process")
            if self._is_closed:
                attempt.stop(_closed())
            self._running[record.job_id] = attempt
        try:
            return attempt.run()
        except UnknownJob:
            self.control.sweep()  # it may have written something since its directory was removed
            raise
        finally:
            with self._changed:
                del self._running[record.job_id]
                self._changed.notify_all()

    def close(self) -> None:
        """Have all that runs here stop and given back, and wait for that. Idempotent."""
        with self._changed:
            self._is_closed = True
            for attempt in self._running.values():
                attempt.stop(_closed())
        self._runner.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def _check_open(self) -> None:
        if self._is_closed:
            raise _closed()


def _closed() -> ShardClosed:
    return ShardClosed("the cluster is closed; its jobs are queued and go on when it is open again")
