"""Jobs that a command waits for: run in this process on a home, watched on a service."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from cluster.cli.invocation import Invocation
from cluster.cli.job_progress import Tell, job_bar, progress_text
from cluster.cli.output import Grid, time_text
from cluster.job_document import job_document
from shard.errors import InvalidParameter, JobCancelled, JobEnded, JobFailed

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.client import RemoteCluster
    from coordinator.job_types import JobRecord

LOOK_S = 0.25
"""How often a job of this process is looked at, and POLL_S how often one of a service."""
POLL_S = 1.0


def submitted(
    invocation: Invocation, kind: str, gallery: str, parameters: Mapping[str, Any], *, is_detached: bool
) -> None:
    """Submit a job, see it to its end unless it is detached, and say what became of it."""
    given = {name: value for name, value in parameters.items() if value is not None}
    with invocation.service() as service:
        if service is not None:
            record = service.jobs.submit(kind, gallery, given)
            if not is_detached:
                record = watched(invocation, service, record)
            tell_job(invocation, record)
            return
    if is_detached:
        raise InvalidParameter("--detach: expected --url; a home's job runs in this process, and ends with it")
    with invocation.home(f"jobs submit {kind}") as grid:
        tell_job(invocation, run_here(invocation, grid, grid.jobs.submit(kind, gallery, given)))


def run_here(invocation: Invocation, grid: Cluster, record: JobRecord) -> JobRecord:
    """Run a job in this process. Ctrl-C cancels it, so that it can be resumed, and is raised again.

    Raises JobFailed and JobCancelled if it does not end well.
    """
    job_id = record.job_id
    invocation.output.note(f"job {job_id}; Ctrl-C stops it, `facegrid jobs resume {job_id}` goes on")
    ran = _Running(grid, job_id)
    with _first_interrupt() as interrupt, job_bar(invocation.output.wants_progress) as tell:
        ran.follow(tell, interrupt)
        if interrupt.came:
            ran.cancel()
            invocation.output.note(f"`facegrid jobs resume {job_id}` goes on where it stopped")
            raise KeyboardInterrupt
    return checked_end(grid.jobs.get(job_id))


class _Interrupt:
    """Whether Ctrl-C was pressed."""

    came = False


@contextlib.contextmanager
def _first_interrupt() -> Iterator[_Interrupt]:
    """Inside, the first Ctrl-C is noted, and raised nowhere: half way through the catalog's or a thread's own steps it
    would leave locks behind, for which cancelling waits. The second is raised as ever. Where Ctrl-C raises nothing, as
    under nohup, it is not noted either; signals are the main thread's.
    """
    noted = _Interrupt()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.came = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class _Running:
    """A job that runs in a thread of this process, so that this one can look at it."""

    def __init__(self, grid: Cluster, job_id: str) -> None:
        self._grid, self._job_id = grid, job_id
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="facegrid-job")

    def _run(self) -> None:
        try:
            self._grid.jobs.run(self._job_id)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error

    def follow(self, tell: Tell, interrupt: _Interrupt) -> None:
        """Run it until an interrupt, or to its end, which its record tells of; raises what kept it from being run here,
        such as JobTaken."""
        self._thread.start()
        while self._thread.is_alive() and not interrupt.came:
            self._thread.join(LOOK_S)
            tell(self._grid.jobs.get(self._job_id))
        if self._failure is not None:
            raise self._failure

    def cancel(self) -> None:
        """Cancel it and wait for its end; a second Ctrl-C waits no longer."""
        with contextlib.suppress(JobEnded):
            self._grid.jobs.cancel(self._job_id)
        self._thread.join()


def watched(invocation: Invocation, service: RemoteCluster, record: JobRecord) -> JobRecord:
    """Wait for a service's job. Ctrl-C ends the waiting, not the job.

    Raises JobFailed and JobCancelled if it does not end well.
    """
    with job_bar(invocation.output.wants_progress) as tell:
        try:
            return checked_end(service.jobs.wait(record.job_id, poll_s=POLL_S, progress=tell))
        except KeyboardInterrupt:
            invocation.output.note(f"job {record.job_id} goes on; `facegrid jobs status {record.job_id} --watch`")
            raise


def checked_end(record: JobRecord) -> JobRecord:
    """The job, if it succeeded; JobFailed or JobCancelled otherwise."""
    from coordinator.job_types import JobState

    if record.state is JobState.FAILED:
        raise JobFailed(f"job {record.job_id} failed [{record.error_code}]: {record.error}")
    if record.state is JobState.CANCELLED:
        raise JobCancelled(f"job {record.job_id} was cancelled; `facegrid jobs resume {record.job_id}` goes on")
    return record


def tell_job(invocation: Invocation, record: JobRecord) -> None:
    """The job as the command's result."""
    invocation.output.result({"job": job_document(record)}, job_facts(record))


def job_facts(record: JobRecord) -> Grid:
    """A job for people."""
    times = {"created": record.created_at, "started": record.started_at, "finished": record.finished_at}
    rows = [
        ("job", record.job_id),
        ("kind", record.kind),
        ("gallery", record.gallery),
        ("state", record.state.value),
        ("phase", record.phase or None),
        ("progress", progress_text(record) or None),
        *((name, None if at is None else time_text(at)) for name, at in times.items()),
        ("attempts", str(record.attempts)),
        *((f"with {name}", str(value)) for name, value in sorted(record.parameters.items()) if value is not None),
    ]
    if record.error_code is not None:
        rows.append(("error", f"[{record.error_code}] {record.error}"))
    return Grid(("", ""), rows)
