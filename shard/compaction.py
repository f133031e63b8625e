"""Compaction: the bytes of deleted templates leave the disk, and their rows leave memory.

A sealed segment with dead rows is given up: its live rows are written again at the end, a chunk at a time, and its
files are removed. Every step is a write like any other, so it can be interrupted, and replicas carry it out alike.
When it is done the database and its log are rewritten too, since they may hold labels of what was deleted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

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


def compact(shard: Shard, *, least_dead: float = 0.0) -> CompactionReport:
    """Give up every segment in which more than this share of rows is dead, the open tail included, then scrub.

    With least_dead=0 no byte of a deleted template is left in the shard's files when it returns. Searches and writes go
    on; a write waits for one chunk at most. Repeatable.
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
    for row in doomed:
        live = shard.live_rows(row)
        erased += row.rows - len(live)
        for begin in range(0, len(live), MOVE_ROWS):
            # Those that are deleted before their turn comes are passed over.
            moved += shard.move(live[begin : begin + MOVE_ROWS])
        shard.drop_segment(row.segment)
    if shard.erasure().needs_scrub:
        shard.scrub()
    return CompactionReport(len(doomed), moved, erased, time.monotonic() - started)


def _dead(shard: Shard, row: SegmentRow) -> int:
    return row.rows - len(shard.live_rows(row))
