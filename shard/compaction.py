"""Compaction: the bytes of deleted templates leave the disk, and their rows leave memory.

A sealed segment with dead rows is given up: its live rows are written again at the end, a chunk at a time, and its
files are removed. Every step is a write like any other, so it can be interrupted, and replicas carry it out alike.
When it is done the database and its log are rewritten too, since they may hold labels of what was deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shard.shard import Shard
from shard.store import SegmentRow

MOVE_ROWS = 4_096
"""Rows moved by one write: enrollments wait for it, some tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did: segments given up, rows written again, dead rows whose bytes are gone, seconds."""

    segments: int
    moved: int
    erased: int
    seconds: float


def is_due(shard: Shard, now: float, *, deadline_s: float) -> bool:
    """Whether bytes of deleted templates have been kept for longer than the deadline. now: unix seconds."""
    state = shard.erasure()
    return state.oldest is not None and now - state.oldest >= deadline_s


def compact(
    shard: Shard, *, least_dead: float = 0.0, progress: Callable[[int, int], None] | None = None
) -> CompactionReport:
    """Give up every segment in which more than this share of rows is dead, the open tail included, then scrub.

    With least_dead=0 no byte of a deleted template is left in the shard's files when it returns. progress is called
    with segments done and segments in all. Searches and writes go on; a write waits for one chunk at most. Repeatable.
    """
    started = time.monotonic()
    if any(not row.is_sealed and _dead(shard, row) > least_dead * row.rows for row in shard.segments):
        shard.flush()
    doomed = [
        row
        for row in shard.segments
        if row.is_sealed and not row.is_dropped and row.rows and _dead(shard, row) > least_dead * row.rows
    ]
    moved = erased = 0
    for done, row in enumerate(doomed):
        if progress is not None:
            progress(done, len(doomed))
        live = shard.live_rows(row)
        erased += row.rows - len(live)
        while len(live):
            moved += shard.move(live[:MOVE_ROWS])
            # Some may have been deleted while they waited for their turn.
            live = shard.live_rows(row)
        shard.drop_segment(row.segment)
    if shard.erasure().needs_scrub:
        shard.scrub()
    if progress is not None:
        progress(len(doomed), len(doomed))
    return CompactionReport(len(doomed), moved, erased, time.monotonic() - started)


def _dead(shard: Shard, row: SegmentRow) -> int:
    return row.rows - len(shard.live_rows(row)) if not row.is_dropped else 0


def dead_share(shard: Shard) -> float:
    """Dead rows among those that still take memory and disk, from 0 to 1."""
    stored = sum(row.rows for row in shard.segments if not row.is_dropped)
    return float(np.clip(1 - len(shard) / stored, 0, 1)) if stored else 0.0
