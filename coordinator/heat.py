"""How near at hand a gallery is: what a shard of it would cost to search now."""

from __future__ import annotations

from collections.abc import Iterable

HOT, WARM, COLD = "hot", "warm", "cold"
"""Open and used within the last minutes; open; closed, and opened by the next request."""


def hottest(states: Iterable[str]) -> str:
    """The state of a gallery: that of the shard that is nearest at hand, COLD for none."""
    known = set(states)
    return next((state for state in (HOT, WARM) if state in known), COLD)
