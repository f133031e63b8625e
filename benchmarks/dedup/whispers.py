"""Chinese whispers, plainly: a peer of our groups in benchmarks.

Source: Biemann, TextGraphs 2006; weights of edges as in dlib's `chinese_whispers`.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from shard.types import FloatArray, RowArray

ITERATIONS = 20


def chinese_whispers(nodes: int, left: RowArray, right: RowArray, scores: FloatArray, *, seed: int) -> RowArray:
    """(nodes,) int64 groups: every node, in random order, takes the label whose edges to it weigh most, ITERATIONS
    times."""
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(nodes)]
    for a, b, score in zip(left.tolist(), right.tolist(), scores.tolist(), strict=True):
        neighbours[a].append((b, score))
        neighbours[b].append((a, score))
    label = list(range(nodes))
    rng = np.random.default_rng(seed)
    linked = np.array([node for node in range(nodes) if neighbours[node]], np.int64)
    for _ in range(ITERATIONS):
        for node in rng.permutation(linked).tolist():
            weights: dict[int, float] = defaultdict(float)
            for other, score in neighbours[node]:
                weights[label[other]] += score
            label[node] = max(weights.items(), key=lambda item: (item[1], -item[0]))[0]
    return np.array(label, np.int64)
