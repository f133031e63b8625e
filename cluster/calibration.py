"""Calibrating a gallery, and the threshold that a search takes from its calibration."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from coordinator.gallery_calibration import Calibration
from coordinator.measuring import check_enough, check_samples, measure
from coordinator.types import GalleryRoute
from shard.errors import ClusterError, InvalidParameter, NotEnoughData

if TYPE_CHECKING:
    from cluster.api import Cluster

FRESH_S = 3.0
"""How old a calibration and the size of its gallery may be that a threshold is made of."""
_MANY = 1_000
"""Galleries from which on those not asked for lately are forgotten."""
_LOG = logging.getLogger(__name__)


def calibrate(cluster: Cluster, route: GalleryRoute, samples: int, seed: int) -> Calibration:
    """Measure a gallery's error rates and keep them with it; see `Gallery.calibrate`."""
    check_samples(samples, seed)
    cluster.check_open()
    sample = cluster.coordinator.calibrations.draw(route.name, samples, seed)
    check_enough(route.name, sample)
    route = cluster.router.newest(route)
    found = measure(cluster.router, route, sample, samples=samples, seed=seed, now=time.time())
    cluster.coordinator.calibrations.put(route.gallery_id, found)
    cluster.thresholds.forget(route.gallery_id)
    return found


class _Known(NamedTuple):
    calibration: Calibration | None
    templates: int
    at: float


class Thresholds:
    """Thresholds for target FPIRs at the present sizes of galleries, from what is FRESH_S old at most. Thread-safe."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def forget(self, gallery_id: str) -> None:
        """Read it anew next time."""
        with self._lock:
            self._known.pop(gallery_id, None)

    def choose(self, route: GalleryRoute, threshold: float | None, target_fpir: float | None) -> float | None:
        """The threshold itself, or the one for the target; InvalidParameter if both are given."""
        if target_fpir is None:
            return threshold
        if threshold is not None:
            raise InvalidParameter("search: expected threshold or target_fpir, got both")
        return self.for_fpir(route, target_fpir)

    def for_fpir(self, route: GalleryRoute, target_fpir: float) -> float:
        """See `Calibration.threshold_for_fpir`. NotEnoughData too if the gallery was never calibrated."""
        calibration, templates, _ = self._now(route)
        if calibration is None:
            raise NotEnoughData(
                f"target_fpir: {route.name} has not been calibrated; `Gallery.calibrate()` or `facegrid calibrate"
                f" {route.name}` measures it, from templates of at least 100 identities"
            )
        return calibration.threshold_for_fpir(target_fpir, max(templates, 1))

    def _now(self, route: GalleryRoute) -> _Known:
        with self._lock:
            known = self._known.get(route.gallery_id)
        if known is not None and time.monotonic() - known.at < FRESH_S:
            return known
        at = time.monotonic()
        templates = sum(stats.templates for stats in self._cluster.router.stats(route))
        known = _Known(self._calibration(route, known), templates, at)
        with self._lock:
            if len(self._known) >= _MANY:
                self._known = {key: value for key, value in self._known.items() if at - value.at < FRESH_S}
            self._known[route.gallery_id] = known
        return known

    def _calibration(self, route: GalleryRoute, known: _Known | None) -> Calibration | None:
        """The stored one. While the coordinator is away, the one known: searches go on without it, as everywhere."""
        try:
            return self._cluster.coordinator.calibrations.of(route.gallery_id)
        except ClusterError as error:
            if known is None or known.calibration is None:
                raise
            _LOG.warning(
                "the calibration of %s could not be read anew, the last one known counts: %s", route.name, error
            )
            return known.calibration
