"""Biometric error rates from scores: FMR and FNMR over thresholds, EER, FPIR, each with what the sample can support.

Pure: no I/O, no clock, NumPy only. A score counts as a match from the threshold on (score >= threshold).

Definitions: ISO/IEC 19795-1:2021 (FMR, FNMR, FPIR, rule of 3) and NIST FRVT 1:N, NISTIR 8271 (FPIR(N, T) is the share
of non-mated searches that return any candidate at or above T). Intervals: Wilson, JASA 22, 1927, recommended for small
rates by Brown, Cai, DasGupta, Statistical Science 16, 2001. Pairs that share a template are not independent; what they
are worth follows from the variance of a U-statistic (Hoeffding, Annals of Mathematical Statistics 19, 1948).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard.types import FloatArray

RateArray = npt.NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
_Z = 1.959964
"""Two-sided normal quantile of CONFIDENCE."""
RULE_OF_THREE = 3.0
"""A rate is stated from 3 expected errors on: with none seen in n trials, 3 / n is the most it may be at 95 %."""
TARGET_FMRS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
GRID_STEP = 0.01
_ITSELF = -2.0
"""Stands on the diagonal of a score matrix: below any cosine."""


@dataclass(frozen=True, slots=True, eq=False)
class ErrorTable:
    """FMR and FNMR at thresholds (t,), ascending, each (t,) with its 95 % interval (t, 2), all float64."""

    thresholds: RateArray
    fmr: RateArray
    fmr_interval: RateArray
    fnmr: RateArray
    fnmr_interval: RateArray


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The threshold for a target FMR and what was measured there; None throughout where the sample is too small.

    comparisons: what the impostor comparisons are worth at that threshold, counted as independent ones; needed: how
    many it takes for the target.
    """

    target_fmr: float
    threshold: float | None
    fmr: float | None
    fmr_interval: Interval | None
    fnmr: float | None
    fnmr_interval: Interval | None
    comparisons: int
    needed: int


class ImpostorScores:
    """Scores of n templates of n different identities, each against each."""

    def __init__(self, templates: FloatArray) -> None:
        """templates: (n, dim) float32, unit norm, n >= 2, one of each identity."""
        scores = templates @ templates.T
        np.maximum(scores, scores.T, out=scores)  # the products may differ in the last bit
        np.fill_diagonal(scores, _ITSELF)
        self._rows = np.sort(scores, axis=1)
        self.templates = len(templates)

    @property
    def pairs(self) -> int:
        """Comparisons, each once."""
        return self.templates * (self.templates - 1) // 2

    @property
    def maxima(self) -> RateArray:
        """(n,) float64: the best score of each template among the n - 1 others."""
        return self._rows[:, -1].astype(np.float64)

    @property
    def median(self) -> float:
        """A middle score."""
        return float(np.median(self._rows[:, self.templates // 2]))

    def highest(self, count: int) -> RateArray:
        """The `count` highest scores of all pairs, at most all, (c,) float64 descending."""
        # Every pair stands in two rows.
        wanted = min(2 * count, 2 * self.pairs)
        flat = self._rows.reshape(-1)
        top = np.partition(flat, len(flat) - wanted)[len(flat) - wanted :]
        return np.sort(top)[::-1][::2].astype(np.float64)

    def rates(self, thresholds: RateArray) -> tuple[RateArray, RateArray]:
        """FMR at thresholds (t,), and how many independent comparisons these are worth, both (t,) float64.

        The variance of the mean over pairs is 4 Var(a template's own rate) / n, less what is counted twice in it, and
        no less than that of independent pairs. Where no pair matches it cannot be told: the last value known is kept.
        """
        n = self.templates
        wanted = thresholds.astype(np.float32)
        matches = np.stack([n - np.searchsorted(row, wanted, side="left") for row in self._rows])
        own = matches / (n - 1)
        rates = own.mean(axis=0)
        spread = rates * (1 - rates)
        independent = spread / self.pairs
        variance = np.maximum(4 * own.var(axis=0, ddof=1) / n - independent, independent)
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.where(spread > 0, spread / variance, np.nan)
        return rates, _filled(worth, float(self.pairs))


def _filled(values: RateArray, default: float) -> RateArray:
    """NaN replaced by the value before it; by the default at the start."""
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last >= 0, values[last], default)


def wilson(errors: npt.ArrayLike, trials: npt.ArrayLike) -> RateArray:
    """95 % score interval of a rate, (..., 2) float64. trials > 0; neither need be whole."""
    n = np.asarray(trials, np.float64)
    rate = np.asarray(errors, np.float64) / n
    middle = rate + _Z**2 / (2 * n)
    half = _Z * np.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    bounds = np.stack([middle - half, middle + half], axis=-1) / (1 + _Z**2 / n)[..., None]
    return np.clip(bounds, 0, 1)


def error_table(genuine: RateArray, impostors: ImpostorScores) -> ErrorTable:
    """Error rates at multiples of GRID_STEP, from the median impostor score to the highest score there is.

    genuine: (g,) scores of templates of the same identity, g >= 1, one pair for each identity.
    """
    first = np.floor(impostors.median / GRID_STEP)
    last = np.ceil(max(float(genuine.max()), float(impostors.maxima.max())) / GRID_STEP)
    thresholds = np.round(np.arange(first, last + 1) * GRID_STEP, 6)
    fmr, worth = impostors.rates(thresholds)
    missed = np.searchsorted(np.sort(genuine), thresholds, side="left")
    return ErrorTable(
        thresholds, fmr, wilson(fmr * worth, worth), missed / len(genuine), wilson(missed, np.full(1, len(genuine)))
    )


def equal_error_rate(genuine: RateArray, impostors: ImpostorScores) -> tuple[float, float]:
    """(EER, threshold): the mean of FMR and FNMR at the genuine score where they differ least."""
    ordered = np.sort(genuine)
    fnmr = np.searchsorted(ordered, ordered, side="left") / len(ordered)
    fmr, _ = impostors.rates(ordered)
    at = int(np.argmin(np.abs(fmr - fnmr)))
    return float((fmr[at] + fnmr[at]) / 2), float(ordered[at])


def operating_points(
    genuine: RateArray, impostors: ImpostorScores, targets: Sequence[float] = TARGET_FMRS
) -> tuple[OperatingPoint, ...]:
    """The threshold for each target FMR, as far as the comparisons support it; none is extrapolated."""
    highest = impostors.highest(int(np.ceil(max(targets) * impostors.pairs)) + 1)
    return tuple(_operating_point(target, genuine, impostors, highest) for target in targets)


def _operating_point(
    target: float, genuine: RateArray, impostors: ImpostorScores, highest: RateArray
) -> OperatingPoint:
    threshold = threshold_at_rate(highest, impostors.pairs, target)
    needed = int(np.ceil(RULE_OF_THREE / target))
    # With no pair left to set a threshold, the best comparisons are counted as independent; they are too few anyway.
    fmr, worth = impostors.rates(np.array([highest[0] if threshold is None else threshold]))
    comparisons = int(worth[0])
    if threshold is None or comparisons < needed:
        return OperatingPoint(target, None, None, None, None, None, comparisons, needed)
    missed = int((genuine < threshold).sum())
    return OperatingPoint(
        target,
        threshold,
        float(fmr[0]),
        _pair(wilson(fmr[0] * worth[0], worth[0])),
        missed / len(genuine),
        _pair(wilson(missed, len(genuine))),
        comparisons,
        needed,
    )


def threshold_at_rate(highest: RateArray, trials: int, rate: float) -> float | None:
    """A threshold that a new score reaches with a probability of at most `rate`; None if there are too few trials.

    highest: scores in descending order, of `trials` of which these are the highest. The r-th highest of n is reached by
    one more score of the same kind with probability r / (n + 1), whatever the distribution.
    """
    rank = min(int(rate * (trials + 1) + 1e-9), trials)
    return None if rank < 1 or rank > len(highest) else float(highest[rank - 1])


def carried(rate: npt.ArrayLike, ratio: float) -> RateArray:
    """FPIR in a gallery of `ratio` times as many templates: 1 - (1 - rate)^ratio, of any shape.

    The best of n independent scores has the distribution function F^n, so F_N'(t) = F_N(t)^(N'/N) (order statistics;
    David and Nagaraja, 2003). Probes differ: some look like many people. Then, by Jensen's inequality, this is too high
    for ratios above 1 and too low below 1, while the truth lies between it and the rate that was carried.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(np.log1p(-np.asarray(rate, np.float64)) * ratio))


def _pair(interval: RateArray) -> Interval:
    return float(interval[0]), float(interval[1])
