"""Segments: a run of rows in files of their own. The last one is the open tail; sealed ones never change again.

    segment-000001/floats.f32            rows x dim little-endian float32; the tail's file is sparse up to its capacity
    segment-000001/keys.u64              sealed only: one little-endian uint64 a row (`shard.keys`)
    segment-000001/codes-<model>.rows    sealed only: rows x the model's code_bytes; derived, can be rebuilt
    segment-000001/codes.tmp             tail only: scratch of the process that writes it (`shard.tail_codes`)

Owns names, sizes and checksums of these files. What is true is decided by `shard.store`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from shard.errors import CorruptData, WriteFailed
from shard.files import (
    RowFile,
    make_directory,
    remove_file,
    remove_tree,
    sync_directory,
    truncate_file,
    write_file,
    write_in_place,
)
from shard.index import checksum_block, crc32c_blocks, wrong_block
from shard.store import SegmentRow
from shard.types import CodeArray, FloatArray, KeyArray

SEGMENT_BYTES = 128 << 20
"""Most floats of one full segment: a million rows are a few dozen files, and one is copied in a second."""
SEGMENT_ROWS = 1 << 16
"""Most rows of one: the order of its lists takes two bytes a row."""


def segment_capacity(dim: int) -> int:
    """Rows of a full segment, a multiple of 1,024."""
    return min(max(1, SEGMENT_BYTES // (dim * 4 * 1024)) * 1024, SEGMENT_ROWS)


class SegmentFiles:
    """The files of one segment of one shard."""

    def __init__(self, shard_directory: Path, segment: int, dim: int) -> None:
        self.directory = shard_directory / f"segment-{segment:06d}"
        self.floats_path = self.directory / "floats.f32"
        self.keys_path = self.directory / "keys.u64"
        self.scratch_path = self.directory / "codes.tmp"
        self._dim = dim

    def codes_path(self, model_id: str) -> Path:
        """File of the codes made by that model."""
        return self.directory / f"codes-{model_id}.rows"

    def open_tail(self, capacity: int) -> RowFile:
        """Create the directory and the float file if they are not there, durably; the file is `capacity` rows long."""
        make_directory(self.directory)
        tail = RowFile(self.floats_path, capacity * self._dim * 4)
        sync_directory(self.directory)
        return tail

    def is_tail(self, capacity: int) -> bool:
        """Whether the float file is there and `capacity` rows long, as it is mapped.

        Not whether that is durable: whoever writes into it calls `open_tail`, and what was committed was synced.
        """
        return self.floats_path.is_file() and self.floats_path.stat().st_size == capacity * self._dim * 4

    def try_map(self, capacity: int) -> None:
        """Map the float file and let go of it again; WriteFailed if that cannot be had."""
        try:
            np.memmap(self.floats_path, dtype="<f4", mode="r", shape=(capacity, self._dim))
        except (OSError, MemoryError, ValueError) as error:
            raise WriteFailed(f"could not map {self.floats_path}: {error or 'out of memory'}") from error

    def check_size(self, row: SegmentRow) -> None:
        """CorruptData if the float file is missing or shorter than the manifest's rows, or has too few checksums."""
        expected = row.rows * self._dim * 4
        found = self.floats_path.stat().st_size if self.floats_path.is_file() else -1
        if found < expected or (row.is_sealed and found != expected):
            raise CorruptData(
                f"{self.floats_path}: the manifest names {row.rows} rows of {self._dim} float32 = {expected} bytes,"
                f" the file {'is missing' if found < 0 else f'has {found}'}",
                path=str(self.floats_path),
            )
        if row.floats_crc:
            checksum_block(self.floats_path, expected, row.floats_crc)

    def floats(self, rows: int) -> FloatArray:
        """The first `rows` rows, (rows, dim) float32, mapped read-only."""
        if rows == 0:
            return np.empty((0, self._dim), np.float32)
        return np.memmap(self.floats_path, dtype="<f4", mode="r", shape=(rows, self._dim))

    def write_keys(self, keys: KeyArray) -> bytes:
        """Write the key file; returns its checksums."""
        data = keys.astype("<u8")
        write_file(self.keys_path, data.tobytes())
        return crc32c_blocks(data)

    def write_keys_again(self, keys: KeyArray) -> None:
        """Write the key file over a damaged one, in place: an index that has it mapped sees them."""
        if self.keys_path.is_file() and self.keys_path.stat().st_size > keys.nbytes:
            truncate_file(self.keys_path, keys.nbytes)
        write_in_place(self.keys_path, 0, keys.astype("<u8").tobytes())

    def read_keys(self, row: SegmentRow) -> KeyArray:
        """The stored keys, (rows,) uint64; CorruptData if they are not what was sealed."""
        return _checked(self.keys_path, row.rows * 8, row.keys_crc).view("<u8")

    def write_codes(self, model_id: str, codes: CodeArray) -> bytes:
        """Write codes, (rows, code_bytes) uint8; returns the file's checksums."""
        write_file(self.codes_path(model_id), np.ascontiguousarray(codes).data)
        return crc32c_blocks(codes)

    def read_codes(self, model_id: str, rows: int, code_bytes: int, crc: bytes) -> CodeArray:
        """The stored codes, (rows, code_bytes) uint8, mapped; CorruptData if size or checksum is wrong."""
        return _checked(self.codes_path(model_id), rows * code_bytes, crc).reshape(rows, code_bytes)

    def check_floats(self, row: SegmentRow) -> None:
        """CorruptData if the float file is not what was sealed."""
        _checked(self.floats_path, row.rows * self._dim * 4, row.floats_crc)

    def check_appends(self, row: SegmentRow, appends: Sequence[tuple[int, int, bytes]]) -> None:
        """CorruptData if floats of the open tail are not what was written. appends: first row, rows, CRC32C of each."""
        floats = self.floats(row.rows)
        for first_row, rows, crc in appends:
            begin = first_row - row.first_row
            if crc32c_blocks(np.asarray(floats[begin : begin + rows])) != crc:
                raise CorruptData(
                    f"{self.floats_path}: wrong CRC32C in the {rows} rows at byte {begin * self._dim * 4}",
                    path=str(self.floats_path),
                )

    def remove_codes_except(self, model_ids: Collection[str]) -> None:
        """Remove the code files of all models but these, and unfinished writes."""
        keep = {self.codes_path(model_id) for model_id in model_ids}
        for path in self.directory.glob("*"):
            if path.suffix == ".tmp" or (path.suffix == ".rows" and path not in keep):
                remove_file(path)


def remove_unnamed_segments(shard_directory: Path, named: set[str]) -> None:
    """Remove segment directories that the manifest does not name: what a crash left of unacknowledged writes."""
    for path in shard_directory.glob("segment-*"):
        if path.name not in named:
            remove_tree(path)


def _checked(path: Path, size: int, crc: bytes | None) -> CodeArray:
    found = path.stat().st_size if path.is_file() else -1
    if found != size:
        raise CorruptData(
            f"{path}: expected {size} bytes, {'the file is missing' if found < 0 else f'found {found}'}", path=str(path)
        )
    data = np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)
    if crc is None:
        return data
    block = checksum_block(path, size, crc)
    actual = crc32c_blocks(data, block)
    if actual == crc:
        return data
    wrong = next(i for i in range(0, len(actual), 4) if actual[i : i + 4] != crc[i : i + 4]) // 4
    raise wrong_block(path, wrong * block)
