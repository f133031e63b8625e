"""What a gateway tells of the cluster when its metrics are asked for: hosts, replicas, tenants, quotas, queues.

It is read from the control plane when somebody asks, at most every FRESH_S and in at most MAX_SHARE of the time, and
told again in between. No shard is asked, so none is opened for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from cluster.service.metrics import MAX_GALLERIES, MAX_TENANTS, OTHERS
from cluster.service.recall import FLOW
from coordinator.health import HostHealth
from coordinator.tenant_types import TenantRecord
from coordinator.types import GONE, HOST_STATES, ErasureBacklog, GalleryRoute, HostRecord, ShardConfig
from shard.errors import FacegridError

if TYPE_CHECKING:
    from cluster.service.gateway import Gateway

FRESH_S = 5.0
MAX_SHARE = 0.05
PATIENCE_S = 2.0
"""Less than a scrape may take."""
MAX_HOSTS = 1_000
OPERATOR = "(operator)"
_BREAKERS = {"closed": 0, "half_open": 1, "open": 2}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the control plane said. replicas: how many are in_sync, joining and missing; for each gallery that has some
    joining or missing, how many."""

    hosts: list[HostRecord] = field(default_factory=list)
    tenants: list[TenantRecord] = field(default_factory=list)
    galleries: Counter[str] = field(default_factory=Counter)
    """By tenant id."""
    replicas: Counter[str] = field(default_factory=Counter)
    troubled: dict[str, tuple[int, int]] = field(default_factory=dict)
    backlog: ErasureBacklog | None = None
    jobs: tuple[tuple[str, str, int], ...] = ()
    """Kind, state, how many."""


class Overview(Collector):
    """Collector of one gateway. `refresh` before each answer; `collect` blocks on nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._seen = _Seen()
        self._is_there = False
        self._at = self._due = 0.0
        self._looking: asyncio.Task[None] | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that it is not collected when it is registered."""
        return iter(())

    async def refresh(self) -> None:
        """Ask the control plane again, if that was some time ago, and wait for it for PATIENCE_S at most.

        While it is away or slow, what it said last is told.
        """
        if self._looking is None and time.monotonic() >= self._due:
            self._looking = asyncio.create_task(self._ask())
        if self._looking is not None:
            done, _ = await asyncio.wait((self._looking,), timeout=PATIENCE_S)
            self._is_there = self._is_there and bool(done)

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            self._seen = await asyncio.to_thread(self._look)
            self._is_there = True
            self._at = time.monotonic()
        except FacegridError as error:
            _LOG.warning("the control plane does not answer, so that metrics of it are old: %s", error)
            self._is_there = False
        finally:
            now = time.monotonic()
            self._due = now + max(FRESH_S, (now - began) / MAX_SHARE)
            self._looking = None

    def _look(self) -> _Seen:
        coordinator = self._gateway.cluster.coordinator
        routes = {route.gallery_id: route for route in coordinator.galleries()}
        replicas, troubled = _counted(routes, coordinator.shard_configs())
        galleries = Counter(gallery_id.partition("-")[0] for gallery_id in routes)
        tenants = self._gateway.cluster.tenants.all()
        hosts, backlog = coordinator.host_records(), coordinator.erasure_backlog()
        return _Seen(hosts, tenants, galleries, replicas, troubled, backlog, coordinator.jobs.counts())

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        seen = self._seen
        yield GaugeMetricFamily("facegrid_control_up", "Whether the control plane answered", value=self._is_there)
        age = time.monotonic() - self._at if self._at else 0.0
        yield GaugeMetricFamily("facegrid_control_age_seconds", "Age of what it said", value=age)
        yield from _hosts(seen.hosts)
        yield from _health(self._gateway.cluster.router.health())
        yield from _replicas(seen)
        yield from _erasure(seen.backlog)
        yield GaugeMetricFamily("facegrid_tenants", "Tenants", value=len(seen.tenants))
        yield GaugeMetricFamily("facegrid_galleries", "Galleries", value=sum(seen.galleries.values()))
        jobs = GaugeMetricFamily("facegrid_jobs", "Batch jobs", labels=["kind", "state"])
        for kind, state, number in seen.jobs:
            jobs.add_metric([kind, state], number)
        yield jobs
        yield from self._quotas(seen)
        names = {tenant.tenant_id: tenant.name for tenant in seen.tenants[:MAX_TENANTS]} | {
            "": OPERATOR,
            FLOW[0]: FLOW[0],
        }
        waiting: Counter[str] = Counter()
        for tenant_id, pieces in self._gateway.waiting().items():
            waiting[names.get(tenant_id, OTHERS)] += pieces
        yield _gauge("facegrid_searches_waiting", "Searches that wait for their turn", "tenant", waiting)
        backlog = self._gateway.audit_backlog()
        yield GaugeMetricFamily("facegrid_audit_waiting", "Audit entries not written yet", value=backlog)

    def _quotas(self, seen: _Seen) -> Iterator[Metric]:
        limits = GaugeMetricFamily("facegrid_quota_limit", "What a tenant may have", labels=["tenant", "what"])
        used = GaugeMetricFamily("facegrid_quota_used", "What it has", labels=["tenant", "what"])
        usage = self._gateway.known_usage()
        for tenant in seen.tenants[:MAX_TENANTS]:
            quotas = tenant.quotas
            known = usage.get(tenant.tenant_id)
            counts = {"galleries": seen.galleries[tenant.tenant_id]}
            if known is not None:
                counts |= {"templates": known.templates, "bytes": known.bytes}
            for what, limit in (
                ("galleries", quotas.galleries),
                ("templates", quotas.templates),
                ("bytes", quotas.bytes),
                ("queries_per_s", quotas.queries_per_s),
                ("jobs", quotas.jobs),
            ):
                if limit is not None:
                    limits.add_metric([tenant.name, what], limit)
                    if what in counts:
                        used.add_metric([tenant.name, what], counts[what])
        yield limits
        yield used


def _counted(
    routes: dict[str, GalleryRoute], configs: list[ShardConfig]
) -> tuple[Counter[str], dict[str, tuple[int, int]]]:
    found: Counter[str] = Counter(in_sync=0, joining=0, missing=0)
    troubled: dict[str, tuple[int, int]] = {}
    for config in configs:
        route = routes.get(config.gallery_id)
        if route is None:
            continue  # being made or dropped
        joining, missing = len(config.joining), max(0, route.replicas - len(config.in_sync) - len(config.joining))
        found.update(in_sync=len(config.in_sync), joining=joining, missing=missing)
        if joining or missing:
            before = troubled.get(route.name, (0, 0))
            troubled[route.name] = before[0] + joining, before[1] + missing
    return found, troubled


def _replicas(seen: _Seen) -> Iterator[Metric]:
    yield _gauge("facegrid_replicas", "Replicas of shards", "state", seen.replicas)
    worst = sorted(seen.troubled, key=lambda name: (-seen.troubled[name][1], name))[:MAX_GALLERIES]
    joining = {name: seen.troubled[name][0] for name in worst}
    missing = {name: seen.troubled[name][1] for name in worst}
    yield _gauge("facegrid_gallery_replicas_joining", "Replicas of a gallery that copy it still", "gallery", joining)
    yield _gauge("facegrid_gallery_replicas_missing", "Replicas of a gallery that nobody has", "gallery", missing)


def _erasure(backlog: ErasureBacklog | None) -> Iterator[Metric]:
    told = {} if backlog is None else {"held": backlog.held, "overdue": backlog.overdue}
    yield _gauge("facegrid_erasure_replicas", "Replicas with bytes of deleted templates", "state", told)
    family = GaugeMetricFamily("facegrid_erasure_silent_hosts", "Hosts that could not be asked for them")
    if backlog is not None:
        family.add_metric([], backlog.silent_hosts)
    yield family


def _hosts(records: list[HostRecord]) -> Iterator[Metric]:
    states = Counter(dict.fromkeys(HOST_STATES, 0))
    states.update(record.state for record in records)
    yield _gauge("facegrid_hosts", "Shard hosts that were ever part of the home", "state", states)
    present = [record for record in records if record.state != GONE][:MAX_HOSTS]
    one = GaugeMetricFamily("facegrid_host_state", "1 for the state of a shard host", labels=["host", "state"])
    for record in present:
        one.add_metric([record.host, record.state], 1)
    yield one


def _health(health: tuple[HostHealth, ...]) -> Iterator[Metric]:
    """Hosts as this gateway's requests found them."""
    known = health[:MAX_HOSTS]
    breakers = {host.host: _BREAKERS[host.breaker] for host in known}
    yield _gauge("facegrid_host_breaker", "0 closed, 1 half open, 2 open", "host", breakers)
    outstanding = {host.host: host.outstanding for host in known}
    yield _gauge("facegrid_host_outstanding", "Requests to a host that are unanswered", "host", outstanding)
    for name, meaning, values in (
        ("requests", "Requests sent to a host", {host.host: host.requests for host in known}),
        ("failures", "Requests that it failed or was too slow for", {host.host: host.failures for host in known}),
        ("hedges", "Requests sent because another was slow", {host.host: host.hedges for host in known}),
        ("retries", "Requests sent because another failed", {host.host: host.retries for host in known}),
    ):
        counter = CounterMetricFamily(f"facegrid_host_{name}", meaning, labels=["host"])
        for host, value in values.items():
            counter.add_metric([host], value)
        yield counter
    answers = SummaryMetricFamily("facegrid_host_answer_seconds", "From request to answer", labels=["host", "kind"])
    for found in known:
        for kind, count, seconds in found.answers:
            answers.add_metric([found.host, kind], count, seconds)
    yield answers


def _gauge(name: str, meaning: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family
