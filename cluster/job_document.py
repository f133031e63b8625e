"""A job as JSON: what the command line and the service say of it. Which process runs it, and where, is not in it."""

from __future__ import annotations

from typing import Any

from coordinator.job_types import JobRecord

FIELDS = (
    "job_id", "kind", "gallery", "state", "phase", "done", "total", "unit", "rate", "eta_s", "created_at", "started_at",
    "finished_at", "attempts", "error_code", "error", "key_id",
)  # fmt: skip


def job_document(record: JobRecord) -> dict[str, Any]:
    """The job's fields by name; times are unix seconds, rate is units a second."""
    document = {name: getattr(record, name) for name in FIELDS}
    return {**document, "state": record.state.value, "parameters": dict(record.parameters)}
