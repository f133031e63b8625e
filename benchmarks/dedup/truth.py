"""Which pairs there are: exact brute force of a sample of rows against all, and every seeded pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.dedup.seeded import seeded_pairs
from shard.types import FloatArray, RowArray

MARGIN = 1e-6
"""Pairs nearer to the threshold count neither way: float32 sums in another order may put them on its other side."""
_ROWS = 65_536
_PROBES = 1_024


@dataclass(frozen=True, slots=True)
class Truth:
    """sample: rows (m,), ascending. certain, borderline: pairs as `keys`, ascending: above the threshold by MARGIN or
    more, and within MARGIN. seeded: of the seeded pairs those that are above, counted before as seeded_all."""

    n: int
    threshold: float
    sample: RowArray
    certain: RowArray
    borderline: RowArray
    seeded: RowArray
    seeded_all: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a job found against the truth. Ratios are None where there was nothing to find.

    recall_sample: of the pairs that have a row of the sample; recall_seeded: of the seeded ones above the threshold.
    precision: share of all reported pairs whose recomputed cosine reaches the threshold less MARGIN. wrong: those of
    the sample that brute force does not have. score_error: largest difference of a reported score and the recomputed.
    """

    reported: int
    sample_rows: int
    sample_pairs: int
    recall_sample: float | None
    seeded: int
    seeded_above: int
    recall_seeded: float | None
    recall: float | None
    precision: float | None
    wrong: int
    score_error: float


def keys(left: RowArray, right: RowArray, n: int) -> RowArray:
    """A number for each pair of rows, whichever comes first."""
    return np.minimum(left, right) * n + np.maximum(left, right)


def truth_of(rows: FloatArray, threshold: float, sample_rows: int, seed: int) -> Truth:
    """By brute force. rows: (n, dim) float32 of unit norm, mapped or not."""
    n = len(rows)
    sample = np.sort(np.random.default_rng(seed).choice(n, min(sample_rows, n), replace=False)).astype(np.int64)
    probes = np.asarray(rows[sample])
    near: list[RowArray] = []
    for start in range(0, n, _ROWS):
        block = np.asarray(rows[start : start + _ROWS])
        for first in range(0, len(sample), _PROBES):
            at, other = np.nonzero(probes[first : first + _PROBES] @ block.T >= threshold - 1e-4)
            left, right = sample[first + at], other + start
            near.append(keys(left, right, n)[left != right])
    found = np.unique(np.concatenate(near))
    # The product chose with room to spare; what counts is the cosine in float64.
    scores = cosines(rows, *np.divmod(found, n))
    left, right = seeded_pairs(n)
    above = cosines(rows, left, right) >= threshold + MARGIN
    return Truth(
        n=n,
        threshold=threshold,
        sample=sample,
        certain=found[scores >= threshold + MARGIN],
        borderline=found[np.abs(scores - threshold) < MARGIN],
        seeded=keys(left, right, n)[above],
        seeded_all=len(left),
    )


def kept_truth(folder: Path, rows: FloatArray, threshold: float, sample_rows: int, seed: int) -> Truth:
    """`truth_of`, kept in a file of the folder for other runs."""
    path = folder / f"truth-{len(rows)}-{threshold:g}-{sample_rows}-{seed}.npz"
    names = ("sample", "certain", "borderline", "seeded")
    if not path.exists():
        made = truth_of(rows, threshold, sample_rows, seed)
        np.savez(path, **{name: getattr(made, name) for name in names}, seeded_all=made.seeded_all)
    with np.load(path) as kept:
        arrays = {name: kept[name] for name in names}
        return Truth(len(rows), threshold, **arrays, seeded_all=int(kept["seeded_all"]))


def accuracy(truth: Truth, rows: FloatArray, left: RowArray, right: RowArray, scores: FloatArray) -> Accuracy:
    """Of pairs that a job has reported, as rows."""
    found = keys(left, right, truth.n)
    exact = cosines(rows, left, right)
    touches = np.isin(left, truth.sample) | np.isin(right, truth.sample)
    allowed = np.concatenate([truth.certain, truth.borderline])
    recalls = [_share(np.isin(there, found)) for there in (truth.certain, truth.seeded)]
    return Accuracy(
        reported=len(found),
        sample_rows=len(truth.sample),
        sample_pairs=len(truth.certain),
        recall_sample=recalls[0],
        seeded=truth.seeded_all,
        seeded_above=len(truth.seeded),
        recall_seeded=recalls[1],
        recall=min((recall for recall in recalls if recall is not None), default=None),
        precision=_share(exact >= truth.threshold - MARGIN),
        wrong=int(np.count_nonzero(~np.isin(found[touches], allowed))) + len(found) - len(np.unique(found)),
        score_error=float(np.abs(exact - scores).max(initial=0)),
    )


def cosines(rows: FloatArray, left: RowArray, right: RowArray) -> npt.NDArray[np.float64]:
    """(n,) float64: of each pair of rows."""
    found = np.empty(len(left), np.float64)
    for start in range(0, len(left), 16_384):
        part = slice(start, start + 16_384)
        one, other = (rows[side[part]].astype(np.float64) for side in (left, right))
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found[part] = np.einsum("ij,ij->i", one, other) / norms
    return found


def _share(of: npt.NDArray[np.bool_]) -> float | None:
    return float(of.mean()) if len(of) else None


def document(found: Accuracy) -> dict[str, Any]:
    """Plain values."""
    return {name: getattr(found, name) for name in Accuracy.__slots__}
