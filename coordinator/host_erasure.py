"""What a shard host does so that the bytes of deleted templates leave its files, and what it says of them.

Requests of `coordinator.erasure`, carried out by `ShardHost`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from coordinator.messages import (
    BuriedReply,
    BuriedRequest,
    CompactShards,
    Done,
    ErasureReply,
    ErasureRequest,
    ScrubShards,
)
from coordinator.replica import Replica
from shard.compaction import compact
from shard.errors import FacegridError
from shard.shard import Shard
from shard.types import ErasureState

if TYPE_CHECKING:
    from coordinator.host import ShardHost


def compact_shards(host: ShardHost, request: CompactShards) -> Done:
    """As primary: give up segments with dead rows."""
    for number in request.shards:
        host.replica(request.gallery_id, number).write(0, lambda shard: compact(shard, least_dead=request.least_dead))
    return Done()


def scrub_shards(host: ShardHost, request: ScrubShards) -> Done:
    """Leave no byte of deleted labels in the databases."""
    for number in request.shards:
        if not host.has_files(request.gallery_id, number):
            continue  # a replica that joins and has not begun to copy
        replica = host.replica(request.gallery_id, number)
        if _erasure(replica).needs_scrub:
            with replica.using() as shard:
                shard.scrub()
    return Done()


def erasure(host: ShardHost, request: ErasureRequest) -> ErasureReply:
    """What the files of the asked shards still hold of deleted templates."""
    nothing = ErasureState(0, None, needs_scrub=False)  # a replica that joins and has not begun to copy
    return ErasureReply(
        tuple(
            _erasure(host.replica(request.gallery_id, n)) if host.has_files(request.gallery_id, n) else nothing
            for n in request.shards
        )
    )


def buried(host: ShardHost, request: BuriedRequest) -> BuriedReply:
    """Every shard that holds bytes of deleted templates; none is opened to be asked."""
    found: list[tuple[str, int, int]] = []
    for key, replica in host.held():
        with contextlib.suppress(FacegridError):  # one that cannot be asked is seen to as damaged
            if (oldest := _erasure(replica).oldest) is not None:
                found.append((*key, oldest))
    return BuriedReply(tuple(g for g, _, _ in found), tuple(n for _, n, _ in found), tuple(t for _, _, t in found))


def _erasure(replica: Replica) -> ErasureState:
    return replica.lazy.ask(lambda rest: rest.erasure, Shard.erasure)
