"""Rollouts in the catalog, on SQLite and on a real PostgreSQL: states, races with drops, models that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from coordinator.catalog import READY, Catalog
from coordinator.catalog_tables import MODELS
from coordinator.rollout_catalog import Baseline, RolloutCatalog, RolloutState
from coordinator.types import GallerySpec
from shard.drift import CodeStatistics
from shard.errors import FacegridError, UnknownGallery

GALLERY = "00" * 8
BASELINE = Baseline(CodeStatistics(1_000, np.linspace(0, 1, 128, dtype=np.float32), 0.75), (7, 1 << 40))
NOW = 1_790_000_000.25


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = Catalog(url)
    add(opened, GALLERY)
    yield opened
    opened.close()


def add(catalog: Catalog, gallery_id: str) -> None:
    catalog.add_gallery(gallery_id, GallerySpec(f"acme/{gallery_id}", 64, 2, 256, None), [("a", "b"), ("b",)])
    catalog.set_state(gallery_id, READY)


def stored(catalog: Catalog) -> set[str]:
    with catalog.reading() as db:
        return set(db.execute(sa.select(MODELS.c.model_id)).scalars())


def begin(records: RolloutCatalog, model: str, gallery_id: str = GALLERY) -> None:
    records.begin(gallery_id, model, model.encode(), 1_000, BASELINE, 3, NOW)


def active(catalog: Catalog) -> str | None:
    return catalog.gallery(f"acme/{GALLERY}").model_id


def test_a_rollout_goes_through_its_states_and_back(catalog: Catalog) -> None:
    records = RolloutCatalog(catalog)
    for model in ("m1", "m2", "m3"):
        begin(records, model)
        assert active(catalog) != model
        records.progress(GALLERY, NOW, prepared=3)
        records.decide(GALLERY, NOW + 1)
        assert active(catalog) == model
        records.finish(GALLERY, NOW + 2)
    assert stored(catalog) == {"m2", "m3"}, "the way back is open"
    (status,) = records.statuses()
    assert (status.model_id, status.previous_model_id, status.state) == ("m3", "m2", "done")
    assert (status.replicas, status.prepared, status.started_at, status.updated_at) == (3, 3, NOW, NOW + 2)
    found = records.baseline("m3")
    assert found is not None
    assert found.lsns == BASELINE.lsns
    assert (found.statistics.rows, found.statistics.captured) == (1_000, 0.75)
    np.testing.assert_array_equal(found.statistics.balance, BASELINE.statistics.balance)
    records.turn_back(GALLERY, "because", NOW + 3)
    assert active(catalog) == "m2"
    records.finish(GALLERY, NOW + 4)
    (status,) = records.statuses()
    assert (status.state, status.error) == ("rolled_back", "because")
    with pytest.raises(UnknownGallery, match="it is rolled_back"):
        records.decide(GALLERY, NOW)


def test_of_many_that_decide_one_does(catalog: Catalog) -> None:
    records = RolloutCatalog(catalog)
    begin(records, "m1")

    def decide(_: int) -> int:
        try:
            records.decide(GALLERY, NOW)
        except UnknownGallery:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(decide, range(8))) == 1
    found = records.rollout(GALLERY)
    assert found is not None
    assert found.state is RolloutState.ACTIVATING


def test_galleries_dropped_during_their_rollouts_leave_nothing(catalog: Catalog) -> None:
    """Many at once: whoever changes a gallery takes its row first, so nobody waits for ever."""
    records = RolloutCatalog(catalog)
    ids = [f"{number:016x}" for number in range(1, 9)]

    def roll(gallery_id: str) -> None:
        try:
            begin(records, f"model-{gallery_id}", gallery_id)
            records.decide(gallery_id, NOW)
            records.turn_back(gallery_id, None, NOW)
            records.finish(gallery_id, NOW)
        except UnknownGallery:
            pass

    def drop(gallery_id: str) -> None:
        catalog.begin_drop(gallery_id)
        catalog.remove_gallery(gallery_id)

    for gallery_id in ids:
        add(catalog, gallery_id)
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(work, gallery_id) for gallery_id in ids for work in (roll, drop)]
        failures = [error for error in (call.exception() for call in calls) if isinstance(error, FacegridError)]
    assert failures == []
    assert records.statuses() == []
    assert stored(catalog) == set()


def test_a_catalog_from_before_rollouts_gets_their_tables(url: str) -> None:
    opened = Catalog(url)
    add(opened, GALLERY)
    opened.set_model(GALLERY, "m0", b"m0", 900)
    with opened.writing() as db:
        db.exec_driver_sql("DROP TABLE rollouts")
        db.exec_driver_sql("DROP TABLE model_baselines")
    opened.close()
    again = Catalog(url)
    records = RolloutCatalog(again)
    assert records.statuses() == []
    assert records.baseline("m0") is None
    begin(records, "m1")
    found = records.rollout(GALLERY)
    assert found is not None
    assert (found.previous_model_id, found.target) == ("m0", "m0")
    again.close()
