"""What each threshold would give, from pairs above a floor: pairs, groups, faces, the largest group; and a suggestion.

Counts of groups are of connected components, which is what groups are before the guard against chains: a largest group
that jumps from some faces to a good part of them all shows the threshold where strangers begin to tie people together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.dedup.components import Components
from shard.errors import InvalidParameter
from shard.join import Pairs
from shard.types import RowArray

Counts = npt.NDArray[np.int64]

STEP = 0.01
SMOOTHED_BINS = 5
"""Bins that are averaged before a valley is looked for."""
VALLEY_DEPTH = math.log(2)
"""The histogram must be twice as high on both sides of a valley that is suggested."""
LEAST_PAIRS = 100
"""Pairs on each side of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Entry i of each field is of thresholds[i], (t,) float64 ascending in steps.

    histogram: (t,) int64 pairs that score from this threshold up to the next. pairs, groups, faces, largest: (t,) int64
    pairs from there on, groups of two faces or more that they connect, faces in them, faces in the largest. suggestion:
    the threshold in the valley between strangers' scores and one person's, None where the histogram has none."""

    thresholds: npt.NDArray[np.float64]
    histogram: Counts
    pairs: Counts
    groups: Counts
    faces: Counts
    largest: Counts
    suggestion: float | None

    def summary(self) -> dict[str, Any]:
        """As JSON has it: a row for each threshold, and the suggestion with what it rests on."""
        columns = ("thresholds", "histogram", "pairs", "groups", "faces", "largest")
        rows = zip(*(getattr(self, name).tolist() for name in columns), strict=True)
        names = ("threshold", "pairs_in_step", *columns[2:])
        because = (
            "lowest point between the scores of strangers and of one person; a guess from the histogram's shape"
            if self.suggestion is not None
            else "the histogram has no valley between strangers and one person; calibrate, or choose by the table"
        )
        return {
            "thresholds": [dict(zip(names, row, strict=True)) for row in rows],
            "suggestion": {"threshold": self.suggestion, "because": because},
        }


def analyse(pairs: Pairs, *, floor: float, step: float = STEP) -> Analysis:
    """Analysis of pairs in any order, each once; those below the floor are left out.

    One pass from the highest score down: each step adds its pairs to the components of the step above. Raises
    InvalidParameter for a floor outside [-1, 1) or a step that is not positive.
    """
    if not -1 <= floor < 1 or not 0 < step <= 1:
        raise InvalidParameter(f"floor, step: expected -1 <= floor < 1 and 0 < step <= 1, got {floor} and {step}")
    thresholds = np.round(floor + step * np.arange(math.ceil(round((1 - floor) / step, 9))), 9)
    bins = np.searchsorted(thresholds.astype(np.float32), pairs.scores, side="right") - 1
    inside = np.flatnonzero(bins >= 0)
    in_order = inside[np.argsort(bins[inside], kind="stable")]
    histogram = np.bincount(bins[inside], minlength=len(thresholds)).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(histogram)])
    rows, ends = np.unique(np.stack([pairs.left[in_order], pairs.right[in_order]]), return_inverse=True)
    left, right = ends.reshape(2, -1)
    counts = np.zeros((3, len(thresholds)), np.int64)
    components = Components(len(rows))
    for at in range(len(thresholds) - 1, -1, -1):
        part = slice(starts[at], starts[at + 1])
        components.add(left[part], right[part])
        counts[:, at] = _counts(components.labels)
    groups, faces, largest = counts
    above = np.cumsum(histogram[::-1])[::-1]
    return Analysis(thresholds, histogram, above, groups, faces, largest, valley(thresholds, histogram))


def _counts(labels: RowArray) -> tuple[int, int, int]:
    """Groups of two or more, faces in them, faces in the largest."""
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 1]
    return len(sizes), int(sizes.sum()), int(sizes.max(initial=0))


def valley(thresholds: npt.NDArray[np.float64], histogram: Counts) -> float | None:
    """The first lowest point of the smoothed histogram that is VALLEY_DEPTH deep (in logarithms) on both sides.

    None if there is none, or fewer than LEAST_PAIRS pairs on a side of it.
    """
    height = np.convolve(np.log1p(histogram), np.ones(SMOOTHED_BINS) / SMOOTHED_BINS, mode="valid")
    lowest = 0
    for at, value in enumerate(height):
        if value < height[lowest]:
            lowest = at
        if value >= height[lowest] + VALLEY_DEPTH and height[: lowest + 1].max() >= height[lowest] + VALLEY_DEPTH:
            middle = lowest + SMOOTHED_BINS // 2
            if min(histogram[:middle].sum(), histogram[middle:].sum()) < LEAST_PAIRS:
                return None
            return float(thresholds[middle])
    return None
