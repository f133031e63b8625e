"""How far rows look for a recall, on synthetic faces."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from cluster.dedup.tuning import NARROW, WIDE, thinned, tune
from shard.pairs import Pairs, join_sketches
from shard.sketch import make_basis, sketch

FACES = SyntheticGallery(EDGEFACE, 3_000, 2, seed=12).rows(0, 6_000)[0]
BASIS = make_basis(FACES, 0.5)
EVERY = join_sketches(sketch(BASIS, [FACES]), None, 0.5)


@pytest.mark.parametrize("target", [0.9, 0.99, 0.999])
def test_the_share_that_is_asked_for_is_found(target: float) -> None:
    of_probes = np.flatnonzero(EVERY.left % 4 < 2)
    pairs = Pairs(EVERY.left[of_probes], EVERY.right[of_probes], EVERY.scores[of_probes])
    basis, tuning = tune(BASIS, FACES, lambda rows: FACES[rows], pairs, 8_192, 0.5, target)
    assert (tuning.lists, tuning.margin) == (32, basis.margin)
    found = join_sketches(sketch(basis, [FACES]), None, 0.5)
    share = len(found.left) / len(EVERY.left)
    assert share >= target
    assert tuning.recall == pytest.approx(share, abs=0.02)
    assert f"{tuning.recall:.2%}" in tuning.statement


def test_a_lower_target_looks_less_far() -> None:
    margins = [tune(BASIS, FACES, lambda rows: FACES[rows], EVERY, 8_192, 0.5, t)[1].margin for t in (0.5, 0.9, 0.999)]
    assert NARROW <= margins[0] < margins[1] < margins[2]


def test_with_few_pairs_rows_look_far() -> None:
    few = thinned(EVERY, 10)
    assert len(few.left) == 10
    tuning = tune(BASIS, FACES, lambda rows: FACES[rows], few, 8_192, 0.5, 0.5)[1]
    assert tuning.margin >= WIDE
    nothing = Pairs(few.left[:0], few.right[:0], few.scores[:0])
    tuning = tune(BASIS, FACES, lambda rows: FACES[rows], nothing, 8_192, 0.5, 0.99)[1]
    assert (tuning.margin, tuning.recall, tuning.pairs) == (WIDE, None, 0)
    assert "no pairs" in tuning.statement
