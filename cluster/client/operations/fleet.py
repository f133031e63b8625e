"""The service as a whole: who asks, hosts, shards."""

from __future__ import annotations

from typing import Any

from cluster.client.call import Operation
from cluster.client.operations.requests import get, quoted
from cluster.client.wire import entry, record, records
from cluster.results import HostStatus, ShardReplicas
from coordinator.tenant_types import Usage


def whoami() -> Operation[dict[str, Any]]:
    """Whose key it is and what it may do, as the service says it."""
    return (yield from get("/v1/whoami"))


def usage(tenant: str) -> Operation[Usage]:
    """What a tenant has."""
    return record(Usage, (yield from get(f"/v1/tenants/{quoted(tenant)}/usage")))


def hosts() -> Operation[list[HostStatus]]:
    """Every shard host; an operator's key is needed."""
    document = yield from get("/v1/cluster/hosts")
    return records(HostStatus, entry(document, "hosts", list), "hosts")


def replicas() -> Operation[list[ShardReplicas]]:
    """Who holds each shard; an operator's key is needed."""
    document = yield from get("/v1/cluster/shards")
    return [record(ShardReplicas, one) for one in entry(document, "shards", list)]
