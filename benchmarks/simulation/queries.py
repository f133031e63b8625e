"""Queries against many hosts in virtual time. Whom to ask, when to hedge and what to retry is the product's `FanOut`,
driven event by event; hosts and networks are queues whose service times are drawn from measured distributions."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.events import Events
from coordinator import merge
from coordinator.fanout import FanOut, ReadDesk
from coordinator.health import HealthTable
from coordinator.hedging import ReadPolicy
from coordinator.messages import DataRequest, Reply, SearchReply, SearchRequest
from coordinator.placement import place_replicas
from coordinator.questions import Question
from coordinator.replicas import choose_hosts
from coordinator.routes import RouteTable
from coordinator.types import GalleryRoute
from shard.types import SearchParams

if TYPE_CHECKING:
    from coordinator.runtime import Runtime

GALLERY_ID = "0123456789abcdef"
UNHEDGED = ReadPolicy(hedge_share=0.0, hedge_burst=0.0)
_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What hosts suffer from. ASSUMED, not measured: slow_share of the hosts take slow_factor as long, always; every
    host stands still for pause_s, again and again, with pauses_s between on average."""

    slow_share: float = 0.0
    slow_factor: float = 1.0
    pause_s: float = 0.0
    pauses_s: float = float("inf")


CALM = Trouble()
STRAGGLERS = Trouble(slow_share=0.01, slow_factor=5.0, pause_s=0.1, pauses_s=20.0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """A gallery on its hosts, and who asks. network_s: one way, assumed. utilisation: of whichever is short first,
    the hosts' cores or the routers'. weight: what a query costs a host, as a factor of what was
    measured for the default recall and one candidate. service: "measured", or "exponential" of the same mean for
    tests."""

    templates: int
    hosts: int
    shards: int = 1_024
    replicas: int = 2
    cores: int = 16
    routers: int = 4
    queries: int = 1_000
    utilisation: float = 0.3
    is_hedged: bool = True
    trouble: Trouble = CALM
    network_s: float = 0.0001
    seed: int = 0
    service: str = "measured"
    weight: float = 1.0


@dataclass(slots=True)
class _Host:
    """Cores that take requests in the order they come. free_at: when each core is done with what it has, a heap;
    pause_at: when the next pause begins."""

    free_at: list[float]
    factor: float
    pause_at: float


class Cluster:
    """Hosts and routers as queues; `submit` is what `Runtime.submit` is to a router."""

    def __init__(self, traffic: Traffic, costs: Costs) -> None:
        self.traffic, self.costs, self.events = traffic, costs, Events()
        self._random = random.Random(traffic.seed)
        self._by_host, self._by_probe = costs.by_host.tolist(), costs.by_probe.tolist()
        self._mean_s: dict[int, float] = {}
        self.names = [f"host-{number:04}" for number in range(traffic.hosts)]
        slow = set(self._random.sample(range(traffic.hosts), round(traffic.trouble.slow_share * traffic.hosts)))
        self.hosts = {
            name: _Host(
                [0.0] * traffic.cores, traffic.trouble.slow_factor if number in slow else 1.0, self._next_pause(0.0)
            )
            for number, name in enumerate(self.names)
        }
        self.request_s = costs.router_s + costs.decision_s
        self.routers = [0.0] * traffic.routers
        self.requests = 0
        self.core_s = 0.0

    def service_s(self, shards: int, hardness: float) -> float:
        """CPU seconds of a request for so many shards: by size, as hard as its probe, and as it happens."""
        mean = self._mean_s.get(shards)
        if mean is None:
            size = self.traffic.templates * shards / self.traffic.shards
            mean = self._mean_s[shards] = self.costs.search_s(size) * self.traffic.weight + self.costs.host_s
        if self.traffic.service == "exponential":
            return self._random.expovariate(1 / mean)
        return float(mean * hardness * self._random.choice(self._by_host))

    def hardness(self) -> float:
        """Of a probe, for all hosts alike."""
        return 1.0 if self.traffic.service == "exponential" else float(self._random.choice(self._by_probe))

    def route(self) -> GalleryRoute:
        """The gallery, placed by the product on hosts that hold nothing else."""
        traffic = self.traffic
        placed = place_replicas(GALLERY_ID, traffic.shards, traffic.replicas, dict.fromkeys(self.names, 0))
        epochs = (1,) * traffic.shards
        return GalleryRoute(GALLERY_ID, "acme/all", 512, 512, None, placed, epochs, None, 1, traffic.replicas)

    def router_time(self, router: int, seconds: float) -> float:
        """When a router has done something that takes it so long, after what it has to do already."""
        self.routers[router] = max(self.routers[router], self.events.now) + seconds
        return self.routers[router]

    def serve(self, name: str, seconds: float) -> float:
        """When a host has answered a request that comes now: its first free core takes it."""
        host = self.hosts[name]
        start = self._after_pause(host, max(self.events.now, host.free_at[0]))
        done = start + seconds * host.factor
        heapq.heapreplace(host.free_at, done)
        self.core_s += seconds * host.factor
        return done

    def _after_pause(self, host: _Host, start: float) -> float:
        """Begin after the pause that the moment falls into, if it does."""
        pause_s = self.traffic.trouble.pause_s
        while host.pause_at + pause_s <= start:
            host.pause_at = self._next_pause(host.pause_at + pause_s)
        return host.pause_at + pause_s if host.pause_at <= start else start

    def _next_pause(self, after: float) -> float:
        pauses_s = self.traffic.trouble.pauses_s
        return after + self._random.expovariate(1 / pauses_s) if math.isfinite(pauses_s) else math.inf


class _Way:
    """From one router to the hosts: what the product's reads take for their runtime's `submit`."""

    def __init__(self, cluster: Cluster, router: int) -> None:
        self._cluster, self._router = cluster, router
        self.query: _Query | None = None
        """Whose requests these are, while it sends."""
        self.own_s = 0.0
        """CPU seconds of the simulation itself."""

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        """Send a request into virtual time."""
        cluster, future = self._cluster, Future[Reply]()
        began = time.process_time()
        assert isinstance(request, SearchRequest)
        assert self.query is not None
        cluster.requests += 1
        seconds = cluster.service_s(len(request.shards), self.query.hardness)
        sent = cluster.router_time(self._router, cluster.request_s / 2)
        cluster.events.at(
            sent + cluster.traffic.network_s, partial(self._come, host, seconds, future, self.query.advance)
        )
        self.own_s += time.process_time() - began
        return future

    def _come(self, host: str, seconds: float, future: Future[Reply], then: Callable[[], None]) -> None:
        done = self._cluster.serve(host, seconds)
        self._cluster.events.at(done + self._cluster.traffic.network_s, partial(self._back, future, then))

    def _back(self, future: Future[Reply], then: Callable[[], None]) -> None:
        read = self._cluster.router_time(self._router, self._cluster.request_s / 2)
        self._cluster.events.at(read, partial(_take, future, then))


def _take(future: Future[Reply], then: Callable[[], None]) -> None:
    future.set_result(_REPLY)
    then()


class _Query:
    """One read: the product's FanOut, told of answers and of times that have come."""

    def __init__(self, run: _Run, number: int) -> None:
        self._run, self._router = run, number % run.traffic.routers
        self._cluster, self._way = run.cluster, run.ways[self._router]
        self._began = run.cluster.events.now
        self.hardness = run.cluster.hardness()
        question = Question("search", 1, _request, SearchReply)
        self._read = FanOut(run.desks[self._router], run.route, question, self._began + _DEADLINE_S)
        self._alarm = math.inf
        self._is_over = False

    def begin(self) -> None:
        """Ask."""
        self._do(lambda: self._read.begin([]))

    def advance(self) -> None:
        """Something has come, or it is time for something."""
        if not self._is_over:
            self._do(lambda: self._read.advance(0.0))

    def _do(self, act: Callable[[], object]) -> None:
        began = time.process_time()
        self._way.query = self
        act()
        self._run.decision_s += time.process_time() - began
        if not self._read.progress.open:
            self._end()
        elif (wake := self._read.wake_at) < self._alarm:
            self._alarm = wake
            self._cluster.events.at(wake, self._wake)

    def _wake(self) -> None:
        self._alarm = math.inf
        self.advance()

    def _end(self) -> None:
        self._is_over = True
        self._read.leave()
        lists = len(self._read.progress.replies())
        done = self._cluster.router_time(self._router, self._cluster.costs.merge_s(lists))
        self._run.latencies.append(done - self._began)
        self._run.failures += len(self._read.progress.failures)


class _Run:
    """All queries of one simulation."""

    def __init__(self, traffic: Traffic, costs: Costs) -> None:
        self.traffic, self.cluster = traffic, Cluster(traffic, costs)
        events = self.cluster.events
        policy = ReadPolicy() if traffic.is_hedged else UNHEDGED
        self.ways = [_Way(self.cluster, router) for router in range(traffic.routers)]
        self.health = [HealthTable(clock=events.clock) for _ in self.ways]
        self.desks = [
            # A read asks its runtime for `submit` alone.
            ReadDesk(cast("Runtime", way), RouteTable(clock=events.clock), health, policy, events.clock)
            for way, health in zip(self.ways, self.health, strict=True)
        ]
        self.route = self.cluster.route()
        self.latencies: list[float] = []
        self.failures = 0
        self.decision_s = 0.0

    def start(self, times: Sequence[float]) -> None:
        for number, when in enumerate(times):
            self.cluster.events.at(when, partial(_begin, self, number))


def _begin(run: _Run, number: int) -> None:
    _Query(run, number).begin()


def simulate(traffic: Traffic, costs: Costs) -> dict[str, Any]:
    """Latencies of queries that come at random (Poisson) times, after a fifth of them has warmed the estimates up.

    asked: hosts that a query asks. qps: of all routers together. limited_by: what bounds the queries a second, the
    hosts' cores or the routers' processes; capacity_qps: how many that were at full use. decision_us: CPU of a router's
    decisions for each request, as this process took it: the one figure that is not the same each time.
    """
    run = _Run(traffic, costs)
    asked = len(choose_hosts(dict(enumerate(run.route.in_sync)), lambda host: 0))
    core_s = asked * (costs.search_s(traffic.templates / asked) * traffic.weight + costs.host_s)
    limits = {
        "hosts": traffic.hosts * traffic.cores / core_s,
        "routers": traffic.routers / (asked * run.cluster.request_s + costs.merge_s(asked)),
    }
    limited_by = min(limits, key=limits.__getitem__)
    qps = limits[limited_by] * traffic.utilisation
    gaps = np.random.default_rng([traffic.seed, 1]).exponential(1 / qps, traffic.queries)
    run.start(np.cumsum(gaps).tolist())
    run.cluster.events.run()
    health = [host for table in run.health for host in table.snapshot()]
    measured = np.array(run.latencies[traffic.queries // 5 :]) * 1_000
    return {
        "traffic": asdict(traffic),
        "asked": asked,
        "qps": qps,
        "capacity_qps": limits[limited_by],
        "limited_by": limited_by,
        "answered": len(run.latencies),
        "failures": run.failures,
        "p50_ms": float(np.percentile(measured, 50)),
        "p99_ms": float(np.percentile(measured, 99)),
        "max_ms": float(measured.max()),
        "mean_ms": float(measured.mean()),
        "requests": run.cluster.requests,
        "hedges": sum(host.hedges for host in health),
        "retries": sum(host.retries for host in health),
        "core_s_per_query": run.cluster.core_s / traffic.queries,
        "decision_us": (run.decision_s - sum(way.own_s for way in run.ways)) / run.cluster.requests * 1e6,
    }


_REPLY = SearchReply(merge.empty(1, 10), (0,))
_PARAMS = SearchParams(k=10)
_PROBES = np.zeros((1, 4), np.float32)


def _request(shards: tuple[int, ...], epochs: tuple[int, ...]) -> SearchRequest:
    return SearchRequest(GALLERY_ID, shards, _PROBES, _PARAMS, epochs)
