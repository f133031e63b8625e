"""How a replica that lacks writes gets them: from what another has now, not from a log of how it came to be.

Rows are appended in the order of their LSNs and never change, and what was deleted leaves a tombstone with its LSN, so
"everything after LSN n" can be read from the manifest at any time: `changes_after` reads one piece of it at the source,
`Rows.absorb` writes it at the replica. A replica in the middle of it is marked and must answer nothing. Whether a
replica's past is part of the source's is told by the epochs of the entries (the log matching of Raft, Ongaro &
Ousterhout 2014); a replica of another past has to begin from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from shard.log import Changes, Position, SegmentState, no_rows
from shard.shard import Shard
from shard.store import SegmentRow
from shard.types import FloatArray, RowArray

PIECE_BYTES = 8 << 20
"""Floats in one piece of changes."""


def changes_after(shard: Shard, position: Position, settled_lsn: int) -> Changes:
    """The next piece of what a replica lacks.

    position: how far the replica got: its rows, and the source's position when it read the last of them. settled_lsn:
    up to where it knows every deletion; less than position.lsn where a catch-up was interrupted.
    """
    own, history = shard.position, shard.epochs()
    if position.rows > own.rows or not is_part_of(position, own, history):
        return _changes(shard, own, history, is_divergent=True)
    if _is_little(shard, position.rows):
        with shard.frozen():
            own, history = shard.position, shard.epochs()
            if _is_little(shard, position.rows):
                rows = shard.gather(np.arange(position.rows, own.rows))
                return _changes(shard, own, history, position.rows, rows, settled_lsn=settled_lsn)
    if position.rows < own.rows:
        first, embeddings = _next_rows(shard, position.rows)
        # Labels after floats: what was deleted in between is told as dead.
        return _changes(shard, own, history, first, embeddings)
    with shard.frozen():
        own, history = shard.position, shard.epochs()
        if position.rows == own.rows:
            return _changes(shard, own, history, own.rows, settled_lsn=settled_lsn)
    return changes_after(shard, position, settled_lsn)


def _is_little(shard: Shard, first: int) -> bool:
    """Whether the rows from `first` on are some, all of one segment, and go into one piece with everything else.

    What a replica in sync can lack is mostly that little: it must not be found in the middle of it.
    """
    rows, segments = shard.position.rows, shard.segments
    return first < rows <= first + 4 * PIECE_BYTES // (shard.dim * 4) and segments[-1].first_row <= first


def is_part_of(position: Position, own: Position, history: Sequence[tuple[int, int]]) -> bool:
    """Whether the entries up to `position` are also those of a replica at `own`. history: (epoch, first LSN)."""
    if position.lsn == 0:
        return True
    epoch = max((epoch for epoch, first_lsn in history if first_lsn <= position.lsn), default=0)
    return position.lsn <= own.lsn and epoch == position.epoch


def _next_rows(shard: Shard, first: int) -> tuple[int, FloatArray]:
    """The floats of one segment from row `first` on, or from after the dropped segments that begin there.

    A segment that was dropped after the replica had got a part of it is filled up with zeros, until it is dropped too.
    """
    for row in shard.segments:
        last = row.first_row + row.rows
        if last <= first:
            continue
        step = min(last, first + max(1, PIECE_BYTES // (shard.dim * 4)))
        if not row.is_dropped:
            return first, shard.gather(np.arange(first, step))
        if first > row.first_row:
            return first, np.zeros((step - first, shard.dim), np.float32)
        first = last
    return first, np.empty((0, shard.dim), np.float32)


def _changes(
    shard: Shard,
    own: Position,
    history: Sequence[tuple[int, int]],
    first: int = 0,
    embeddings: FloatArray | None = None,
    *,
    settled_lsn: int | None = None,
    is_divergent: bool = False,
) -> Changes:
    """A piece with these rows, or with settled_lsn the last one, or one that says that pasts differ."""
    rows = 0 if embeddings is None else len(embeddings)
    labels = shard.templates_between(first, first + rows) if rows else []
    operations = [] if settled_lsn is None else shard.operations_after(settled_lsn)
    if settled_lsn is not None:
        # Rows that the replica lacks died after what it has settled, so theirs are among these.
        dead = shard.buried(0, own.rows, settled_lsn)
    else:
        dead = shard.buried(first, first + rows)
        if len(dead) + len(labels) < rows:
            dead = _all_dead(first, rows, own.lsn, {stored.row for stored in labels}, dead)
    return Changes(
        position=own,
        is_divergent=is_divergent,
        is_last=settled_lsn is not None,
        first_row=first,
        embeddings=np.empty((0, shard.dim), np.float32) if embeddings is None else embeddings,
        live=_array([stored.row for stored in labels]),
        template_ids=tuple(stored.template_id for stored in labels),
        identities=tuple(stored.identity for stored in labels),
        metadata=tuple(stored.metadata for stored in labels),
        lsns=_array([stored.lsn for stored in labels]),
        dead=_array([row for row, _, _ in dead]),
        dead_lsns=_array([lsn for _, lsn, _ in dead]),
        dead_times=_array([at for _, _, at in dead]),
        segments=() if is_divergent else segment_states(shard.segments),
        epochs=_array([epoch for epoch, _ in history]),
        epoch_starts=_array([lsn for _, lsn in history]),
        operations=tuple(operation for operation, *_ in operations),
        outcomes=np.array([outcome for _, *outcome in operations], np.int64).reshape(-1, 3),
    )


def _all_dead(
    first: int, rows: int, lsn: int, live: set[int], buried: Sequence[tuple[int, int, int]]
) -> list[tuple[int, int, int]]:
    """Every row that is not live: those with tombstones, and those whose tombstones went with their segment."""
    told = {row for row, _, _ in buried}
    now = int(time.time())
    return [*buried, *((row, lsn, now) for row in range(first, first + rows) if row not in live and row not in told)]


def segment_states(segments: Sequence[SegmentRow]) -> tuple[SegmentState, ...]:
    """Segments as they are told to other replicas."""
    return tuple(
        SegmentState(s.segment, s.first_row, s.rows, s.capacity, s.is_sealed, s.is_dropped, s.floats_crc or b"")
        for s in segments
    )


def _array(values: Sequence[int]) -> RowArray:
    return np.array(values, dtype=np.int64) if values else no_rows()
