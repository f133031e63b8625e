"""Oracle: all pairs of rows whose cosine reaches a threshold, by multiplying everything with everything."""

from __future__ import annotations

import numpy as np

from shard.types import FloatArray, RowArray


def all_pairs(
    left: FloatArray, right: FloatArray | None, threshold: float, *, step: int = 1024
) -> dict[tuple[int, int], float]:
    """(left row, right row) to cosine in float64; right None: pairs within left, left < right."""
    other = (left if right is None else right).astype(np.float64)
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(left), step):
        scores = left[start : start + step].astype(np.float64) @ other.T
        rows, columns = np.nonzero(scores >= threshold)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if right is not None or start + row < column:
                found[start + row, column] = float(scores[row, column])
    return found


def assert_all_pairs(
    found: tuple[RowArray, RowArray, FloatArray], expected: dict[tuple[int, int], float], threshold: float
) -> None:
    """The pairs that were found are those of `all_pairs`, each once, but for those within rounding of the threshold."""
    left, right, scores = found
    pairs = {(a, b): s for a, b, s in zip(left.tolist(), right.tolist(), scores.tolist(), strict=True)}
    assert len(pairs) == len(left)
    near = 1e-5
    missing = [pair for pair, score in expected.items() if score >= threshold + near and pair not in pairs]
    wrong = [pair for pair, score in pairs.items() if score < threshold - near]
    assert (missing, wrong) == ([], [])
    assert all(abs(score - expected[pair]) < near for pair, score in pairs.items() if pair in expected)
