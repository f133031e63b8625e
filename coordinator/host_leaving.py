"""What a primary does that is to hand over: it stops writing, shard by shard, as the coordinator says.

It does so for a moment only, unless the coordinator then makes another one primary: a coordinator that dies in between
leaves no shard that nobody writes to.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from coordinator.messages import YieldReply, YieldShards
from coordinator.replica import Replica
from shard.errors import FacegridError

if TYPE_CHECKING:
    from coordinator.host import ShardHost

NOT_YIELDED = -1
SETTLE_SHARE = 0.4
"""The part of a pause for which writes under way are waited for; the rest is the coordinator's."""
_LOG = logging.getLogger(__name__)


def yield_shards(host: ShardHost, request: YieldShards) -> YieldReply:
    """Begin no write for a while, and have those under way confirmed; see `Replica.pause_writes`.

    The shards are waited for side by side: one whose write takes long (a compaction is one) leaves the others the time
    to change hands, and writes again before they do.
    """
    now = time.monotonic()
    until, settled_by = now + request.for_s, now + SETTLE_SHARE * request.for_s
    told = list(zip(request.gallery_ids, request.shards, request.epochs, strict=True))
    # All stop before the first is waited for.
    paused = [_paused(host, gallery_id, shard, epoch, until) for gallery_id, shard, epoch in told]
    if request.for_s <= 0:
        return YieldReply((NOT_YIELDED,) * len(told))
    with ThreadPoolExecutor(max(1, len(told)), thread_name_prefix="facegrid-yield") as pool:
        return YieldReply(tuple(pool.map(partial(_settled, until=settled_by), paused)))


def _paused(host: ShardHost, gallery_id: str, shard: int, epoch: int, until: float) -> Replica | None:
    try:
        replica = host.replica(gallery_id, shard)
        replica.pause_writes(epoch, until)
    except FacegridError as error:
        _LOG.info("shard %d of %s is not handed over: %s", shard, gallery_id, error)
        return None
    return replica


def _settled(replica: Replica | None, until: float) -> int:
    if replica is None:
        return NOT_YIELDED
    try:
        return replica.settle(until)
    except FacegridError as error:
        _LOG.info("a shard is not handed over: %s", error)
        return NOT_YIELDED
