"""`Links`: pairs as edges between nodes whose numbers do not depend on rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.dedup.faces import Faces
from cluster.dedup.photos import PairKind, pair_kinds
from cluster.dedup.rules import Rules
from shard.errors import InvalidParameter
from shard.join import Pairs
from shard.types import FloatArray, RowArray


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Edges by (left, right), left < right, each once. A node is a face's place by input and template id.

    left, right: (e,) int64 nodes; scores: (e,) float32. face: (m,) int64, the position in `Faces` of each node.
    same_face: (s, 2) int64 nodes of pairs that are one face of one file, stored twice. Two faces of one photo are no
    edge, unless such may be merged."""

    left: RowArray
    right: RowArray
    scores: FloatArray
    face: RowArray
    same_face: RowArray


def links_of(pairs: Pairs, faces: Faces, rules: Rules) -> Links:
    """Links of pairs in any order. Raises InvalidParameter if a pair's row is not among the faces."""
    left, right = (_positions(faces, rows) for rows in (pairs.left, pairs.right))
    kinds = pair_kinds(left, right, pairs.scores, faces, same_photo_bits=rules.same_photo_bits)
    a, b = faces.order[left], faces.order[right]
    low, high = np.minimum(a, b), np.maximum(a, b)
    if len(low) and (low == high).any():
        raise InvalidParameter("pairs: expected two faces, got a face and itself")
    _, unique = np.unique(low * len(faces) + high, return_index=True)
    low, high, scores, kinds = low[unique], high[unique], pairs.scores[unique], kinds[unique]
    is_apart = (kinds == PairKind.TWO_FACES) & (not rules.merge_same_photo)
    photo = faces.photo[left[unique]]
    is_same = (kinds == PairKind.SAME_PHOTO) & (photo >= 0) & (photo == faces.photo[right[unique]])
    face = np.empty(len(faces), np.int64)
    face[faces.order] = np.arange(len(faces))
    return Links(
        left=low[~is_apart],
        right=high[~is_apart],
        scores=scores[~is_apart],
        face=face,
        same_face=np.stack([low[is_same], high[is_same]], axis=1),
    )


def _positions(faces: Faces, rows: RowArray) -> RowArray:
    at = np.searchsorted(faces.rows, rows)
    missing = (at >= len(faces)) | (faces.rows[np.minimum(at, len(faces) - 1)] != rows) if len(faces) else rows >= 0
    if missing.any():
        raise InvalidParameter(f"pairs: row {int(rows[missing][0])} is not among the faces")
    return at.astype(np.int64)
