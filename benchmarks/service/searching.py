"""Searches over HTTP: one connection, 64, batches; and one tenant's single queries beside another's flood."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.service import wrk
from benchmarks.service.paced import paced, summary
from benchmarks.service.results import Fairness, SearchLoad
from benchmarks.service.served import Served
from benchmarks.service.usage import Moment, others_cores
from benchmarks.service.workload import BATCH, MSGPACK, Workload, batch_bodies, single_bodies
from shard.types import DEFAULT_RECALL

MANY = 64
PACE_PER_S = 20.0
FLOOD_CONNECTIONS = 4
FLOOD_WARM_UP_S = 3


@dataclass(frozen=True, slots=True)
class Asking:
    """One way to ask: of which gallery, for how many, in which media type, aiming at which recall."""

    gallery: str
    k: int
    body: str = MSGPACK
    recall: float = DEFAULT_RECALL


def searched(
    served: Served, workload: Workload, key: str, asking: Asking, *, connections: int, queries: int, seconds: int
) -> SearchLoad:
    """One load; warmed up before by the same requests."""
    target = served.target(asking.gallery, key, asking.body)
    if queries == 1:
        bodies = single_bodies(workload, asking.k, asking.body, recall=asking.recall)
    else:
        bodies = batch_bodies(workload, asking.k, recall=asking.recall)
    wrk.load(target, bodies, connections=connections, seconds=wrk.WARM_UP_S, warm_up=0)
    before = Moment.of(served.process.pid)
    found = wrk.load(target, bodies, connections=connections, seconds=seconds, warm_up=0)
    after = Moment.of(served.process.pid)
    answered = found.requests * queries
    return SearchLoad(
        gallery=workload.name,
        k=asking.k,
        recall=asking.recall,
        body=asking.body,
        queries=queries,
        load=found,
        queries_per_s=found.per_s * queries,
        server_cpu_ms=(after.process_s - before.process_s) / max(1, answered) * 1e3,
        others_cores=others_cores(before, after, found.generator_cpu_s),
    )


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks, and of what."""

    key: str
    gallery: str
    workload: Workload


def fairness(served: Served, quiet: Tenant, flooding: Tenant, *, k: int, seconds: int, rounds: int) -> Fairness:
    """The quiet tenant's single queries at PACE_PER_S, alone and beside the flood, in turns.

    In turns, so that whatever else the machine does meets both alike. The flood has been running for a while before the
    first query counts.
    """
    singles = single_bodies(quiet.workload, k)
    batches = batch_bodies(flooding.workload, k)
    asks = served.target(quiet.gallery, quiet.key, MSGPACK)
    floods = served.target(flooding.gallery, flooding.key, MSGPACK)
    undisturbed = wrk.load(floods, batches, connections=FLOOD_CONNECTIONS, seconds=max(2, seconds // 2))
    paced(asks, singles, per_s=PACE_PER_S, seconds=2)
    alone: list[float] = []
    beside: list[float] = []
    flood_requests, flood_s = [], 0.0
    with tempfile.TemporaryDirectory(prefix="facegrid-flood-") as folder:
        requests = Path(folder) / "requests"
        wrk.write_requests(requests, floods, batches)
        for _ in range(rounds):
            alone += paced(asks, singles, per_s=PACE_PER_S, seconds=seconds)
            length = FLOOD_WARM_UP_S + seconds + 2
            flood = wrk.start(floods, requests, connections=FLOOD_CONNECTIONS, seconds=length)
            try:
                time.sleep(FLOOD_WARM_UP_S)
                beside += paced(asks, singles, per_s=PACE_PER_S, seconds=seconds)
                output, _ = flood.communicate(timeout=length + wrk.TIMEOUT_S)
            finally:
                flood.kill()
                flood.wait()
            flood_requests.append(wrk.read(wrk.parse(output), FLOOD_CONNECTIONS, 0.0))
            flood_s += flood_requests[-1].seconds
    return Fairness(
        rounds=rounds,
        alone=summary(alone, PACE_PER_S),
        beside=summary(beside, PACE_PER_S),
        flood=max(flood_requests, key=lambda found: found.errors),
        flood_per_s=sum(found.requests for found in flood_requests) * BATCH / flood_s,
        flood_alone_per_s=undisturbed.per_s * BATCH,
    )
