"""`RouteTable`: the newest route that this process knows of each gallery, and how it learns of newer ones.

Routes come from the coordinator, which may be away: what is known is then used on. A look-up runs in a thread of its
own, so that a coordinator that does not answer holds up nobody for longer than he wants to wait; those who want the
same route at once share one. Knows no hosts and no requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from coordinator.types import GalleryRoute
from shard.errors import DeadlineExceeded, HostUnavailable, StorageError, UnknownGallery

Lookup = Callable[[str], GalleryRoute]

AWAY = (HostUnavailable, StorageError, DeadlineExceeded)
"""What a look-up raises when the coordinator is away: nothing is known of the gallery then."""
WAIT_S = 0.5
"""The longest that anyone waits for one look-up."""


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """How often the coordinator is asked: each gallery once in `interval_s`; while it is away, once in a back-off that
    doubles. A look-up that has not ended after `lost_s` no longer keeps others from being made."""

    interval_s: float = 0.05
    first_back_off_s: float = 0.1
    max_back_off_s: float = 5.0
    lost_s: float = 30.0


@dataclass(slots=True)
class _Entry:
    """What is known of one name. `call`: the look-up under way, begun at `asked_at`."""

    route: GalleryRoute | None = None
    call: Future[GalleryRoute] | None = None
    asked_at: float = float("-inf")


class RouteTable:
    """Newest known routes by gallery. Thread-safe."""

    def __init__(
        self,
        lookup: Lookup | None = None,
        policy: RefreshPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """lookup: the route of a gallery by its name, UnknownGallery if there is none; None: routes never change."""
        self._lookup = lookup
        self._policy = policy or RefreshPolicy()
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._away_until = float("-inf")
        self._back_off_s = 0.0

    def current(self, route: GalleryRoute) -> GalleryRoute:
        """The newer of the given route and the known one of that gallery id."""
        entry = self._entries.get(route.name)
        known = None if entry is None else entry.route
        if known is None or known.gallery_id != route.gallery_id or known.version <= route.version:
            return route
        return known

    def refresh(self, route: GalleryRoute, timeout_s: float = WAIT_S, *, is_pressing: bool = False) -> GalleryRoute:
        """The route as the coordinator tells it now; the newest known one where it is away or was asked just before.

        is_pressing: ask though it was asked just before, for a caller who wants to see what he has changed himself.

        Raises UnknownGallery if the gallery was dropped, whether or not another one has its name now, and whatever
        else the look-up raises that does not mean that the coordinator is away. Waits `timeout_s` at most.
        """
        call, left_s = self._call(route.name, timeout_s, is_pressing)
        if call is None:
            return self.current(route)
        try:
            told = call.result(left_s)
        except (FutureTimeoutError, *AWAY):
            return self.current(route)
        if told.gallery_id != route.gallery_id:
            raise UnknownGallery(f"gallery {route.name!r} was dropped; another one has its name now")
        return self.current(told)

    def _call(self, name: str, timeout_s: float, is_pressing: bool) -> tuple[Future[GalleryRoute] | None, float]:
        """The look-up to wait for and how long, None if there shall be none now."""
        if self._lookup is None:
            return None, 0.0
        with self._lock:
            now, policy = self._clock(), self._policy
            entry = self._entries.setdefault(name, _Entry())
            if entry.call is not None and now < entry.asked_at + policy.lost_s:
                # Whoever comes late waits for what is left: one that hangs is not waited for by every query.
                return entry.call, max(0.0, min(timeout_s, entry.asked_at + WAIT_S - now))
            is_asked = now < entry.asked_at + policy.interval_s and not is_pressing
            if is_asked or now < self._away_until:
                return None, 0.0
            call: Future[GalleryRoute] = Future()
            entry.call, entry.asked_at = call, now
        threading.Thread(target=self._ask, args=(name, call), name="facegrid-route", daemon=True).start()
        return call, timeout_s

    def _ask(self, name: str, call: Future[GalleryRoute]) -> None:
        assert self._lookup is not None
        try:
            told = self._lookup(name)
        except Exception as error:  # noqa: BLE001 - handed to those who wait, by the future
            self._learn(name, call, None, error)
            call.set_exception(error)
        else:
            self._learn(name, call, told, None)
            call.set_result(told)

    def _learn(self, name: str, call: Future[GalleryRoute], told: GalleryRoute | None, error: Exception | None) -> None:
        with self._lock:
            entry, now, policy = self._entries[name], self._clock(), self._policy
            if entry.call is call:
                entry.call = None
            if isinstance(error, AWAY):
                self._back_off_s = min(max(2 * self._back_off_s, policy.first_back_off_s), policy.max_back_off_s)
                self._away_until = now + self._back_off_s
                return
            self._back_off_s = 0.0
            known = entry.route
            if isinstance(error, UnknownGallery):
                entry.route = None
            elif told is not None and not (
                known is not None and known.gallery_id == told.gallery_id and known.version > told.version
            ):
                entry.route = told
