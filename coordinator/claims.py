"""Ids that somebody is about to write: processes that enroll into one gallery take turns where ids meet.

An id is unique in its gallery, but its shard follows from the identity, so that no shard alone can see to it. Each id
is therefore kept by one shard, whatever its identity: writers claim it at that shard's primary first
(`claimed_ids.py`). Claims are memory of one process. They end by themselves, so that a writer that dies holds up others
for a moment only, and are forgotten where the shard gets another primary; a claimant is told of either when it gives
its claim back, and looks again (`Writes.look_again`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from coordinator.types import ShardConfig
from shard.types import KeyArray, RowArray

MAX_HOLD_S = 300.0
"""The longest that a claim may hold."""


def keepers_of(keys: KeyArray, shards: int) -> RowArray:
    """The shard that keeps each id of the template keys (n,) uint64, (n,) int64, in a gallery of `shards`."""
    keepers: RowArray = (keys % np.uint64(shards)).astype(np.int64)
    return keepers


class Claims:
    """Claims at one replica. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[int, bytes] = {}
        self._claims: dict[bytes, tuple[float, frozenset[int]]] = {}

    def take(self, token: bytes, keys: KeyArray, hold_s: float) -> bool:
        """Claim ids by their keys (n,) uint64, all or none, for at most `hold_s`; whether nobody else has one.

        token: the claimant's, new for each claim; the same claim may be made again, and holds as long as at first.
        """
        wanted = frozenset(keys.tolist())
        with self._lock:
            self._end_late()
            if any(self._taken.get(key, token) != token for key in wanted):
                return False
            if token not in self._claims:
                self._claims[token] = self._clock() + min(hold_s, MAX_HOLD_S), wanted
                self._taken.update(dict.fromkeys(wanted, token))
        return True

    def give_back(self, token: bytes) -> bool:
        """End a claim; whether it held until now."""
        with self._lock:
            self._end_late()
            return self._end(token)

    def follow(self, before: ShardConfig | None, config: ShardConfig, host: str) -> None:
        """The replica of `host` gets another configuration: claims hold where it was and stays primary throughout."""
        is_next = before is not None and before.primary == config.primary == host and before.epoch + 1 == config.epoch
        if not is_next:
            with self._lock:
                self._taken.clear()
                self._claims.clear()

    def _end_late(self) -> None:
        now = self._clock()
        for token in [token for token, (until, _) in self._claims.items() if until <= now]:
            self._end(token)

    def _end(self, token: bytes) -> bool:
        claim = self._claims.pop(token, None)
        for key in () if claim is None else claim[1]:
            del self._taken[key]
        return claim is not None
