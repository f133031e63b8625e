"""All pairs of two sets of rows whose cosine reaches a threshold.

Works on sketches in memory and on floats that are mapped; it must not know templates, shards or jobs. Scores have the
bits of every other search. Without lists nothing is missed; with lists, pairs neither of whose rows visits the list of
the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shard.errors import InvalidParameter
from shard.index import NativeSketch, native_pairs
from shard.sketch import BoundArray, PlaceArray, Sketch
from shard.types import FloatArray, RowArray

_Side = tuple[NativeSketch, list[FloatArray], PlaceArray | None]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Rows on the left and on the right, (n,) int64 each, in that order, and their cosines, (n,) float32."""

    left: RowArray
    right: RowArray
    scores: FloatArray

    def take(self, at: RowArray) -> Pairs:
        """The pairs at these places, (m,) int64, in that order."""
        return Pairs(self.left[at], self.right[at], self.scores[at])

    def in_order(self) -> Pairs:
        """The same pairs, by left row and then by right row."""
        return self.take(np.lexsort((self.right, self.left)))


def join_sketches(left: Sketch, right: Sketch | None, threshold: float) -> Pairs:
    """Pairs of rows with a cosine of `threshold` or more, each once; right None: of rows of left, the lower one first.

    threshold: in (-1, 1]. Both sketches are of one basis. All cores of the process (RAYON_NUM_THREADS). Raises
    InvalidParameter for a threshold that cannot be, or sketches that do not fit each other.
    """
    if not left.rows or (right is not None and not right.rows):
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    try:
        if left.lists is None:
            found = native_pairs(_side(left), None if right is None else _side(right), threshold)
            return Pairs(*found)
        if right is None:
            return Pairs(*native_pairs(_side(left), None, threshold, _visits(left, left)))
        there = Pairs(*native_pairs(_side(left), _side(right), threshold, _visits(left, right)))
        back = Pairs(*native_pairs(_side(right), _side(left), threshold, _visits(right, left)))
    except ValueError as error:
        raise InvalidParameter(f"join: {error}") from None
    return _union(there, Pairs(back.right, back.left, back.scores))


def _side(sketch: Sketch) -> _Side:
    return sketch.native, sketch.pieces, sketch.order


def _visits(visiting: Sketch, visited: Sketch) -> tuple[BoundArray, BoundArray, PlaceArray]:
    if visited.lists is None or visiting.visits is None or visiting.visitors is None:
        raise InvalidParameter("join: expected two sketches of one basis, got one with lists and one without")
    return visited.lists, visiting.visits, visiting.visitors


def _union(one: Pairs, other: Pairs) -> Pairs:
    left, right = np.concatenate([one.left, other.left]), np.concatenate([one.right, other.right])
    both = Pairs(left, right, np.concatenate([one.scores, other.scores])).in_order()
    is_first = np.ones(len(both.left), np.bool_)
    is_first[1:] = (both.left[1:] != both.left[:-1]) | (both.right[1:] != both.right[:-1])
    return both.take(np.flatnonzero(is_first))
