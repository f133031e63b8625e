"""Failpoints: a named point before and after every step of the disk at which a test may kill the process or fail.

Off unless a test in the same process arms one; nothing else may, and no setting reaches here. Owns the list of the
steps, so that a test can prove that a workload went through each of them. It knows nothing of what the steps do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NoReturn

Action = Literal["kill", "eio", "enospc"]
"""SIGKILL to the own process, or the error of a failing or full disk: OSError, in the store SQLite's own error."""

STEPS = (
    "files.make_directory.mkdir",
    "files.sync_directory.fsync",
    "files.sync_file.fsync",
    "files.write_file.write",
    "files.write_file.fsync",
    "files.write_file.rename",
    "files.remove_file.unlink",
    "files.remove_tree.rmtree",
    "files.truncate_file.truncate",
    "files.truncate_file.fsync",
    "files.RowFile.open.truncate",
    "files.RowFile.open.fsync",
    "files.RowFile.write_at.write",
    "files.RowFile.sync.fsync",
    "files.DirectoryLock.write",
    "store.transaction.commit",
)
"""Every step that changes the disk: module, function, system call."""
POINTS = tuple(f"{step}.{side}" for step in STEPS for side in ("before", "after"))

_ERRNO = {"eio": errno.EIO, "enospc": errno.ENOSPC}
_SQLITE = {"eio": "disk I/O error", "enospc": "database or disk is full"}

_armed: dict[str, tuple[Action, int]] = {}
_hits: Counter[str] | None = None
_NOTHING = contextlib.nullcontext()


def step(name: str) -> contextlib.AbstractContextManager[None]:
    """The with-statement of one step of STEPS; it costs a truth test while nothing is armed or counted."""
    return _NOTHING if _hits is None else _hitting(name)


def arm(point: str, action: Action, at: int = 1) -> None:
    """Let `action` happen at the `at`-th hit of the point, counted from now, once."""
    if point not in POINTS:
        raise ValueError(f"no failpoint is named {point!r}")
    count()
    _armed[point] = (action, at)


def count() -> Counter[str]:
    """Count hits from now on, point by point, in the counter that is returned."""
    global _hits
    _hits = Counter()
    return _hits


def disarm() -> None:
    """Nothing is armed or counted from here on."""
    global _hits
    _hits = None
    _armed.clear()


def is_armed() -> bool:
    """Whether an armed point has not acted yet."""
    return bool(_armed)


@contextlib.contextmanager
def _hitting(name: str) -> Iterator[None]:
    _hit(f"{name}.before")
    yield
    _hit(f"{name}.after")


def _hit(point: str) -> None:
    if _hits is None:
        return  # disarmed within the step
    _hits[point] += 1
    action, at = _armed.get(point, ("kill", 0))
    if _hits[point] == at:
        del _armed[point]
        _act(point, action)


def _act(point: str, action: Action) -> NoReturn:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # the signal is on its way
    if point.startswith("store."):
        raise sqlite3.OperationalError(_SQLITE[action])
    raise OSError(_ERRNO[action], f"{os.strerror(_ERRNO[action])} (failpoint {point})")
