"""`Replies`: what was answered under idempotency keys. The catalog remembers it; what cannot be told to it now is
remembered here, and told later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from cluster.service.auth import AWAY
from coordinator.idempotency import KnownRequest

if TYPE_CHECKING:
    from coordinator.idempotency import Idempotency
    from coordinator.ray_idempotency import RayIdempotency

MAX_UNTOLD = 10_000
"""Requests that the catalog was not told of; more are refused while it is away."""
PATIENCE_S = 2.0
"""How long the catalog may take: a row of it. What can go on without it does then."""
TELL_S = 0.5
"""How often it is tried to tell what it does not know."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Control(Protocol):
    """The control plane, as the gateway finds it; see `cluster.service.gateway.Gateway`."""

    @property
    def is_away(self) -> bool:
        """Whether it did not answer when it was asked last."""

    def found_away(self) -> None:
        """It does not answer."""

    def found_back(self) -> None:
        """It answers."""


class Replies:
    """Of one event loop. A request is known by its owner and its key."""

    def __init__(self, store: Idempotency | RayIdempotency, control: Control) -> None:
        self._store, self._control = store, control
        self._untold: dict[tuple[str, str], KnownRequest] = {}

    async def begin(self, run: Run, owner: str, key: str, digest: bytes, *, is_repeatable: bool) -> KnownRequest | None:
        """What is known of a request, None if this is the first time; from then on it is known.

        is_repeatable: it does no more when it is carried out twice, so that it may be while nobody can say whether it
        was; it is then told to be begun before. Otherwise it is AWAY.
        """
        known = self._untold.get((owner, key))
        if known is not None:
            return known
        may_go_on = is_repeatable and len(self._untold) < MAX_UNTOLD
        if not (may_go_on and self._control.is_away):
            try:
                within_s = PATIENCE_S if may_go_on else None
                return await run(lambda: self._store.begin(owner, key, digest, within_s))
            except AWAY:
                self._control.found_away()
                if not may_go_on:
                    raise
        begun = self._untold[owner, key] = KnownRequest(digest, None)
        return begun

    async def finish(self, run: Run, owner: str, key: str, digest: bytes, reply: bytes) -> None:
        """Have the request answered alike from now on."""
        if (owner, key) not in self._untold:
            try:
                await run(lambda: self._store.finish(owner, key, reply, PATIENCE_S))
            except AWAY:
                self._control.found_away()
            else:
                return
        self._untold[owner, key] = KnownRequest(digest, reply)

    async def keep_told(self) -> None:
        """Tell the catalog what it does not know, as soon as it is there, until cancelled."""
        while True:
            await asyncio.sleep(TELL_S)
            if not self._untold:
                continue
            is_told = await asyncio.to_thread(self.tell)
            if is_told:
                self._control.found_back()

    def tell(self) -> bool:
        """Whether the catalog could be told. Blocks."""
        for (owner, key), untold in list(self._untold.items()):
            try:
                known = self._store.begin(owner, key, untold.digest, PATIENCE_S)
                # Of two gateways that went on with one request, the first is believed.
                if untold.reply is not None and (known is None or known == KnownRequest(untold.digest, None)):
                    self._store.finish(owner, key, untold.reply, PATIENCE_S)
            except AWAY:
                return False
            except Exception:  # noqa: BLE001 - the rest is told all the same
                # Nothing is lost but an answer: the request, should it come again, is refused for what it has stored.
                _LOG.exception("an idempotency key cannot be remembered")
            if self._untold.get((owner, key)) is untold:  # else it was answered meanwhile
                del self._untold[owner, key]
        return True


class Run(Protocol):
    """Carries out a blocking call, when it is the tenant's turn."""

    async def __call__(self, call: Callable[[], T]) -> T:
        """What the call returns or raises."""
