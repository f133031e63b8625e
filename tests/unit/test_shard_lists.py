"""A shard whose segments are in order of lists: enrolled, sealed, reopened, deleted from, activated again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shard import segments
from shard.index import CHECKSUM_BLOCK
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import CandidateBatch, SearchParams
from tests.faces_like import batch_of, unit_rows

DIM, SEGMENT = 64, 4_096
ROWS = 2 * SEGMENT + 500
MODEL = train(unit_rows(3_000, DIM, seed=3), code_bits=256)
OTHER = train(unit_rows(3_000, DIM, seed=4), code_bits=128)
PROBES = unit_rows(200, DIM, seed=6)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", SEGMENT)


def opened(directory: Path) -> Shard:
    models = {model.model_id: model for model in (MODEL, OTHER)}
    return Shard.create(directory, dim=DIM, load_model=models.__getitem__)


def search(shard: Shard, *, exact: bool = False) -> CandidateBatch:
    return search_shards([shard], PROBES, SearchParams(k=5, recall=0.999, exact=exact))


def assert_keeps_its_promise(shard: Shard) -> None:
    found, wanted = search(shard).template_ids, search(shard, exact=True).template_ids
    hits = sum(len(set(a) & set(b)) for a, b in zip(found, wanted, strict=True))
    assert hits >= 0.999 * 5 * len(PROBES)


def test_segments_in_order_of_lists_find_what_floats_find(tmp_path: Path) -> None:
    assert (MODEL.lists, OTHER.lists) == (64, 64)
    rows = unit_rows(ROWS, DIM, seed=5)
    with opened(tmp_path / "s") as shard:
        shard.enroll(batch_of(rows[:5_000]))
        shard.activate(MODEL)  # one sealed segment, loaded; the rest is open
        shard.enroll(batch_of(rows[5_000:], first=5_000))  # the second is sealed as it fills
        assert shard.stats().segments == 3
        assert_keeps_its_promise(shard)
        before = search(shard)
        gone = {template_id for ids in before.template_ids[:50] for template_id in ids[:2]}
        shard.delete(template_ids=sorted(gone))
        after = search(shard)
        assert not gone & {template_id for ids in after.template_ids for template_id in ids}
        assert_keeps_its_promise(shard)
    with opened(tmp_path / "s") as shard:  # sealed ones are read, the tail is encoded again
        again = search(shard)
        assert again.template_ids == after.template_ids
        np.testing.assert_array_equal(again.scores, after.scores)
        shard.flush()
        assert search(shard).template_ids == after.template_ids
        shard.activate(OTHER)
        assert_keeps_its_promise(shard)


def test_an_order_costs_two_bytes_a_row_and_the_starts(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as shard:
        shard.enroll(batch_of(unit_rows(SEGMENT, DIM, seed=5)))
        shard.activate(MODEL)
        checksums = SEGMENT * DIM * 4 // CHECKSUM_BLOCK * 4 + 8
        assert shard.index.code_bytes == SEGMENT * (32 + 2) + (64 + 1) * 4 + checksums
