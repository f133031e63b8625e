"""Where the time of an enrollment goes: timers around the named steps of the write path, from outside of it.

Owns the list of steps and how nested and parallel ones are counted: a step's seconds are its own, without the steps
inside it, and summed over threads. The product knows nothing of it; a step that was renamed is an AttributeError here.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import cluster.gallery
import coordinator.coordinator
import coordinator.router
import shard.files
import shard.sealing
import shard.segments
import shard.shard
import shard.store
import shard.tail
from coordinator.router import Router
from shard.model import SearchModel

STEPS: dict[str, tuple[tuple[Any, str], ...]] = {
    "check and normalise": (
        (cluster.gallery, "check_embeddings"),
        (cluster.gallery, "normalised"),
        (coordinator.router, "check_batch"),
        (shard.shard, "check_batch"),
    ),
    "ids there already": ((Router, "records"), (shard.store.Store, "existing")),
    "placement": ((coordinator.router, "shards_of"), (coordinator.router, "_pieces")),
    "floats: write": ((shard.files.RowFile, "write_at"),),
    "floats: fsync": ((shard.files.RowFile, "sync"), (shard.files.RowFile, "__init__")),
    "SQLite: insert": ((shard.shard, "put_templates"),),
    "SQLite: commit": ((shard.store.Store, "transaction"),),
    "keys": ((shard.shard, "template_keys"),),
    "encode": ((SearchModel, "encode"),),
    "train": ((coordinator.coordinator, "train"), (coordinator.coordinator, "draw_sample")),
    "seal: files": (
        (shard.sealing, "truncate_file"),
        (shard.segments.SegmentFiles, "write_keys"),
        (shard.segments.SegmentFiles, "write_codes"),
    ),
    "seal: checksums": ((shard.sealing, "crc32c_blocks"),),
    "activate": ((shard.shard.Shard, "activate"),),
}


class Phases:
    """Own seconds of each step, summed over threads."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._inside = threading.local()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what runs inside as `name`, and take it off the step around it."""
        outer = getattr(self._inside, "nested", None)
        self._inside.nested = 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            with self._lock:
                self.seconds[name] += spent - self._inside.nested
            self._inside.nested = None if outer is None else outer + spent

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed; a generator is timed step by step, a context manager on leaving."""

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.step(name):
                result = call(*args, **kwargs)
            if isinstance(result, Iterator):
                return self._steps(name, result)
            return self._leaving(name, result) if hasattr(result, "gen") else result

        return wrapper

    def _steps(self, name: str, items: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self.step(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def _leaving(self, name: str, context: Any) -> Iterator[Any]:
        """A transaction as `name` only while it is entered and left; what happens inside counts for itself."""
        with ExitStack() as stack:
            with self.step(name):
                value = context.__enter__()
            stack.push(lambda *error: self._exit(name, context, *error))
            yield value

    def _exit(self, name: str, context: Any, *error: Any) -> bool:
        with self.step(name):
            return bool(context.__exit__(*error))

    @contextmanager
    def watching(self) -> Iterator[Phases]:
        """Every step of STEPS is timed until the end of the block."""
        with ExitStack() as stack:
            for name, calls in STEPS.items():
                for owner, attribute in calls:
                    timed = self.timed(name, getattr(owner, attribute))
                    stack.enter_context(mock.patch.object(owner, attribute, timed))
            yield self
