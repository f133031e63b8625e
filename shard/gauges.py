"""What this process has spent on searches, and which shards it has open. For whoever watches it; nothing here decides.

Counts only grow; a rate is the watcher's to make. A process that holds no shards, such as a gateway on Ray, has none.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from shard.shard import Shard

PROJECT, INDEX, LABELS = "project", "index", "labels"
PHASES = (PROJECT, INDEX, LABELS)
"""Probes by the search model; filters and one call of the native index, which scans codes and reranks on floats in
turns and does not tell the two apart; ids and identities of the winners."""


@dataclass(frozen=True, slots=True)
class Spent:
    """calls: of search, each of which may hold many probes. seconds: of each of PHASES."""

    calls: int
    seconds: tuple[float, ...]

    def since(self, earlier: Spent) -> Spent:
        """What was spent after an earlier look."""
        seconds = tuple(now - then for now, then in zip(self.seconds, earlier.seconds, strict=True))
        return Spent(self.calls - earlier.calls, seconds)


class SearchTimes:
    """Seconds by phase, of all threads and of each. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._seconds = [0.0] * len(PHASES)
        self._own = threading.local()

    def add(self, *seconds: float) -> None:
        """Count a search of this thread; seconds in the order of PHASES."""
        own = self._mine()
        with self._lock:
            self._calls += 1
            for phase, value in enumerate(seconds):
                self._seconds[phase] += value
        own[0] += 1
        for phase, value in enumerate(seconds):
            own[1][phase] += value

    def all(self) -> Spent:
        """By all threads of the process."""
        with self._lock:
            return Spent(self._calls, tuple(self._seconds))

    def mine(self) -> Spent:
        """By the thread that asks."""
        calls, seconds = self._mine()
        return Spent(calls, tuple(seconds))

    def _mine(self) -> list[Any]:
        try:
            found: list[Any] = self._own.spent
        except AttributeError:
            found = self._own.spent = [0, [0.0] * len(PHASES)]
        return found


SEARCH_TIMES = SearchTimes()
_open: WeakSet[Shard] = WeakSet()
_open_lock = threading.Lock()


def opened(shard: Shard) -> None:
    """A shard is open in this process until `closed`."""
    with _open_lock:
        _open.add(shard)


def closed(shard: Shard) -> None:
    """It is not any more. Idempotent."""
    with _open_lock:
        _open.discard(shard)


def open_shards() -> tuple[int, int]:
    """How many shards are open in this process, and the bytes of memory of their codes and bitmaps."""
    with _open_lock:
        shards = list(_open)
    return len(shards), sum(shard.index.code_bytes for shard in shards)
