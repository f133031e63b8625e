"""Prometheus metrics of one gateway. Labels are operations and statuses, and tenants by name; never keys or labels of
faces."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)


class Metrics:
    """Counters and histograms, in a registry of their own: several gateways may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.requests = Counter(
            "facegrid_requests", "Requests answered", ["operation", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "facegrid_request_seconds",
            "From the first byte of a request to the last of its answer",
            ["operation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "facegrid_search_batch_rows", "Probes in one call of the index", buckets=_ROWS, registry=self.registry
        )
        self.probes = Counter("facegrid_probes", "Probes searched", ["tenant"], registry=self.registry)
        self.refused = Counter("facegrid_refused", "Requests refused", ["code"], registry=self.registry)
        self.audit_lost = Counter(
            "facegrid_audit_lost", "Audit entries dropped because the log could not be written", registry=self.registry
        )
        self.in_flight = Gauge("facegrid_requests_in_flight", "Requests being answered", registry=self.registry)
        self.waiting = Gauge(
            "facegrid_searches_waiting", "Searches that wait for their turn", ["tenant_id"], registry=self.registry
        )

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        found = self._children.get((operation, status))
        if found is None:
            found = self._children[operation, status] = (
                self.requests.labels(operation, status),
                self.seconds.labels(operation),
            )
        found[0].inc()
        found[1].observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
