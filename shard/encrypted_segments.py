"""Segments of an encrypted shard: ciphertext in their files, plaintext of floats and keys in memory while it is open.

    segment-000001/floats.enc            a block for each row: the tail grows row by row, and a row is mended alone
    segment-000001/keys.enc              sealed only: keys in blocks of 64 KiB
    segment-000001/codes-<model>.enc     sealed only: codes in blocks of 64 KiB

An index maps memory (`shard.files.MemoryFile`) where that of another shard maps files, so it and everything above work
alike. The manifest's checksums are of plaintext, so replicas, whose ciphertext differs, are compared as others are.

A row that fails its authentication is zeros in memory. The checksum of its block, which the manifest has, then does not
fit, and whoever reads it gets CorruptData; other rows stay readable, and it can be mended.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shard.encryption import BlockCipher, ShardCipher
from shard.errors import CorruptData, ShardClosed
from shard.files import MemoryFile, RowFile, make_directory, sync_directory, truncate_file, write_file, write_in_place
from shard.index import CHECKSUM_BLOCK, crc32c_blocks
from shard.segments import PlainSegments, RowWriter, SegmentFiles, Segments, check_bytes, whole_keys, wrong_size
from shard.store import SegmentRow
from shard.stored_file import EncryptedFile
from shard.types import CodeArray, FloatArray, KeyArray

_LOG = logging.getLogger(__name__)
_LOAD_ROWS = 1 << 12
"""Rows decrypted at a time: their ciphertext is in memory beside the plaintext."""


class EncryptedSegments:
    """The segments of one shard and the plaintext that is in memory of them. Thread-safe."""

    def __init__(self, directory: Path, dim: int, cipher: ShardCipher) -> None:
        self.directory, self.dim, self.cipher = directory, dim, cipher
        self._plain: dict[tuple[int, str], MemoryFile] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def files(self, segment: int) -> EncryptedSegmentFiles:
        """The files of one segment."""
        return EncryptedSegmentFiles(self, segment)

    def plain(self, segment: int, kind: str) -> MemoryFile | None:
        """The plaintext that is in memory of a segment's file."""
        with self._lock:
            return self._plain.get((segment, kind))

    def put_plain(self, segment: int, kind: str, memory: MemoryFile) -> None:
        """Keep plaintext until `forget` or `close`; what was kept before stays for those who have it mapped.

        ShardClosed after `close`.
        """
        with self._lock:
            if self._is_closed:
                memory.close()
                raise ShardClosed(f"{self.directory} is closed")
            before, self._plain[segment, kind] = self._plain.get((segment, kind)), memory
        if before is not None:
            before.close()

    def forget(self, segment: int) -> None:
        """Let go of a segment's plaintext."""
        with self._lock:
            gone = [self._plain.pop(name) for name in list(self._plain) if name[0] == segment]
        for memory in gone:
            memory.close()

    def close(self) -> None:
        """Let go of all plaintext. Idempotent."""
        with self._lock:
            self._is_closed = True
            segments = {segment for segment, _ in self._plain}
        for segment in segments:
            self.forget(segment)


def segments_of(directory: Path, dim: int, cipher: ShardCipher | None) -> Segments:
    """The segments of a shard; without a cipher of one in the clear."""
    return PlainSegments(directory, dim) if cipher is None else EncryptedSegments(directory, dim, cipher)


class EncryptedSegmentFiles(SegmentFiles):
    """The files of one segment of an encrypted shard."""

    def __init__(self, owner: EncryptedSegments, segment: int) -> None:
        super().__init__(owner.directory, segment, owner.dim)
        self.floats_path = self.directory / "floats.enc"
        self.keys_path = self.directory / "keys.enc"
        self._owner, self._segment, self._row_bytes = owner, segment, owner.dim * 4

    def codes_path(self, model_id: str) -> Path:
        """File of the codes made by that model."""
        return self.directory / f"codes-{model_id}.enc"

    def stored_floats(self) -> EncryptedFile:
        """The float file as it is on the disk."""
        return EncryptedFile(self.floats_path, self._cipher("floats", self._row_bytes))

    def stored_keys(self) -> EncryptedFile:
        """The key file as it is on the disk."""
        return EncryptedFile(self.keys_path, self._cipher("keys"))

    def stored_codes(self, model_id: str) -> EncryptedFile:
        """The file of the codes by that model as it is on the disk."""
        return EncryptedFile(self.codes_path(model_id), self._cipher(f"codes {model_id}"))

    def _cipher(self, name: str, block: int = CHECKSUM_BLOCK) -> BlockCipher:
        return self._owner.cipher.blocks(name, self._segment, block)

    # Floats

    def mapped_floats(self) -> Path:
        """The plaintext in memory, which `load` or `open_tail` put there."""
        return self._plain("floats").path

    def _plain(self, kind: str) -> MemoryFile:
        memory = self._owner.plain(self._segment, kind)
        if memory is None:
            path = str(self.floats_path if kind == "floats" else self.keys_path)
            raise CorruptData(f"{path}: expected its plaintext in memory, which has been let go of", path=path)
        return memory

    def load(self, row: SegmentRow) -> None:
        """Decrypt the segment's rows into memory that has room for all of its capacity; OSError.

        Rows that are not what was written are zeros.
        """
        memory = MemoryFile(row.capacity * self._row_bytes, self.floats_path)
        stored, wrong = self.stored_floats(), 0
        try:
            for first in range(0, row.rows, _LOAD_ROWS):
                size = (min(row.rows, first + _LOAD_ROWS) - first) * self._row_bytes
                data, damaged = stored.read_sound(first * self._row_bytes, size)
                memory.write_at(first * self._row_bytes, np.frombuffer(data, np.uint8))
                wrong += len(damaged)
        except BaseException:
            memory.close()
            raise
        if wrong:
            _LOG.error("%s: %d rows are not what was encrypted with this key", self.floats_path, wrong)
        self._owner.put_plain(self._segment, "floats", memory)

    def forget(self) -> None:
        """Let go of the plaintext in memory."""
        self._owner.forget(self._segment)

    def open_tail(self, capacity: int) -> RowWriter:
        """As in the clear; rows written are in memory too."""
        make_directory(self.directory)
        cipher = self._cipher("floats", self._row_bytes)
        memory = self._owner.plain(self._segment, "floats")
        if memory is None:
            memory = MemoryFile(capacity * self._row_bytes, self.floats_path)
            self._owner.put_plain(self._segment, "floats", memory)
        memory.grow(capacity * self._row_bytes)
        tail = _EncryptedTail(self.floats_path, capacity, cipher, memory)
        sync_directory(self.directory)
        return tail

    def is_tail(self, capacity: int) -> bool:
        """As in the clear."""
        stored = self._cipher("floats", self._row_bytes).stored(capacity * self._row_bytes)
        return self.floats_path.is_file() and self.floats_path.stat().st_size == stored

    def open_scratch(self, size: int) -> RowWriter:
        """Memory: codes tell of floats."""
        return MemoryFile(size, self.scratch_path)

    def floats(self, rows: int) -> FloatArray:
        """The first `rows` rows, (rows, dim) float32, read-only; decrypted for the caller alone if none loaded them."""
        memory = self._owner.plain(self._segment, "floats")
        if rows == 0:
            return np.empty((0, self._dim), np.float32)
        if memory is None:
            data, _ = self.stored_floats().read_sound(0, rows * self._row_bytes)
            return np.frombuffer(data, "<f4").reshape(rows, self._dim)
        return np.memmap(memory.path, dtype="<f4", mode="r", shape=(rows, self._dim))

    def truncate_floats(self, rows: int) -> None:
        """Cut the float file to `rows` rows, durably; the memory stays, others have it mapped."""
        truncate_file(self.floats_path, self._cipher("floats", self._row_bytes).stored(rows * self._row_bytes))

    def check_floats(self, row: SegmentRow) -> None:
        """CorruptData if the floats in memory are not what was sealed."""
        check_bytes(self.floats_path, self.floats(row.rows).reshape(-1).view(np.uint8), row.floats_crc)

    def write_floats_again(self, offset: int, data: CodeArray, first: int, rows: FloatArray) -> None:
        """As in the clear, on the disk and in memory. A row is written as a whole: of what the bytes have in part, the
        rest is what is there or, where that is damaged, that of `rows`, which belongs to a damaged block then too.
        """
        begin = first * self._row_bytes
        wanted = np.ascontiguousarray(rows, "<f4").view(np.uint8).copy()
        stored, wrong = self.stored_floats().read_sound(begin, wanted.size) if self.floats_path.is_file() else (b"", [])
        found = np.frombuffer(stored, np.uint8)
        for i in range(len(found) // self._row_bytes):
            if first + i not in wrong:
                wanted[i] = found[i * self._row_bytes : (i + 1) * self._row_bytes]
        flat = wanted.reshape(-1)
        flat[offset - begin : offset - begin + len(data)] = data
        cipher = self._cipher("floats", self._row_bytes)
        write_in_place(self.floats_path, cipher.stored(begin), cipher.encrypt(first, flat.data))
        memory = self._owner.plain(self._segment, "floats")
        if memory is not None:
            memory.write_at(begin, flat)

    # Keys and codes

    def mapped_keys(self) -> Path:
        """The plaintext in memory, which writing or reading the keys put there."""
        return self._plain("keys").path

    def write_keys(self, keys: KeyArray) -> bytes:
        """Write the key file; returns the checksums of its plaintext."""
        data = keys.astype("<u8")
        write_file(self.keys_path, self._cipher("keys").encrypt(0, data.tobytes()))
        self._hold_keys(data)
        return crc32c_blocks(data)

    def write_keys_again(self, keys: KeyArray) -> None:
        """Write the key file over a damaged one; an index that has them mapped sees them."""
        data = keys.astype("<u8")
        write_file(self.keys_path, self._cipher("keys").encrypt(0, data.tobytes()))
        self._hold_keys(data)

    def _hold_keys(self, keys: KeyArray) -> None:
        memory = self._owner.plain(self._segment, "keys")
        if memory is None or memory.size != keys.nbytes:
            memory = MemoryFile(keys.nbytes, self.keys_path)
            self._owner.put_plain(self._segment, "keys", memory)
        memory.write_at(0, keys)

    def read_keys(self, row: SegmentRow) -> KeyArray:
        """The stored keys, (rows,) uint64; CorruptData if they are not what was sealed."""
        keys = _checked(self.stored_keys(), row.rows * 8, row.keys_crc).view("<u8")
        self._hold_keys(keys)
        return keys

    def found_keys(self, rows: int) -> KeyArray:
        """What the key file has, right or not, (rows,) uint64; 0 where it has nothing, or nothing that is authentic."""
        stored = self.stored_keys()
        found = stored.read_sound(0, stored.size())[0] if stored.size() > 0 else b""
        return whole_keys(np.frombuffer(found, np.uint8), rows)

    def write_codes(self, model_id: str, codes: CodeArray) -> bytes:
        """Write codes, (rows, code_bytes) uint8; returns the checksums of their plaintext."""
        cipher = self._cipher(f"codes {model_id}")
        write_file(self.codes_path(model_id), cipher.encrypt(0, np.ascontiguousarray(codes).reshape(-1).data))
        return crc32c_blocks(codes)

    def read_codes(self, model_id: str, rows: int, code_bytes: int, crc: bytes) -> CodeArray:
        """The stored codes, (rows, code_bytes) uint8; CorruptData if size, authentication or checksum is wrong."""
        return _checked(self.stored_codes(model_id), rows * code_bytes, crc).reshape(rows, code_bytes)


def _checked(stored: EncryptedFile, size: int, crc: bytes | None) -> CodeArray:
    found = stored.size()
    if found != size:
        raise wrong_size(stored.path, size, found)
    data = np.frombuffer(stored.read(0, size), np.uint8)
    check_bytes(stored.path, data, crc)
    return data


class _EncryptedTail:
    """The float file of the open tail: rows go to the disk encrypted, and as they are to memory."""

    def __init__(self, path: Path, capacity: int, cipher: BlockCipher, memory: MemoryFile) -> None:
        self.path, self._cipher, self._memory = path, cipher, memory
        self._file = RowFile(path, cipher.stored(capacity * cipher.block))

    def write_at(self, offset: int, rows: npt.NDArray[np.generic]) -> None:
        """Write whole rows at `offset`, a multiple of a row; not durable before `sync`."""
        data = rows.reshape(-1).view(np.uint8)
        stored = self._cipher.encrypt(offset // self._cipher.block, data.data)
        self._file.write_at(self._cipher.stored(offset), np.frombuffer(stored, np.uint8))
        self._memory.write_at(offset, data)

    def sync(self) -> None:
        """Make everything written so far durable."""
        self._file.sync()

    def close(self) -> None:
        """Close the file; the memory stays. Idempotent."""
        self._file.close()

    def discard(self) -> None:
        """Close the file and remove it. Idempotent."""
        self._file.discard()
