"""Joins of sketches against NumPy: what is chosen for them changes their cost and never their pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from shard.errors import CorruptData, InvalidParameter
from shard.pairs import Pairs, join_sketches
from shard.sketch import WIDTHS, Basis, make_basis, sketch, with_lists
from shard.types import FloatArray
from tests.faces_like import unit_rows

FACES = SyntheticGallery(EDGEFACE, 900, 2, seed=11).rows(0, 1_800)[0]


def expected(left: FloatArray, right: FloatArray | None, least: float) -> set[tuple[int, int]]:
    scores = left @ (left if right is None else right).T
    assert (np.abs(scores - least) > 2e-7).all(), "a score too near to the threshold to tell"
    if right is None:
        scores = np.where(np.triu(np.ones_like(scores, dtype=np.bool_), 1), scores, -1)
    return set(zip(*(axis.tolist() for axis in np.nonzero(scores >= least)), strict=True))


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))


@pytest.mark.parametrize(("dim", "least"), [(64, 0.3), (128, 0.9), (300, -0.021), (2_048, 0.1)])
def test_all_pairs_are_found_whatever_the_sample_was(dim: int, least: float) -> None:
    rows, other = unit_rows(300, dim, seed=1), unit_rows(150, dim, seed=2)
    for sample in (rows, rows[:1], unit_rows(100, dim, seed=9)):
        basis = make_basis(sample, least)
        one, two = sketch(basis, [rows[:40], rows[40:]]), sketch(basis, [other])
        within, across = listed(join_sketches(one, None, least)), listed(join_sketches(one, two, least))
        assert within == sorted(expected(rows, None, least))
        assert across == sorted(expected(rows, other, least))


@pytest.mark.parametrize(("head", "tail"), WIDTHS)
def test_no_widths_lose_a_pair(head: int, tail: int) -> None:
    directions = make_basis(FACES, 0.5).directions
    width = min(directions.shape[1], head + max(tail - 1, 0) - 4)
    for scale in (60.0, 500.0):
        basis = Basis(np.ascontiguousarray(directions[:, :width]), scale, head, tail)
        assert listed(join_sketches(sketch(basis, [FACES]), None, 0.45)) == sorted(expected(FACES, None, 0.45))


def test_scores_are_those_of_the_floats() -> None:
    found = join_sketches(sketch(make_basis(FACES, 0.5), [FACES]), None, 0.5)
    assert len(found.scores) > 500
    np.testing.assert_allclose(found.scores, np.einsum("ij,ij->i", FACES[found.left], FACES[found.right]), atol=1e-6)


def test_lists_find_most_pairs_and_only_pairs() -> None:
    rng = np.random.default_rng(0)
    one, two = FACES[:1_000], FACES[800:]
    for right in (None, two):
        whole = expected(one, right, 0.5)
        basis = replace(with_lists(make_basis(FACES, 0.5), FACES, 32, 0.5, rng), margin=0.2)
        found = listed(join_sketches(sketch(basis, [one]), None if right is None else sketch(basis, [right]), 0.5))
        assert found == sorted(set(found))
        assert set(found) <= whole
        assert len(found) >= 0.95 * len(whole)
        basis = replace(basis, margin=2.0)
        everything = join_sketches(sketch(basis, [one]), None if right is None else sketch(basis, [right]), 0.5)
        assert listed(everything) == sorted(whole), "a margin that visits all lists loses nothing"


def test_no_rows_have_no_pairs() -> None:
    basis = make_basis(FACES, 0.5)
    nothing = sketch(basis, [])
    some = sketch(basis, [FACES[:10]])
    assert nothing.rows == 0
    for left, right in ((nothing, None), (nothing, some), (some, nothing)):
        assert listed(join_sketches(left, right, 0.5)) == []


def test_a_basis_is_the_same_bytes_again() -> None:
    for basis in (make_basis(FACES, 0.5), with_lists(make_basis(FACES, 0.5), FACES, 8, 0.5, np.random.default_rng(1))):
        data = basis.to_bytes()
        assert Basis.from_bytes(data).to_bytes() == data
        assert listed(join_sketches(sketch(Basis.from_bytes(data), [FACES]), None, 0.5))
    for damaged in (b"", b"x" * 100, data[:-4], data[:30]):
        with pytest.raises(CorruptData, match="basis"):
            Basis.from_bytes(damaged)


def test_what_cannot_be_joined_is_refused() -> None:
    basis = make_basis(FACES, 0.5)
    with pytest.raises(InvalidParameter, match="norm 1"):
        sketch(basis, [FACES[:10] * np.float32(1.1)])
    with pytest.raises(InvalidParameter, match=r"\(n, 512\) float32, got \(3, 64\)"):
        sketch(basis, [unit_rows(3, 64, seed=1)])
    with pytest.raises(InvalidParameter, match="at most 1"):
        join_sketches(sketch(basis, [FACES[:10]]), None, 1.5)
    other = Basis(basis.directions, basis.scale * 2, basis.head, basis.tail)
    with pytest.raises(InvalidParameter, match="one scale"):
        join_sketches(sketch(basis, [FACES[:10]]), sketch(other, [FACES[:10]]), 0.5)
