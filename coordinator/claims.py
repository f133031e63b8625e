"""Ids that somebody is about to write: several processes that enroll into one gallery take turns where ids meet.

An id is unique in its gallery, but its shard follows from the identity, so that no shard alone can see to it. Where one
process enrolls, it does by itself (`coordinator.writes`); where several do, they claim ids here first. A claim ends by
itself, so that a process that dies holds up others for a moment only. Kept in memory: a coordinator that restarts
forgets claims, and for that moment two writers of one id under two identities could both succeed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from shard.types import KeyArray

CLAIM_S = 60.0
"""How long a claim holds that is not given back: longer than a write may take."""


class Claims:
    """Claims of one home. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, bytes], tuple[float, frozenset[int]]] = {}

    def take(self, gallery_id: str, token: bytes, keys: KeyArray) -> bool:
        """Claim ids by their keys (n,) uint64, all or none; whether nobody else has one. token: the claimant's, new."""
        now = self._clock()
        wanted = frozenset(np.asarray(keys).tolist())
        with self._lock:
            self._taken = {claim: held for claim, held in self._taken.items() if held[0] > now}
            for (other, _), (_, taken) in self._taken.items():
                if other == gallery_id and not taken.isdisjoint(wanted):
                    return False
            self._taken[gallery_id, token] = (now + CLAIM_S, wanted)
        return True

    def give_back(self, gallery_id: str, token: bytes) -> None:
        """End a claim; one that has ended is no error."""
        with self._lock:
            self._taken.pop((gallery_id, token), None)
