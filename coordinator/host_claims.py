"""Claims of template ids at a shard host, see `coordinator.claims`. Carried out by `ShardHost`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.claims import Claims
from coordinator.messages import ClaimReply, ClaimRequest, GiveBackReply, GiveBackRequest

if TYPE_CHECKING:
    from coordinator.host import ShardHost


def claim(host: ShardHost, request: ClaimRequest) -> ClaimReply:
    """Claim ids at the shard that keeps them."""
    claims = _claims(host, request.gallery_id, request.shard, request.epoch)
    return ClaimReply(claims.take(request.token, request.keys, request.hold_s))


def give_back(host: ShardHost, request: GiveBackRequest) -> GiveBackReply:
    """End a claim."""
    return GiveBackReply(_claims(host, request.gallery_id, request.shard, request.epoch).give_back(request.token))


def _claims(host: ShardHost, gallery_id: str, shard: int, epoch: int) -> Claims:
    replica = host.routed(gallery_id, shard)
    replica.check_claim(epoch)
    return replica.claims
