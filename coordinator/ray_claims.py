"""`RayClaims`: the methods of `coordinator.claims.Claims`, carried out by the coordinator's actor."""

from __future__ import annotations

from coordinator.actors import Actor
from shard.types import KeyArray


class RayClaims:
    """Claims of a home whose coordinator is an actor. Thread-safe."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def take(self, gallery_id: str, token: bytes, keys: KeyArray) -> bool:
        """See Claims.take."""
        is_taken: bool = self._actor.call("call", "claims.take", (gallery_id, token, keys), {})
        return is_taken

    def give_back(self, gallery_id: str, token: bytes) -> None:
        """See Claims.give_back."""
        self._actor.call("call", "claims.give_back", (gallery_id, token), {})
