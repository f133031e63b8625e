"""`Checkpoints`: what a job has done so far, a file for each block.

A file is there as a whole or not at all, and says how long it is and what its checksum is:

    bytes 0-3    b"FGC1"
    bytes 4-7    CRC-32 of the data, little-endian
    bytes 8-15   length of the data, little-endian
    bytes 16-    the data
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from shard.errors import CorruptData, InvalidParameter, StorageError
from shard.files import make_directory, new_file, remove_file

_HEAD = struct.Struct("<4sIQ")
_MAGIC = b"FGC1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Checkpoints:
    """The checkpoints of one job. Thread-safe for different names."""

    def __init__(self, directory: Path) -> None:
        """directory: made if it is not there. What a process that died was writing there is removed."""
        self.directory = directory
        make_directory(directory)
        for path in directory.glob(".*.tmp"):
            remove_file(path)

    def names(self) -> frozenset[str]:
        """Names of all that are there."""
        return frozenset(path.name for path in self.directory.iterdir() if _NAME.fullmatch(path.name))

    def has(self, name: str) -> bool:
        """Whether it was written."""
        return self._path(name).is_file()

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Keep it: durable when this returns, all of it or nothing. One of that name is replaced.

        Raises InvalidParameter for a name that is no plain file name of at most 128 characters; WriteFailed.
        """
        view = memoryview(data).cast("B")
        with new_file(self._path(name)) as file:
            file.write(_HEAD.pack(_MAGIC, zlib.crc32(view), len(view)))
            file.write(view)

    def read(self, name: str) -> bytes:
        """What was written.

        Raises CorruptData if its bytes are not those that were written; it is removed then, so that a job that is
        resumed makes it again. StorageError if it is not there or cannot be read.
        """
        path = self._path(name)
        try:
            found = path.read_bytes()
        except OSError as error:
            raise StorageError(f"could not read the checkpoint {path}: {error.strerror or error}") from error
        data = memoryview(found)[_HEAD.size :]
        if len(found) < _HEAD.size or _HEAD.unpack_from(found) != (_MAGIC, zlib.crc32(data), len(data)):
            remove_file(path)
            raise CorruptData(
                f"the checkpoint {path} was damaged and has been removed; resume the job to make it again",
                path=str(path),
            )
        return bytes(data)

    def remove(self, name: str) -> None:
        """Remove it if it is there."""
        remove_file(self._path(name))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidParameter(
                f"checkpoint: expected a name of letters, digits, '.', '_' and '-', at most 128; got {name!r:.160}"
            )
        return self.directory / name
