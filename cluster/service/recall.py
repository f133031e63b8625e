"""Recall of a service as it runs: now and then a search is repeated exactly, and the two answers are compared.

A share of the probes is drawn, at most one in CHECK_S. A drawn probe is searched twice more, one right after the other
so that writes hardly come between: as it was asked, and exactly. That waits behind everybody's searches and takes at
most MAX_SHARE of a search thread's time: where exact searches take long, they are made less often.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.service.metrics import Metrics
from cluster.service.scheduler import FairScheduler, Piece
from shard.calibration import MAX_RECALL
from shard.errors import FacegridError
from shard.types import FloatArray

if TYPE_CHECKING:
    from cluster.gallery import Gallery

CHECK_S = 1.0
MAX_SHARE = 0.01
WEIGHT = 0.1
"""Beside a tenant's weight of 1 to 100."""
FLOW = ("(recall)", "background")
FIRST_GUESS_S = 0.05
DEADLINE_MS = 30_000
_LOG = logging.getLogger(__name__)


class RecallMonitor:
    """Draws searches and repeats them. Thread-safe."""

    def __init__(
        self,
        scheduler: FairScheduler,
        metrics: Metrics,
        share: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """share: of the probes, 0 to 1."""
        self._scheduler, self._metrics, self._share = scheduler, metrics, share
        self._clock, self._draw = clock, draw
        self._lock = threading.Lock()
        self._next = clock()
        self._cost_s = FIRST_GUESS_S

    def consider(self, gallery: Gallery, probes: FloatArray, options: tuple[tuple[str, Any], ...]) -> None:
        """Perhaps repeat one of the probes (n, dim) that were searched with these options of `Gallery.search`."""
        if self._draw() >= self._share * len(probes):
            return
        wanted = dict(options)
        if wanted.get("exact") or wanted["recall"] > MAX_RECALL:
            return  # it was exact
        with self._lock:
            if self._clock() < self._next:
                return
            self._next = self._clock() + CHECK_S
        probe = probes[:1].copy()
        piece = Piece(lambda: self._check(gallery, probe, wanted), self._cost_s)
        try:
            self._scheduler.submit(FLOW, WEIGHT, piece, is_background=True)
        except FacegridError:
            self._metrics.recall_checks.labels("skipped").inc()

    def _check(self, gallery: Gallery, probe: FloatArray, wanted: dict[str, Any]) -> None:
        began = self._clock()
        outcome = "failed"
        try:
            outcome = self._compare(gallery, probe, wanted)
        except FacegridError as error:
            _LOG.info("a search could not be repeated exactly: %s", error.code)
        except Exception:  # noqa: BLE001 - a bug of the monitor must not end the thread of searches
            _LOG.exception("a search could not be repeated exactly")
        took_s = self._clock() - began
        with self._lock:
            self._cost_s = took_s
            self._next = max(self._next, self._clock() + took_s / MAX_SHARE)
        self._metrics.recall_checks.labels(outcome).inc()

    def _compare(self, gallery: Gallery, probe: FloatArray, wanted: dict[str, Any]) -> str:
        usual = gallery.search(probe, **wanted, deadline_ms=DEADLINE_MS)
        exact = gallery.search(probe, **{**wanted, "exact": True}, deadline_ms=DEADLINE_MS)
        if not (usual.coverage.is_complete and exact.coverage.is_complete):
            return "partial"
        there = set(exact.template_ids[0])
        label = self._metrics.gallery(gallery.name)
        self._metrics.recall_asked.labels(label).inc(len(there))
        self._metrics.recall_aimed.labels(label).inc(wanted["recall"] * len(there))
        self._metrics.recall_found.labels(label).inc(len(there.intersection(usual.template_ids[0])))
        return "done"
