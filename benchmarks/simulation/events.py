"""Virtual time: what happens when, in order. Nothing here waits."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable


class Events:
    """What is to happen, the earliest first; at the same time, what was planned first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        """Seconds since the beginning, in virtual time."""
        return self.now

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Plan something; what is past happens now."""
        heapq.heappush(self._planned, (max(when, self.now), next(self._numbers), act))

    def run(self, until: float = math.inf) -> None:
        """Let everything happen up to a time; what it plans happens too."""
        while self._planned and self._planned[0][0] <= until:
            self.now, _, act = heapq.heappop(self._planned)
            act()
