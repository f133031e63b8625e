"""The bodies of the job routes, in and out. What a kind of job takes as parameters is its own model's to say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from cluster.service.schemas import Body, Reply

Kind = Literal["dedup", "enroll", "reembed", "calibrate"]
State = Literal["queued", "running", "cancelling", "cancelled", "failed", "succeeded"]
GALLERY = r"^[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}$"


class JobBody(Body):
    """A new job. parameters: as its kind takes them; see docs/service.md."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "dedup", "gallery": "acme/staff", "parameters": {"threshold": 0.5, "mode": "exact"}}]
        }
    )
    kind: Kind
    gallery: str = Field(pattern=GALLERY)
    parameters: dict[str, Any] = Field(default={}, max_length=64)


class JobReply(Reply):
    """A job. Times are unix seconds; rate: units a second in this phase; eta_s: until the end of the phase."""

    job_id: str
    kind: str
    gallery: str
    parameters: dict[str, Any]
    state: State
    phase: str
    done: int
    total: int
    unit: str
    rate: float | None
    eta_s: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    error_code: str | None
    error: str | None
    key_id: str | None


class JobsReply(Reply):
    """Jobs, latest first; cursor: where the next page begins, null after the last."""

    jobs: list[JobReply]
    cursor: str | None


class JobLogReply(Reply):
    """Lines of a job's log; next: the number of the line after them."""

    entries: list[dict[str, Any]]
    next: int


class ResultFile(Reply):
    """A file of a result. size: bytes."""

    name: str
    size: int
    content_type: str


class JobResultReply(Reply):
    """What a job made: its files, and its summary."""

    files: list[ResultFile]
    summary: dict[str, Any]
