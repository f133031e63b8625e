"""Calibrating a gallery, and the threshold that a search takes from its calibration."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from coordinator.gallery_calibration import Calibration
from coordinator.measuring import check_enough, check_samples, measure
from coordinator.types import GalleryRoute
from shard.errors import ClusterError, InvalidParameter, NotEnoughData

if TYPE_CHECKING:
    from cluster.api import Cluster

FRESH_S = 3.0
"""How old a calibration and the size of its gallery may be that a threshold is made of."""
SHOWN_FPIRS = (0.1, 0.03, 0.01, 0.003, 0.001)
"""FPIRs that are shown where none is asked for."""
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


def calibration_document(
    found: Calibration, *, n: int | None = None, target_fpirs: Sequence[float] | None = None
) -> dict[str, Any]:
    """A calibration for JSON, as `docs/cli.md` has it: its rates, and the thresholds for target FPIRs at n templates.

    n: those at calibration if None. target_fpirs: SHOWN_FPIRS if None, of which those without support have a reason
    instead of a threshold; one that was asked for raises NotEnoughData, or InvalidParameter, as does n < 1.
    """
    size = found.gallery_size if n is None else n
    is_asked = bool(target_fpirs)
    document = {
        "n": size,
        "fpir": [_at_fpir(found, target, size, is_asked) for target in target_fpirs or SHOWN_FPIRS],
        "points": [asdict(point) for point in found.points],
        "table": {name: values.tolist() for name, values in asdict(found.table).items()},
        "check": None if found.check is None else asdict(found.check),
    }
    return document | {name: getattr(found, name) for name in _FACTS}


_FACTS = (
    "embedder", "gallery_size", "labelled", "identities", "genuine", "impostors", "probes", "worth", "left_out",
    "samples", "seed", "created_at", "eer", "eer_threshold",
)  # fmt: skip


def _at_fpir(found: Calibration, target: float, n: int, is_asked: bool) -> dict[str, Any]:
    try:
        threshold = found.threshold_for_fpir(target, n)
    except NotEnoughData as error:
        if is_asked:
            raise
        return {"target_fpir": target, "threshold": None, "interval": None, "fnmr": None, "reason": str(error)}
    interval = found.threshold_interval(target, n)
    fnmr = found.fnmr_at(threshold)
    return {"target_fpir": target, "threshold": threshold, "interval": interval, "fnmr": fnmr, "reason": None}


class _Known(NamedTuple):
    calibration: Calibration | None
    templates: int
    at: float


class Thresholds:
    """Thresholds for target FPIRs at the present sizes of galleries. Thread-safe.

    Calibration and size are read anew when they are FRESH_S old; those known last count while they cannot be read.
    """

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
        try:
            known = _Known(self._cluster.coordinator.calibrations.of(route.gallery_id), self._templates(route), at)
        except ClusterError as error:
            # A host or the coordinator is away: searches go on without it, as everywhere.
            if known is None:
                raise
            _LOG.warning("the calibration of %s could not be read anew, the one known counts: %s", route.name, error)
            known = known._replace(at=at)
        with self._lock:
            if len(self._known) >= _MANY:
                self._known = {key: value for key, value in self._known.items() if at - value.at < FRESH_S}
            self._known[route.gallery_id] = known
        return known

    def _templates(self, route: GalleryRoute) -> int:
        return sum(stats.templates for stats in self._cluster.router.stats(route))
