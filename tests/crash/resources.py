"""A shard that lacks something for a while: space, write permission, descriptors, memory. Tasks of forked children.

Each says `asked` for a write that was made while it lacked it, `refused` with the error, and `wrong` for what should
not be. Limits and mounts are the child's own and end with it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from shard.errors import StorageError
from shard.types import EnrollBatch
from tests.crash.faults import Fault, Shim
from tests.crash.history import DIM, History, Operation
from tests.crash.workload import Driver, Say, batch_of, differences
from tests.faces_like import unit_rows

_NEWNS, _NEWUSER = 0x0002_0000, 0x1000_0000
_MOUNT_BYTES = 4 << 20
_SMALL = 60
"""Rows of the shard: three sealed segments and a tail."""


def disk_full(say: Say, *, directory: str, saved: str) -> None:
    """A tmpfs of 4 MiB is filled by another's file; then there is room again."""
    if not _mount_tmpfs(directory):
        say(unavailable="mounting a tmpfs is not permitted here")
        return
    ballast = Path(directory) / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    _endure(say, directory, saved, fill, ballast.unlink)


def file_too_large(say: Say, *, directory: str, saved: str) -> None:
    """No file may grow past 4 KiB more than a tail has: a limit that needs no rights (EFBIG instead of ENOSPC)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))

    _endure(say, directory, saved, limit, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)))


def read_only_file_system(say: Say, *, directory: str, saved: str) -> None:
    """Every call that changes a file answers EROFS, as after the kernel has made a failing file system read-only.

    A real remount is refused by the kernel while a file is open for writing, and the shard has some open.
    """
    shim = Shim()
    fault = Fault("erofs", 1, is_sticky=True)
    _endure(say, directory, saved, lambda: shim.arm(directory, fault), shim.disarm)


def failing_disk(say: Say, *, directory: str, saved: str) -> None:
    """Every call that changes a file answers EIO."""
    shim = Shim()
    fault = Fault("eio", 1, is_sticky=True)
    _endure(say, directory, saved, lambda: shim.arm(directory, fault), shim.disarm)


def read_only_mount(say: Say, *, directory: str, saved: str) -> None:
    """A closed shard on a file system that is then remounted read-only is refused by name, and opens when it is not."""
    if not _mount_tmpfs(directory):
        say(unavailable="mounting a tmpfs is not permitted here")
        return
    driver, state = _small_shard(directory, saved)
    driver.close()
    _libc_mount(directory, _MS_REMOUNT | _MS_RDONLY)
    say(asked="open")
    try:
        driver.open()
    except StorageError as error:
        say(refused=type(error).__name__, message=str(error))
    except Exception as error:  # noqa: BLE001
        say(wrong=f"opening raised {error!r}")
    else:
        for difference in differences(driver.open(), state):
            say(wrong=f"opened read-only: {difference}")
    _libc_mount(directory, _MS_REMOUNT)
    for difference in differences(driver.open(), state):
        say(wrong=f"writable again: {difference}")
    say(recovered=True)


def too_many_files(say: Say, *, directory: str, saved: str) -> None:
    """No descriptor is left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))

    _endure(say, directory, saved, limit, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)))


def memory_limit(say: Say, *, directory: str, saved: str) -> None:
    """The process may have 1 MiB of addresses more than it has, and an enrollment makes larger arrays."""
    _endure_less_memory(say, directory, saved, 200_000)


def memory_limit_for_maps(say: Say, *, directory: str, saved: str) -> None:
    """The same with arrays that fit into what was freed before, so that mapping new segments meets the limit."""
    _endure_less_memory(say, directory, saved, 40_000)


def _endure_less_memory(say: Say, directory: str, saved: str, rows: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), hard))

    ids = tuple(f"many-{i}" for i in range(rows))
    large = EnrollBatch(unit_rows(rows, DIM, seed=8), ids, (None,) * rows, (None,) * rows)
    _endure(say, directory, saved, limit, lambda: resource.setrlimit(resource.RLIMIT_AS, (hard, hard)), large)


def _endure(
    say: Say,
    directory: str,
    saved: str,
    take_away: Callable[[], None],
    give_back: Callable[[], None],
    large: EnrollBatch | None = None,
) -> None:
    """Reads go on without it, writes are refused by name, and both are right once it is back.

    large: what cannot be written; a batch that fills several segments if none is given.
    """
    driver, state = _small_shard(directory, saved)
    shard = driver.shard
    assert shard is not None
    asked = large or batch_of(Operation("enroll", tuple(f"new-{i}" for i in range(100)), (None,) * 100, seed=9))
    # Threads and lazily opened files of a search are a matter of the process, not of the fault.
    for difference in differences(shard, state):
        say(wrong=f"before: {difference}")
    take_away()
    say(asked="enroll")
    try:
        shard.enroll(asked)
    except StorageError as error:
        say(refused=type(error).__name__, message=str(error))
    except Exception as error:  # noqa: BLE001  (a user would meet whatever it is)
        say(unnamed=repr(error))
    else:
        say(wrong="the enrollment was acknowledged")
    try:
        for difference in differences(shard, state):
            say(wrong=f"without it: {difference}")
    except Exception as error:  # noqa: BLE001
        say(wrong=f"without it: reading raised {error!r}")
    give_back()
    for difference in differences(shard, state):
        say(wrong=f"when it is back: {difference}")
    _write_again(say, driver, state)


def _write_again(say: Say, driver: Driver, state: History) -> None:
    """Writes work once the shard was asked to recover, as its host does before the next write; else when reopened."""
    again = Operation("enroll", ("again",), ("p9",), seed=10)
    assert driver.shard is not None
    try:
        driver.shard.recover()
        driver.shard.enroll(batch_of(again))
    except StorageError as error:
        say(not_recovered=type(error).__name__, message=str(error))
        driver.close()
        driver.open()
        driver.shard.enroll(batch_of(again))
    else:
        say(recovered=True)
    state.apply(again)
    for difference in differences(driver.shard, state):
        say(wrong=f"after one more enrollment: {difference}")
    driver.close()
    for difference in differences(driver.open(), state):
        say(wrong=f"reopened: {difference}")
    driver.close()
    say(end=True)


def _small_shard(directory: str, saved: str) -> tuple[Driver, History]:
    Shim().reset()
    driver, state = Driver(Path(directory) / "shard", Path(saved)), History()
    people = tuple(f"p{i % 5}" if i % 3 else None for i in range(_SMALL))
    operations = [
        Operation("create"),
        Operation("enroll", tuple(f"t{i}" for i in range(_SMALL)), people, seed=7),
        Operation("activate", ("0",)),
    ]
    for operation in operations:
        driver.carry_out(operation)
        state.apply(operation)
    return driver, state


# Mounts of the child's own, which are gone with it.

_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 32, 16384, 1 << 18


def _libc_mount(directory: str, flags: int, kind: str | None = None, options: str | None = None) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = [None if text is None else text.encode() for text in (kind, directory, kind)]
    options_bytes = None if options is None else options.encode()
    return int(libc.mount(*encoded, ctypes.c_ulong(flags), options_bytes)) == 0


def _mount_tmpfs(directory: str) -> bool:
    """A small tmpfs at the directory, in a mount namespace of this process; False if that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    Path(directory).mkdir(parents=True, exist_ok=True)
    if libc.unshare(_NEWNS) != 0 and libc.unshare(_NEWUSER | _NEWNS) != 0:
        return False
    return _libc_mount("/", _MS_REC | _MS_PRIVATE) and _libc_mount(directory, 0, "tmpfs", f"size={_MOUNT_BYTES}")
