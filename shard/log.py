"""A shard's writes as data: what one replica decided and every other carries out in the same order.

An entry is physical enough that replicas which carried out the same entries hold the same rows at the same row
numbers, in segments that end at the same rows. So what one replica has can be compared with, copied to and repaired
from another, segment by segment. Knows no files and no database.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shard.types import EnrollBatch, FloatArray, RowArray

APPEND, BURY, SEAL, MOVE, DROP, AMEND = "append", "bury", "seal", "move", "drop", "amend"
DEPART = "depart"
"""Verbs: new rows at the end; rows deleted; the open tail sealed; live rows written again at the end and their old
rows given up (compaction); a sealed segment of dead rows removed; as moved, but with other labels.
DEPART: as buried, but they are in another shard by now."""

_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a replica is: its last LSN, the epoch of that entry, and how many rows it has (dead ones too)."""

    lsn: int
    epoch: int
    rows: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One write. `operation`: the caller's id of it, b"" for none; repeated with the same one it is done once.

    time: unix seconds at the primary. batch: of APPEND; of AMEND the new labels, without embeddings, in the order of
    rows. rows: of BURY, DEPART, MOVE and AMEND, (n,) int64 ascending. segment: of DROP.
    first_row: rows before the entry, which a replica compares with its own. done, left_out: what the caller was told.
    """

    lsn: int
    epoch: int
    verb: str
    operation: bytes
    time: float
    first_row: int
    batch: EnrollBatch
    rows: RowArray
    segment: int
    done: int
    left_out: int


def no_batch() -> EnrollBatch:
    """The batch of entries that append nothing."""
    return EnrollBatch(np.empty((0, 0), np.float32), (), (), ())


def no_rows() -> RowArray:
    """The rows of entries that name none."""
    return _NO_ROWS


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment as a replica has it; checksums are empty while it is open, and once it was dropped."""

    segment: int
    first_row: int
    rows: int
    capacity: int
    is_sealed: bool
    is_dropped: bool
    floats_crc: bytes


@dataclass(frozen=True, slots=True)
class Changes:
    """A piece of what a replica lacks: rows from `first_row` on, all of one segment, and with the last piece the rest.

    embeddings: (n, dim) float32 of all rows, dead ones too, so that files stay comparable. live: (m,) int64 rows of the
    m labels that follow. dead: (d,) int64 rows that were given up, with their LSNs and times (unix seconds): of these
    rows, or in the last piece of all. segments: all there are. epochs, epoch_starts: (e,) int64, the history.
    operations: in the last piece, ids of writes that may be repeated, and outcomes, (o, 3) int64: LSN,
    done, left out.
    """

    position: Position
    is_divergent: bool
    is_last: bool
    first_row: int
    embeddings: FloatArray
    live: RowArray
    template_ids: tuple[str, ...]
    identities: tuple[str | None, ...]
    metadata: tuple[bytes | None, ...]
    lsns: RowArray
    dead: RowArray
    dead_lsns: RowArray
    dead_times: RowArray
    segments: tuple[SegmentState, ...]
    epochs: RowArray
    epoch_starts: RowArray
    operations: tuple[bytes, ...]
    outcomes: RowArray
