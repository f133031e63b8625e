"""`OpenShards`: which shards of a host are open. An open shard takes files, maps and memory; a closed one a few facts.

A shard is opened when it is used and stays open as long as there is room: beyond the limit, those that have not been
used for longest are closed, and all that have been idle for long. Closing loses nothing (`shard.shard.Shard.close`).
One that is in use is never closed, nor one whose replica has something unfinished (`LazyShard.may_close`). Knows no
messages and no roles. Decisions: docs/decisions/0021-many-galleries.md.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from coordinator.at_rest import Key, Rest, RestStore, stamp
from coordinator.heat import COLD, HOT, WARM
from shard.errors import FacegridError, ShardClosed
from shard.holds import Holds
from shard.shard import Shard

HOT_S = 300.0
"""A shard that was used within this time is hot."""
IDLE_S = 1_800.0
"""A shard that was not used for so long is closed; a large one stays as many times longer as it is large."""
LARGE_ROWS = 50_000
"""Rows of a shard that counts as large once: what opening it costs grows with its rows."""
LOOK_S = 60.0
"""Pause between two looks for idle shards."""
FILES_EACH = 8
"""Files that an open shard may have open: its lock, two connections to its database with their log, its tail."""
SPARE_FILES = 200
"""Open files left for everything else: connections, the catalog, what is read for a moment."""
MAX_OPEN, MIN_OPEN = 512, 16
T = TypeVar("T")
Opens = Callable[[Key, Path, bool, Holds], Shard]
"""Opens a shard: its key and directory, and `is_settled` and `holds` as of `Shard`."""
_LOG = logging.getLogger(__name__)


def default_limit(hosts: int = 1) -> int:
    """How many shards each of so many hosts of this process may have open, by the process's limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = MAX_OPEN if soft == resource.RLIM_INFINITY else (soft - SPARE_FILES) // FILES_EACH
    return max(MIN_OPEN, min(MAX_OPEN, room // max(1, hosts)))


class LazyShard:
    """One shard of a host, open or closed.

    rest: what is known of it while it is closed, None for nothing. decides: see `Shard.take_epoch`; what it was when
    the shard was closed is so again when it is opened.
    """

    def __init__(self, shards: OpenShards, key: Key, directory: Path) -> None:
        self.key, self.directory = key, directory
        self.rest: Rest | None = None
        self.holds = Holds()
        """What is known in memory alone of identities that leave; it outlives the shard's closing."""
        self.decides = True
        self.on_open: Callable[[Shard], None] = lambda shard: None
        """Called with the shard each time that it is opened, before anybody uses it."""
        self.may_close: Callable[[Shard], bool] = lambda shard: False
        """Whether nothing of the shard is unfinished; takes no lock."""
        self._shards = shards
        # Of these `OpenShards` takes care. `moving` is held while the shard is opened or closed.
        self.shard: Shard | None = None
        self.users, self.uses, self.used_at, self.is_gone = 0, 0, 0.0, False
        self.moving = threading.Lock()

    @contextlib.contextmanager
    def using(self) -> Iterator[Shard]:
        """The shard, opened if it is closed, and not closed inside. Raises what opening it does, ShardClosed."""
        shard = self._shards.enter(self)
        try:
            yield shard
        finally:
            self._shards.leave(self)

    @property
    def opened(self) -> Shard:
        """The shard, for those who are `using` it; ShardClosed if it is closed."""
        shard = self.shard
        if shard is None:
            raise ShardClosed(f"{self.directory} is closed")
        return shard

    def ask(self, at_rest: Callable[[Rest], T], opened: Callable[[Shard], T]) -> T:
        """What is known of the shard while it is closed, or what it says itself; not a use, and never opens one that
        something is known of.
        """
        known = self._shards.enter_if_open(self)
        if known is not None:
            return at_rest(known)
        try:
            return opened(self.opened)
        finally:
            self._shards.leave(self)

    def take_epoch(self, epoch: int, hosts: tuple[str, ...], *, decides: bool) -> None:
        """As `Shard.take_epoch`. A closed shard that was closed under this very configuration stays closed."""
        with self.moving:
            rest = self.rest
            is_closed = self.shard is None and not self.is_gone and rest is not None
            if is_closed and rest and (rest.configured_epoch, rest.configured_hosts) == (epoch, hosts):
                self.decides = decides
                return
        with self.using() as shard:
            shard.take_epoch(epoch, hosts, decides=decides)

    @property
    def configured(self) -> tuple[int, tuple[str, ...]]:
        """Epoch and hosts of the configuration that is durable."""
        shard, rest = self.shard, self.rest
        if shard is not None:
            return shard.configured_epoch, shard.configured_hosts
        return (0, ()) if rest is None else (rest.configured_epoch, rest.configured_hosts)

    @property
    def lsn(self) -> int:
        """LSN of the last entry."""
        shard, rest = self.shard, self.rest
        return shard.lsn if shard is not None else 0 if rest is None else rest.stats.lsn

    @property
    def is_catching_up(self) -> bool:
        """As `Shard.is_catching_up`; one that is, is never closed before."""
        shard = self.shard
        return shard is not None and shard.is_catching_up

    @property
    def write_error(self) -> BaseException | None:
        """As `Shard.write_error`; one that has any is never closed."""
        shard = self.shard
        return None if shard is None else shard.write_error

    def close(self) -> None:
        """Close it for good, whoever uses it: it is about to be removed."""
        self._shards.remove(self)


class OpenShards:
    """The shards of one host. Thread-safe."""

    def __init__(
        self,
        at_rest: Path,
        opens: Opens,
        limit: int,
        *,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """at_rest: file of what is known of closed shards. limit: shards that are open at a time, if not all are used.

        idle_s: how long a shard that nobody uses stays open.
        """
        self.limit = limit
        self._opens, self._idle_s, self._clock = opens, idle_s, clock
        self._rests = RestStore(at_rest)
        self._known = self._rests.load()
        self._lock = threading.Lock()
        self._open: dict[Key, LazyShard] = {}
        self._starting = 0
        self._closing = threading.Event()
        self._looking: threading.Thread | None = None

    def lazy(self, key: Key, directory: Path) -> LazyShard:
        """A shard that has files. Its `rest` is set if it was closed in order and nothing has touched it since."""
        entry = LazyShard(self, key, directory)
        known = self._known.pop(key, None)
        if known is not None and stamp(directory) == (known.size, known.mtime_ns):
            entry.rest = known
        elif known is not None:
            self._rests.remove([key])
        return entry

    def enter(self, entry: LazyShard) -> Shard:
        """One user more; the shard is open, and stays so until as many have left. Raises what opening it does."""
        with self._lock:
            entry.users += 1
            entry.uses += 1
            entry.used_at = self._clock()
            shard = entry.shard
        if shard is not None:
            return shard
        try:
            return self._opened(entry)
        except BaseException:
            self.leave(entry)
            raise

    def enter_if_open(self, entry: LazyShard) -> Rest | None:
        """What is known of a closed shard; where it is open, or nothing is known, None and one user more."""
        with self._lock:
            if entry.shard is None and entry.rest is not None:
                return entry.rest
            entry.users += 1
            is_open = entry.shard is not None
        if not is_open:
            try:
                self._opened(entry)
            except BaseException:
                self.leave(entry)
                raise
        return None

    def leave(self, entry: LazyShard) -> None:
        """One user less."""
        with self._lock:
            entry.users -= 1
            is_full = len(self._open) > self.limit
        if is_full:  # so many were in use at once
            self._make_room(0)

    def adopt(self, entry: LazyShard, shard: Shard) -> None:
        """A shard that was just created."""
        entry.holds = shard.holds
        with self._room(), entry.moving:
            self._start(entry, shard)

    def _opened(self, entry: LazyShard) -> Shard:
        with entry.moving:
            if entry.is_gone or self._closing.is_set():
                raise ShardClosed(f"{entry.directory} is closed")
            if entry.shard is not None:  # somebody was quicker
                return entry.shard
            with self._room():
                rest = entry.rest
                is_settled = rest is not None and stamp(entry.directory) == (rest.size, rest.mtime_ns)
                if rest is not None:
                    self._rests.remove([entry.key])
                shard = self._opens(entry.key, entry.directory, is_settled, entry.holds)
                self._start(entry, shard)
            return shard

    def _start(self, entry: LazyShard, shard: Shard) -> None:
        try:
            shard.take_epoch(shard.configured_epoch, decides=entry.decides)
            entry.on_open(shard)
        except BaseException:
            shard.close()
            raise
        with self._lock:
            entry.shard, entry.used_at = shard, self._clock()
            self._open[entry.key] = entry
            if self._looking is None and not self._closing.is_set():
                self._looking = threading.Thread(target=self._look, name="facegrid-idle", daemon=True)
                self._looking.start()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Inside, a shard may be opened: one of the limit is kept for it, as far as others are not in use."""
        with self._lock:
            self._starting += 1
            starting = self._starting
        try:
            self._make_room(starting)
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def _make_room(self, shards: int) -> None:
        """Close those that were not used for longest until there is room for so many; none that is in use."""
        while (entry := self._next(max(0, self.limit - shards), 0.0)) is not None and self._close(entry):
            pass

    def close_idle(self) -> None:
        """Close what has been idle for long."""
        while (entry := self._next(0, self._idle_s)) is not None and self._close(entry):
            pass

    def _look(self) -> None:
        while not self._closing.wait(LOOK_S):
            self.close_idle()

    def _next(self, limit: int, idle_s: float) -> LazyShard | None:
        """The one to close next if more are open; its `moving` is held from now on."""
        with self._lock:
            if len(self._open) <= limit:
                return None
            now = self._clock()
            idle = sorted(((_idleness(entry, now), key) for key, entry in self._open.items()), reverse=True)
            for idleness, key in idle:
                entry = self._open[key]
                if idleness < idle_s:
                    return None
                if self._is_unused(entry) and entry.moving.acquire(blocking=False):
                    return entry
            return None

    def _is_unused(self, entry: LazyShard) -> bool:
        return entry.shard is not None and not entry.users and entry.may_close(entry.shard)

    def _close(self, entry: LazyShard) -> bool:
        """Close one that `_next` gave, unless somebody came to use it; False if it is not to be tried again."""
        try:
            shard, uses = entry.opened, entry.uses
            rest = Rest.of(shard)
            with self._lock:
                if entry.uses != uses or not self._is_unused(entry):
                    return True
                # From here on whoever comes waits until it is closed, and opens it again.
                entry.rest, entry.shard, entry.decides = rest, None, shard.decides
                del self._open[entry.key]
            shard.on_commit = None
            shard.close()
            self._remember(entry)
        except FacegridError as error:
            _LOG.warning("%s stays open: what is to be known of it cannot be read: %s", entry.directory, error)
            return False
        finally:
            entry.moving.release()
        return True

    def _remember(self, entry: LazyShard) -> None:
        found = stamp(entry.directory)
        if found is not None and entry.rest is not None:
            entry.rest = replace(entry.rest, size=found[0], mtime_ns=found[1])
            self._rests.put([(entry.key, entry.rest)])

    def remove(self, entry: LazyShard) -> None:
        """Close a shard for good and forget it. Idempotent."""
        with entry.moving:
            entry.is_gone = True
            with self._lock:
                shard, entry.shard = entry.shard, None
                self._open.pop(entry.key, None)
            if shard is not None:
                shard.close()
            self._rests.remove([entry.key])
            entry.rest = None

    def heat(self, entry: LazyShard) -> str:
        """HOT, WARM or COLD."""
        with self._lock:
            if entry.shard is None:
                return COLD
            return HOT if entry.users or self._clock() - entry.used_at < HOT_S else WARM

    def opened(self) -> list[LazyShard]:
        """Those that are open."""
        with self._lock:
            return list(self._open.values())

    def close(self) -> None:
        """Close every shard; nothing acknowledged is lost. Idempotent."""
        self._closing.set()
        if self._looking is not None:
            self._looking.join()
        while (unused := self._next(0, 0.0)) is not None and self._close(unused):
            pass
        for entry in self.opened():  # in use, or with something unfinished: nothing is to be said of it
            with entry.moving, self._lock:
                shard, entry.shard = entry.shard, None
                self._open.pop(entry.key, None)
            if shard is not None:
                shard.close()
        self._rests.close()


def _idleness(entry: LazyShard, now: float) -> float:
    """Seconds that nobody used it, for a large shard by as many times less as it is large."""
    shard = entry.shard
    return (now - entry.used_at) / (1 + (0 if shard is None else len(shard)) / LARGE_ROWS)
