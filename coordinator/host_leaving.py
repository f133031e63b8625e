"""What a shard host does that is to go away: it stops writing, then reading, shard by shard, as the coordinator says.

It does so for a moment only, unless the coordinator then configures the shard without it: a coordinator that dies in
between leaves no shard that nobody writes to.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from coordinator.messages import Done, WithdrawShards, YieldReply, YieldShards
from coordinator.replica import Replica
from shard.errors import FacegridError

if TYPE_CHECKING:
    from coordinator.host import ShardHost

NOT_YIELDED = -1
_LOG = logging.getLogger(__name__)


def yield_shards(host: ShardHost, request: YieldShards) -> YieldReply:
    """Begin no write for a while, and have those under way confirmed; see `Replica.pause_writes`."""
    until = time.monotonic() + request.for_s
    told = list(zip(request.gallery_ids, request.shards, request.epochs, strict=True))
    # All stop before the first is waited for.
    paused = [_paused(host, gallery_id, shard, epoch, until) for gallery_id, shard, epoch in told]
    return YieldReply(tuple(NOT_YIELDED if replica is None else _settled(replica, until) for replica in paused))


def withdraw_shards(host: ShardHost, request: WithdrawShards) -> Done:
    """Answer no reads until configured anew."""
    for gallery_id, shard in zip(request.gallery_ids, request.shards, strict=True):
        host.replica(gallery_id, shard).withdraw(request.for_s)
    return Done()


def _paused(host: ShardHost, gallery_id: str, shard: int, epoch: int, until: float) -> Replica | None:
    try:
        replica = host.replica(gallery_id, shard)
        replica.pause_writes(epoch, until)
    except FacegridError as error:
        _LOG.info("shard %d of %s is not handed over: %s", shard, gallery_id, error)
        return None
    return replica


def _settled(replica: Replica, until: float) -> int:
    try:
        return replica.settle(until)
    except FacegridError as error:
        _LOG.info("a shard is not handed over: %s", error)
        return NOT_YIELDED
