"""Labelled embeddings: a few photos of each of many people."""

from __future__ import annotations

import numpy as np

from shard.types import FloatArray


def people(count: int, dim: int = 64, seed: int = 5, spread: float = 0.3) -> tuple[FloatArray, list[str]]:
    """(2 * count, dim) float32, two embeddings of each of so many people, and whose each is."""
    rng = np.random.default_rng(seed)
    faces = rng.standard_normal((count, 1, dim)) + spread * rng.standard_normal((count, 2, dim))
    return faces.reshape(-1, dim).astype(np.float32), [f"p{i // 2}" for i in range(2 * count)]
