"""One shard's rows for a snapshot: its moment and layout, and the live rows of a range with floats and labels.

Rows are read range by range while writes go on. A range is read in pieces of bounded size, each of one SQLite read
and the floats of exactly those rows; a row's floats never change, so nothing has to hold still for it. What compaction
moves meanwhile goes from a row of the point to one after it and keeps its LSN: when all ranges are read, whoever reads
asks once more for templates up to the point's LSN in rows after it, in the order of their keys, which moving does not
change (`export_moved`). So every template of the point that is not deleted is read, and one that was read before it
was moved comes twice, with the same id. Knows nothing of snapshots, stores or other shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shard.errors import InvalidParameter
from shard.store import SegmentRow, Store, StoredTemplate
from shard.types import FloatArray, RowArray

MAX_EXPORT_ROWS = 8_192
"""Most rows of one piece: at MAX_DIM 64 MiB of floats, at 512 dimensions 16 MiB."""
MAX_EXPORT_FLOAT_BYTES = 16 << 20
MAX_EXPORT_LABEL_BYTES = 16 << 20
"""Most bytes of labels and metadata of one piece; a row that is longer is a piece of its own."""
FIRST_KEY = -(1 << 63)
"""The first key of templates as the database orders them, which is signed; as `end`, that there are no more."""

Gather = Callable[[RowArray], FloatArray]
"""Floats of rows, (n,) int64 to (n, dim) float32."""


@dataclass(frozen=True, slots=True)
class SegmentPoint:
    """A segment at a moment. floats_crc: the CRC32C of every MiB of its floats; None while it is the open tail."""

    segment: int
    first_row: int
    rows: int
    floats_crc: bytes | None


@dataclass(frozen=True, slots=True)
class ShardPoint:
    """A shard at a moment: its LSN, and the segments that hold every row written up to it; none that was dropped.

    rows: how many there are, dead and dropped ones too. epochs, epoch_starts: every configuration that decided a write
    here, and the LSN of its first one, ascending.
    """

    shard: int
    lsn: int
    rows: int
    segments: tuple[SegmentPoint, ...]
    epochs: tuple[int, ...]
    epoch_starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows begin <= row < end of a segment, of which those with an LSN up to `max_lsn` are asked for."""

    segment: int
    begin: int
    end: int
    max_lsn: int


@dataclass(frozen=True, slots=True)
class MovedRange:
    """What was moved since a point: templates with an LSN up to `max_lsn` in rows from `first_row`, the point's `rows`,
    on. from_key: FIRST_KEY, then `end` of the piece before.
    """

    first_row: int
    max_lsn: int
    from_key: int


@dataclass(frozen=True, slots=True)
class ExportedRows:
    """The live rows of a range, ascending: entry i of each field belongs to row rows[i].

    end: where the piece ends; before the end of the range if labels or floats were too many for one piece. Of a
    MovedRange it is the key to go on from, FIRST_KEY if there are no more.
    fingerprint: SHA-256 of all that the piece holds, by way of the segment's checksums; empty for the open tail, which
    has none. is_unchanged: the fingerprint is the one that the caller knows, and the fields below are empty.
    rows, lsns: (n,) int64. floats: (n, dim) float32, bit for bit as they were enrolled.
    """

    end: int
    fingerprint: bytes
    is_unchanged: bool
    rows: RowArray
    lsns: RowArray
    floats: FloatArray
    template_ids: tuple[str, ...]
    identities: tuple[str | None, ...]
    metadata: tuple[bytes | None, ...]

    def take(self, positions: Sequence[int]) -> ExportedRows:
        """Those at these positions, in this order; without fingerprint unless it is all of them."""
        if len(positions) == len(self.rows):
            return self
        at = np.array(positions, dtype=np.int64)
        return replace(
            self,
            fingerprint=b"",
            rows=self.rows[at],
            lsns=self.lsns[at],
            floats=self.floats[at],
            template_ids=tuple([self.template_ids[i] for i in positions]),
            identities=tuple([self.identities[i] for i in positions]),
            metadata=tuple([self.metadata[i] for i in positions]),
        )


def segment_points(segments: Sequence[SegmentRow]) -> tuple[SegmentPoint, ...]:
    """The segments as a point states them."""
    return tuple(SegmentPoint(s.segment, s.first_row, s.rows, s.floats_crc) for s in segments if not s.is_dropped)


def export_rows(
    store: Store, gather: Gather, dim: int, segment: SegmentRow, wanted: RowRange, known: bytes
) -> ExportedRows:
    """The first piece of the range; nothing but its fingerprint where that is `known`.

    segment: the segment of the range, as it is now. InvalidParameter if the range is not within its rows.
    """
    last = segment.first_row + segment.rows
    if not segment.first_row <= wanted.begin < wanted.end <= last:
        raise InvalidParameter(
            f"rows to export: expected a range within {segment.first_row} to {last} of segment {segment.segment},"
            f" got {wanted.begin} to {wanted.end}"
        )
    labels, end = store.label_rows(wanted.begin, min(wanted.end, wanted.begin + _most(dim)), MAX_EXPORT_LABEL_BYTES)
    labels = [label for label in labels if label.lsn <= wanted.max_lsn]
    fingerprint = b""
    if segment.floats_crc is not None:
        fingerprint = _fingerprint(segment, segment.floats_crc, wanted.begin, end, labels)
    if known and fingerprint == known:
        return replace(no_rows_to(end, dim), fingerprint=fingerprint, is_unchanged=True)
    return _piece(labels, gather, dim, end, fingerprint)


def export_moved(store: Store, gather: Gather, dim: int, wanted: MovedRange) -> ExportedRows:
    """The first piece of what was moved; every row of it has to be in the index."""
    if not store.has_moved(wanted.first_row, wanted.max_lsn):
        return no_rows_to(FIRST_KEY, dim)
    labels, end = store.labels_by_key(wanted.from_key, wanted.first_row, _most(dim), MAX_EXPORT_LABEL_BYTES)
    return _piece([label for label in labels if label.lsn <= wanted.max_lsn], gather, dim, end, b"")


def export_templates(labels: Sequence[StoredTemplate], gather: Gather, dim: int) -> ExportedRows:
    """Templates with their floats, as one piece."""
    return _piece(labels, gather, dim, FIRST_KEY, b"")


def no_rows_to(end: int, dim: int) -> ExportedRows:
    """A piece without rows."""
    none: npt.NDArray[np.int64] = np.empty(0, np.int64)
    return ExportedRows(end, b"", False, none, none, np.empty((0, dim), np.float32), (), (), ())


def _most(dim: int) -> int:
    return max(1, min(MAX_EXPORT_ROWS, MAX_EXPORT_FLOAT_BYTES // (dim * 4)))


def _piece(labels: Sequence[StoredTemplate], gather: Gather, dim: int, end: int, fingerprint: bytes) -> ExportedRows:
    if not labels:
        return replace(no_rows_to(end, dim), fingerprint=fingerprint)
    rows = np.array([label.row for label in labels], dtype=np.int64)
    return ExportedRows(
        end=end,
        fingerprint=fingerprint,
        is_unchanged=False,
        rows=rows,
        lsns=np.array([label.lsn for label in labels], dtype=np.int64),
        floats=gather(rows),
        template_ids=tuple([label.template_id for label in labels]),
        identities=tuple([label.identity for label in labels]),
        metadata=tuple([label.metadata for label in labels]),
    )


def _fingerprint(segment: SegmentRow, crc: bytes, begin: int, end: int, labels: Sequence[StoredTemplate]) -> bytes:
    """Changes whenever the piece would: a sealed segment's floats by their checksums, its labels by themselves."""
    digest = hashlib.sha256(f"rows-1 {begin - segment.first_row} {end - segment.first_row} {segment.rows}".encode())
    digest.update(crc)
    for label in labels:
        values = (label.template_id.encode(), (label.identity or "").encode(), label.metadata or b"")
        shape = f"\n{label.row} {label.lsn} {label.identity is None:d} {label.metadata is None:d}"
        digest.update(f"{shape} {' '.join(str(len(value)) for value in values)} ".encode())
        digest.update(b"".join(values))
    return digest.digest()
