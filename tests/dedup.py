"""Galleries with duplicates in them, and snapshots of them, for tests of dedup."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cluster import Cluster
from shard.types import FloatArray
from tests.faces_like import unit_rows

DIM = 64


def doubled_rows(people: int, *, seed: int, dim: int = DIM, noise: float = 0.03) -> FloatArray:
    """(2 * people, dim) unit rows: rows i and people + i are of one person, with a cosine of about 0.97; strangers have less than 0.8."""
    first = unit_rows(people, dim, seed=seed, rank=dim)
    second = first + np.random.default_rng(seed + 1).normal(0, noise, first.shape).astype(np.float32)
    rows = np.concatenate([first, second])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def enroll_doubled(grid: Cluster, name: str, people: int, *, shards: int = 2, seed: int = 1, prefix: str = "t") -> None:
    """Make a gallery of `doubled_rows`, some with metadata; the two rows of every third person have one identity."""
    rows = doubled_rows(people, seed=seed)
    gallery = grid.gallery(name, create=True, shards=shards, dim=rows.shape[1])
    people_of = [i % people for i in range(len(rows))]
    gallery.enroll(
        rows,
        template_ids=[f"{prefix}-{i:06d}" for i in range(len(rows))],
        identities=[f"person {p} ü" if p % 3 == 0 else None for p in people_of],
        metadata=[None if i % 5 else {"photo": i} for i in range(len(rows))],
    )


def snapshot_of(grid: Cluster, name: str, store: Path | str) -> str:
    """The id of a new snapshot of a gallery."""
    return grid.snapshots(store).create(name, progress=False).manifest.snapshot_id
