"""What the table `jobs` holds, as `JobRecord`, and which of its rows may be had; in the caller's transaction."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from coordinator.catalog_tables import DROPPING, GALLERIES, JOBS
from coordinator.job_types import JobRecord, JobState
from shard.errors import UnknownGallery, UnknownJob

STALE_S = 15.0
"""How old the last sign of a running job's process is when it counts as dead."""
_FIELDS = (
    "job_id", "kind", "gallery", "tenant_id", "created_at", "started_at", "finished_at", "attempts", "done", "total",
    "unit", "phase", "error_code", "error", "key_id", "owner", "heartbeat_at", "gallery_id",
)  # fmt: skip


def job_record(row: Row[Any]) -> JobRecord:
    """A row of JOBS."""
    state = JobState(row.state)
    rate = _rate(row)
    is_timed = state is JobState.RUNNING and rate is not None and row.total >= row.done
    return JobRecord(
        **{name: getattr(row, name) for name in _FIELDS},
        parameters=json.loads(row.parameters),
        state=state,
        rate=rate,
        eta_s=(row.total - row.done) / rate if is_timed and rate is not None and row.total else None,
    )


def _rate(row: Row[Any]) -> float | None:
    """Units a second since the phase began in this attempt; what was done before it does not count."""
    if row.phase_at is None or row.heartbeat_at is None or row.done <= row.phase_done:
        return None
    seconds = row.heartbeat_at - row.phase_at
    return float((row.done - row.phase_done) / seconds) if seconds > 0 else None


def locked_job(db: Connection, job_id: str) -> Row[Any]:
    """A job's row, ours until the end of the transaction; UnknownJob."""
    row = db.execute(JOBS.select().where(JOBS.c.job_id == job_id).with_for_update()).first()
    if row is None:
        raise UnknownJob(f"no job {job_id!r:.80}")
    return row


def check_gallery(db: Connection, row: Row[Any]) -> None:
    """UnknownGallery if the gallery that the job was submitted for is gone, be there another of its name or not."""
    query = sa.select(GALLERIES.c.state).where(GALLERIES.c.gallery_id == row.gallery_id)
    if db.execute(query).scalar_one_or_none() in (None, DROPPING):
        raise UnknownGallery(f"gallery {row.gallery!r} of job {row.job_id} was dropped")


def is_stale(row: Row[Any], now: float) -> bool:
    """Whether somebody had the job and has given no sign for STALE_S."""
    has_owner = row.state in (JobState.RUNNING.value, JobState.CANCELLING.value)
    return has_owner and (row.heartbeat_at is None or now - row.heartbeat_at > STALE_S)
