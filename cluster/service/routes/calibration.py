"""Error rates of a gallery, measured on its own labelled faces, and thresholds for a false alarm rate."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from cluster.error_rates_svg import error_rates_svg
from cluster.gallery import Gallery
from cluster.service import schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from cluster.service.routes.galleries import ONE
from coordinator.gallery_calibration import Calibration
from shard.errors import NotEnoughData

router = APIRouter(prefix=f"/v1/galleries{ONE}/calibration")


class CalibrationReply(schemas.Reply):
    """Error rates at thresholds. gallery_size: N, live templates at calibration; genuine, impostors: pairs compared."""

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
    thresholds: list[float]
    fmr: list[float]
    fnmr: list[float]
    fpir: list[float]


@operation(
    router, "POST", "", "calibration.create",
    body=schemas.CalibrateBody, reply=CalibrationReply, tag="calibration",
)  # fmt: skip
async def create(call: Asked, tenant: str, gallery: str) -> Response:
    """Measure the error rates of this gallery on its labelled faces, and keep them with it."""
    found = await call.gallery("admin")
    wanted = call.read(schemas.CalibrateBody) if call.body else schemas.CalibrateBody()
    await call.run(lambda: found.calibrate(samples=wanted.samples), kind="calibrate")
    await call.audit_now()
    return await _shown(call)


@operation(router, "GET", "", "calibration.show", reply=CalibrationReply, tag="calibration")
async def show(call: Asked, tenant: str, gallery: str) -> Response:
    """The error rates that were measured last."""
    call.gallery_name("read")
    return await _shown(call)


async def _shown(call: Call) -> Response:
    gallery, calibration = await _calibration(call, "read")
    templates = await call.run(lambda: len(gallery), kind="read")
    return call.reply(
        {
            **{name: getattr(calibration, name) for name in _PLAIN},
            "stale_reason": calibration.stale_reason(gallery.embedder, templates),
            "lowest_fpir": calibration.lowest_fpir(),
            "thresholds": calibration.thresholds.tolist(),
            "fmr": calibration.fmr.tolist(),
            "fnmr": calibration.fnmr.tolist(),
            "fpir": [calibration.fpir_at(threshold) for threshold in calibration.thresholds.tolist()],
        }
    )


@operation(router, "GET", "/threshold", "calibration.threshold", reply=schemas.ThresholdReply, tag="calibration")
async def threshold(
    call: Asked,
    tenant: str,
    gallery: str,
    target_fpir: Annotated[float, Query(gt=0, lt=1, allow_inf_nan=False)],
    n: Annotated[int | None, Query(ge=1, le=10**12)] = None,
) -> Response:
    """The cosine for a false positive identification rate, at n templates, or at the size of the calibration."""
    _, calibration = await _calibration(call, "read")
    low, high = calibration.threshold_interval(target_fpir, n)
    return call.reply(
        {
            "threshold": calibration.threshold_for_fpir(target_fpir, n),
            "low": low,
            "high": high,
            "target_fpir": target_fpir,
            "n": calibration.gallery_size if n is None else n,
        }
    )


@operation(router, "GET", ".svg", "calibration.plot", reply=None, produces=("image/svg+xml",), tag="calibration")
async def plot(call: Asked, tenant: str, gallery: str) -> Response:
    """The error rates as a picture."""
    found, calibration = await _calibration(call, "read")
    return Response(
        error_rates_svg(calibration, gallery=found.name),
        media_type="image/svg+xml",
        headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )


async def _calibration(call: Call, scope: str) -> tuple[Gallery, Calibration]:
    gallery = await call.gallery(scope)
    found = await call.run(gallery.calibration, kind="read")
    if found is None:
        raise NotEnoughData(f"{gallery.name} was never calibrated")
    return gallery, found


_PLAIN = (
    "gallery_size", "labelled", "identities", "genuine", "impostors", "probes", "created_at", "eer", "eer_threshold",
)  # fmt: skip
