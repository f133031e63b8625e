"""How much of everything a gallery takes: formulas over measured costs. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.hosts import GALLERY_ID, names
from coordinator.placement import place_replicas
from coordinator.replicas import choose_hosts

HOST_CORES, HOST_MEMORY, HOST_DISK = 16, 128e9, 4e12
"""The host that the page counts in: an assumption, as is that at most FILLED of its memory and disk is used."""
FILLED = 0.7
UTILISATION = 0.5
"""Queries a second are told for hosts half of whose cores are busy."""
MEASURED_DIM = 512
MAX_SHARDS = 1_024
SHARD_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of all hosts together; hosts: the fewest that hold it; qps: of those, with UTILISATION of their cores."""

    templates: int
    dim: int
    replicas: int
    shards: int
    memory: float
    disk: float
    hosts: int
    asked: int
    core_s: float
    qps: float
    catalog: float
    network: float


def size(templates: int, dim: int, replicas: int, costs: Costs, recall: str = "0.999") -> Size:
    """memory = templates x replicas x resident bytes of one; disk = templates x replicas x bytes of one, 4 bytes less
    for each dimension below 512; network: bytes of a query, to all hosts asked and back."""
    shards = min(MAX_SHARDS, max(1, math.ceil(templates / SHARD_ROWS)))
    memory = templates * replicas * costs.resident_bytes
    disk = templates * replicas * (costs.disk_bytes - 4 * (MEASURED_DIM - dim))
    hosts = max(replicas, math.ceil(memory / (FILLED * HOST_MEMORY)), math.ceil(disk / (FILLED * HOST_DISK)))
    placed = place_replicas(GALLERY_ID, shards, replicas, dict.fromkeys(names(hosts), 0))
    asked = len(choose_hosts(dict(enumerate(placed)), lambda host: 0))
    weight = 1.0 if recall == "0.999" else costs.recalls[recall]
    core_s = asked * (costs.search_s(templates / asked) * weight + costs.host_s)
    wire, catalog = costs.measured["wire"], costs.measured["catalog"]
    return Size(
        templates=templates,
        dim=dim,
        replicas=replicas,
        shards=shards,
        memory=memory,
        disk=disk,
        hosts=hosts,
        asked=asked,
        core_s=core_s,
        qps=hosts * HOST_CORES * UTILISATION / core_s,
        catalog=(catalog["bytes"] - catalog["bytes_before"]) / catalog["shards"] * shards,
        network=asked * (wire["request_bytes"] + wire["reply_bytes"]),
    )
