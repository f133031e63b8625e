"""What a gallery's own labelled templates say of its error rates, as the service tells it."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.client.call import Operation
from cluster.client.operations.requests import SLOW_S, gallery_path, get, write
from cluster.client.wire import entry, record
from shard.errors import NotEnoughData


@dataclass(frozen=True, slots=True)
class RemoteCalibration:
    """The figures of a `Calibration`; the scores that they come from stay with the service.

    gallery_size: N, live templates at calibration. genuine, impostors: pairs compared. probes: non-mated searches.
    fmr, fnmr, fpir: rates at `thresholds`, which ascend. lowest_fpir: the least target that there is a threshold for.
    stale_reason: why it should be made anew, None if it need not be. created_at: unix seconds.
    """

    gallery_size: int
    labelled: int
    identities: int
    genuine: int
    impostors: int
    probes: int
    created_at: float
    stale_reason: str | None
    eer: float
    eer_threshold: float
    lowest_fpir: float
    thresholds: tuple[float, ...]
    fmr: tuple[float, ...]
    fnmr: tuple[float, ...]
    fpir: tuple[float, ...]


def calibrate(name: str, samples: int) -> Operation[RemoteCalibration]:
    """Measure, and keep it with the gallery."""
    path = gallery_path(name, "calibration")
    document = yield from write(path, {"samples": samples}, is_idempotent=False, patience_s=SLOW_S)
    return record(RemoteCalibration, document)


def calibration(name: str) -> Operation[RemoteCalibration | None]:
    """What was measured last; None if nothing was."""
    try:
        return record(RemoteCalibration, (yield from get(gallery_path(name, "calibration"))))
    except NotEnoughData:
        return None


def threshold_for_fpir(name: str, target_fpir: float, n: int | None) -> Operation[float]:
    """The cosine for a false positive identification rate."""
    query = {"target_fpir": repr(float(target_fpir)), "n": n}
    document = yield from get(gallery_path(name, "calibration", "threshold"), query)
    return float(entry(document, "threshold", int, float))
