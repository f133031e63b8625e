"""The open tail of a shard: where new float rows are written and synced before the database names them.

Owns the one file open for writing. It decides which segment a row goes to, never whether the row exists.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shard.index import crc32c_blocks
from shard.segments import FilesOf, RowWriter, segment_capacity
from shard.store import SegmentRow, put_append, put_segment
from shard.types import FloatArray


@dataclass(frozen=True, slots=True)
class StagedRows:
    """Rows begin <= i < end of a batch, durable in `segment`, which is given as it will be once they are committed."""

    segment: SegmentRow
    begin: int
    end: int


def put_staged(db: sqlite3.Connection, staged: Sequence[StagedRows], embeddings: FloatArray) -> None:
    """Name staged rows in the manifest, with the checksums of their floats, inside the caller's transaction."""
    for piece in staged:
        put_segment(db, piece.segment)
        rows = piece.end - piece.begin
        first_row = piece.segment.first_row + piece.segment.rows - rows
        put_append(db, first_row, rows, crc32c_blocks(embeddings[piece.begin : piece.end]))


class Tail:
    """Writes float rows at the end of the last segment, opening new segments as each fills."""

    def __init__(self, files_of: FilesOf, dim: int) -> None:
        self._files_of, self._dim = files_of, dim
        self._file: RowWriter | None = None

    def stage(self, last: SegmentRow | None, embeddings: FloatArray) -> list[StagedRows]:
        """Write rows after those of `last`, synced. Until they are committed the next call overwrites them."""
        staged: list[StagedRows] = []
        begin = 0
        while begin < len(embeddings):
            if last is None or last.is_sealed or last.rows == last.capacity:
                last = self._next_segment(last)
            end = min(len(embeddings), begin + last.capacity - last.rows)
            file = self._open(last)
            file.write_at(last.rows * self._dim * 4, embeddings[begin:end])
            file.sync()
            last = replace(last, rows=last.rows + end - begin)
            staged.append(StagedRows(last, begin, end))
            begin = end
        return staged

    def _next_segment(self, last: SegmentRow | None) -> SegmentRow:
        number, first_row = (last.segment + 1, last.first_row + last.rows) if last else (1, 0)
        return SegmentRow(number, first_row, 0, segment_capacity(self._dim), False, None, None)

    def _open(self, segment: SegmentRow) -> RowWriter:
        files = self._files_of(segment.segment)
        if self._file is None or self._file.path != files.floats_path:
            self.close()
            self._file = files.open_tail(segment.capacity)
        return self._file

    def close(self) -> None:
        """Close the file; what was staged stays. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
