"""The cluster as its operator sees it: shard hosts, and who holds which shard."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from cluster.service import schemas
from cluster.service.calls import Asked
from cluster.service.operations import operation

router = APIRouter(prefix="/v1/cluster")


class HostsReply(schemas.Reply):
    """Shard hosts by name."""

    hosts: list[dict[str, Any]]


class ShardsReply(schemas.Reply):
    """Shards by gallery and number."""

    shards: list[dict[str, Any]]


@operation(router, "GET", "/hosts", "cluster.hosts", reply=HostsReply, tag="cluster")
async def hosts(call: Asked) -> Response:
    """Every shard host, its state, what it holds and how it answers. Operator only."""
    call.operator()
    found = await call.run(call.gateway.cluster.hosts)
    return call.reply({"hosts": [asdict(host) for host in found]})


@operation(router, "GET", "/shards", "cluster.shards", reply=ShardsReply, tag="cluster")
async def shards(call: Asked) -> Response:
    """Who holds each shard of every gallery. Operator only."""
    call.operator()
    found = await call.run(call.gateway.cluster.replicas)
    return call.reply({"shards": [{**asdict(shard), "missing": shard.missing} for shard in found]})
