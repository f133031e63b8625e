"""A file of a segment as it is on the disk: read, not mapped, so that what cannot be read is an error and no signal."""

from __future__ import annotations

from pathlib import Path

from shard.encryption import OVERHEAD, BlockCipher
from shard.errors import CorruptData


class StoredFile:
    """A file in the clear."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self) -> int:
        """Bytes that it has of what it keeps, -1 if it is not there."""
        return self.path.stat().st_size if self.path.is_file() else -1

    def read(self, start: int, length: int) -> bytes:
        """Bytes start <= at < start + length, fewer at the end of the file; OSError."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)


class EncryptedFile(StoredFile):
    """A file of blocks; sizes and offsets are those of the plaintext."""

    def __init__(self, path: Path, cipher: BlockCipher) -> None:
        super().__init__(path)
        self._cipher = cipher

    def size(self) -> int:
        """Bytes that it has of what it keeps, -1 if it is not there."""
        stored = super().size()
        return stored if stored < 0 else self._cipher.size(stored)

    def read(self, start: int, length: int) -> bytes:
        """As in the clear; CorruptData, which names the file, if a block of it is not what was written."""
        data, wrong = self.read_sound(start, length)
        if wrong:
            raise CorruptData(
                f"{self.path}: block {wrong[0]}, of the bytes from {wrong[0] * self._cipher.block} on, is not what was"
                " encrypted with this key for this place",
                path=str(self.path),
            )
        return data

    def read_sound(self, start: int, length: int) -> tuple[bytes, list[int]]:
        """As `read`, with zeros for blocks that are not what was written, and their numbers; OSError."""
        block = self._cipher.block
        first, last = start // block, -(-(start + length) // block)
        stored = super().read(first * (block + OVERHEAD), (last - first) * (block + OVERHEAD))
        data, wrong = self._cipher.decrypt(first, stored)
        return data[start - first * block :][:length], wrong
