"""One shard against a dict: enroll, delete, search, flush, reopen, models."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shard import segments
from shard.check import check_shard
from shard.errors import (
    CorruptData,
    DuplicateTemplate,
    FormatTooNew,
    HomeLocked,
    InvalidEmbedding,
    InvalidParameter,
    ModelMismatch,
    ShardClosed,
    UnknownModel,
)
from shard.model import Query, SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import CandidateBatch, EnrollBatch, EnrollReceipt, FloatArray, SearchParams
from tests.faces_like import batch_of, exact, unit_rows

DIM = 64
MODELS: dict[str, SearchModel] = {}


def load_model(model_id: str) -> SearchModel:
    try:
        return MODELS[model_id]
    except KeyError:
        raise UnknownModel(model_id) from None


@pytest.fixture(scope="module")
def model() -> SearchModel:
    trained = train(unit_rows(1_500, DIM, seed=3), code_bits=256)
    MODELS[trained.model_id] = trained
    return trained


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    with Shard.create(tmp_path / "shard", dim=DIM, load_model=load_model) as opened:
        yield opened


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Segments of 1,024 rows, so that a few thousand templates cross several."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1_024 * DIM * 4)
    return 1_024


def found(candidates: CandidateBatch) -> list[tuple[str, ...]]:
    return list(candidates.template_ids)


def test_what_is_enrolled_is_found_with_its_labels(shard: Shard) -> None:
    rows = unit_rows(50, DIM, seed=1)
    batch = EnrollBatch(
        rows, tuple(f"t{i}" for i in range(50)), tuple(f"p{i % 7}" for i in range(50)), (b'{"a":1}',) * 50
    )
    receipt = shard.enroll(batch)
    assert (receipt.enrolled, receipt.skipped, receipt.lsn) == (50, 0, 1)
    candidates = search_shards([shard], rows, SearchParams(k=3))
    assert found(candidates) == exact(list(batch.template_ids), rows, rows, 3)
    assert [ids[0] for ids in candidates.identities] == list(batch.identities)
    np.testing.assert_allclose(candidates.scores[:, 0], 1.0, atol=1e-6)
    assert shard.records(["t3"])[0].metadata == b'{"a":1}'
    assert [(c.identity, c.templates) for c in shard.identities("p1", 2)] == [("p1", 7), ("p2", 7)]


def test_everything_is_there_after_reopening(tmp_path: Path, model: SearchModel, small_segments: int) -> None:
    rows = unit_rows(3_000, DIM, seed=2)
    with Shard.create(tmp_path / "s", dim=DIM, load_model=load_model) as shard:
        shard.enroll(batch_of(rows[:1_500]))
        shard.activate(model)
        shard.enroll(batch_of(rows[1_500:], first=1_500))
        assert shard.delete(template_ids=[f"t{i}" for i in range(0, 3_000, 3)] + ["unknown"]) == 1_000
        assert shard.stats().segments == 3
        before = search_shards([shard], rows[:100], SearchParams(k=5))
    with Shard(tmp_path / "s", load_model) as shard:
        assert len(shard) == 2_000
        assert shard.model is model
        after = search_shards([shard], rows[:100], SearchParams(k=5))
        everything = search_shards([shard], rows[:100], SearchParams(k=5, exact=True))
        assert check_shard(shard) == []
    assert found(after) == found(before)
    np.testing.assert_array_equal(after.scores, before.scores)
    kept = [i for i in range(3_000) if i % 3]
    assert found(everything) == exact([f"t{i}" for i in kept], rows[kept], rows[:100], 5)


def test_exact_and_approximate_scores_are_the_same_numbers(shard: Shard, model: SearchModel) -> None:
    rows = unit_rows(1_200, DIM, seed=4)
    shard.enroll(batch_of(rows))
    shard.activate(model)
    fast = search_shards([shard], rows[:50], SearchParams(k=1))
    slow = search_shards([shard], rows[:50], SearchParams(k=1, exact=True))
    np.testing.assert_array_equal(fast.scores, slow.scores)


def test_flush_seals_and_the_next_enrollment_opens_a_new_segment(shard: Shard, model: SearchModel) -> None:
    rows = unit_rows(300, DIM, seed=5)
    shard.enroll(batch_of(rows[:100]))
    shard.activate(model)
    shard.flush()
    shard.flush()
    shard.enroll(batch_of(rows[100:], first=100))
    assert shard.stats().segments == 2
    assert found(search_shards([shard], rows, SearchParams(k=1))) == [(f"t{i}",) for i in range(300)]


def test_lost_or_damaged_codes_are_made_again_from_the_floats(tmp_path: Path, model: SearchModel) -> None:
    rows = unit_rows(200, DIM, seed=6)
    with Shard.create(tmp_path / "s", dim=DIM, load_model=load_model) as shard:
        shard.enroll(batch_of(rows))
        shard.activate(model)
        shard.flush()
    (codes,) = (tmp_path / "s").rglob("codes-*.rows")
    good = codes.read_bytes()
    for damage in (lambda: codes.unlink(), lambda: codes.write_bytes(good[:-1] + b"\xff")):
        damage()
        with Shard(tmp_path / "s", load_model) as shard:
            assert found(search_shards([shard], rows, SearchParams(k=1))) == [(f"t{i}",) for i in range(200)]
        assert codes.read_bytes() == good


@pytest.mark.parametrize("damage", ["shorter", "missing"])
def test_floats_of_the_wrong_size_are_a_named_error(tmp_path: Path, damage: str) -> None:
    with Shard.create(tmp_path / "s", dim=DIM, load_model=load_model) as shard:
        shard.enroll(batch_of(unit_rows(10, DIM, seed=7)))
        shard.flush()
    path = tmp_path / "s" / "segment-000001" / "floats.f32"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptData, match=r"floats\.f32"):
        Shard(tmp_path / "s", load_model)


def test_a_flipped_bit_in_sealed_floats_is_found_by_its_checksum(tmp_path: Path) -> None:
    with Shard.create(tmp_path / "s", dim=DIM, load_model=load_model) as shard:
        shard.enroll(batch_of(unit_rows(10, DIM, seed=7)))
        shard.flush()
        path = tmp_path / "s" / "segment-000001" / "floats.f32"
        data = bytearray(path.read_bytes())
        data[1_000] ^= 1
        path.write_bytes(data)
        (damage,) = check_shard(shard)
        assert (damage.path, damage.part, damage.first_row, damage.last_row) == (path, "floats", 0, 10)


def test_a_duplicate_id_refuses_the_whole_batch(shard: Shard) -> None:
    rows = unit_rows(20, DIM, seed=8)
    shard.enroll(batch_of(rows[:5]))
    with pytest.raises(DuplicateTemplate, match="t4"):
        shard.enroll(batch_of(rows[4:10], first=4))
    with pytest.raises(DuplicateTemplate, match="twice"):
        shard.enroll(EnrollBatch(rows[:2], ("x", "x"), (None, None), (None, None)))
    assert len(shard) == 5
    receipt = shard.enroll(batch_of(rows[4:10], first=4), skip_existing=True)
    assert (receipt.enrolled, receipt.skipped) == (5, 1)
    assert shard.enroll(batch_of(rows[:5]), skip_existing=True).enrolled == 0


def test_a_deleted_id_can_be_enrolled_again(shard: Shard) -> None:
    rows = unit_rows(2, DIM, seed=9)
    shard.enroll(batch_of(rows[:1], identity="Ann"))
    assert shard.delete(identities=["Ann"]) == 1
    assert shard.delete(identities=["Ann"]) == 0
    shard.enroll(batch_of(rows[1:]))
    candidates = search_shards([shard], rows[1:], SearchParams(k=2))
    assert found(candidates) == [("t0",)]
    assert np.isnan(candidates.scores[0, 1])


BAD_BATCHES = [
    (lambda b: replace(b, embeddings=b.embeddings.astype(np.float64)), InvalidEmbedding, "float64"),
    (lambda b: replace(b, embeddings=b.embeddings[:, :32]), InvalidEmbedding, r"\(3, 32\)"),
    (lambda b: replace(b, embeddings=b.embeddings[0]), InvalidEmbedding, r"\(64,\)"),
    (lambda b: replace(b, embeddings=b.embeddings * np.float32(np.nan)), InvalidEmbedding, "NaN"),
    (lambda b: replace(b, embeddings=b.embeddings * np.float32(np.inf)), InvalidEmbedding, "NaN, Inf"),
    (lambda b: replace(b, embeddings=b.embeddings * np.float32(0)), InvalidEmbedding, "zeros"),
    (lambda b: replace(b, embeddings=b.embeddings * np.float32(2)), InvalidEmbedding, "unit"),
    (lambda b: replace(b, embeddings=b.embeddings[:0]), InvalidEmbedding, "empty"),
    (lambda b: replace(b, template_ids=b.template_ids[:2]), InvalidParameter, "template_ids: expected 3"),
    (lambda b: replace(b, template_ids=("a", "b", "")), InvalidParameter, r"template_ids\[2\]"),
    (lambda b: replace(b, template_ids=("a", "b", "c" * 129)), InvalidParameter, "129"),
    (lambda b: replace(b, template_ids=("a", "b\n", "c")), InvalidParameter, "control"),
    (lambda b: replace(b, template_ids=("a", "\ud800", "c")), InvalidParameter, "Unicode"),
    (lambda b: replace(b, identities=("a", 7, "c")), InvalidParameter, r"identities\[1\]"),
    (lambda b: replace(b, metadata=(b"x" * 20_000, None, None)), InvalidParameter, r"metadata\[0\]"),
]


@pytest.mark.parametrize(("spoil", "error", "match"), BAD_BATCHES)
def test_bad_batches_are_refused_whole(shard: Shard, spoil, error, match) -> None:  # type: ignore[no-untyped-def]
    batch = batch_of(unit_rows(3, DIM, seed=10))
    with pytest.raises(error, match=match):
        shard.enroll(spoil(batch))
    assert len(shard) == 0
    shard.enroll(batch)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        (SearchParams(k=0), "k:"),
        (SearchParams(k=-1), "k:"),
        (SearchParams(k=1_001), "k:"),
        (SearchParams(k=True), "k:"),
        (SearchParams(k=1, recall=0.0), "recall"),
        (SearchParams(k=1, recall=1.0), "exact search"),
        (SearchParams(k=1, recall=float("nan")), "recall"),
    ],
)
def test_bad_search_parameters(shard: Shard, params: SearchParams, match: str) -> None:
    with pytest.raises(InvalidParameter, match=match):
        search_shards([shard], unit_rows(1, DIM, seed=1), params)


def test_k_above_the_number_of_templates_gives_what_there_is(shard: Shard) -> None:
    rows = unit_rows(3, DIM, seed=11)
    assert found(search_shards([shard], rows[:1], SearchParams(k=10))) == [()]
    shard.enroll(batch_of(rows))
    candidates = search_shards([shard], rows[:1], SearchParams(k=10))
    assert len(candidates.template_ids[0]) == 3
    assert np.isnan(candidates.scores[0, 3:]).all()


def test_a_second_open_is_refused_and_the_first_goes_on(shard: Shard) -> None:
    with pytest.raises(HomeLocked, match="pid"):
        Shard(shard.directory, load_model)
    shard.enroll(batch_of(unit_rows(1, DIM, seed=1)))


def test_a_closed_shard_refuses_writes(tmp_path: Path) -> None:
    shard = Shard.create(tmp_path / "s", dim=DIM, load_model=load_model)
    shard.close()
    shard.close()
    with pytest.raises(ShardClosed):
        shard.enroll(batch_of(unit_rows(1, DIM, seed=1)))


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    Shard.create(tmp_path / "s", dim=DIM, load_model=load_model).close()
    with sqlite3.connect(tmp_path / "s" / "shard.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format_version'")
    db.close()
    with pytest.raises(FormatTooNew, match="format 99"):
        Shard(tmp_path / "s", load_model)


def test_a_database_that_is_none_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(CorruptData, match=r"no shard\.db"):
        Shard(tmp_path / "s", load_model)
    (tmp_path / "s" / "shard.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CorruptData, match=r"shard\.db"):
        Shard(tmp_path / "s", load_model)


def test_other_dimensions_are_refused(tmp_path: Path, shard: Shard, model: SearchModel) -> None:
    with pytest.raises(InvalidParameter, match="dim"):
        Shard.create(tmp_path / "x", dim=63, load_model=load_model)
    Shard.create(tmp_path / "y", dim=128, load_model=load_model).close()
    with pytest.raises(ModelMismatch, match="128"):
        Shard.create(tmp_path / "y", dim=64, load_model=load_model)
    with Shard(tmp_path / "y", load_model) as other, pytest.raises(ModelMismatch, match="64"):
        other.activate(model)


def test_what_a_crash_left_unnamed_is_removed_on_open(tmp_path: Path, small_segments: int) -> None:
    rows = unit_rows(10, DIM, seed=12)
    with Shard.create(tmp_path / "s", dim=DIM, load_model=load_model) as shard:
        shard.enroll(batch_of(rows))
    stray = tmp_path / "s" / "segment-000002"
    stray.mkdir()
    (stray / "floats.f32").write_bytes(b"half")
    tail = tmp_path / "s" / "segment-000001" / "floats.f32"
    data = bytearray(tail.read_bytes())
    data[10 * DIM * 4 : 11 * DIM * 4] = b"\xff" * (DIM * 4)  # a row written but never committed
    tail.write_bytes(data)
    with Shard(tmp_path / "s", load_model) as shard:
        assert not stray.exists()
        assert len(shard) == 10
        assert len(search_shards([shard], rows[:1], SearchParams(k=20)).template_ids[0]) == 10
        shard.enroll(batch_of(rows, prefix="again"))
        assert len(search_shards([shard], rows[:1], SearchParams(k=30)).template_ids[0]) == 20


def test_sample_is_of_live_rows_and_repeatable(shard: Shard) -> None:
    rows = unit_rows(100, DIM, seed=13)
    shard.enroll(batch_of(rows))
    shard.delete(template_ids=[f"t{i}" for i in range(50)])
    sample = shard.sample(30, seed=1)
    assert sample.shape == (30, DIM)
    np.testing.assert_array_equal(sample, shard.sample(30, seed=1))
    assert all((rows[50:] == row).all(axis=1).any() for row in sample)
    assert len(shard.sample(1_000, seed=1)) == 50


def test_shards_of_one_model_share_one_query(
    tmp_path: Path, model: SearchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = SearchModel.query

    def counted(self: SearchModel, probes: FloatArray, recall: float) -> Query:
        asked.append(len(probes))
        return real(self, probes, recall)

    rows = unit_rows(1_200, DIM, seed=21)
    with (
        Shard.create(tmp_path / "a", dim=DIM, load_model=load_model) as first,
        Shard.create(tmp_path / "b", dim=DIM, load_model=load_model) as second,
    ):
        first.enroll(batch_of(rows[:600], prefix="a"))
        second.enroll(batch_of(rows[600:], prefix="b"))
        for shard in (first, second):
            shard.activate(model)
        monkeypatch.setattr(SearchModel, "query", counted)
        candidates = search_shards([first, second], rows[[0, 400, 800]], SearchParams(k=1))
    assert asked == [3]
    assert found(candidates) == [("a0",), ("a400",), ("b200",)]


def test_callers_of_one_operation_that_share_a_commit_write_it_once(tmp_path: Path) -> None:
    batch = batch_of(unit_rows(3, DIM, seed=1))
    told: list[EnrollReceipt] = []
    with Shard.create(tmp_path / "s", dim=DIM, load_model=load_model) as shard:
        callers = [
            threading.Thread(target=lambda: told.append(shard.enroll(batch, operation=b"again"))) for _ in range(3)
        ]
        with shard.frozen():
            for caller in callers:
                caller.start()
            until = time.monotonic() + 60
            while len(shard._waiting._tickets) < len(callers):
                assert time.monotonic() < until
                time.sleep(0)
        for caller in callers:
            caller.join()
        assert told == [EnrollReceipt(enrolled=3, skipped=0, lsn=1)] * 3
        assert len(shard) == 3
        shard.enroll(batch_of(unit_rows(1, DIM, seed=2), prefix="other"))
