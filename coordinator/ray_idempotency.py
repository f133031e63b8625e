"""`RayIdempotency`: the methods of `coordinator.idempotency.Idempotency`, carried out by the coordinator's actor."""

from __future__ import annotations

from coordinator.actors import Actor
from coordinator.idempotency import KnownRequest

ANSWER_S = 2.0
"""How long the coordinator may take: a row of the catalog."""


class RayIdempotency:
    """Idempotent requests of a home whose coordinator is an actor. Thread-safe."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def begin(self, owner: str, key: str, digest: bytes) -> KnownRequest | None:
        """See Idempotency.begin."""
        known: KnownRequest | None = self._actor.call(
            "call", "idempotency.begin", (owner, key, digest), {}, timeout_s=ANSWER_S
        )
        return known

    def finish(self, owner: str, key: str, reply: bytes) -> None:
        """See Idempotency.finish."""
        self._actor.call("call", "idempotency.finish", (owner, key, reply), {}, timeout_s=ANSWER_S)
