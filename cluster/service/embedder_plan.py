"""How many embedders there should be. Pure: images that wait and the time go in, a number comes out.

As many as the images that wait or are under way fill with a batch each. More are wanted when that has been so for
GROW_S without a break, fewer when it has not been so for IDLE_S at any moment: loading the networks takes seconds and a
new node minutes, so that each is kept for as long as it may be needed again.
"""

from __future__ import annotations

from collections import deque

IMAGES_EACH = 16
"""Images that one embedder takes at once: a batch."""
GROW_S = 5.0
IDLE_S = 300.0


class Demand:
    """How many embedders are wanted, from one look at the images to the next."""

    def __init__(self, fewest: int, most: int, *, now: float, current: int = 0) -> None:
        """fewest <= most. current: how many there are, left by whoever looked before. now: seconds."""
        self._fewest, self._most = fewest, most
        self._since = now
        self._wanted = self._bounded(current)
        self._seen: deque[tuple[float, int]] = deque()

    def wanted(self, images: int, now: float) -> int:
        """The number wanted, given how many images wait or are under way now."""
        needed = -(-images // IMAGES_EACH)
        self._seen.append((now, needed))
        while self._seen[0][0] < now - IDLE_S:
            self._seen.popleft()
        if self._wanted == 0 and needed:
            self._wanted = 1  # they wait for the first one, not behind others
        at_least = min(count for at, count in self._seen if at >= now - GROW_S)
        at_most = max(count for _, count in self._seen)
        if at_least > self._wanted and now - self._since >= GROW_S:
            self._wanted = at_least
        elif at_most < self._wanted and now - self._since >= IDLE_S:
            self._wanted = at_most
        self._wanted = self._bounded(self._wanted)
        return self._wanted

    def _bounded(self, count: int) -> int:
        return max(self._fewest, min(self._most, count))
