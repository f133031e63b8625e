"""Searches on their way to the router: single queries travel together, long batches are cut into short pieces.

Queries of one gallery with the same parameters that wait for a worker become one call of the index, which is several
times cheaper per query. A batch is cut so that a piece takes about PIECE_S: nobody waits longer for a worker than that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.results import SearchBatch
from cluster.service.scheduler import FairScheduler, Piece
from cluster.service.work import tell
from coordinator.types import Coverage
from shard.types import FloatArray

if TYPE_CHECKING:
    from cluster.gallery import Gallery
    from cluster.service.metrics import Metrics
    from cluster.service.recall import RecallMonitor
    from cluster.service.tracing import Tracing

PIECE_S = 0.004
"""Seconds that a piece of a batch should take: what a single query of another tenant may have to wait for."""
GROUP_ROWS = 64
"""Probes that travel together at most. More do not make the index any faster (benchmarks.service)."""
BATCH_ROWS = 8
"""A request of more probes than this is a batch: it waits in its tenant's other queue."""
FIRST_GUESS_S = 0.0005
_SMOOTHING = 0.2

Options = tuple[tuple[str, Any], ...]
"""Keyword arguments of `Gallery.search`, sorted by name, hashable: requests with equal ones may travel together."""


@dataclass(slots=True)
class _Waiting:
    probes: FloatArray
    future: asyncio.Future[SearchBatch]
    deadline: float
    span: Any
    """Of the request, where there are spans."""
    queued: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class _Group:
    gallery: Gallery
    options: Options
    waiting: list[_Waiting] = field(default_factory=list)
    rows: int = 0


class Searches:
    """Searches of one event loop. `search` is called in the loop; the work is done in the scheduler's threads."""

    def __init__(
        self,
        scheduler: FairScheduler,
        metrics: Metrics,
        *,
        recall: RecallMonitor | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._scheduler, self._metrics, self._recall, self._tracing = scheduler, metrics, recall, tracing
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str, Options], _Group] = {}
        self._row_s: dict[tuple[str, Options], float] = {}

    async def search(
        self, tenant: str, weight: float, gallery: Gallery, probes: FloatArray, options: Options, deadline: float
    ) -> SearchBatch:
        """Candidates of the probes (n, dim), in their order.

        options: checked before. deadline: a time.monotonic() value. Raises what `Gallery.search` does.
        """
        if len(probes) <= BATCH_ROWS:
            return await self._single(tenant, weight, gallery, probes, options, deadline)
        cost = self._row_s.get((gallery.name, options), FIRST_GUESS_S)
        rows = max(BATCH_ROWS, min(GROUP_ROWS, int(PIECE_S / cost)))
        pieces = [probes[begin : begin + rows] for begin in range(0, len(probes), rows)]
        found = await asyncio.gather(
            *(self._submit(tenant, "batch", weight, gallery, piece, options, deadline) for piece in pieces)
        )
        return _joined(found)

    def _single(
        self, tenant: str, weight: float, gallery: Gallery, probes: FloatArray, options: Options, deadline: float
    ) -> asyncio.Future[SearchBatch]:
        """Join the group that waits for a worker, or begin one."""
        key = (tenant, gallery.name, options)
        waiting = self._waiting(probes, deadline)
        with self._lock:
            group = self._open.get(key)
            if group is not None and group.rows + len(probes) <= GROUP_ROWS and group.gallery is gallery:
                group.waiting.append(waiting)
                group.rows += len(probes)
                return waiting.future
            group = self._open[key] = _Group(gallery, options, [waiting], len(probes))
        self._queue(tenant, "single", weight, group, key)
        return waiting.future

    def _waiting(self, probes: FloatArray, deadline: float) -> _Waiting:
        span = None if self._tracing is None else self._tracing.current()
        return _Waiting(probes, asyncio.get_running_loop().create_future(), deadline, span)

    def _submit(
        self,
        tenant: str,
        kind: str,
        weight: float,
        gallery: Gallery,
        probes: FloatArray,
        options: Options,
        deadline: float,
    ) -> asyncio.Future[SearchBatch]:
        waiting = self._waiting(probes, deadline)
        self._queue(tenant, kind, weight, _Group(gallery, options, [waiting], len(probes)), None)
        return waiting.future

    def _queue(
        self, tenant: str, kind: str, weight: float, group: _Group, key: tuple[str, str, Options] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        row_s = self._row_s.get((group.gallery.name, group.options), FIRST_GUESS_S)

        def run() -> None:
            if key is not None:
                with self._lock:
                    if self._open.get(key) is group:
                        del self._open[key]
            self._carry_out(group, loop)

        try:
            self._scheduler.submit((tenant, kind), weight, Piece(run, row_s * group.rows))
        except BaseException:
            with self._lock:
                if key is not None and self._open.get(key) is group:
                    del self._open[key]
            raise

    def _carry_out(self, group: _Group, loop: asyncio.AbstractEventLoop) -> None:
        """In a worker's thread."""
        waiting = [one for one in group.waiting if not one.future.cancelled()]  # whose caller has gone
        if not waiting:
            return
        began = time.perf_counter()
        times = None if self._tracing is None else self._tracing.times()
        self._metrics.search_wait.observe_all([began - one.queued for one in waiting])
        probes = None
        try:
            asked = waiting[0].probes if len(waiting) == 1 else np.concatenate([one.probes for one in waiting])
            left_ms = max(1, int((max(one.deadline for one in waiting) - time.monotonic()) * 1000))
            found = group.gallery.search(asked, deadline_ms=left_ms, **dict(group.options))
            results: Sequence[SearchBatch | BaseException] = _split(found, [len(one.probes) for one in waiting])
        except Exception as error:  # noqa: BLE001 - handed to each caller
            results = [error] * len(waiting)
        else:
            probes = asked
            self._learn(group, time.perf_counter() - began, len(probes))
        if times is not None and self._tracing is not None:
            rows = sum(len(one.probes) for one in waiting)
            for one in waiting:
                self._tracing.waited(one.span, "search", times, one.queued, rows)
        tell(loop, _resolve, waiting, results)
        if probes is not None and self._recall is not None:
            self._recall.consider(group.gallery, probes, group.options)

    def _learn(self, group: _Group, took_s: float, rows: int) -> None:
        self._metrics.batch_rows.observe(rows)
        self._metrics.search_call.observe(took_s)
        key, row_s = (group.gallery.name, group.options), took_s / rows
        with self._lock:
            if len(self._row_s) > 10_000:
                self._row_s.clear()
            before = self._row_s.get(key, row_s)
            self._row_s[key] = before + _SMOOTHING * (row_s - before)


def _resolve(waiting: Sequence[_Waiting], results: Sequence[SearchBatch | BaseException]) -> None:
    for one, result in zip(waiting, results, strict=True):
        if one.future.done():
            continue
        if isinstance(result, BaseException):
            one.future.set_exception(result)
        else:
            one.future.set_result(result)


def _split(batch: SearchBatch, sizes: Sequence[int]) -> list[SearchBatch]:
    if len(sizes) == 1:
        return [batch]
    found, begin = [], 0
    for size in sizes:
        rows = slice(begin, begin + size)
        found.append(
            replace(
                batch,
                template_ids=batch.template_ids[rows],
                scores=batch.scores[rows],
                identities=batch.identities[rows],
            )
        )
        begin += size
    return found


def _joined(batches: Sequence[SearchBatch]) -> SearchBatch:
    if len(batches) == 1:
        return batches[0]
    return replace(
        batches[0],
        template_ids=tuple(row for batch in batches for row in batch.template_ids),
        scores=np.concatenate([batch.scores for batch in batches]),
        identities=tuple(row for batch in batches for row in batch.identities),
        coverage=Coverage(min(batch.coverage.answered for batch in batches), batches[0].coverage.asked),
    )
