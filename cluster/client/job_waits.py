"""When to ask again how a job is, and when to give up. Shared by both clients; sleeps nowhere itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from coordinator.job_types import JobRecord
from shard.errors import DeadlineExceeded, InvalidParameter


class Waits:
    """The waiting for one job. clock: seconds that only grow."""

    def __init__(
        self,
        job_id: str,
        poll_s: float,
        timeout_s: float | None,
        progress: Callable[[JobRecord], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("poll_s", poll_s), ("timeout_s", timeout_s)):
            if value is not None and not 0 < value < float("inf"):
                raise InvalidParameter(f"{name}: expected a number of seconds above 0, got {value!r}")
        self._job_id, self._poll_s, self._timeout_s, self._progress = job_id, poll_s, timeout_s, progress
        self._clock = clock
        self._ends = None if timeout_s is None else clock() + timeout_s
        self.last: JobRecord
        """What was heard last."""

    def pause_after(self, record: JobRecord) -> float | None:
        """Seconds until the job is asked for again; None when it has ended. DeadlineExceeded when it is too late."""
        self.last = record
        if self._progress is not None:
            self._progress(record)
        if record.state.has_ended:
            return None
        if self._ends is None:
            return self._poll_s
        left = self._ends - self._clock()
        if left <= 0:
            raise DeadlineExceeded(f"job {self._job_id} is {record.state.value} still after {self._timeout_s:g} s")
        return min(self._poll_s, left)
