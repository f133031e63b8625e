"""The service as a whole: who asks, hosts, shards."""

from __future__ import annotations

from typing import Any

from cluster.client.call import Operation
from cluster.client.operations.requests import get
from cluster.client.wire import entry, record, records
from cluster.results import HostStatus, ShardReplicas


def whoami() -> Operation[dict[str, Any]]:
    """Whose key it is and what it may do, as the service says it."""
    return (yield from get("/v1/whoami"))


def hosts() -> Operation[list[HostStatus]]:
    """Every shard host; an operator's key is needed."""
    document = yield from get("/v1/cluster/hosts")
    return records(HostStatus, entry(document, "hosts", list), "hosts")


def replicas() -> Operation[list[ShardReplicas]]:
    """Who holds each shard; an operator's key is needed."""
    document = yield from get("/v1/cluster/shards")
    return [record(ShardReplicas, one) for one in entry(document, "shards", list)]
