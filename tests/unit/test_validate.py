"""Checks and scaling of a batch: float32 at full speed must give what float64 gives, at the edges of the range too."""

import numpy as np
import pytest

from shard.errors import InvalidEmbedding, InvalidParameter
from shard.types import MAX_DIM, MAX_ID_BYTES
from shard.validate import check_embeddings, check_label, check_labels, check_unit_rows, normalised


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e15, 1e19, 1e30, 3e38 / 5])
@pytest.mark.parametrize("dim", [64, 512, MAX_DIM])
def test_scaling_is_that_of_float64(scale: float, dim: int) -> None:
    rows = np.random.default_rng(1).uniform(-5, 5, (700, dim)) * scale
    rows = check_embeddings(rows.astype(np.float32), dim)
    wide = rows.astype(np.float64)
    expected = wide / np.sqrt((wide**2).sum(axis=1))[:, None]
    found = normalised(rows)
    np.testing.assert_allclose(found, expected, atol=3e-7)
    check_unit_rows(found, what="scaled")


def test_scaling_twice_is_scaling_once_and_does_not_depend_on_the_batch() -> None:
    rows = np.random.default_rng(2).normal(size=(2_000, 512)).astype(np.float32)
    once = normalised(rows)
    np.testing.assert_array_equal(normalised(once), once)
    np.testing.assert_array_equal(np.concatenate([normalised(rows[i : i + 7]) for i in range(0, 2_000, 7)]), once)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(value: float) -> None:
    rows = np.ones((600, 64), np.float32)
    rows[550, 3] = value
    with pytest.raises(InvalidEmbedding, match="row 550 has NaN, Inf"):
        check_embeddings(rows, 64)


def test_a_row_of_zeros_is_named_and_a_tiny_one_is_not() -> None:
    rows = np.full((4, 64), 1e-44, np.float32)
    check_embeddings(rows, 64)
    rows[2] = 0
    with pytest.raises(InvalidEmbedding, match="row 2 is all zeros"):
        check_embeddings(rows, 64)


@pytest.mark.parametrize(
    "label", ["", "a\nb", "\x00", "a\ud83d", "x" * (MAX_ID_BYTES + 1), "é" * (MAX_ID_BYTES // 2 + 1), b"bytes", None, 7]
)
def test_labels_together_are_refused_as_one_alone(label: object) -> None:
    with pytest.raises(InvalidParameter) as alone:
        check_label(label, what="ids[2]")
    with pytest.raises(InvalidParameter) as together:
        check_labels(["fine", "ä", label, "also fine"], what="ids")
    assert str(together.value) == str(alone.value)


@pytest.mark.parametrize("label", ["x" * MAX_ID_BYTES, "é" * (MAX_ID_BYTES // 2), "😀" * (MAX_ID_BYTES // 4), " "])
def test_labels_together_are_accepted_as_one_alone(label: str) -> None:
    check_label(label, what="id")
    check_labels(["plain", label], what="ids")
