"""What a promised recall needs: how far the code of a row may disagree with a probe, given their cosine.

Owns the measured relation of agreement and cosine (`Calibration`), and how it is fitted (`calibrate`). It must not know
embeddings, codes or files: numbers come in from `shard.training`, bounds go out to the native search. All figures in
comments here come from docs/search-model.md.

The agreement of a row is the sum of a probe's projections, each with the sign that the row's bit gives it. Divided by
the norm of the projections it follows the cosine (less the part that is the same for all rows) on a straight line, with
an error that is all but normal and knows nothing of the gallery's size. So a row of a certain cosine falls below the
line by more than some quantile of that error in a known share of cases: the misses that a recall allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from shard.errors import InvalidParameter
from shard.types import FloatArray

MISS_GRID = (0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 1e-3, 5e-4, 2.5e-4, 1e-4, 5e-5, 2.5e-5)
"""Miss rates that the table holds, one stage each."""
MAX_RECALL = 0.9999
"""Above it everything is scanned: what was measured says nothing of rarer misses."""
TAIL_FACTOR = 1.1
"""Where misses are too rare to be counted, a normal tail this much wider continues the quantiles."""
MIN_COUNT = 20
"""Pairs that a quantile must leave beyond it to be taken as measured."""
KNEE_QUANTILE = 0.995
"""Cosines above this quantile of the measured ones count half: mates there fall up to 1.4 standard errors short of the
line that strangers make."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The line and its error, for the first plane and for all planes.

    slope, offset: (2,) float64; agreement / norm = offset + slope * (cosine - probe @ mean), stage 0 the first plane.
    quantiles: (2, len(MISS_GRID)) float64, of the error below the line; they fall along the grid. knee: cosine above
    which the line was not measured. probes: held-out probes behind the figures.
    """

    slope: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    knee: float
    probes: int

    def bounds(self, norms: FloatArray, common: FloatArray, recall: float) -> FloatArray:
        """(n, 4) float32: offset and slope of the least agreement of a row by its cosine, first plane, then all.

        norms: (n, 2), of each probe's projections on the first plane and on all. common: (n,), each probe's product
        with the mean. The misses that `recall` allows are shared by both stages.
        Raises InvalidParameter for a recall outside (0, 1).
        """
        if not 0.0 < recall < 1.0:
            raise InvalidParameter(f"recall: expected a number between 0 and 1, both excluded, got {recall!r}")
        misses = -np.log(max((1.0 - recall) / 2, MISS_GRID[-1]))
        grid = -np.log(np.array(MISS_GRID))
        error = np.array([np.interp(misses, grid, stage) for stage in self.quantiles])
        offsets = norms * (self.offset + error - self.slope * common[:, None])
        slopes = norms * self.slope
        return np.stack([offsets[:, 0], slopes[:, 0], offsets[:, 1], slopes[:, 1]], axis=1).astype(np.float32)


def calibrate(cosines: FloatArray, common: FloatArray, agreements: FloatArray) -> Calibration:
    """The calibration of measured pairs of a probe and a row near it.

    cosines: (probes, m), minus infinity where there is no pair. common: (probes,), products with the mean. agreements:
    (2, probes, m), divided by the norms.
    """
    probes = len(cosines)
    is_pair = np.isfinite(cosines)
    x = (cosines - common[:, None]).astype(np.float64)[is_pair]
    slopes, offsets, quantiles = [], [], []
    for stage in agreements:
        y = stage.astype(np.float64)[is_pair]
        slope, offset = np.polyfit(x, y, 1)
        # A line that falls would make a near row look far; it can only come of noise.
        slope = max(slope, 0.0)
        slopes.append(slope)
        offsets.append(offset)
        quantiles.append(error_quantiles(y - offset - slope * x, probes))
    return Calibration(
        slope=np.array(slopes),
        offset=np.array(offsets),
        quantiles=np.array(quantiles),
        knee=float(np.quantile(cosines[is_pair], KNEE_QUANTILE)),
        probes=probes,
    )


def error_quantiles(errors: npt.NDArray[np.float64], probes: int) -> npt.NDArray[np.float64]:
    """Quantiles of the errors at MISS_GRID, falling; wider by what so few probes may have missed."""
    margin = 1.0 + 2.0 / np.sqrt(probes)
    normal = NormalDist()
    found = []
    last = 0.0
    for misses in MISS_GRID:
        if len(errors) * misses >= MIN_COUNT:
            last = float(np.quantile(errors, misses))
            at_last = misses
            found.append(last * margin)
        else:
            wider = normal.inv_cdf(misses) / normal.inv_cdf(at_last) if at_last < 0.5 else 1.0
            found.append(last * wider * TAIL_FACTOR * margin)
    return np.minimum.accumulate(np.array(found))
