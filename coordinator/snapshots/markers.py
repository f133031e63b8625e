"""Markers: how creations and deletions in one store keep out of each other's way, without a server.

A creation counts on objects that are there already; a deletion removes objects that no manifest names. So they must not
overlap. Each writes a marker first and then looks for markers of the other kind. Stores show a file to every reader as
soon as its writing has returned, so at least one of two sees the other and gives up with StoreBusy, having changed
nothing. Any number of creations, or of deletions, may run at once. A marker that was not renewed for an hour is of a
process that died; it is ignored and removed. A creation renews its own, and looks at it before it writes its manifest.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import TracebackType

from coordinator.snapshots.manifest import format_time, parse_time
from coordinator.snapshots.places import Place
from shard.errors import CorruptData, StoreBusy

STALE = timedelta(hours=1)
RENEW = timedelta(minutes=5)
_MARKERS = "markers"


def _now() -> datetime:
    return datetime.now(timezone.utc)


class _Marker:
    """A file that says that work is in progress, from entering to leaving the context."""

    kind = ""
    other = ""

    def __init__(self, place: Place, name: str, clock: Callable[[], datetime] = _now) -> None:
        """name: of this piece of work, unique. clock: the time in UTC; clocks of machines may differ by minutes."""
        self._place, self._clock = place, clock
        self._path = f"{_MARKERS}/{self.kind}-{name}.json"
        self._lock = threading.Lock()
        self._written = clock()

    def __enter__(self) -> None:
        self._write()
        try:
            self._check_others()
        except BaseException:
            self._place.remove(self._path)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._place.remove(self._path)

    def _write(self) -> None:
        self._written = self._clock()
        self._place.write(self._path, json.dumps({"renewed_at": format_time(self._written)}).encode())

    def _check_others(self) -> None:
        for file in self._place.files(_MARKERS):
            if not file.path.startswith(f"{_MARKERS}/{self.other}-"):
                continue
            renewed = self._renewed(file.path)
            if renewed is None:
                continue
            if renewed < self._clock() - STALE:
                self._place.remove(file.path)
                continue
            raise StoreBusy(
                f"{self._place.url}: a {_TITLES[self.other]} is in progress there ({file.path}, {format_time(renewed)})"
            )

    def _renewed(self, path: str) -> datetime | None:
        data = self._place.read(path)
        if data is None:
            return None
        try:
            return parse_time(json.loads(data)["renewed_at"])
        except (ValueError, KeyError, TypeError, CorruptData) as error:
            raise CorruptData(f"{self._place.url}: {path} is not a marker: {error}") from error


class Creating(_Marker):
    """Held while a snapshot is made. StoreBusy on entering while one is deleted."""

    kind, other = "create", "delete"

    def renew(self) -> None:
        """Say that the work goes on; to be called every now and then. StoreBusy as `check`."""
        with self._lock:
            if self._clock() - self._written >= RENEW:
                self.check()
                self._write()

    def check(self) -> None:
        """StoreBusy if a deletion took this creation for dead, or may do so, and removes objects that it counts on."""
        if self._clock() - self._written >= STALE or self._place.read(self._path) is None:
            raise StoreBusy(f"{self._place.url}: {self._path} was not renewed in time; make the snapshot again")


class Deleting(_Marker):
    """Held while snapshots are deleted. StoreBusy on entering while one is made."""

    kind, other = "delete", "create"


_TITLES = {"create": "creation", "delete": "deletion"}
