"""Connected components of a graph given as arrays of edges.

Pure numpy: labels hang on the smallest node that an edge reaches, chains of labels are halved until they are flat, and
edges within one component are dropped. A few passes, each linear, whatever the order of the edges.
"""

from __future__ import annotations

import numpy as np

from shard.types import RowArray


class Components:
    """Nodes 0..n-1 in components that grow as edges are added; a component's label is its smallest node."""

    def __init__(self, nodes: int) -> None:
        self._label: RowArray = np.arange(nodes, dtype=np.int64)

    @property
    def labels(self) -> RowArray:
        """(n,) int64: the smallest node of each node's component."""
        return self._label

    def add(self, left: RowArray, right: RowArray) -> None:
        """Join the components of left[i] and right[i], (e,) int64 each."""
        label = self._label
        while True:
            a, b = label[left], label[right]
            crossing = a != b
            if not crossing.any():
                return
            left, right, a, b = left[crossing], right[crossing], a[crossing], b[crossing]
            np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
            self._flatten()

    def _flatten(self) -> None:
        while True:
            jumped = self._label[self._label]
            if np.array_equal(jumped, self._label):
                return
            self._label[:] = jumped


def connected(nodes: int, left: RowArray, right: RowArray) -> RowArray:
    """(nodes,) int64: the smallest node of each node's component, for edges left[i] - right[i]."""
    components = Components(nodes)
    components.add(left, right)
    return components.labels
