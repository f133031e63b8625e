"""What is simulated for `docs/sizing.md`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.simulation import dedup, hosts, queries
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.dedup import Plan, block_costs, group_for
from benchmarks.simulation.queries import CALM, STRAGGLERS, Traffic, Trouble

MILLION, BILLION = 1_000_000, 1_000_000_000
SIZES = (MILLION, 100 * MILLION, BILLION)
HOSTS = (1, 10, 100, 1_000)
SHARDS = 1_024
"""The most that a gallery can have."""
FAN_OUT_HOSTS = (16, 64, 250, 1_000)
QUERIES = 400
CORES = 16


def run(costs: Costs) -> dict[str, Any]:
    """All of it; a few minutes."""
    return {
        "format": 1,
        "placement": [hosts.place(count, SHARDS, replicas) for count in (100, 1_000) for replicas in (1, 2, 3)],
        "queries": [
            run_queries(costs, count, trouble, is_hedged)
            for count in FAN_OUT_HOSTS
            for trouble in (CALM, STRAGGLERS)
            for is_hedged in (True, False)
        ],
        "lost": [
            hosts.lose_one(count, SHARDS, 2, BILLION, costs, copies) for count in (32, 1_000) for copies in (2, 16)
        ],
        "added": [
            hosts.add_some(count, new, SHARDS, 2, BILLION, costs, copies)
            for count, new in ((32, 4), (1_000, 100))
            for copies in (2, 16)
        ],
        "dedup": [run_dedup(costs, rows, count) for rows in SIZES for count in HOSTS],
        "trouble": [run_trouble(costs, name) for name in TROUBLES],
    }


def run_queries(costs: Costs, count: int, trouble: Trouble, is_hedged: bool) -> dict[str, Any]:
    """Searches for one in a billion at recall 0.99."""
    traffic = Traffic(
        BILLION, count, SHARDS, queries=QUERIES, trouble=trouble, is_hedged=is_hedged, weight=costs.recalls["0.99"]
    )
    return queries.simulate(traffic, costs)


def run_dedup(costs: Costs, rows: int, count: int) -> dict[str, Any]:
    """All pairs of so many rows on so many hosts of CORES cores."""
    plan = Plan(rows, count, CORES)
    return dedup.simulate(replace_group(plan), block_costs(costs))


def replace_group(plan: Plan, **changes: Any) -> Plan:
    """The plan with squares of the size that fits its workers."""
    return replace(plan, group=group_for(plan.parts, plan.hosts * plan.cores), **changes)


TROUBLES: dict[str, dict[str, Any]] = {
    "nothing happens": {},
    "squares of 4 × 4 blocks are handed out": {"group": 4},
    "1 % of the workers take 3 times as long": {"slow_share": 0.01, "slow_factor": 3.0},
    "160 of 1,600 workers die once": {"deaths": 160},
}
"""What happens to a job of 100 M rows on 100 hosts."""


def run_trouble(costs: Costs, name: str) -> dict[str, Any]:
    """The job of 100 M rows on 100 hosts, and what happens to it."""
    plan = replace(replace_group(Plan(100 * MILLION, 100, CORES)), **TROUBLES[name])
    return {"what": name, **dedup.simulate(plan, block_costs(costs))}
