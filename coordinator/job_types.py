"""What is known of a batch job. Values only; `coordinator.jobs` keeps them, `cluster.jobs` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class JobState(str, Enum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    SUCCEEDED = "succeeded"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to the job unless somebody asks for it."""
        return self in ENDED


ENDED = (JobState.CANCELLED, JobState.FAILED, JobState.SUCCEEDED)
UNFINISHED = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as of one moment. Times are unix seconds.

    gallery: the one that it was submitted for. parameters: JSON, as its kind's model gave them. attempts: how often it
    was begun. done, total: in `unit`s of the present phase; total is 0 where it is not known. rate: units a second in
    this phase since this attempt began it; eta_s: until the end of the phase. error_code, error: why it failed.
    key_id: of the API key that it was submitted with. owner: the process that runs it; heartbeat_at: its last sign.
    """

    job_id: str
    kind: str
    gallery: str
    tenant_id: str | None
    parameters: Mapping[str, Any]
    state: JobState
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    done: int
    total: int
    unit: str
    phase: str
    rate: float | None
    eta_s: float | None
    error_code: str | None
    error: str | None
    key_id: str | None
    owner: str | None
    heartbeat_at: float | None
    gallery_id: str = ""
