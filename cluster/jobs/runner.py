"""`Runner`: the thread of a process that has a home open and runs its queued jobs, one at a time."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from coordinator.job_types import JobRecord
from shard.errors import FacegridError

IDLE_S = 1.0
"""Pause between two looks for jobs that others have queued, or whose process has died."""
_LOG = logging.getLogger(__name__)


class Source(Protocol):
    """Where jobs come from, and who runs them: `cluster.jobs.jobs.Jobs`."""

    def claim(self) -> JobRecord | None:
        """The next job, which is ours then."""

    def drive(self, record: JobRecord) -> JobRecord:
        """Run it."""


class Runner:
    """Runs jobs between `start` and `close`."""

    def __init__(self, jobs: Source) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Idempotent."""
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run_on, name="facegrid-jobs", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Look for jobs now."""
        self._wake.set()

    def close(self) -> None:
        """Take no more jobs, and wait for the one that runs: it has been told to stop. Idempotent."""
        self._is_closed = True
        self._wake.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run_on(self) -> None:
        while not self._is_closed:
            try:
                record = self._jobs.claim()
                if record is not None:
                    ended = self._jobs.drive(record)
                    _LOG.info("job %s (%s) is %s", ended.job_id, ended.kind, ended.state.value)
                    continue
            except FacegridError as error:
                # The catalog is away, or the job was taken or deleted: the next look tells.
                _LOG.warning("a job could not be run: %s", error)
            except Exception:  # noqa: BLE001 - a bug over one job must not end the thread that runs the others
                _LOG.exception("a job could not be run, by a bug")
            self._wake.wait(IDLE_S)
            self._wake.clear()
