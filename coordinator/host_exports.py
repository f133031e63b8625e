"""What a shard host gives of its shards' rows to those who write snapshots. Carried out by `ShardHost`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.messages import ExportMovedRequest, ExportRequest, PointRequest
from shard.export import ExportedRows, ShardPoint
from shard.shard import Shard

if TYPE_CHECKING:
    from coordinator.host import ShardHost


def point(host: ShardHost, request: PointRequest) -> ShardPoint:
    """The moment of one shard, at its primary."""
    with _exportable(host, request.gallery_id, request.shard, request.epoch) as shard:
        return shard.point(request.shard)


def export(host: ShardHost, request: ExportRequest) -> ExportedRows:
    """A piece of one shard's rows, at its primary."""
    with _exportable(host, request.gallery_id, request.shard, request.epoch) as shard:
        return shard.export(request.rows, request.known)


def export_moved(host: ShardHost, request: ExportMovedRequest) -> ExportedRows:
    """A piece of what compaction moved in one shard, at its primary."""
    with _exportable(host, request.gallery_id, request.shard, request.epoch) as shard:
        return shard.export_moved(request.moved)


@contextlib.contextmanager
def _exportable(host: ShardHost, gallery_id: str, number: int, epoch: int) -> Iterator[Shard]:
    """The shard, if this host is its primary under the epoch, and nobody has gone on without it."""
    replica = host.routed(gallery_id, number)
    replica.check_primary(epoch)
    with replica.using() as shard:
        replica.check_read(epoch)
        yield shard
