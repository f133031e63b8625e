"""How far recent templates are from those that a SearchModel was trained on, as its codes see them.

A model's promise of recall rests on its training sample: bits that divide the gallery in halves, and a projection that
keeps most of what tells templates apart. Rows of another kind (another camera, another embedder's version, other
people) lean to one side of many bits, or vary where the projection does not look. Pure NumPy; where the rows come from
and what follows from a drift is the coordinator's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shard.model import SearchModel
from shard.training import norms, stranger_limit
from shard.types import FloatArray

MAX_ROWS = 2_000
"""Most recent rows that are looked at: all pairs of them are."""
SHIFT_LIMIT, LOSS_LIMIT = 0.1, 0.1
"""What counts as drift: measured in docs/search-model.md."""


@dataclass(frozen=True, slots=True, eq=False)
class CodeStatistics:
    """rows: how many were looked at. balance: (code_bits,) float32, share of ones of each bit.

    captured: sum of the magnitudes of a row's projections over its distance from the mean, on average: how near rows
    are to their codes.
    """

    rows: int
    balance: FloatArray
    captured: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Recent templates against the training sample.

    shift: root mean square over the bits of how far the share of ones has moved, 0 to 1, beyond what chance explains.
    loss: share of `captured` that is gone, 0 to 1. rows: recent templates looked at.
    """

    shift: float
    loss: float
    rows: int

    @property
    def score(self) -> float:
        """The larger of both in units of its limit: from 1 on, a model trained anew is due."""
        return max(self.shift / SHIFT_LIMIT, self.loss / LOSS_LIMIT)


def code_statistics(model: SearchModel, rows: FloatArray) -> CodeStatistics:
    """Statistics of rows (n, dim) float32, unit norm, n >= 1."""
    ones = np.zeros(model.code_bits)
    magnitudes = distances = 0.0
    for begin in range(0, len(rows), MAX_ROWS):
        block = rows[begin : begin + MAX_ROWS]
        values = _values(model, block)
        ones += (values > 0).sum(axis=0)
        magnitudes += float(np.abs(values).sum(dtype=np.float64))
        distances += float(norms(block - model.mean).sum(dtype=np.float64))
    return CodeStatistics(len(rows), (ones / len(rows)).astype(np.float32), magnitudes / distances)


def measure_drift(model: SearchModel, trained: CodeStatistics, recent: FloatArray) -> Drift:
    """The drift of recent rows (n, dim) float32, unit norm, n >= 2, from what `code_statistics` said at training.

    A few people with many photos each lean to one side by chance. So the shift is taken from pairs of rows that are
    strangers: for those of the training's kind the product of their deviations is 0 on average, however few they are.
    """
    recent = recent[:MAX_ROWS]
    values = _values(model, recent)
    deviations = (values > 0).astype(np.float32) - trained.balance
    are_strangers = recent @ recent.T <= stranger_limit(recent)
    np.fill_diagonal(are_strangers, False)
    products = (deviations @ deviations.T)[are_strangers]
    # The balance at training is itself of so many rows only.
    chance = float((trained.balance * (1 - trained.balance)).sum()) / trained.rows
    square = (float(products.mean()) - chance) / model.code_bits if len(products) else 0.0
    captured = code_statistics(model, recent).captured
    return Drift(float(np.sqrt(max(0.0, square))), max(0.0, 1 - captured / trained.captured), len(recent))


def _values(model: SearchModel, rows: FloatArray) -> FloatArray:
    values: FloatArray = rows @ model.projection - model.thresholds
    return values
