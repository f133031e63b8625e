"""One attempt at a job that this process has claimed, from its first line in the log to its state at the end."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from cluster.jobs.context import JobContext
from cluster.jobs.files import SUMMARY, JobFiles, document
from cluster.jobs.kinds import CleansUp, checked_parameters, kind_of
from cluster.jobs.signs import Signs
from coordinator.job_types import JobRecord, JobState
from shard.errors import FacegridError, JobCancelled, JobFailed, JobTaken, ShardClosed, UnknownJob
from shard.files import write_file

if TYPE_CHECKING:
    from cluster.api import Cluster

_LOG = logging.getLogger(__name__)


class Attempt:
    """One attempt at a job. `run` it once, in any thread; `stop` it from others."""

    def __init__(self, cluster: Cluster, record: JobRecord, owner: str, files: JobFiles) -> None:
        self._cluster, self._record, self._owner, self._files = cluster, record, owner, files
        self._control = cluster.coordinator.jobs
        self._signs = Signs(self._control, record, owner)

    def stop(self, error: FacegridError) -> None:
        """Have it stop soon, for this reason: JobCancelled ends the job, ShardClosed gives it back."""
        self._signs.stop(error)

    def run(self) -> JobRecord:
        """The job as it is afterwards. Raises UnknownJob if it was deleted meanwhile, JobTaken if another has it."""
        self._signs.start()
        try:
            error = self._attempted()
        except BaseException:
            # The process is asked to end, in the middle of it: whoever claims the job next goes on.
            self._end(JobState.QUEUED, None)
            raise
        reason = self._signs.reason or error
        if isinstance(reason, (JobTaken, UnknownJob)) and error is not None:
            self._signs.end()
            raise reason
        return self._end(_state(error, self._signs.reason), reason if error is not None else None)

    def _attempted(self) -> FacegridError | None:
        """Have the kind do it; the error that it came to."""
        record, files = self._record, self._files
        try:
            files.begin(record, "local" if self._cluster.is_local else "ray")
            files.log("begun", attempt=record.attempts, owner=self._owner)
            kind = kind_of(record.kind)
            parameters = checked_parameters(kind, record.parameters)
            with files.new_result() as result:
                self._signs.check()
                context = JobContext(self._cluster, record, parameters, files, result, self._signs)
                summary: dict[str, Any] = kind.run(context)
                write_file(result / SUMMARY, document(summary))
        except FacegridError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the boundary of the process to what a kind does
            _LOG.exception("job %s failed by a bug", record.job_id)
            self._note("bug", traceback=traceback.format_exc())
            return JobFailed(f"internal error: {type(error).__name__}: {error}")
        return None

    def _end(self, state: JobState, error: FacegridError | None) -> JobRecord:
        self._signs.end()
        code, message = (None, None) if error is None else (error.code, str(error))
        self._note("ended", state=state.value, error_code=code, error=message)
        try:
            self._files.end(state.value, self._signs.phases)
        except FacegridError as failed:
            _LOG.warning("job %s: run.json could not be written: %s", self._record.job_id, failed)
        if state is not JobState.FAILED:
            code = message = None
        record = self._control.finish(self._record.job_id, self._owner, state, code, message)
        if state is JobState.SUCCEEDED:
            self._clean_up()
        return record

    def _clean_up(self) -> None:
        kind = kind_of(self._record.kind)
        if isinstance(kind, CleansUp):
            try:
                kind.clean_up(self._cluster, self._files.directory)
            except FacegridError as failed:
                # The result is there; what is left goes with the job.
                self._note("could not clean up", error=str(failed))

    def _note(self, message: str, **fields: Any) -> None:
        """A line in the log, if the disk takes it: what it is about counts whether it does or not."""
        try:
            self._files.log(message, **fields)
        except FacegridError as failed:
            _LOG.warning("job %s: the log could not be written: %s", self._record.job_id, failed)


def _state(error: FacegridError | None, reason: FacegridError | None) -> JobState:
    """error: what the attempt came to. reason: why it was told to stop, if it was."""
    if error is None:
        return JobState.SUCCEEDED
    if isinstance(reason, JobCancelled):
        return JobState.CANCELLED
    # What a kind calls may find the cluster closed before the attempt is told.
    return JobState.QUEUED if isinstance(reason or error, ShardClosed) else JobState.FAILED
