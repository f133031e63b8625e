"""Prometheus metrics of one gateway: what it counts itself. What it looks up is in `cluster.service.overview`.

Labels are operations, statuses, kinds of work, and tenants and galleries by name up to a limit; never keys, identities
or template ids. docs/observability.md lists every metric.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shard import gauges

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
MAX_TENANTS = 1_000
MAX_GALLERIES = 200
OTHERS = "(others)"
"""The label of tenants and galleries beyond the limits. No name has brackets."""
_TASKS = Path("/proc/self/task")


class Distribution(Collector):
    """A histogram with at most one label. Thread-safe; an observation costs less than one of the library's."""

    def __init__(self, name: str, meaning: str, bounds: tuple[float, ...], label: str | None = None) -> None:
        self._name, self._meaning, self._label = name, meaning, label
        self._bounds = bounds
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, of: str = "") -> None:
        """Count a value. of: the label's value."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            found = self._seen.get(of)
            if found is None:
                found = self._seen[of] = ([0] * (len(self._bounds) + 1), [0.0])
            found[0][place] += 1
            found[1][0] += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count several values, of a distribution without label."""
        bounds = self._bounds
        with self._lock:
            found = self._seen.get("")
            if found is None:
                found = self._seen[""] = ([0] * (len(bounds) + 1), [0.0])
            for value in values:
                found[0][bisect_left(bounds, value)] += 1
            found[1][0] += sum(values)

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=[self._label] if self._label else [])
        bounds = [*(f"{float(bound)}" for bound in self._bounds), "+Inf"]
        with self._lock:
            seen = {of: (list(counts), total[0]) for of, (counts, total) in self._seen.items()}
        if not self._label:
            seen = seen or {"": ([0] * len(bounds), 0.0)}
        for of, (counts, total) in seen.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([of] if self._label else [], buckets, total)
        yield family


class ThisProcess(Collector):
    """Searches and shards of this process, and its threads."""

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        spent = gauges.SEARCH_TIMES.all()
        yield CounterMetricFamily("facegrid_index_calls", "Searches of this process's shards", value=spent.calls)
        seconds = CounterMetricFamily("facegrid_index_seconds", "Seconds that they took", labels=["phase"])
        for phase, value in zip(gauges.PHASES, spent.seconds, strict=True):
            seconds.add_metric([phase], value)
        yield seconds
        shards, code_bytes = gauges.open_shards()
        yield GaugeMetricFamily("facegrid_open_shards", "Shards that this process has open", value=shards)
        yield GaugeMetricFamily("facegrid_code_bytes", "Memory of their codes and bitmaps", value=code_bytes)
        if _TASKS.is_dir():
            yield GaugeMetricFamily("facegrid_threads", "Threads of this process", value=len(os.listdir(_TASKS)))


class CertificateEnd(Collector):
    """When the certificate expires that this gateway shows. good_until: tells it; None without TLS."""

    def __init__(self) -> None:
        self.good_until: Callable[[], float] | None = None

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        family = GaugeMetricFamily(
            "facegrid_certificate_expires_timestamp_seconds",
            "When the certificate of HTTPS expires, seconds since 1970",
        )
        if self.good_until is not None:
            family.add_metric([], self.good_until())
        yield family


class Metrics:
    """Counters and histograms, in a registry of their own: several gateways may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests: dict[tuple[str, int], Counter] = {}
        self._probes: dict[str, Counter] = {}
        self._names: dict[str, set[str]] = {}
        self.requests = self._counter("facegrid_requests", "Requests answered", "operation", "status")
        self.seconds = self._distribution(
            "facegrid_request_seconds", "From the first byte of a request to the last of its answer", label="operation"
        )
        self.in_flight = Gauge("facegrid_requests_in_flight", "Requests being answered", registry=self.registry)
        self.refused = self._counter("facegrid_refused", "Requests refused", "code")
        self.limited = self._counter("facegrid_limited", "Requests refused by a tenant's limit", "tenant", "code")
        self.probes = self._counter("facegrid_probes", "Probes searched", "tenant")
        self.batch_rows = self._distribution("facegrid_search_batch_rows", "Probes in one search call", _ROWS)
        self.search_wait = self._distribution("facegrid_search_wait_seconds", "How long searches waited for their turn")
        self.search_call = self._distribution(
            "facegrid_search_call_seconds", "From asking the shards to the merged, labelled answer"
        )
        self.work_wait = self._distribution(
            "facegrid_work_wait_seconds", "How long other calls waited for their turn", label="kind"
        )
        self.work_call = self._distribution("facegrid_work_seconds", "How long they took", label="kind")
        self.audit_lost = self._counter("facegrid_audit_lost", "Audit entries dropped: the log cannot be written")
        self.recall_found = self._counter("facegrid_recall_found", "Templates of exact searches found", "gallery")
        self.recall_asked = self._counter("facegrid_recall_asked", "Templates of exact searches", "gallery")
        self.recall_aimed = self._counter("facegrid_recall_aimed", "Those that the asked recall promises", "gallery")
        self.recall_checks = self._counter("facegrid_recall_checks", "Searches that were repeated exactly", "outcome")
        ProcessCollector(registry=self.registry)
        self.registry.register(ThisProcess())
        self.certificate = CertificateEnd()
        self.registry.register(self.certificate)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _distribution(
        self, name: str, meaning: str, bounds: tuple[float, ...] = _SECONDS, label: str | None = None
    ) -> Distribution:
        made = Distribution(name, meaning, bounds, label)
        self.registry.register(made)
        return made

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        found = self._requests.get((operation, status))
        if found is None:
            found = self._requests[operation, status] = self.requests.labels(operation, status)
        found.inc()
        self.seconds.observe(seconds, operation)

    def probed(self, tenant: str, probes: int) -> None:
        """Count probes that a tenant searched with."""
        found = self._probes.get(tenant)
        if found is None:
            found = self._probes[tenant] = self.probes.labels(self.tenant(tenant))
        found.inc(probes)

    def tenant(self, name: str) -> str:
        """A tenant as a label."""
        return self._bounded("tenant", name, MAX_TENANTS)

    def gallery(self, name: str) -> str:
        """A gallery, `tenant/gallery`, as a label."""
        return self._bounded("gallery", name, MAX_GALLERIES)

    def _bounded(self, what: str, name: str, limit: int) -> str:
        known = self._names.setdefault(what, set())
        if name not in known:
            if len(known) >= limit:
                return OTHERS
            known.add(name)
        return name

    def text(self) -> bytes:
        """The exposition format. Takes milliseconds with many tenants."""
        return generate_latest(self.registry)
