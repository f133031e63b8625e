"""Identities whose templates are on their way to another shard: what else would change them waits.

In memory: holds at the primary, departures at every replica. Knows no rows; `shard.shard` asks it under its write lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from shard.errors import HostBusy

RECENT_S, FRESH_S = 150.0, 15.0
"""How long a shard says that templates left it: to writes and to reads, longer than one of them is under way."""


class Holds:
    """The identities held in one shard, each until a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._held_until = self._left_at = float("-inf")

    def hold(self, identity: str, seconds: float) -> None:
        """Hold an identity from now on for some seconds, however long it was held before; 0 lets it go."""
        self._until.pop(identity, None)
        if seconds > 0:
            self._until[identity] = self._clock() + seconds
        self._held_until = max(self._held_until, self._clock() + seconds)

    def leave(self) -> None:
        """Templates are about to leave."""
        self._left_at = self._clock()

    @property
    def are_held(self) -> bool:
        """Whether there is any."""
        return bool(self._until)

    @property
    def are_recent(self) -> bool:
        """Whether templates may have left while a write that is under way was made."""
        return self._clock() < max(self._held_until, self._left_at) + RECENT_S

    @property
    def are_fresh(self) -> bool:
        """Whether templates have left while a read that is under way was made."""
        return self._clock() < self._left_at + FRESH_S

    def check(self, identities: Iterable[str | None]) -> None:
        """HostBusy if one of the identities is held."""
        if not self._until:
            return
        now = self._clock()
        for identity in identities:
            if identity is not None and self._until.get(identity, now) > now:
                raise HostBusy(
                    f"identity {identity!r} is being renamed; its templates are on their way to another shard"
                )
