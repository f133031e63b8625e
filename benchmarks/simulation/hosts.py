"""Hosts that come and go, in virtual time: where replicas are, and how soon all are there again.

Placement, spare hosts and moves are the product's functions and policies; what a copy takes was measured.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.simulation.costs import Costs
from coordinator.placement import balance_moves, is_level, place_replicas, spare_host
from coordinator.replicas import choose_hosts
from coordinator.replication import ReplicationPolicy
from coordinator.types import ShardConfig

GALLERY_ID = "0123456789abcdef"
TICK_S = 0.5
"""The coordinator looks at the hosts so often."""


def names(hosts: int) -> list[str]:
    """Of so many hosts."""
    return [f"host-{number:04}" for number in range(hosts)]


def configs_of(placed: Sequence[Sequence[str]]) -> list[ShardConfig]:
    """All replicas in sync."""
    return [
        ShardConfig(GALLERY_ID, shard, 1, hosts[0], (hosts[0], *sorted(hosts[1:])), ())
        for shard, hosts in enumerate(placed)
    ]


def load_of(configs: Sequence[ShardConfig], hosts: Sequence[str]) -> dict[str, int]:
    """Replicas on each host."""
    held = Counter(host for config in configs for host in (*config.in_sync, *config.joining))
    return {host: held[host] for host in hosts}


def place(hosts: int, shards: int, replicas: int) -> dict[str, Any]:
    """How even a placement is; `cpu_s`: what the product's functions took here, the only figures that differ by run."""
    began = time.process_time()
    placed = place_replicas(GALLERY_ID, shards, replicas, dict.fromkeys(names(hosts), 0))
    place_s = time.process_time() - began
    began = time.process_time()
    asked = choose_hosts(dict(enumerate(placed)), lambda host: 0)
    choose_s = time.process_time() - began
    held = Counter(host for of_shard in placed for host in of_shard)
    led = Counter(of_shard[0] for of_shard in placed)
    return {
        "hosts": hosts,
        "shards": shards,
        "replicas": replicas,
        "most_replicas": max(held.values()),
        "least_replicas": min(held[name] for name in names(hosts)),
        "most_primaries": max(led.values()),
        "asked_by_a_query": len(asked),
        "cpu_s": {"place_replicas": place_s, "choose_hosts": choose_s},
    }


def lose_one(hosts: int, shards: int, replicas: int, templates: int, costs: Costs, copies: int | None = None) -> Any:
    """A host is lost for good: when it is known, when copying begins, when all replicas are there again."""
    policy = ReplicationPolicy() if copies is None else ReplicationPolicy(copies=copies)
    everyone = names(hosts)
    configs = configs_of(place_replicas(GALLERY_ID, shards, replicas, dict.fromkeys(everyone, 0)))
    lost = everyone[0]
    left = [_without(config, lost) for config in configs if lost in config.in_sync]
    load = load_of(configs, everyone)
    del load[lost]
    targets = []
    began = time.process_time()
    for config in left:
        host = spare_host(config, load, list(load))
        if host is not None:
            load[host] += 1
            targets.append(host)
    cpu_s = time.process_time() - began
    known_s = policy.dead_s + TICK_S
    begin_s = known_s + policy.away_s
    each_s = copy_s(templates / shards, costs)
    free = [begin_s] * policy.copies
    for _ in targets:
        heapq.heapreplace(free, free[0] + each_s)
    return {
        "hosts": hosts,
        "replicas": replicas,
        "copies": policy.copies,
        "replicas_lost": len(left),
        "spares": len(set(targets)),
        "known_s": known_s,
        "begin_s": begin_s,
        "level_s": max(free),
        "cpu_s": {"spare_host": cpu_s},
    }


def add_some(
    hosts: int, new: int, shards: int, replicas: int, templates: int, costs: Costs, copies: int | None = None
) -> dict[str, Any]:
    """Empty hosts come: rounds of moves as the coordinator makes them, until hosts are level."""
    policy = ReplicationPolicy() if copies is None else ReplicationPolicy(copies=copies)
    everyone = names(hosts + new)
    placed = place_replicas(GALLERY_ID, shards, replicas, dict.fromkeys(names(hosts), 0))
    configs = configs_of(placed)
    now, moved, cpu, rounds = 0.0, 0, 0.0, 0
    each_s = copy_s(templates / shards, costs)
    while not is_level(everyone, load := load_of(configs, everyone)):
        began = time.process_time()
        moves = balance_moves(configs, everyone, load)[: policy.copies]
        cpu += time.process_time() - began
        if not moves:
            break
        for move in moves:
            config = _without(configs[move.shard], move.source)
            in_sync = (config.primary, *sorted({*config.in_sync[1:], move.target} - {config.primary}))
            configs[move.shard] = replace(config, in_sync=in_sync)
        # One look decides, one sees that the copies are in sync and gives the surplus up.
        now += each_s + 2 * TICK_S
        moved += len(moves)
        rounds += 1
    load = load_of(configs, everyone)
    return {
        "hosts": hosts,
        "new": new,
        "replicas": replicas,
        "copies": policy.copies,
        "moved": moved,
        "level_s": now,
        "most_replicas": max(load.values()),
        "least_replicas": min(load.values()),
        "cpu_s": {"balance_moves": cpu / max(1, rounds)},
    }


def copy_s(templates: float, costs: Costs) -> float:
    """Seconds in which a replica of so many templates is copied."""
    return templates / float(costs.measured["copy"]["rows_per_s"])


def _without(config: ShardConfig, host: str) -> ShardConfig:
    others = tuple(other for other in config.in_sync if other != host)
    if not others:
        return replace(config, in_sync=())
    return replace(config, primary=others[0], in_sync=others)
