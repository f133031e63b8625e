"""What a process remembers of the catalog is never older than the last commit, whoever made it."""

from pathlib import Path

import pytest

from coordinator.catalog import READY, Catalog
from coordinator.types import GallerySpec
from shard.errors import ShardClosed


def add(catalog: Catalog, number: int) -> str:
    gallery_id = f"{number:016x}"
    catalog.add_gallery(gallery_id, GallerySpec(f"acme/g{number}", 64, 2, 256, None), [("a",), ("b",)])
    catalog.set_state(gallery_id, READY)
    return gallery_id


@pytest.mark.parametrize("is_marked", [True, False])
def test_what_another_process_commits_is_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_marked: bool
) -> None:
    """is_marked: whether the database tells that something was committed, as SQLite does and PostgreSQL does not."""
    own, other = Catalog(tmp_path / "catalog.db"), Catalog(tmp_path / "catalog.db")
    if not is_marked:
        monkeypatch.setattr(own._database, "change_mark", lambda: None)
    assert own.galleries() == own.shards() == []
    ids = [add(other, number) for number in range(3)]
    assert [route.gallery_id for route in own.galleries()] == ids
    assert [(c.gallery_id, c.shard) for c in own.shards()] == [(i, s) for i in ids for s in range(2)]
    before = own.shards()
    changed = other.reconfigure(own.shard(ids[1], 1))
    assert [new for old, new in zip(before, own.shards(), strict=True) if new != old] == [changed]
    assert [route.version for route in own.galleries()] == [2, 3, 2]
    other.begin_drop(ids[0])
    assert [route.gallery_id for route in own.galleries()] == ids[1:]
    own.set_state(ids[1], "restoring")
    assert [route.gallery_id for route in own.galleries()] == ids[2:]
    assert len(own.shards()) == len(other.shards()) == 4
    other.remove_gallery(ids[0])
    assert own.galleries("dropping") == []
    for catalog in (own, other):
        catalog.close()
        with pytest.raises(ShardClosed):
            catalog.galleries()


def test_what_is_returned_is_the_callers(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.db")
    add(catalog, 1)
    catalog.galleries().clear()
    catalog.shards().clear()
    assert (len(catalog.galleries()), len(catalog.shards())) == (1, 2)
    catalog.close()


def test_nothing_is_read_where_nothing_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(tmp_path / "catalog.db")
    add(catalog, 1)
    first = catalog.shards()
    monkeypatch.setattr(catalog, "reading", None)  # it would fail
    assert catalog.shards() == first
    monkeypatch.undo()
    add(catalog, 2)
    assert len(catalog.shards()) == 4
    catalog.close()
