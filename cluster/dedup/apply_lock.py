"""Who applies a result, or takes it back: one at a time, in this process and in others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from shard.errors import HomeLocked, ResultBusy
from shard.files import DirectoryLock, make_directory

WAIT_S = 30.0
"""How long another thread of this process is waited for, such as the one that completes what was interrupted."""
_GUARD = threading.Lock()
_HELD: dict[Path, threading.Lock] = {}


@contextlib.contextmanager
def only_apply(job_directory: Path, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Inside, nobody else applies the result of that job or takes it back; ResultBusy if somebody does."""
    directory = job_directory / "apply"
    make_directory(directory)
    with _GUARD:
        held = _HELD.setdefault(directory.resolve(), threading.Lock())
    busy = f"somebody else applies the result of {job_directory.name}, or takes it back"
    if not held.acquire(timeout=wait_s):
        raise ResultBusy(busy)
    try:
        try:
            lock = DirectoryLock(directory)
        except HomeLocked:
            raise ResultBusy(busy) from None
        with lock:
            yield
    finally:
        held.release()
