"""Removing what a dedup job holds of templates before the deadline by which deleted ones must be gone.

A copy that was made at a time holds no template that was deleted before it. If it is removed within `erasure_hours` of
that time, it outlives the deadline of none that is deleted after it, whoever deletes it. So the job's own snapshot, the
thumbnails of its report, the rows of its applies and what processes that died left half made all go then, whether the
job succeeded, failed, was cancelled or waits. One that runs ends by itself (`JobContext.end_by`). So does the
basis of its sketches: means of few faces may be nearly one of them. Ids, identities and scores stay until the job is
deleted, and so do the other checkpoints, which hold nothing else.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.result_columns import REPORT, SUMMARY
from coordinator.timed_ids import time_of_id
from shard.errors import CorruptData
from shard.files import remove_file, remove_tree, write_file

START_SHARE = 0.75
"""Share of the deadline after which copies are removed, as deleted bytes are (`coordinator.erasure`)."""
LAST_SHARE = 0.9
"""The same, of copies of a job that runs: it has been told to end by then."""
_PICTURE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*")
_PICTURE_START = b"data:image/jpeg;base64,"
NO_PICTURE = "data:,"
DERIVED = ("basis", "basis-lists", "tuning")
"""Checkpoints that are made of floats, and one that goes with them; the same are made again if they are needed."""
INPUT = "input"
"""Below the job's directory: the store of its own snapshots."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed of one job: its snapshot, pictures of its report, rows of applies by their number, other
    directories."""

    input: bool
    pictures: int
    applies: tuple[int, ...]
    others: int = 0

    @property
    def is_any(self) -> bool:
        """Whether something was."""
        return self.input or bool(self.pictures or self.applies or self.others)


def undo_seconds(erasure_hours: float) -> float:
    """How long an apply can be undone that holds templates."""
    return START_SHARE * erasure_hours * 3_600


def is_due(job_directory: Path, erasure_hours: float, *, now: float | None = None, is_gone: bool = False) -> bool:
    """Whether `remove_copies` would remove something of a job that does not run. CorruptData."""
    due = _due(job_directory, undo_seconds(erasure_hours), time.time() if now is None else now, is_gone)
    return bool(due.applies or due.copies or due.report)


def remove_copies(
    job_directory: Path,
    erasure_hours: float,
    *,
    now: float | None = None,
    is_gone: bool = False,
    is_running: bool = False,
) -> Removed:
    """Remove what is due of a job. now: unix seconds. is_gone: its gallery was dropped, so all of it is. Idempotent.

    An apply that was interrupted has to be settled before (`cluster.dedup.apply.settle`). is_running: somebody may
    read. Raises WriteFailed, CorruptData: the next call tries again.
    """
    longest = LAST_SHARE * erasure_hours * 3_600 if is_running else undo_seconds(erasure_hours)
    due = _due(job_directory, longest, time.time() if now is None else now, is_gone and not is_running)
    for journal in due.applies:
        journal.expire()
    pictures = _remove_pictures(job_directory / "result" / REPORT) if due.report else 0
    for copy in due.copies:
        remove_tree(copy) if copy.is_dir() else remove_file(copy)
    has_input = job_directory / INPUT in due.copies
    return Removed(has_input, pictures, tuple(j.record.number for j in due.applies), len(due.copies) - has_input)


@dataclass(frozen=True, slots=True)
class _Due:
    """applies: whose rows are. copies: directories and files. report: whether its pictures are."""

    applies: tuple[ApplyJournal, ...]
    copies: tuple[Path, ...]
    report: bool


def _due(job_directory: Path, longest_s: float, now: float, is_gone: bool) -> _Due:
    """longest_s: how long a copy may be there."""
    journals = tuple(j for j in ApplyJournal.all(job_directory) if j.has_rows and (is_gone or _is_over(j, now)))
    half_made = (*job_directory.glob(".result.*"), *job_directory.glob("apply/.*"), job_directory / "apply" / "source")
    found = {path: copied_at(path) for path in (job_directory / INPUT, *half_made)}
    copies = [path for path, at in found.items() if at is not None and (is_gone or at <= now - longest_s)]
    derived = [path for path in (job_directory / "checkpoints" / name for name in DERIVED) if path.exists()]
    if any(is_gone or path.stat().st_mtime <= now - longest_s for path in derived):
        copies += derived
    report = job_directory / "result" / REPORT
    has_pictures = report.exists() and _PICTURE_START in report.read_bytes()
    return _Due(journals, tuple(copies), has_pictures and (is_gone or _made_at(job_directory) <= now - longest_s))


def _is_over(journal: ApplyJournal, now: float) -> bool:
    until = journal.record.undo_until
    return until is not None and until <= now


def copied_at(directory: Path) -> float | None:
    """When the first of the files below was written, in unix seconds, or the first snapshot begun; None without a
    directory. Nothing of it was read from a gallery before."""
    if not directory.is_dir():
        return None
    times = [directory.stat().st_mtime]
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
            times.append(path.stat().st_mtime)
        if path.suffix == ".json" and (begun := time_of_id(path.stem.removeprefix("create-"))):
            times.append(begun.timestamp())
    return min(times)


def _made_at(job_directory: Path) -> float:
    """When the snapshot was made that the job read, the first of two, which its id says."""
    path = job_directory / "result" / SUMMARY
    try:
        return min(_time(entry["snapshot_id"]) for entry in json.loads(path.read_bytes())["inputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{path} is not a summary: {error!r}", path=str(path)) from error


def _time(snapshot_id: str) -> float:
    made = time_of_id(snapshot_id)
    if made is None:
        raise ValueError(f"{snapshot_id!r} is no snapshot's id")
    return made.timestamp()


def _remove_pictures(report: Path) -> int:
    if not report.exists():
        return 0
    text, count = _PICTURE.subn(NO_PICTURE, report.read_text(encoding="utf-8"))
    if count:
        write_file(report, text.encode())
    return count
