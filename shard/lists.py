"""Inverted lists: centroids that split a gallery into lists of templates that are alike, so that a search visits a few.

Owns how centroids are found (spherical k-means) and which list a row is in. It must not know embeddings or files: rows
come in as their values on the first code plane, which hold most of the variance at a quarter of the cost.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shard.types import PLANE_BITS, FloatArray

ListArray = npt.NDArray[np.uint16]

MAX_LISTS = 512
"""A full segment of 512 dimensions has 65,536 rows, so 128 a list: four blocks of the scan. More lists of fewer rows
visit fewer rows and as many blocks (docs/search-model.md)."""
MIN_LISTS = 64
"""Fewer are not worth their while."""
ROWS_PER_LIST = 26
"""Rows of the sample for each list, at least."""
ITERATIONS = 10
_BLOCK = 8_192
_TOO_SMALL, _TOO_LARGE = 0.25, 2.0  # of the mean size: a list below gives its centroid to one above


def list_count(rows: int) -> int:
    """How many lists a sample of so many rows can teach: a power of two from MIN_LISTS to MAX_LISTS, or 0."""
    count = 1 << max(rows // ROWS_PER_LIST, 1).bit_length() - 1
    return min(count, MAX_LISTS) if count >= MIN_LISTS else 0


def fit_lists(values: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Centroids (count, 128) float32 of unit norm, of rows' values (n, 128); lists beside each other are alike.

    Rows count by direction. Centroids of lists that came out far too small are moved into ones far too large, so that
    no list takes much more of a search than the others.
    """
    if count == 0:
        return np.empty((0, PLANE_BITS), np.float32)
    rows = _unit(values)
    centroids = rows[rng.choice(len(rows), count, replace=False)]
    for iteration in range(ITERATIONS):
        lists = nearest_list(rows, centroids)
        sizes = np.bincount(lists, minlength=count)
        sums = centroids.copy()  # a list that nobody is in stays where it is
        order = np.argsort(lists, kind="stable")
        starts = np.cumsum(sizes) - sizes
        filled = np.flatnonzero(sizes)
        sums[filled] = np.add.reduceat(rows[order], starts[filled], axis=0)
        centroids = _unit(sums)
        if iteration < ITERATIONS - 2:
            mean = len(rows) / count
            large = [i for i in np.argsort(-sizes, kind="stable") if sizes[i] > _TOO_LARGE * mean]
            small = np.flatnonzero(sizes < _TOO_SMALL * mean)
            for source, target in zip(large, small, strict=False):
                centroids[target] = rows[order[starts[source] + rng.integers(sizes[source])]]
    return np.ascontiguousarray(centroids[_alike(centroids)])


def nearest_list(values: FloatArray, centroids: FloatArray) -> ListArray:
    """The list of each row, (n,) uint16: that of the centroid which agrees most with its values (n, 128)."""
    lists = np.empty(len(values), np.uint16)
    for start in range(0, len(values), _BLOCK):
        rows = slice(start, start + _BLOCK)
        lists[rows] = np.argmax(values[rows] @ centroids.T, axis=1)
    return lists


def _alike(centroids: FloatArray) -> npt.NDArray[np.intp]:
    """An order of centroids in which neighbours are alike: halves along the main direction, and so on in each half."""

    def sort(members: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        if len(members) <= 2:
            return members
        points = centroids[members] - centroids[members].mean(axis=0)
        direction = np.linalg.svd(points, full_matrices=False)[2][0]
        halves = np.array_split(members[np.argsort(points @ direction, kind="stable")], 2)
        return np.concatenate([sort(half) for half in halves])

    return sort(np.arange(len(centroids)))


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return unit
