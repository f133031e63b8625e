"""The kind `calibrate`: measures a gallery's error rates, as `Gallery.calibrate` does, and leaves them as a result."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cluster.calibration import calibrate, calibration_document
from cluster.jobs.context import JobContext
from coordinator.measuring import DEFAULT_SAMPLES, MAX_SAMPLES, MIN_SAMPLES


class CalibrateParameters(BaseModel):
    """samples: identities that are drawn. seed: of the draw."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(default=DEFAULT_SAMPLES, ge=MIN_SAMPLES, le=MAX_SAMPLES)
    seed: int = Field(default=0, ge=-(1 << 63), lt=1 << 63)


class CalibrateJob:
    """One block: the measurement takes seconds, and is made anew where it was interrupted."""

    name = "calibrate"
    parameters = CalibrateParameters

    def run(self, job: JobContext) -> dict[str, Any]:
        """The calibration is kept with the gallery; the summary is what `facegrid calibrate --json` prints."""
        values = job.parameters
        assert isinstance(values, CalibrateParameters)
        job.progress(0, 1, "galleries", "measuring")
        route = job.cluster.coordinator.gallery(job.record.gallery)
        found = calibrate(job.cluster, route, values.samples, values.seed)
        document = calibration_document(found)
        # When it was measured is not part of the result, which is the same for the same gallery.
        at = document.pop("created_at")
        job.log("calibrated", created_at=at)
        job.progress(1, 1, "galleries", "measuring")
        return {"gallery": job.record.gallery, **document}
