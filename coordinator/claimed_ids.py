"""`ClaimedIds`: the ids of one write, claimed from writers in other processes at the shards that keep them."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import numpy as np

from coordinator.claims import keepers_of
from coordinator.messages import ClaimReply, ClaimRequest, DataRequest, GiveBackReply, GiveBackRequest, Reply
from coordinator.types import GalleryRoute
from shard.errors import DeadlineExceeded, FacegridError
from shard.keys import template_keys
from shard.types import KeyArray

PAUSE_S = 0.005, 0.2
"""First and longest pause before a claim of what another process has is tried again."""
WAIT_S = 60.0
"""How long another process may have an id."""
GIVE_BACK_S = 30.0
"""How long to ask whether a claim was held."""
HOLD_S, HOLD_ID_S = 20.0, 0.001
"""How long a claim holds that is not given back, and how much longer for each id: longer than most writes take."""

ReplyT = TypeVar("ReplyT", bound=Reply)
_LOG = logging.getLogger(__name__)


class Pending(Protocol):
    """A request that was sent."""

    def result(self, kind: type[ReplyT]) -> ReplyT:
        """The reply; see `coordinator.writes`."""


class Send(Protocol):
    """Sends a request, which is given the shard's epoch, to the shard's primary until the deadline (monotonic)."""

    def __call__(
        self, route: GalleryRoute, shard: int, request: Callable[[int], DataRequest], deadline: float
    ) -> Pending:
        """Without waiting."""


class ClaimedIds:
    """Not thread-safe: of one write."""

    def __init__(self, send: Send, route: GalleryRoute, template_ids: Collection[str]) -> None:
        self._send, self._route = send, route
        keys = template_keys(tuple(template_ids))
        keepers = keepers_of(keys, route.shards)
        self._parts = [(int(shard), keys[keepers == shard]) for shard in np.unique(keepers)]
        self._hold_s = HOLD_S + HOLD_ID_S * len(keys)
        self._token = b""

    def take(self) -> None:
        """Wait until nobody has one of the ids, and have them. DeadlineExceeded if another process keeps one."""
        until = time.monotonic() + WAIT_S
        pause_s = PAUSE_S[0]
        while not self._is_granted(until):
            if time.monotonic() >= until:
                raise DeadlineExceeded(
                    f"another process is writing one of these template ids for more than {WAIT_S:g} s"
                )
            # Two that have a part each of what both want give way to each other, for different times.
            _PAUSING.wait(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, PAUSE_S[1])

    def _is_granted(self, until: float) -> bool:
        self._token = token = secrets.token_bytes(16)
        is_granted = False
        try:
            asked = [
                self._send(self._route, shard, self._claim(token, shard, keys), until) for shard, keys in self._parts
            ]
            is_granted = all(pending.result(ClaimReply).is_granted for pending in asked)
        finally:
            if not is_granted:
                self.let_go()
        return is_granted

    def give_back(self) -> bool:
        """End the claim; whether it held until now, so that nobody else can have written one of the ids meanwhile."""
        was_held = True
        for pending in self._given_back():
            try:
                was_held &= pending.result(GiveBackReply).was_held
            except FacegridError as error:
                _LOG.warning("%s: whether ids were claimed until now is not known: %s", self._route.name, error)
                was_held = False
        return was_held

    def let_go(self) -> None:
        """End the claim if it is not given back already, without waiting; what is not told ends by itself."""
        with contextlib.suppress(FacegridError):
            self._given_back()

    def _given_back(self) -> list[Pending]:
        token, self._token = self._token, b""
        if not token:
            return []
        until = time.monotonic() + GIVE_BACK_S
        return [self._send(self._route, shard, self._return(token, shard), until) for shard, _ in self._parts]

    def _claim(self, token: bytes, shard: int, keys: KeyArray) -> Callable[[int], DataRequest]:
        return lambda epoch: ClaimRequest(self._route.gallery_id, shard, epoch, token, keys, self._hold_s)

    def _return(self, token: bytes, shard: int) -> Callable[[int], DataRequest]:
        return lambda epoch: GiveBackRequest(self._route.gallery_id, shard, epoch, token)


_PAUSING = threading.Event()
