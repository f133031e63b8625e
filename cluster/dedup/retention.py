"""Removing what a finished dedup job holds of templates before the deadline by which deleted ones must be gone.

A copy that was made at a time holds no template that was deleted before it. If it is removed within `erasure_hours` of
that time, it outlives the deadline of none that is deleted after it, whoever deletes it. So the job's own snapshot, the
thumbnails of its report and the rows of its applies all go then. Ids, identities and scores stay until the job is
deleted.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.result_columns import REPORT, SUMMARY
from shard.errors import CorruptData
from shard.files import remove_tree, write_file

START_SHARE = 0.75
"""Share of the deadline after which copies are removed, as deleted bytes are (`coordinator.erasure`)."""
_PICTURE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*")
_PICTURE_START = b"data:image/jpeg;base64,"
NO_PICTURE = "data:,"
_ID_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed of one job: its snapshot, pictures of its report, rows of applies by their number."""

    input: bool
    pictures: int
    applies: tuple[int, ...]


def undo_seconds(erasure_hours: float) -> float:
    """How long an apply can be undone that holds templates."""
    return START_SHARE * erasure_hours * 3_600


def is_due(job_directory: Path, erasure_hours: float, *, now: float | None = None) -> bool:
    """Whether a job holds something that `remove_copies` would remove. CorruptData."""
    now = time.time() if now is None else now
    if any(_has_due_rows(journal, now) for journal in ApplyJournal.all(job_directory)):
        return True
    made_at = _made_at(job_directory)
    if made_at is None or made_at > now - undo_seconds(erasure_hours):
        return False
    report = job_directory / "result" / REPORT
    return (job_directory / "input").is_dir() or (report.exists() and _PICTURE_START in report.read_bytes())


def _has_due_rows(journal: ApplyJournal, now: float) -> bool:
    until = journal.record.undo_until
    return journal.has_rows and until is not None and until <= now


def remove_copies(job_directory: Path, erasure_hours: float, *, now: float | None = None) -> Removed:
    """Remove what is due of a job that has ended. now: unix seconds. Idempotent.

    An apply that was interrupted has to be settled before (`cluster.dedup.apply.settle`). Raises WriteFailed,
    CorruptData: the next call tries again.
    """
    now = time.time() if now is None else now
    due = now - undo_seconds(erasure_hours)
    applies = [journal for journal in ApplyJournal.all(job_directory) if _has_due_rows(journal, now)]
    for journal in applies:
        journal.expire()
    is_removed, pictures = False, 0
    made_at = _made_at(job_directory)
    if made_at is not None and made_at <= due:
        pictures = _remove_pictures(job_directory / "result" / REPORT)
        is_removed = (job_directory / "input").is_dir()
        if is_removed:
            remove_tree(job_directory / "input")
    return Removed(is_removed, pictures, tuple(journal.record.number for journal in applies))


def _made_at(job_directory: Path) -> float | None:
    """When the snapshot was made that the job read, the first of two, which its id says; None without a result."""
    try:
        inputs = json.loads((job_directory / "result" / SUMMARY).read_bytes())["inputs"]
        times = [datetime.strptime(entry["snapshot_id"][:16], _ID_TIME) for entry in inputs]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        path = job_directory / "result" / SUMMARY
        raise CorruptData(f"{path} is not a summary: {error!r}", path=str(path)) from error
    return min(moment.replace(tzinfo=timezone.utc).timestamp() for moment in times)


def _remove_pictures(report: Path) -> int:
    if not report.exists():
        return 0
    text, count = _PICTURE.subn(NO_PICTURE, report.read_text(encoding="utf-8"))
    if count:
        write_file(report, text.encode())
    return count
