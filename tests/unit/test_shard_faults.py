"""One shard when something comes between two steps: a model switch under a search, an interruption, a bad page."""

from pathlib import Path

import numpy as np
import pytest

from shard import search, segments
from shard.errors import CorruptData, ShardClosed, WriteFailed
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import SearchParams
from tests.faces_like import batch_of, unit_rows

DIM = 64
MODELS: dict[str, SearchModel] = {}


def create(directory: Path) -> Shard:
    return Shard.create(directory, dim=DIM, load_model=MODELS.__getitem__)


@pytest.fixture(scope="module", params=[256, 512], ids=["same width", "wider codes"])
def models(request: pytest.FixtureRequest) -> tuple[SearchModel, SearchModel]:
    old = train(unit_rows(1_500, DIM, seed=3), code_bits=256)
    new = train(unit_rows(1_500, DIM, seed=4), code_bits=request.param)
    MODELS.update({model.model_id: model for model in (old, new)})
    return old, new


def test_a_search_overtaken_by_another_model_ends_with_its_own(
    tmp_path: Path, models: tuple[SearchModel, SearchModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, (old, new) = unit_rows(2_000, DIM, seed=1), models
    real = search.search_indexes
    scanned_codes: list[bool] = []

    def switch_first(*args):  # type: ignore[no-untyped-def]
        scanned_codes.append(args[2][0] is not None)
        if len(scanned_codes) == 1:
            shard.activate(new)
        return real(*args)

    with create(tmp_path / "shard") as shard:
        shard.enroll(batch_of(rows))
        shard.activate(old)
        monkeypatch.setattr(search, "search_indexes", switch_first)
        found = search_shards([shard], rows[:50], SearchParams(k=5))
        assert shard.model is new
        expected = search_shards([shard], rows[:50], SearchParams(k=5, exact=True))
    assert scanned_codes == [True, False], "once by codes, and once for what is expected"
    assert found.template_ids == expected.template_ids


def test_rows_committed_before_an_interruption_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unit_rows(30, DIM, seed=2)
    shard = create(tmp_path / "shard")
    shard.enroll(batch_of(rows[:10], prefix="a"))
    with monkeypatch.context() as patch:
        # The keys are made before the commit; codes of the batch are too. What follows it is the index.
        patch.setattr(shard._rows, "view", (_Interrupted(shard.index), shard.model))
        with pytest.raises(KeyboardInterrupt):
            shard.enroll(batch_of(rows[10:20], prefix="b"))
    with pytest.raises(WriteFailed, match="until it is reopened"):
        shard.enroll(batch_of(rows[20:], prefix="c"))
    shard.close()
    with create(tmp_path / "shard") as shard:
        assert len(shard) == 20
        found = search_shards([shard], rows[:20], SearchParams(k=1, exact=True))
        assert [ids[0] for ids in found.template_ids] == [f"a{i}" for i in range(10)] + [f"b{i}" for i in range(10)]
        np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)


class _Interrupted:
    """The index of a process whose user presses Ctrl-C as soon as a batch is committed."""

    def __init__(self, index: object) -> None:
        self._index = index

    def __getattr__(self, name: str) -> object:
        if name == "append":
            raise KeyboardInterrupt
        return getattr(self._index, name)


def test_an_enrollment_whose_segment_cannot_be_sealed_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)  # 1,024 rows
    rows = unit_rows(1_030, DIM, seed=2)

    def full_disk(*_: object) -> None:
        raise WriteFailed("could not truncate: no space left on device")

    shard = create(tmp_path / "shard")
    with monkeypatch.context() as patch:
        patch.setattr(segments, "truncate_file", full_disk)
        assert shard.enroll(batch_of(rows)).enrolled == len(rows)
    assert len(shard) == len(rows)
    with pytest.raises(WriteFailed, match="no space left"):
        shard.delete(template_ids=["0"])
    shard.close()
    with create(tmp_path / "shard") as shard:
        assert len(shard) == len(rows)
        assert [row.is_sealed for row in shard._store.segments()] == [True, False]


def test_a_damaged_page_of_the_database_is_named(tmp_path: Path) -> None:
    with create(tmp_path / "shard") as shard:
        shard.enroll(batch_of(unit_rows(2_000, DIM, seed=1)))
    database = tmp_path / "shard" / "shard.db"
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(8_192)  # the header and the schema stay
        file.write(b"\x55" * (size - 8_192))
    with pytest.raises(CorruptData, match=r"shard\.db"):
        create(tmp_path / "shard")


def test_a_database_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / "shard.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CorruptData, match=r"shard\.db"):
        create(tmp_path / "shard")


def test_reading_a_closed_shard_is_a_named_error(tmp_path: Path) -> None:
    shard = create(tmp_path / "shard")
    shard.enroll(batch_of(unit_rows(3, DIM, seed=1)))
    shard.close()
    with pytest.raises(ShardClosed):
        shard.records(["0"])
    with pytest.raises(ShardClosed):
        search_shards([shard], unit_rows(1, DIM, seed=1), SearchParams(k=1))
