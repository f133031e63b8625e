"""`RayIdempotency`: the methods of `coordinator.idempotency.Idempotency`, carried out by the coordinator's actor."""

from __future__ import annotations

from coordinator.actors import Actor
from coordinator.idempotency import KnownRequest


class RayIdempotency:
    """Idempotent requests of a home whose coordinator is an actor. Thread-safe."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def begin(self, owner: str, key: str, digest: bytes, within_s: float | None = None) -> KnownRequest | None:
        """See Idempotency.begin."""
        known: KnownRequest | None = self._actor.call(
            "call", "idempotency.begin", (owner, key, digest), {}, timeout_s=within_s
        )
        return known

    def finish(self, owner: str, key: str, reply: bytes, within_s: float | None = None) -> None:
        """See Idempotency.finish."""
        self._actor.call("call", "idempotency.finish", (owner, key, reply), {}, timeout_s=within_s)
