"""Pairs of dedup jobs against brute force: on real embeddings, and on galleries like them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

pytest.importorskip("shard.pairs", reason="the native join of sketches is not there yet")

from benchmarks.synthetic import EDGEFACE, MOBILEFACENET, SyntheticGallery
from cluster import Cluster
from coordinator.job_types import JobState
from shard.types import FloatArray

NEAR = 1e-5
"""Pairs so near to the threshold may be found or not: the sums of brute force are rounded too."""


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


def found_pairs(grid: Cluster, rows: FloatArray, threshold: float, *, shards: int) -> dict[tuple[int, int], float]:
    gallery = grid.gallery("acme/staff", create=True, shards=shards, dim=rows.shape[1])
    gallery.enroll(rows, template_ids=[f"{i:06d}" for i in range(len(rows))])
    job = grid.jobs.submit("dedup", "acme/staff", {"threshold": threshold})
    done = grid.jobs.run(job.job_id)
    assert done.state is JobState.SUCCEEDED, done.error
    table = pyarrow.parquet.read_table(grid.jobs.result(job.job_id).directory / "pairs.parquet")
    pairs = zip(table["left_id"].to_pylist(), table["right_id"].to_pylist(), strict=True)
    return dict(zip([(int(a), int(b)) for a, b in pairs], table["score"].to_pylist(), strict=True))


def check(found: dict[tuple[int, int], float], rows: FloatArray, threshold: float) -> None:
    """Every pair of brute force, none else, each with its score."""
    missing = expected = 0
    for start in range(0, len(rows), 1_024):
        scores = rows[start : start + 1_024] @ rows[start:].T
        left, right = np.nonzero(scores >= threshold - NEAR)
        for a, b, score in zip(left.tolist(), right.tolist(), scores[left, right].tolist(), strict=True):
            if a < b:
                expected += 1
                one = found.pop((start + a, start + b), None)
                missing += one is None and score >= threshold + NEAR
                assert one is None or abs(one - score) < NEAR
    print(f"{expected} pairs by brute force, {missing} missing, {len(found)} too many")
    assert expected > 100
    assert (missing, found) == (0, {})


@pytest.mark.parametrize(("profile", "threshold"), [(EDGEFACE, 0.35), (MOBILEFACENET, 0.5)])
def test_synthetic_galleries(grid: Cluster, profile, threshold: float) -> None:  # type: ignore[no-untyped-def]
    rows, _ = SyntheticGallery(profile, 4_000, (1, 1, 1, 2, 6), seed=3).rows(0, 8_800)
    check(found_pairs(grid, rows, threshold, shards=2), rows, threshold)


@pytest.mark.data
@pytest.mark.parametrize(("embedder", "threshold"), [("edgeface_xs_512", 0.3), ("mobilefacenet_512", 0.4)])
def test_real_embeddings(grid: Cluster, data_dir: Path, embedder: str, threshold: float) -> None:
    rows = np.load(data_dir / "lfw" / f"{embedder}.npy").astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    check(found_pairs(grid, rows, threshold, shards=3), rows, threshold)
