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
STAGES = 3
LISTS = 0
"""The stage that is about lists."""
LIST_NEIGHBOURS, LIST_FACTOR = 20, 1.15
"""Pairs of each probe that the line of lists rests on, and how much wider its error is taken: the error grows with the
cosine, and nearest rows in a larger gallery have higher ones. Without: asked for 0.967, lists held 0.935 of the nearest
strangers (LFW, MobileFaceNet, held-out identities); with: 0.976."""
MIN_COUNT = 20
"""Pairs that a quantile must leave beyond it to be taken as measured."""
KNEE_QUANTILE = 0.995
"""Cosines above this quantile of the measured ones count half: mates there fall up to 1.4 standard errors short of the
line that strangers make."""


Lines = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The line and its error, for each stage: the centroid of a row's list, its first plane, all its planes.

    slope, offset: (3,) float64; agreement / norm = offset + slope * (cosine - probe @ mean).
    quantiles: (3, len(MISS_GRID)) float64, of the error below the line; they fall along the grid. knee: cosine above
    which the line was not measured. probes: held-out probes behind the figures.
    """

    slope: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    quantiles: npt.NDArray[np.float64]
    knee: float
    probes: int

    def lines(self, recall: float) -> Lines:
        """(offset, slope) for each stage: agreement / norm is at least offset + slope * (cosine - probe @ mean).

        But for the misses that `recall` allows, which the stages share. Raises InvalidParameter for a recall outside
        (0, 1).
        """
        if not 0.0 < recall < 1.0:
            raise InvalidParameter(f"recall: expected a number between 0 and 1, both excluded, got {recall!r}")
        misses = -np.log(max((1.0 - recall) / STAGES, MISS_GRID[-1]))
        grid = -np.log(np.array(MISS_GRID))
        error = [float(np.interp(misses, grid, stage)) for stage in self.quantiles]
        lists, head, full = zip((self.offset + error).tolist(), self.slope.tolist(), strict=True)
        return lists, head, full


def calibrate(cosines: FloatArray, common: FloatArray, agreements: FloatArray) -> Calibration:
    """The calibration of measured pairs of a probe and a row near it.

    cosines: (probes, m), falling in each row, minus infinity where there is no pair. common: (probes,), products with
    the mean. agreements: (3, probes, m), divided by the norms.

    Lists are another matter than planes: most of what a list agrees by is due to its other rows. So their line goes
    through zero, rests on the nearest of the pairs, and is given a margin (LIST_NEIGHBOURS, LIST_FACTOR).
    """
    probes = len(cosines)
    slopes, offsets, quantiles = [], [], []
    for stage, agreement in enumerate(agreements):
        near = slice(LIST_NEIGHBOURS) if stage == LISTS else slice(None)
        is_pair = np.isfinite(cosines[:, near])
        x = (cosines - common[:, None]).astype(np.float64)[:, near][is_pair]
        y = agreement.astype(np.float64)[:, near][is_pair]
        slope, offset = (x @ y / (x @ x), 0.0) if stage == LISTS else np.polyfit(x, y, 1)
        # A line that falls would make a near row look far; it can only come of noise.
        slope = max(slope, 0.0)
        slopes.append(slope)
        offsets.append(offset)
        errors = error_quantiles(y - offset - slope * x, probes)
        quantiles.append(errors * LIST_FACTOR if stage == LISTS else errors)
    return Calibration(
        slope=np.array(slopes),
        offset=np.array(offsets),
        quantiles=np.array(quantiles),
        knee=float(np.quantile(cosines[np.isfinite(cosines)], KNEE_QUANTILE)),
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
