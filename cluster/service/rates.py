"""Token buckets: how often a tenant may ask. Pure: the time is an argument."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from shard.errors import RateLimited

_WHOLE = 1.0 - 1e-6
"""A token, but for what rounding takes of it: who waits as long as he was told finds one."""
BURST_S = 1.0
"""Seconds' worth of queries that may come at once."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimits:
    """One bucket a tenant, filled with its queries per second. A batch takes one token a probe. Thread-safe.

    Whoever finds tokens in the bucket may go on, even with a batch larger than the bucket: what is owed then is waited
    for by the next. So no batch is too large to be ever served, and the rate holds over time.
    """

    def __init__(self, gateways: int = 1) -> None:
        self._gateways = gateways
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def divide(self, gateways: int) -> None:
        """How many gateways share the rates from now on, this one included."""
        self._gateways = max(1, gateways)

    def take(self, tenant_id: str, queries: int, rate: float | None, now: float) -> None:
        """Take tokens; RateLimited with the seconds until there is one. rate None: no limit."""
        if rate is None:
            return
        rate /= self._gateways
        most = max(1.0, rate * BURST_S)
        with self._lock:
            bucket = self._buckets.setdefault(tenant_id, _Bucket(most, now))
            bucket.tokens = min(most, bucket.tokens + max(0.0, now - bucket.at) * rate)
            bucket.at = now
            if bucket.tokens < _WHOLE:
                wait_s = (1.0 - bucket.tokens) / rate
                raise RateLimited(
                    f"this tenant may ask {rate:g} queries a second here; there is room again in {wait_s:.1f} s",
                    retry_after_s=wait_s,
                )
            bucket.tokens -= queries

    def forget(self, tenant_id: str) -> None:
        """A tenant that was dropped."""
        with self._lock:
            self._buckets.pop(tenant_id, None)
