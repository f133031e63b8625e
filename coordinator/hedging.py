"""When a read asks another replica beside the one that is slow, and how often it may."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """When to ask another replica. Times are in seconds and begin when a request is sent.

    A request is hedged after the p95 of its kind at its host, `hedge_floor_s` at least, while the requests that hedges
    sent are no more than `hedge_share` of the first ones plus a burst. It is given up for late, which costs no hedge
    and counts against the host, `late_margin_s` after the p95; its answer still counts if it comes. unknown_p95_s: the
    p95 where too few were observed. refresh_s: the longest wait for a newer route. stale_pauses_s: pauses before a
    shard is asked again whose replicas all have another epoch than the newest route: hosts and catalog learn of a
    failover one after another.
    """

    hedge_floor_s: float = 0.005
    hedge_share: float = 0.05
    hedge_burst: float = 10.0
    late_margin_s: float = 0.3
    unknown_p95_s: float = 1.0
    refresh_s: float = 0.5
    stale_pauses_s: tuple[float, ...] = (0.02, 0.05, 0.1, *(0.2,) * 300)


class HedgeBudget:
    """Allows hedges up to a share of all requests, and a burst. Thread-safe.

    A hedge of a request for many shards is a request to each of several hosts, and all of these count. It is sent whole
    or not at all, since its answer is worth nothing without a part: what it takes beyond the budget is earned before
    the next one.
    """

    def __init__(self, share: float, burst: float) -> None:
        self._share, self._burst, self._left = share, burst, burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A first request was sent."""
        if self._left < self._burst:
            with self._lock:
                self._left = min(self._burst, self._left + self._share)

    def spend(self) -> bool:
        """Whether a request may be hedged now; the first request of the hedge is counted then."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def charge(self, requests: int) -> None:
        """So many more requests were sent for the hedge."""
        with self._lock:
            self._left -= requests
