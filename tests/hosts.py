"""Shard hosts of tests that run without a coordinator: each shard's only replica, in its first epoch."""

from coordinator.host import ShardHost
from coordinator.messages import ConfigureShards, CreateShard, InventoryReply, InventoryRequest
from coordinator.types import ShardConfig


def create_alone(host: ShardHost, gallery_id: str, shard: int, dim: int) -> None:
    """Create a shard of which the host is the only one in sync."""
    host.execute(CreateShard(gallery_id, shard, dim))
    configure_alone(host, gallery_id, shard)


def configure_alone(host: ShardHost, gallery_id: str, shard: int) -> None:
    """Make the host the only one in sync of a shard that it has."""
    config = ShardConfig(gallery_id, shard, 1, host.name, (host.name,), ())
    host.execute(ConfigureShards((config,), (1,)))


def configure_all_alone(host: ShardHost) -> None:
    """Make the host the only one in sync of everything in its directory."""
    found = host.execute(InventoryRequest())
    assert isinstance(found, InventoryReply)
    for gallery_id, shard in zip(found.galleries, found.shards, strict=True):
        configure_alone(host, gallery_id, shard)
