"""Small face-like embeddings for tests that need shape, not statistics (`benchmarks.synthetic` has those)."""

from collections.abc import Sequence

import numpy as np

from shard.keys import template_keys
from shard.types import EnrollBatch, FloatArray

SCORE_ERROR = 2e-6
"""How far a score may be from the true cosine: the float32 sums of a kernel."""


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


def exact(ids: Sequence[str], rows: FloatArray, probes: FloatArray, k: int) -> list[tuple[str, ...]]:
    """Oracle: sort everything by (score, key). For fixed seeds: scores that differ by rounding count as equal."""
    scores = (probes.astype(np.float64) @ rows.T.astype(np.float64)).round(6)
    keys = template_keys(ids)
    return [tuple(ids[i] for i in np.lexsort((keys, -row))[:k]) for row in scores]


def assert_exact(
    found: Sequence[Sequence[str]], ids: Sequence[str], rows: FloatArray, probes: FloatArray, k: int
) -> None:
    """The k best by (score, key). Scores too close for float32 may stand either way, equal floats only by key."""
    keys = template_keys(ids)
    _, same = np.unique(rows, axis=0, return_inverse=True)
    same = same.reshape(-1)
    for names, probe in zip(found, probes, strict=True):
        scores = rows.astype(np.float64) @ probe.astype(np.float64)
        scores = scores[np.unique(same, return_index=True)[1]][same] if len(rows) else scores
        order = np.lexsort((keys, -scores))
        close = np.cumsum(np.diff(-scores[order], prepend=-np.inf) > SCORE_ERROR)
        at = {ids[i]: position for position, i in enumerate(order.tolist())}
        assert len(names) == min(k, len(ids))
        for position, name in enumerate(names):
            if at[name] != position:
                run = order[close == close[position]]
                assert close[at[name]] == close[position], f"{name} has place {position}, expected {at[name]}"
                assert len(set(same[run].tolist())) > 1, f"{name} has place {position} among equals, not {at[name]}"
