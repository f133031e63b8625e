"""Pairs nearest the threshold: where a slightly other threshold would have decided otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.dedup.result_columns import SAME_PERSON
from coordinator.snapshots.places import pyarrow
from shard.types import FloatArray, RowArray

SHOWN = 50
"""How many are kept, the nearest ones."""
NEAR = 0.02
"""Above the threshold by less than this is near."""

_FIELDS = ("left_gallery", "left_id", "right_gallery", "right_id", "score", "group")


class Borderline:
    """Counts pairs that are near the threshold, and keeps the nearest. Pairs of one photo are not looked at."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._near = 0
        self._kept: Any = None

    def add(self, batch: Any, left: RowArray, right: RowArray, scores: FloatArray) -> None:
        """A batch of pairs.parquet, and the global rows and scores of its pairs."""
        arrow = pyarrow()
        is_person = arrow.compute.equal(batch.column("kind"), SAME_PERSON).to_numpy(zero_copy_only=False)
        self._near += int(np.count_nonzero(is_person & (scores < self._threshold + NEAR)))
        at = np.flatnonzero(is_person)
        if not len(at):
            return
        if len(at) > SHOWN:  # all that may be among the first, ties too
            at = at[scores[at] <= np.partition(scores[at], SHOWN - 1)[SHOWN - 1]]
        found = arrow.Table.from_batches([batch.take(arrow.array(at))]).select(list(_FIELDS))
        found = found.append_column("left", arrow.array(left[at])).append_column("right", arrow.array(right[at]))
        both = found if self._kept is None else arrow.concat_tables([self._kept, found])
        keys = [(name, "ascending") for name in ("score", "left_gallery", "left_id", "right_gallery", "right_id")]
        self._kept = both.take(arrow.compute.sort_indices(both, sort_keys=keys)[:SHOWN])

    def rows(self) -> RowArray:
        """(n, 2) int64 global rows of the nearest pairs, in the order of the summary."""
        if self._kept is None:
            return np.empty((0, 2), np.int64)
        return np.stack([self._kept.column(side).to_numpy() for side in ("left", "right")], axis=1)

    def summary(self) -> dict[str, Any]:
        """What summary.json says: how many pairs are within NEAR of the threshold, and the nearest SHOWN."""
        nearest = [] if self._kept is None else self._kept.select(list(_FIELDS)).to_pylist()
        return {"within": NEAR, "pairs": self._near, "nearest": nearest}
