"""Lists for the fast mode: how many, and how far rows look beyond their own, measured on pairs of the corpus itself.

Some rows, the **probes**, are joined without loss with everything first. Half of the pairs that they have say how far
rows have to look for the recall that is wanted; the other half how many of theirs are found so, which is what a result
states. Owns the choice; which rows are probes and what is joined with what is `cluster.dedup.strategies`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shard.pairs import Pairs
from shard.sketch import Basis, with_lists
from shard.types import FloatArray, RowArray

MAX_LISTS, MIN_LISTS = 256, 8
ROWS_PER_LIST = 256
"""Of a part: fewer, and looking lists up costs more than what they save."""
ENOUGH_PAIRS = 400
"""From so many on, a quantile of them is believed; with fewer, rows look as far as WIDE."""
MOST_PAIRS = 8_192
"""Pairs that are looked at, evenly spread over the probes."""
NARROW, WIDE = 0.02, 0.3
"""Least margin, and that where too little is known."""
_SEED = 20_261_122


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was chosen, and what was measured of it. recall: share of `pairs` that are found; None if there are none."""

    lists: int
    margin: float
    recall: float | None
    pairs: int

    @property
    def statement(self) -> str:
        """For whoever reads the result."""
        looked = f"Faces were compared within {self.lists} lists of alike ones and with faces of lists nearby."
        if self.recall is None:
            return f"{looked} There were no pairs to measure its recall by."
        return f"{looked} Of {self.pairs:,} pairs of faces drawn evenly, {self.recall:.2%} are found so."


def tune(
    basis: Basis,
    sample: FloatArray,
    floats: Callable[[RowArray], FloatArray],
    pairs: Pairs,
    part_rows: int,
    threshold: float,
    target: float,
) -> tuple[Basis, Tuning]:
    """The basis with lists, for parts of so many rows.

    sample: (n, dim) rows that lists are fitted to. pairs: what the probes have, rows of `floats`, probes to the left.
    target: share of the pairs to find.
    """
    wanted = 1 << max(part_rows // ROWS_PER_LIST, 1).bit_length() - 1
    count = min(max(MIN_LISTS, min(MAX_LISTS, wanted)), len(sample))
    rng = np.random.default_rng(_SEED)
    listed = with_lists(basis, sample, count, threshold, rng)
    probes = np.unique(pairs.left)
    measures = np.searchsorted(probes, pairs.left) % 2 == 1
    distances = _distances(listed, floats, pairs)
    chosen, held_out = distances[~measures], distances[measures]
    margin = _margin(chosen, target)
    recall = float(np.mean(held_out <= margin)) if len(held_out) else None
    return replace(listed, margin=margin), Tuning(count, margin, recall, len(held_out))


def thinned(pairs: Pairs, most: int = MOST_PAIRS) -> Pairs:
    """At most so many of the pairs, evenly spread."""
    if len(pairs.left) <= most:
        return pairs
    return pairs.take(np.arange(most, dtype=np.int64) * len(pairs.left) // most)


def _margin(distances: FloatArray, target: float) -> float:
    if not len(distances):
        return WIDE
    # Twice as careful as asked: a quantile of a sample is not that of all.
    needed = float(np.quantile(distances, 1 - (1 - target) / 2, method="higher"))
    return max(needed, NARROW if len(distances) >= ENOUGH_PAIRS else WIDE)


def _distances(basis: Basis, floats: Callable[[RowArray], FloatArray], pairs: Pairs) -> FloatArray:
    """(n,) float32: how far beyond its own list a row of a pair has to look for the other, the nearer way."""
    rows, at = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    if not len(rows):
        return np.empty(0, np.float32)
    agreement = floats(rows) @ basis.directions @ basis.centroids.T
    own = agreement.argmax(axis=1)
    best = agreement[np.arange(len(rows)), own]
    left, right = np.split(at, 2)
    there, back = best[left] - agreement[left, own[right]], best[right] - agreement[right, own[left]]
    nearer: FloatArray = np.minimum(there, back)
    return nearer
