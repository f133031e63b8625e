"""What an answer is worth: recall@1 and @10 against exact search, and rank-1 identification.

An answer's row counts as right if its exact score is that of the true list or better, within rounding, so that ties and
duplicate photos cost nobody anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.engine.datasets import Dataset
from shard.types import FloatArray, RowArray

_ROUNDING = 2e-6  # of a float32 inner product of unit vectors, summed in another order


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of probes (recall_10: of the ten true neighbours of each). rank1: None for strangers."""

    recall_1: float
    recall_10: float
    rank1: float | None = None


def mated_quality(dataset: Dataset, answers: RowArray) -> Quality:
    """Of the answers (m, k) to the mated probes."""
    probes = dataset.probes.mated
    recall_1, recall_10 = _recalls(dataset, probes, answers, dataset.truth.scores[: len(probes)])
    return Quality(recall_1, recall_10, rank1(dataset, answers))


def stranger_quality(dataset: Dataset, answers: RowArray) -> Quality:
    """Of the answers (s, k) to the strangers."""
    return Quality(
        *_recalls(dataset, dataset.probes.strangers, answers, dataset.truth.scores[len(dataset.probes.mated) :])
    )


def rank1(dataset: Dataset, answers: RowArray) -> float:
    """Share of mated probes whose first candidate is of their person."""
    return float((dataset.identities[answers[:, 0]] == dataset.probes.people)[answers[:, 0] >= 0].sum() / len(answers))


def _recalls(dataset: Dataset, probes: FloatArray, answers: RowArray, true_scores: FloatArray) -> tuple[float, float]:
    k = min(answers.shape[1], true_scores.shape[1])
    found = answers[:, :k]
    scores = np.einsum("pkd,pd->pk", dataset.rows[np.maximum(found, 0)], probes)
    scores[(found < 0) | _is_repeated(found)] = -np.inf
    at_1 = scores[:, 0] >= true_scores[:, 0] - _ROUNDING
    at_k = scores >= true_scores[:, k - 1 : k] - _ROUNDING
    return float(at_1.mean()), float(at_k.mean())


def _is_repeated(rows: RowArray) -> npt.NDArray[np.bool_]:
    """Where a list (n, k) names a row that stands earlier in it: the same row twice is found once."""
    order = np.argsort(rows, axis=1, kind="stable")
    ranked = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    return repeated
