"""Small face-like embeddings for tests that need shape, not statistics (`benchmarks.synthetic` has those)."""

import numpy as np

from shard.types import EnrollBatch, FloatArray


def unit_rows(n: int, dim: int, seed: int, *, rank: int | None = None) -> FloatArray:
    """(n, dim) float32 unit rows of at most `rank` directions of falling variance."""
    rng = np.random.default_rng(seed)
    rank = rank or max(8, dim // 3)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(dim, rank)))[0]
    rows = rng.normal(size=(n, rank)) * np.linspace(1.5, 0.5, rank)
    values = rows @ basis.T
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def batch_of(embeddings: FloatArray, prefix: str = "t", identity: str | None = None, first: int = 0) -> EnrollBatch:
    """A batch with ids prefix0, prefix1, …"""
    n = len(embeddings)
    ids = tuple(f"{prefix}{first + i}" for i in range(n))
    return EnrollBatch(embeddings, ids, (identity,) * n, (None,) * n)
