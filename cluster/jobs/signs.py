"""`Signs`: tells the catalog every second that a job's process lives and how far it is, and hears whether to stop."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from coordinator.job_rows import STALE_S
from coordinator.job_types import JobRecord, JobState
from shard.errors import (
    FacegridError,
    JobCancelled,
    JobTaken,
    UnknownGallery,
    UnknownJob,
)

SIGN_S = 1.0
"""Pause between two signs; so long a cancellation may take to be heard of."""
LOST_S = STALE_S - 4.0
"""After how long without a sign that arrived the process gives up: before another may have the job."""


class Control(Protocol):
    """Who is told: a JobCatalog, or one behind an actor."""

    def progress(self, job_id: str, owner: str, done: int, total: int, unit: str, phase: str) -> JobState:
        """See JobCatalog.progress."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is in its present phase."""

    done: int = 0
    total: int = 0
    unit: str = ""
    phase: str = ""


class Signs:
    """The signs of one attempt. Thread-safe."""

    def __init__(self, control: Control, record: JobRecord, owner: str) -> None:
        self._control, self._record, self._owner = control, record, owner
        self._now = Progress(record.done, record.total, record.unit, record.phase)
        self._phases: list[dict[str, Any]] = []
        self._error: FacegridError | None = None
        self._last: tuple[float, FacegridError] | None = None
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._give_on, name="facegrid-job-signs", daemon=True)

    @property
    def reason(self) -> FacegridError | None:
        """Why the job has to stop; None while it has not."""
        return self._error

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The phases of this attempt: how many units each did, and how many seconds it took."""
        return [dict(phase) for phase in self._phases]

    def start(self) -> None:
        """Give the first sign now, and others in the background until `end`."""
        self._give()
        self._thread.start()

    def tell(self, progress: Progress) -> None:
        """What the next sign says. Raises as `check`."""
        self._enter(progress)
        self._now = progress
        self.check()

    def check(self) -> None:
        """Raise why the job has to stop, if it has to."""
        if self._last is not None and time.time() >= self._last[0]:
            self.stop(self._last[1])
        if self._error is not None:
            raise self._error

    def stop(self, error: FacegridError) -> None:
        """Have the job stop for this reason, unless it has to for another."""
        if self._error is None:
            self._error = error
        self._stopped.set()

    def end_by(self, at: float, error: FacegridError) -> None:
        """Have the job stop for this reason from then on, in unix seconds."""
        self._last = (at, error)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the job has to stop; raises as `check`."""
        self._stopped.wait(seconds)
        self.check()

    def end(self) -> None:
        """A last sign of where the job is, then no more. Idempotent."""
        if not self._ended.is_set():
            self._ended.set()
            if self._thread.is_alive():
                self._thread.join()
            if self._error is None:
                self._give()
            self._close_phase()

    def _give_on(self) -> None:
        while not self._ended.wait(SIGN_S):
            self._give()

    def _give(self) -> None:
        at, now = time.monotonic(), self._now
        try:
            state = self._control.progress(self._record.job_id, self._owner, now.done, now.total, now.unit, now.phase)
        except (JobTaken, UnknownJob, UnknownGallery) as error:
            self.stop(error)
        except FacegridError as error:
            if time.monotonic() - self._heard > LOST_S:
                self.stop(JobTaken(f"the catalog could not be told for {LOST_S:g} s that the job runs: {error}"))
        else:
            self._heard = at
            if state is JobState.CANCELLING:
                self.stop(JobCancelled(f"job {self._record.job_id} was cancelled"))

    def _enter(self, progress: Progress) -> None:
        if not self._phases or (self._phases[-1]["phase"], self._phases[-1]["unit"]) != (progress.phase, progress.unit):
            self._close_phase()
            phase = {"phase": progress.phase, "unit": progress.unit, "from": progress.done, "at": time.time()}
            self._phases.append(phase)
        self._phases[-1] |= {"done": progress.done, "total": progress.total}

    def _close_phase(self) -> None:
        if self._phases and "seconds" not in self._phases[-1]:
            self._phases[-1]["seconds"] = round(time.time() - self._phases[-1]["at"], 3)
