"""Segments: a run of rows in files of their own. The last one is the open tail; sealed ones never change again.

    segment-000001/floats.f32            rows x dim little-endian float32; the tail's file is sparse up to its capacity
    segment-000001/keys.u64              sealed only: one little-endian uint64 a row (`shard.keys`)
    segment-000001/codes-<model>.rows    sealed only: rows x the model's code_bytes; derived, can be rebuilt
    segment-000001/codes.tmp             tail only: scratch of the process that writes it (`shard.tail_codes`)

Owns names, sizes and checksums of these files. What is true is decided by `shard.store`. Those of an encrypted shard
are in `shard.encrypted_segments`, which keeps the plaintext that is mapped in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

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
from shard.stored_file import StoredFile
from shard.types import CodeArray, FloatArray, KeyArray

SEGMENT_BYTES = 128 << 20
"""Most floats of one full segment: a million rows are a few dozen files, and one is copied in a second."""
SEGMENT_ROWS = 1 << 16
"""Most rows of one: the order of its lists takes two bytes a row."""


FilesOf = Callable[[int], "SegmentFiles"]
"""The number of a segment to its files."""


def segment_capacity(dim: int) -> int:
    """Rows of a full segment, a multiple of 1,024."""
    return min(max(1, SEGMENT_BYTES // (dim * 4 * 1024)) * 1024, SEGMENT_ROWS)


class RowWriter(Protocol):
    """A file of rows that is being written, see `shard.files.RowFile`."""

    @property
    def path(self) -> Path:
        """Its name on the disk; of scratch, where it can be mapped."""

    def write_at(self, offset: int, rows: npt.NDArray[np.generic]) -> None:
        """Write the array's bytes at `offset`; not durable before `sync`."""

    def sync(self) -> None:
        """Make everything written so far durable."""

    def close(self) -> None:
        """Close it. Idempotent."""

    def discard(self) -> None:
        """Close it and remove it. Idempotent."""


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

    def stored_floats(self) -> StoredFile:
        """The float file as it is on the disk."""
        return StoredFile(self.floats_path)

    def stored_keys(self) -> StoredFile:
        """The key file as it is on the disk."""
        return StoredFile(self.keys_path)

    def stored_codes(self, model_id: str) -> StoredFile:
        """The file of the codes by that model as it is on the disk."""
        return StoredFile(self.codes_path(model_id))

    def mapped_floats(self) -> Path:
        """The file that an index maps for the floats."""
        return self.floats_path

    def mapped_keys(self) -> Path:
        """The file that an index maps for the keys, once they were written or read."""
        return self.keys_path

    def open_tail(self, capacity: int) -> RowWriter:
        """Create the directory and the float file if they are not there, durably; the file is `capacity` rows long."""
        make_directory(self.directory)
        tail = RowFile(self.floats_path, capacity * self._dim * 4)
        sync_directory(self.directory)
        return tail

    def open_scratch(self, size: int) -> RowWriter:
        """A file of `size` bytes for codes of the tail, whose path can be mapped; gone at the latest on opening."""
        return RowFile(self.scratch_path, size)

    def is_tail(self, capacity: int) -> bool:
        """Whether the float file is there and `capacity` rows long, as it is mapped.

        Not whether that is durable: whoever writes into it calls `open_tail`, and what was committed was synced.
        """
        return self.floats_path.is_file() and self.floats_path.stat().st_size == capacity * self._dim * 4

    def try_map(self, capacity: int) -> object:
        """Map the float file, on trial: until the caller lets go of what this returns. WriteFailed if it cannot be."""
        try:
            return np.memmap(self.mapped_floats(), dtype="<f4", mode="r", shape=(capacity, self._dim))
        except (OSError, MemoryError, ValueError) as error:
            raise WriteFailed(f"could not map {self.floats_path}: {error or 'out of memory'}") from error

    def load(self, row: SegmentRow) -> None:
        """Make ready what `floats` and an index map: nothing, where that is the file itself."""

    def forget(self) -> None:
        """Let go of what `load` made ready."""

    def check_size(self, row: SegmentRow) -> None:
        """CorruptData if the float file is missing or shorter than the manifest's rows, or has too few checksums."""
        expected = row.rows * self._dim * 4
        found = self.stored_floats().size()
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

    def truncate_floats(self, rows: int) -> None:
        """Cut the float file to `rows` rows, durably."""
        truncate_file(self.floats_path, rows * self._dim * 4)

    def write_floats_again(self, offset: int, data: CodeArray, first: int, rows: FloatArray) -> None:
        """Write bytes (n,) uint8 over damaged ones at `offset`, in place: an index that has the file mapped sees them.

        rows: (m, dim) float32 from row `first` on, those that the bytes are of, at its ends in part.
        """
        write_in_place(self.floats_path, offset, data.data)

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

    def found_keys(self, rows: int) -> KeyArray:
        """What the key file has, right or not, (rows,) uint64; 0 where it has nothing."""
        found = np.fromfile(self.keys_path, np.uint8) if self.keys_path.is_file() else np.empty(0, np.uint8)
        return whole_keys(found, rows)

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
            if path.suffix == ".tmp" or (path.name.startswith("codes-") and path not in keep):
                remove_file(path)


class Segments(Protocol):
    """Where the files of a shard's segments are had."""

    @property
    def dim(self) -> int:
        """Floats of a row."""

    def files(self, segment: int) -> SegmentFiles:
        """The files of one segment."""

    def close(self) -> None:
        """Let go of what is in memory for them. Idempotent."""


@dataclass(frozen=True, slots=True)
class PlainSegments:
    """The segments of a shard in the clear."""

    directory: Path
    dim: int

    def files(self, segment: int) -> SegmentFiles:
        """The files of one segment."""
        return SegmentFiles(self.directory, segment, self.dim)

    def close(self) -> None:
        """Nothing is in memory."""


def remove_unnamed_segments(shard_directory: Path, named: set[str]) -> None:
    """Remove segment directories that the manifest does not name: what a crash left of unacknowledged writes."""
    for path in shard_directory.glob("segment-*"):
        if path.name not in named:
            remove_tree(path)


def whole_keys(found: CodeArray, rows: int) -> KeyArray:
    """Keys (rows,) uint64 of the bytes that were found of them, 0 where there are too few."""
    data = np.zeros(rows * 8, np.uint8)
    data[: len(found)] = found[: len(data)]
    return data.view("<u8").astype(np.uint64)


def _checked(path: Path, size: int, crc: bytes | None) -> CodeArray:
    found = path.stat().st_size if path.is_file() else -1
    if found != size:
        raise wrong_size(path, size, found)
    data = np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)
    check_bytes(path, data, crc)
    return data


def wrong_size(path: Path, expected: int, found: int) -> CorruptData:
    """The error of a file of another size than expected; found: -1 if it is not there."""
    came = "the file is missing" if found < 0 else f"found {found}"
    return CorruptData(f"{path}: expected {expected} bytes, {came}", path=str(path))


def check_bytes(path: Path, data: CodeArray, crc: bytes | None) -> None:
    """CorruptData, which names the file, if its bytes (n,) uint8 do not have these checksums; None: not known."""
    if crc is None:
        return
    block = checksum_block(path, len(data), crc)
    actual = crc32c_blocks(data, block)
    if actual != crc:
        wrong = next(i for i in range(0, len(actual), 4) if actual[i : i + 4] != crc[i : i + 4]) // 4
        raise wrong_block(path, wrong * block)
