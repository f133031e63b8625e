"""All pairs of templates of one or two shards whose cosine reaches a threshold.

Works on rows, a range of them at a time, so that whoever runs a long join (dedup) can stop and go on between ranges.
Which shards to pair, labels and groups are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

from shard.calibration import MAX_RECALL
from shard.errors import InvalidParameter, ModelMismatch
from shard.index import blocks_named, join_indexes
from shard.shard import Shard
from shard.types import FloatArray, RowArray, SearchParams
from shard.validate import check_params


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Rows of the left and of the right shard, (n,) int64 each, in that order, and their cosines, (n,) float32."""

    left: RowArray
    right: RowArray
    scores: FloatArray


def join_rows(
    left: Shard, right: Shard | None, start: int, stop: int, *, threshold: float, recall: float, exact: bool = False
) -> Pairs:
    """Pairs of live rows, one from left's rows start to stop (not included), with a cosine of `threshold` or more.

    right: None pairs left's rows with later ones of left, so that ranges which cover it give every pair once.
    recall: share of the pairs to aim at, in (0, 1), by the model's calibration; what is found has its exact score.
    All floats are scanned instead with `exact`, above MAX_RECALL, and without a model.
    Raises InvalidParameter for a threshold, recall or range that cannot be, ModelMismatch for two dimensions;
    CorruptData, which names the file, if floats that were needed are not what was sealed.
    """
    check_params(SearchParams(k=1, recall=recall, exact=exact, threshold=threshold))
    other = left if right is None else right
    if other.dim != left.dim:
        raise ModelMismatch(f"join: {left.directory} has dimension {left.dim}, {other.directory} {other.dim}")
    if not 0 <= start <= stop <= left.index.rows:
        raise InvalidParameter(f"join: expected rows from 0 to {left.index.rows}, got {start} to {stop}")
    index, model = other.view()
    cascade = None if model is None or exact or recall > MAX_RECALL else model.cascade(recall)
    with blocks_named():
        found = join_indexes(
            index if right is None else left.index, None if right is None else index, (start, stop), cascade, threshold
        )
    return Pairs(*found)
