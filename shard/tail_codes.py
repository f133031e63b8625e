"""Codes of the open tail, kept beside it until it is sealed, so that sealing need not encode its rows again.

Owns one scratch file that is never synced and never read by another process: it is removed on opening. It knows nothing
of what the codes mean; without them sealing encodes from the floats.
"""

from __future__ import annotations

import logging

import numpy as np

from shard.errors import WriteFailed
from shard.segments import RowWriter, SegmentFiles
from shard.store import SegmentRow
from shard.types import CodeArray

_LOG = logging.getLogger(__name__)


class TailCodes:
    """Row-major codes of one segment's first rows by one model, in a file: pages the kernel may take back, not heap."""

    def __init__(self) -> None:
        self._file: RowWriter | None = None
        self._segment, self._rows, self._model_id = 0, 0, ""

    def write(self, files: SegmentFiles, segment: SegmentRow, model_id: str, first: int, codes: CodeArray) -> None:
        """Keep codes (n, code_bytes) of the segment's rows from `first` on; WriteFailed if the disk fails.

        Rows kept before stay if they are the rows below `first`, by the same model.
        """
        if first == 0:
            self.drop()
            size = segment.capacity * codes.shape[1]
            self._file = files.open_scratch(size)
            self._segment, self._model_id = segment.segment, model_id
        elif self._file is None or (self._segment, self._model_id) != (segment.segment, model_id) or first > self._rows:
            return  # what is before these rows was written by another process or model; sealing encodes
        assert self._file is not None
        self._file.write_at(first * codes.shape[1], codes)
        self._rows = first + len(codes)

    def of(self, row: SegmentRow, model_id: str, code_bytes: int) -> CodeArray | None:
        """Codes of all rows of the segment, (rows, code_bytes) uint8, mapped; None if not all of them are kept."""
        kept = (self._segment, self._rows, self._model_id) == (row.segment, row.rows, model_id)
        if self._file is None or not kept or row.rows == 0:
            return None
        return np.memmap(self._file.path, np.uint8, "r", shape=(row.rows, code_bytes))

    def drop(self) -> None:
        """Remove the file; one that cannot be removed is overwritten by the next, or removed on opening. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.discard()
            except WriteFailed as error:
                _LOG.warning("scratch is left behind: %s", error)
