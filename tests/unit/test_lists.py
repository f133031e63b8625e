"""Inverted lists: how many, where their centroids lie, who is in which."""

from __future__ import annotations

import numpy as np
import pytest

from shard.lists import MAX_LISTS, MIN_LISTS, fit_lists, list_count, nearest_list
from shard.types import FloatArray


def clusters(count: int, sizes: int | list[int], seed: int = 0) -> FloatArray:
    """Rows around `count` random directions, so many around each."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 128)).astype(np.float32)
    rows: FloatArray = np.repeat(centres, sizes, axis=0)
    rows += 0.3 * rng.standard_normal(rows.shape, dtype=np.float32)
    return rng.permutation(rows)


@pytest.mark.parametrize(("rows", "count"), [(0, 0), (1_663, 0), (1_664, 64), (5_000, 128), (10**9, 512)])
def test_lists_are_as_many_as_the_sample_can_teach(rows: int, count: int) -> None:
    assert list_count(rows) == count
    assert count in (0, *range(MIN_LISTS, MAX_LISTS + 1))


def test_centroids_find_the_clusters() -> None:
    rows = clusters(64, 60)
    centroids = fit_lists(rows, 64, np.random.default_rng(1))
    assert (centroids.shape, centroids.dtype) == ((64, 128), np.float32)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    lists = nearest_list(rows, centroids)
    agreement = np.einsum("ij,ij->i", rows / np.linalg.norm(rows, axis=1, keepdims=True), centroids[lists])
    assert agreement.mean() > 0.85  # 0.95 within a cluster, less where two share a list


def test_a_large_cluster_is_split() -> None:
    rows = clusters(65, [4_000] + [30] * 64)
    sizes = np.bincount(nearest_list(rows, fit_lists(rows, 64, np.random.default_rng(1))), minlength=64)
    assert sizes.max() < 2_000


def test_lists_beside_each_other_are_alike() -> None:
    centroids = fit_lists(clusters(64, 60), 64, np.random.default_rng(1))
    beside = np.einsum("ij,ij->i", centroids[:-1], centroids[1:]).mean()
    assert beside > (centroids @ centroids.T)[np.triu_indices(64, 1)].mean() + 0.02


def test_no_lists_are_no_centroids() -> None:
    assert fit_lists(clusters(4, 10), 0, np.random.default_rng(0)).shape == (0, 128)


def test_the_same_seed_gives_the_same_centroids() -> None:
    rows = clusters(64, 40)
    first, second = (fit_lists(rows, 64, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
