"""A filtered search beside writes that give templates other rows: nothing is passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shard.errors import UnknownModel
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.types import EnrollBatch, SearchParams
from shard.where import canonical
from tests.faces_like import unit_rows

WHERE = canonical({"n": 1})


def no_model(model_id: str) -> SearchModel:
    raise UnknownModel(model_id)


@pytest.mark.parametrize("params", [SearchParams(k=9, identities=("ann",)), SearchParams(k=9, where=WHERE)])
@pytest.mark.parametrize("times", [1, 2, 50])
def test_a_template_that_moves_between_filter_and_scan_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: SearchParams, times: int
) -> None:
    rows = unit_rows(5, 64, seed=1)
    with Shard.create(tmp_path / "shard", dim=64, load_model=no_model) as shard:
        shard.enroll(EnrollBatch(rows, tuple("abcde"), ("ann",) * 5, (b'{"n":1}',) * 5))
        own, left = Shard.filter, [times]

        def filter_then_move(self: Shard, identities: tuple[str, ...], where: bytes) -> np.ndarray:
            bits = own(self, identities, where)
            if left[0] and not shard._write_lock._is_owned():  # type: ignore[attr-defined]
                left[0] -= 1
                shard.move(shard.live_rows(shard.segments[0]))
            return bits

        monkeypatch.setattr(Shard, "filter", filter_then_move)
        (found,) = search_shards([shard], rows[:1], params).template_ids
        assert sorted(found) == list("abcde")
