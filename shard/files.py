"""The only place that writes data files: fsync, rename, truncate, locks.

Every function returns when its effect is durable, or raises WriteFailed naming the path and the reason. Nothing here
knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from shard.errors import HomeLocked, WriteFailed
from shard.failpoints import step

_BENIGN_DIRECTORY_FSYNC = {errno.EINVAL, errno.ENOTSUP}


@contextlib.contextmanager
def _reporting(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteFailed(f"could not {action} {path}: {error.strerror or error}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with _reporting("sync directory", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with step("files.sync_directory.fsync"):
                os.fsync(fd)
        except OSError as error:
            # Some network file systems sync names with the file and refuse fsync on a directory.
            if error.errno not in _BENIGN_DIRECTORY_FSYNC:
                raise
        finally:
            os.close(fd)


def sync_file(path: Path) -> None:
    """Make a file's bytes and its size durable, whoever wrote them."""
    with _reporting("sync", path):
        fd = os.open(path, os.O_RDWR)
        try:
            with step("files.sync_file.fsync"):
                os.fsync(fd)
        finally:
            os.close(fd)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, durably, private to this user. One that exists is left as it is."""
    missing = [path, *path.parents]
    missing = missing[: next((i for i, parent in enumerate(missing) if parent.is_dir()), len(missing))]
    for directory in reversed(missing):
        with _reporting("create directory", directory), step("files.make_directory.mkdir"):
            directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)


def write_file(path: Path, data: bytes | memoryview, *, mode: int = 0o600, suffix: str = ".tmp") -> None:
    """Replace a whole file: readers see the old bytes or the new ones, also after a crash.

    suffix: of the temporary name, for files that several processes may write at once.
    """
    temporary = path.with_name(f"{path.name}{suffix}")
    with _reporting("write", path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with step("files.write_file.write"):
                _write_all(fd, memoryview(data).cast("B"), 0)
            with step("files.write_file.fsync"):
                os.fsync(fd)
        finally:
            os.close(fd)
        with step("files.write_file.rename"):
            os.replace(temporary, path)
    sync_directory(path.parent)


def append_to_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Add bytes to the end of a file, created if it is not there. For logs: not durable, and a crash may cut it."""
    with _reporting("append to", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
        try:
            written = os.write(fd, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)


@contextlib.contextmanager
def new_file(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write from its beginning to its end: it has its name when the block ends, all of it durable.

    If the block fails, nothing is left. A file of that name is replaced. An OSError in the block is WriteFailed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with _reporting("write", path):
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def new_directory(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """A directory to fill, under another name: it has its own when the block ends, durable if its files are.

    If the block fails, nothing is left. replaces: put it in the place of a directory at `path`, which is removed then
    (a crash in between may leave that one under a name ending with `.old`); otherwise WriteFailed if one is there.
    """
    mark = f".{path.name}.{secrets.token_hex(8)}"
    temporary, old = path.with_name(f"{mark}.tmp"), path.with_name(f"{mark}.old")
    make_directory(temporary)
    try:
        yield temporary
        sync_directory(temporary)
        with _reporting("rename a directory to", path):
            if replaces and path.exists():
                os.rename(path, old)
            try:
                os.rename(temporary, path)
            except OSError:
                if old.exists():
                    os.rename(old, path)
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(path.parent)
    remove_tree(old)


def probe_directory(path: Path) -> None:
    """WriteFailed unless a small file can be written, synced and removed in the directory."""
    write_file(path / "probe", bytes(4096))
    remove_file(path / "probe")


def remove_file(path: Path) -> None:
    """Remove a file if it is there."""
    with _reporting("remove", path), step("files.remove_file.unlink"):
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it, if it is there, and make that durable."""
    with _reporting("remove", path):
        if path.exists():
            with step("files.remove_tree.rmtree"):
                shutil.rmtree(path)
    sync_directory(path.parent)


def truncate_file(path: Path, size: int) -> None:
    """Cut a file to `size` bytes, durably."""
    with _reporting("truncate", path):
        fd = os.open(path, os.O_RDWR)
        try:
            with step("files.truncate_file.truncate"):
                os.ftruncate(fd, size)
            with step("files.truncate_file.fsync"):
                os.fsync(fd)
        finally:
            os.close(fd)


def write_in_place(path: Path, offset: int, data: memoryview | bytes) -> None:
    """Write bytes into a file, created if it is not there, durably. A crash may leave some of them written.

    For bytes that are wrong already and have a checksum: until all of them are right they stay known as wrong. A
    mapping of the file sees them.
    """
    is_new = not path.exists()
    with _reporting("write", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _write_all(fd, memoryview(data).cast("B"), offset)
            os.fsync(fd)
        finally:
            os.close(fd)
    if is_new:
        sync_directory(path.parent)


def blocks_bytes(directory: Path) -> int:
    """Bytes that the files below a directory take on disk: of a sparse file, the blocks that are there."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # an unfinished file that got its name meanwhile
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        if written == 0:  # as a full disk may answer on some file systems; asking again would not end
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, offset = data[written:], offset + written


class RowFile:
    """A preallocated (sparse) file of fixed-size rows, written in place and read elsewhere through a mapping."""

    def __init__(self, path: Path, size: int) -> None:
        """Open or create `path` and make it `size` bytes long, durably."""
        self.path = path
        with _reporting("open for writing", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                with step("files.RowFile.open.truncate"):
                    os.ftruncate(self._fd, size)
                with step("files.RowFile.open.fsync"):
                    os.fsync(self._fd)
            except OSError:
                os.close(self._fd)
                raise

    def write_at(self, offset: int, rows: npt.NDArray[np.generic]) -> None:
        """Write the array's bytes at `offset`; not durable before `sync`."""
        with _reporting("write", self.path), step("files.RowFile.write_at.write"):
            _write_all(self._fd, rows.reshape(-1).view(np.uint8).data, offset)

    def sync(self) -> None:
        """Make everything written so far durable."""
        with _reporting("sync", self.path), step("files.RowFile.sync.fsync"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; what was synced stays. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Close the file and remove it; WriteFailed if it cannot be removed. Idempotent."""
        if self._fd >= 0:
            self.close()
            remove_file(self.path)


class MemoryFile:
    """A file of anonymous memory, which has a path for this process while it is open and never reaches a disk.

    Where plaintext of encrypted files is kept; only swapping could write it down. Its pages are there once written.
    """

    def __init__(self, size: int, stands_for: Path) -> None:
        """A file of `size` zeros. stands_for: the file on the disk that errors have to name.

        Raises WriteFailed if memory or descriptors do not suffice, or where the system has no such files.
        """
        if not hasattr(os, "memfd_create"):
            raise WriteFailed(f"{stands_for}: encrypted shards need files of anonymous memory, which Linux has")
        with _reporting("make memory for", stands_for):
            self._fd = os.memfd_create("facegrid", os.MFD_CLOEXEC)
            try:
                os.ftruncate(self._fd, size)
            except OSError:
                os.close(self._fd)
                raise
        self.size, self.path = size, Path(f"/proc/self/fd/{self._fd}")
        self._stands_for = stands_for
        _IN_MEMORY[str(self.path)] = stands_for

    def write_at(self, offset: int, rows: npt.NDArray[np.generic]) -> None:
        """Write the array's bytes at `offset`, within the size."""
        with _reporting("hold in memory", self._stands_for):
            _write_all(self._fd, rows.reshape(-1).view(np.uint8).data, offset)

    def grow(self, size: int) -> None:
        """Make it `size` bytes long, if it is shorter; what is mapped stays."""
        if size > self.size:
            with _reporting("hold in memory", self._stands_for):
                os.ftruncate(self._fd, size)
            self.size = size

    def sync(self) -> None:
        """Nothing: there is no disk."""

    def close(self) -> None:
        """Let go of the memory, as soon as nobody has it mapped. Idempotent."""
        if self._fd >= 0:
            _IN_MEMORY.pop(str(self.path), None)
            os.close(self._fd)
            self._fd = -1

    discard = close


_IN_MEMORY: dict[str, Path] = {}


def on_disk(path: str) -> Path:
    """The file on the disk of which the path is one, be it of what a MemoryFile holds of it."""
    return _IN_MEMORY.get(path, Path(path))


class DirectoryLock:
    """An exclusive lock on a directory, held until closed or the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock; HomeLocked if another open (in any process) has it."""
        path = directory / "LOCK"
        with _reporting("open", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise HomeLocked(f"{directory} is open in another process (pid {owner}); one process may open it") from None
        try:
            with _reporting("write", path), step("files.DirectoryLock.write"):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except WriteFailed:
            os.close(self._fd)  # or nobody in this process could open it again
            raise

    def close(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
