"""Medoids: the face of a group that is most like all others of it.

By sums of the scores of pairs where every two faces are one, else by embeddings. Sums of rounded coordinates are exact
in float64, see linkage.py, so that a medoid and the scores to it have the same bits on every machine."""

from __future__ import annotations

import numpy as np

from cluster.dedup.linkage import CHUNK, SCALE, Sums
from shard.types import FloatArray, RowArray

FINE = 2.0**24
"""Of coordinates of one embedding: products of two are exact in float64, and as fine as float32."""


def medoids_by_pairs(
    component: RowArray, left: RowArray, right: RowArray, scores: FloatArray
) -> tuple[RowArray, FloatArray]:
    """(m,) int64 medoid of each node's component and (m,) float32 score to it, 1 for itself, where all nodes of a
    component are pairs; a node without pairs is its own. left, right, scores: the pairs, (e,) each, by (left,
    right)."""
    nodes = len(component)
    total: Sums = np.asarray(np.bincount(left, scores, nodes) + np.bincount(right, scores, nodes), np.float64)
    medoid = _most(component, np.arange(nodes, dtype=np.int64), total)[component]
    found = np.ones(nodes, np.float32)
    for near, far in ((left, right), (right, left)):
        at = medoid[near] == far
        found[near[at]] = scores[at]
    return medoid, found


def medoids_by_embeddings(vectors: FloatArray, members: RowArray, group: RowArray) -> tuple[RowArray, FloatArray]:
    """(k,) int64 medoid, among `members`, of each member's group, and (k,) float32 cosine to it, 1 for itself.

    vectors: (n, dim) float32 unit embeddings. members: (k,) int64 rows of vectors. group: (k,) int64, any numbers below
    n."""
    total = _likeness(vectors, members, group)
    medoid = _most(group, members, total, len(vectors))[group]
    scores = np.ones(len(members), np.float32)
    for start in range(0, len(members), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = (np.rint(vectors[rows].astype(np.float64) * FINE) for rows in (members[part], medoid[part]))
        scores[part] = np.einsum("ij,ij->i", a, b) / FINE**2
    scores[medoid == members] = 1.0
    return medoid, scores


def _likeness(vectors: FloatArray, members: RowArray, group: RowArray) -> Sums:
    """(k,) float64: the sum of each member's products with all members of its group."""
    in_order = np.argsort(group, kind="stable")
    heads, starts = np.unique(group[in_order], return_index=True)
    rounded = np.rint(vectors[members[in_order]].astype(np.float64) * SCALE)
    sums = np.add.reduceat(rounded, starts, axis=0) if len(starts) else rounded
    of = np.searchsorted(heads, group[in_order])
    total = np.empty(len(members), np.float64)
    for start in range(0, len(members), CHUNK):
        part = slice(start, start + CHUNK)
        total[in_order[part]] = np.einsum("ij,ij->i", rounded[part], sums[of[part]])
    return total


def _most(group: RowArray, members: RowArray, total: Sums, size: int | None = None) -> RowArray:
    """At a group's number its member with the largest total; of equals the smallest."""
    in_order = np.lexsort((members, -total, group))
    first = np.ones(len(in_order), bool)
    first[1:] = group[in_order][1:] != group[in_order][:-1]
    found = np.full(len(group) if size is None else size, -1, np.int64)
    found[group[in_order[first]]] = members[in_order[first]]
    return found
