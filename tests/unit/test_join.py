"""Pairs of rows above a threshold, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shard.errors import InvalidParameter, ModelMismatch
from shard.join import Pairs, join_rows
from shard.model import SearchModel
from shard.shard import Shard
from shard.training import train
from shard.types import FloatArray
from tests.faces_like import batch_of, unit_rows

DIM, ROWS, THRESHOLD = 64, 3_000, 0.7
MODEL = train(unit_rows(4_000, DIM, seed=3), code_bits=256)
OTHER = train(unit_rows(2_000, DIM, seed=4), code_bits=128)


def filled(directory: Path, rows: FloatArray, model: SearchModel | None = MODEL) -> Shard:
    models = {model.model_id: model for model in (MODEL, OTHER)}
    shard = Shard.create(directory, dim=rows.shape[1], load_model=models.__getitem__)
    shard.enroll(batch_of(rows))
    shard.flush()
    if model is not None:
        shard.activate(model)
    return shard


def scores_of(left: FloatArray, right: FloatArray) -> FloatArray:
    scores: FloatArray = left @ right.T
    # Nothing so near to the threshold that another order of additions would tell.
    assert (np.abs(scores - THRESHOLD) > 1e-7).all()
    return scores


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))


@pytest.mark.parametrize("model", [MODEL, None], ids=["codes", "floats"])
def test_a_shard_with_itself_gives_every_pair_once(tmp_path: Path, model: SearchModel | None) -> None:
    rows = unit_rows(ROWS, DIM, seed=5)
    with filled(tmp_path / "s", rows, model) as shard:
        shard.delete(template_ids=["t7", "t2000"])
        scores = np.triu(scores_of(rows, rows), 1)
        scores[[7, 2_000]] = scores[:, [7, 2_000]] = -1
        expected = set(zip(*(axis.tolist() for axis in np.nonzero(scores >= THRESHOLD)), strict=True))
        assert len(expected) > 1_000
        blocks = [
            join_rows(shard, None, start, min(start + 700, ROWS), threshold=THRESHOLD, recall=0.999)
            for start in range(0, ROWS, 700)
        ]
    found = [pair for block in blocks for pair in zip(block.left.tolist(), block.right.tolist(), strict=True)]
    assert found == sorted(set(found))
    assert set(found) <= expected
    assert len(found) >= (0.999 * len(expected) if model else len(expected))
    for block in blocks:
        np.testing.assert_allclose(block.scores, scores[block.left, block.right], atol=1e-6)


def test_two_shards_are_joined_on_codes_of_the_right_one(tmp_path: Path) -> None:
    rows, others = unit_rows(1_000, DIM, seed=6), unit_rows(2_500, DIM, seed=7)
    with filled(tmp_path / "a", rows, OTHER) as left, filled(tmp_path / "b", others) as right:
        expected = set(zip(*(axis.tolist() for axis in np.nonzero(scores_of(rows, others) >= THRESHOLD)), strict=True))
        pairs = join_rows(left, right, 0, 1_000, threshold=THRESHOLD, recall=0.999)
        assert as_set(pairs) <= expected
        assert len(as_set(pairs)) >= 0.999 * len(expected) > 500
        assert as_set(join_rows(left, right, 0, 1_000, threshold=THRESHOLD, recall=0.9, exact=True)) == expected


def test_a_model_switched_meanwhile_does_not_lose_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(1_200, DIM, seed=8)
    with filled(tmp_path / "s", rows) as shard:
        expected = as_set(join_rows(shard, None, 0, 1_200, threshold=THRESHOLD, recall=0.9, exact=True))
        real = SearchModel.cascade

        def switching(model: SearchModel, recall: float) -> object:
            shard.activate(OTHER)
            return real(model, recall)

        monkeypatch.setattr(SearchModel, "cascade", switching)
        pairs = as_set(join_rows(shard, None, 0, 1_200, threshold=THRESHOLD, recall=0.999))
        assert shard.model is OTHER
        assert pairs <= expected
        assert len(pairs) >= 0.999 * len(expected)


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    with filled(tmp_path / "s", unit_rows(50, DIM, seed=9), None) as shard:
        with pytest.raises(InvalidParameter, match="rows from 0 to 50, got 10 to 51"):
            join_rows(shard, None, 10, 51, threshold=0.4, recall=0.9)
        with pytest.raises(InvalidParameter, match="threshold"):
            join_rows(shard, None, 0, 50, threshold=1.5, recall=0.9)
        with pytest.raises(InvalidParameter, match="recall"):
            join_rows(shard, None, 0, 50, threshold=0.5, recall=1.0)
        with (
            filled(tmp_path / "t", unit_rows(50, 128, seed=9), None) as other,
            pytest.raises(ModelMismatch, match=r"dimension 64.* 128"),
        ):
            join_rows(shard, other, 0, 50, threshold=0.5, recall=0.9)
        assert len(join_rows(shard, None, 20, 20, threshold=0.5, recall=0.9).scores) == 0
