"""Removing what a finished dedup job holds of templates before the deadline by which deleted ones must be gone.

A copy that was made at a time holds no template that was deleted before it. If it is removed within `erasure_hours` of
that time, it outlives the deadline of none that is deleted after it, whoever deletes it. So the job's own snapshot, the
thumbnails of its report and the rows of its applies all go then. Ids, identities and scores stay until the job is
deleted.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.result_columns import REPORT
from coordinator.snapshots.manifest import parse_time
from coordinator.snapshots.store import SnapshotStore
from shard.files import remove_tree, write_file

START_SHARE = 0.75
"""Share of the deadline after which copies are removed, as deleted bytes are (`coordinator.erasure`)."""
_PICTURE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*")
NO_PICTURE = "data:,"


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed of one job: its snapshot, pictures of its report, rows of applies by their number."""

    input: bool
    pictures: int
    applies: tuple[int, ...]


def undo_seconds(erasure_hours: float) -> float:
    """How long an apply can be undone that holds templates."""
    return START_SHARE * erasure_hours * 3_600


def remove_copies(job_directory: Path, erasure_hours: float, *, now: float | None = None) -> Removed:
    """Remove what is due of a job that has ended. now: unix seconds. Idempotent.

    An apply that was interrupted has to be settled before (`cluster.dedup.apply.settle`). Raises WriteFailed,
    StoreUnavailable, CorruptData: the next call tries again.
    """
    now = time.time() if now is None else now
    due = now - undo_seconds(erasure_hours)
    applies = [
        journal
        for journal in ApplyJournal.all(job_directory)
        if journal.has_rows and journal.record.undo_until is not None and journal.record.undo_until <= now
    ]
    for journal in applies:
        journal.expire()
    is_removed, pictures = False, 0
    made_at = _made_at(job_directory)
    if made_at is not None and made_at <= due:
        # The snapshot last: without it nobody knows any more when the pictures are from.
        pictures = _remove_pictures(job_directory / "result" / REPORT)
        remove_tree(job_directory / "input")
        is_removed = True
    return Removed(is_removed, pictures, tuple(journal.record.number for journal in applies))


def _made_at(job_directory: Path) -> float | None:
    """When the job's own snapshot was made, the first of two; None if it has none."""
    if not (job_directory / "input").is_dir():
        return None
    found = [parse_time(m.created_at).timestamp() for m in SnapshotStore.open(job_directory / "input").snapshots()]
    return min(found, default=0.0)


def _remove_pictures(report: Path) -> int:
    if not report.exists():
        return 0
    text, count = _PICTURE.subn(NO_PICTURE, report.read_text(encoding="utf-8"))
    if count:
        write_file(report, text.encode())
    return count
