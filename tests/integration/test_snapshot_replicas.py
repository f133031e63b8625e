"""Snapshots of galleries with replicas, and restoring into such, while hosts die and are drained; real hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.catalog import RESTORING
from coordinator.messages import DataRequest, DigestRequest, EnrollRequest, ExportMovedRequest, ExportRequest
from coordinator.router import Router
from coordinator.snapshots import reader
from coordinator.snapshots.create import create_snapshot
from coordinator.snapshots.manifest import Manifest
from coordinator.snapshots.read import read_blocks, verify_snapshot
from coordinator.snapshots.restore import RestoreReport, restore_snapshot
from coordinator.snapshots.store import SnapshotStore
from coordinator.types import GallerySpec, ShardConfig
from shard import export
from shard.errors import HostUnavailable, UnknownGallery
from tests.breakable_runtime import OUTSIDE
from tests.faces_like import batch_of, unit_rows
from tests.integration.test_replication import DIM, HOSTS, Grid

COPY = "acme/copy"


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grid]:
    for module in (reader, export):
        monkeypatch.setattr(module, "MAX_EXPORT_ROWS", 40)
    monkeypatch.setattr("coordinator.snapshots.restore._BATCH_ROWS", 60)
    opened = Grid(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore.open(tmp_path / "store")


def make(grid: Grid, store: SnapshotStore) -> Manifest:
    coordinator = grid.coordinator
    return create_snapshot(
        store, grid.runtime, grid.route(), None, lookup=coordinator.gallery, report=coordinator.report
    ).manifest


def ids_in(store: SnapshotStore, manifest: Manifest) -> set[str]:
    """The ids in a snapshot, each there once."""
    assert verify_snapshot(store, manifest).damage == ()
    return {t for batch in read_blocks(store, manifest) for t in batch.template_ids}


def restore(grid: Grid, store: SnapshotStore, manifest: Manifest, replicas: int = 2) -> RestoreReport:
    control = grid.coordinator.snapshots
    router = Router(grid.runtime, control.restoring, grid.coordinator.report)
    spec = GallerySpec(COPY, DIM, 3, 256, None, replicas)
    return restore_snapshot(store, manifest, control, router, spec)


def copies(grid: Grid) -> list[ShardConfig]:
    """The shards of the gallery that is or was restored."""
    (route,) = [r for r in grid.catalog.galleries("ready", RESTORING) if r.name == COPY]
    return [config for config in grid.catalog.shards() if config.gallery_id == route.gallery_id]


class At:
    """Does something once, before the host is sent the n-th request of some kinds from outside."""

    def __init__(self, grid: Grid, kinds: tuple[type, ...], number: int) -> None:
        self._grid, self._kinds, self._left = grid, kinds, number
        self.happened = False
        grid.runtime.on_send = self._notice  # type: ignore[assignment]

    def _notice(self, start: str, host: str, request: DataRequest) -> None:
        if start != OUTSIDE or not isinstance(request, self._kinds):
            return
        self._left -= 1
        if self._left == 0:
            self.act(host)
            self.happened = True

    def act(self, host: str) -> None:
        """The host dies."""
        self._grid.runtime.kill(host)


@pytest.mark.parametrize(
    ("kind", "number"), [(ExportRequest, 1), (ExportRequest, 7), (ExportMovedRequest, 1), (ExportMovedRequest, 2)]
)
def test_a_primary_that_dies_while_it_is_read_is_followed(
    grid: Grid, store: SnapshotStore, kind: type, number: int
) -> None:
    grid.create()
    grid.enroll(batch_of(unit_rows(400, DIM, seed=1), prefix="a"))
    grid.router.flush(grid.route())
    grid.enroll(batch_of(unit_rows(100, DIM, seed=2), prefix="b"))
    before = grid.route()
    death = At(grid, (kind,), number)
    made = make(grid, store)
    assert death.happened
    assert grid.route().epochs != before.epochs
    assert ids_in(store, made) == {f"a{i}" for i in range(400)} | {f"b{i}" for i in range(100)}
    grid.tick_until(grid.is_whole)
    # The same rows have the same fingerprints at whoever is primary.
    sealed = {block.floats for block in made.blocks() if block.fingerprint}
    assert sealed
    assert sealed <= {block.floats for block in make(grid, store).blocks()}


def test_a_shard_that_moves_to_another_host_while_it_is_read_is_followed(grid: Grid, store: SnapshotStore) -> None:
    grid.create(shards=1, replicas=1)
    grid.enroll(batch_of(unit_rows(400, DIM, seed=1), prefix="a"))
    (home,) = grid.route().in_sync[0]
    away = At(grid, (ExportRequest,), 3)

    def drain(host: str) -> None:
        grid.coordinator.replication.drain(host)
        grid.tick_until(lambda: grid.coordinator.replication.left_on(host) == 0)

    away.act = drain  # type: ignore[method-assign]
    made = make(grid, store)
    assert grid.route().in_sync[0] != (home,)
    assert ids_in(store, made) == {f"a{i}" for i in range(400)}


def test_what_follows_an_unconfirmed_write_is_not_taken_for_what_was_there(grid: Grid, store: SnapshotStore) -> None:
    """The moment has the LSN of a write that is lost with its primary; the next primary gives that LSN again."""
    grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(100, DIM, seed=1), prefix="a"))
    route = grid.route()
    primary, backup = route.in_sync[0]
    grid.runtime.cut.add((primary, backup))
    lost = grid.runtime.host(primary).replica(route.gallery_id, 0).shard
    lsn = lost.enroll(batch_of(unit_rows(1, DIM, seed=5), prefix="lost")).lsn
    death = At(grid, (ExportRequest,), 1)

    def die(host: str) -> None:
        grid.runtime.kill(host)
        grid.enroll(batch_of(unit_rows(5, DIM, seed=6), prefix="later"))

    death.act = die  # type: ignore[method-assign]
    made = make(grid, store)
    shard = grid.runtime.host(backup).replica(route.gallery_id, 0).shard
    assert shard.records(["later0"])[0].lsn == lsn, "the same LSN"
    assert ids_in(store, made) == {f"a{i}" for i in range(100)}
    assert made.shards[0].lsn == lsn - 1


def test_a_primary_whose_file_is_damaged_is_followed(grid: Grid, store: SnapshotStore) -> None:
    grid.create(shards=1)
    rows = unit_rows(400, DIM, seed=1)
    grid.enroll(batch_of(rows, prefix="a"))
    grid.router.flush(grid.route())
    primary, backup = grid.route().in_sync[0]
    (file,) = (grid.directory / "hosts" / primary).glob("tenants/*/*/shard-0000/segment-000001/floats.f32")
    with file.open("r+b") as floats:
        floats.seek(300 * DIM * 4)
        floats.write(b"damage")
    made = make(grid, store)
    assert grid.route().in_sync[0] == (backup,)
    assert ids_in(store, made) == {f"a{i}" for i in range(400)}
    assert {row.tobytes() for batch in read_blocks(store, made) for row in batch.embeddings} == {
        row.tobytes() for row in rows
    }


def test_a_gallery_without_a_host_fails_by_name(
    grid: Grid, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAUSE_S", (0.001, 0.01))
    route = grid.create(shards=1)
    for host in route.in_sync[0]:
        grid.runtime.kill(host)
    with pytest.raises(HostUnavailable, match="not running"):
        make(grid, store)
    assert store.snapshots() == []


def test_restoring_with_replicas_goes_on_when_a_host_dies(grid: Grid, store: SnapshotStore) -> None:
    grid.create()
    grid.enroll(batch_of(unit_rows(300, DIM, seed=1), prefix="a"))
    made = make(grid, store)
    death = At(grid, (EnrollRequest,), 4)
    hidden: list[object] = []

    def die(host: str) -> None:
        grid.runtime.kill(host)
        hidden.extend(route.name for route in grid.coordinator.galleries())
        with pytest.raises(UnknownGallery):
            grid.coordinator.gallery(COPY)

    death.act = die  # type: ignore[method-assign]
    report = restore(grid, store, made)
    assert death.happened
    assert hidden == ["acme/staff"]
    assert (report.templates, report.shards) == (300, 3)
    grid.tick_until(lambda: all(len(config.in_sync) == 2 and not config.joining for config in grid.catalog.shards()))
    assert grid.ids(grid.coordinator.gallery(COPY)) == {f"a{i}" for i in range(300)}
    for config in copies(grid):
        request = DigestRequest(config.gallery_id, config.shard)
        assert len({grid.runtime.host(host).execute(request) for host in config.in_sync}) == 1


def test_a_half_restored_gallery_is_looked_after(
    grid: Grid, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid.create()
    grid.enroll(batch_of(unit_rows(300, DIM, seed=1), prefix="a"))
    made = make(grid, store)
    enroll, calls = Router.enroll, 0

    def fail_the_third(self: Router, *args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise HostUnavailable("away")
        return enroll(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Router, "enroll", fail_the_third)
    with pytest.raises(HostUnavailable, match="away"):
        restore(grid, store, made)
    # A host dies and is replaced; another is drained; the coordinator starts again.
    dead = copies(grid)[0].primary
    grid.runtime.kill(dead)
    grid.tick_until(lambda: all(dead not in c.in_sync and len(c.in_sync) == 2 for c in grid.catalog.shards()))
    grid.runtime.start(dead)
    drained = next(host for host in HOSTS if host != dead)
    grid.coordinator.replication.drain(drained)
    grid.tick_until(lambda: grid.coordinator.replication.left_on(drained) == 0)
    assert all(drained not in config.in_sync and len(config.in_sync) == 2 for config in copies(grid))
    grid.coordinator.close()
    grid.open()
    with pytest.raises(UnknownGallery):
        grid.coordinator.gallery(COPY)
    report = restore(grid, store, made)
    assert 0 < report.enrolled < report.templates == 300
    assert grid.ids(grid.coordinator.gallery(COPY)) == {f"a{i}" for i in range(300)}
    grid.coordinator.drop_gallery(COPY)
    assert [route.name for route in grid.coordinator.galleries()] == ["acme/staff"]
