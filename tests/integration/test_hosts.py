"""Shard hosts by the Python API: what is told of them, draining under writes, comparing, erasing."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster import Cluster, Gallery
from coordinator.ray_coordinator import RayCoordinator
from coordinator.types import DRAINING, UP, GalleryRoute, ReplicaErasure
from shard.digests import record_digest
from shard.errors import (
    ClusterNotReady,
    DeadlineExceeded,
    HostUnavailable,
    InvalidParameter,
    ShardClosed,
    UnknownGallery,
)
from tests.faces_like import unit_rows

DIM = 64
ROWS = 120
LONG_S = 60.0
Open = Callable[[], Cluster]


@pytest.fixture
def open_home(tmp_path: Path) -> Open:
    """Opens a home of three hosts in this process, as often as the test likes."""
    return lambda: Cluster.open(tmp_path / "home", shard_hosts=3)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def any_grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three hosts, in this process or on three nodes of Ray."""
    options = {"shard_hosts": 3}
    if request.param == "ray":
        options = {"runtime": "ray", "ray_address": request.getfixturevalue("ray_cluster").address}
    with Cluster.open(tmp_path / "home", **options) as grid:
        yield grid


@pytest.fixture
def grid(open_home: Open) -> Iterator[Cluster]:
    with open_home() as opened:
        yield opened


def filled(grid: Cluster, name: str = "acme/staff", *, replicas: int = 2, shards: int = 4) -> Gallery:
    """A gallery with templates t0, t1, … of the identities p0 to p9."""
    gallery = grid.gallery(name, create=True, dim=DIM, shards=shards, replicas=replicas)
    ids = [f"t{i}" for i in range(ROWS)]
    gallery.enroll(unit_rows(ROWS, DIM, seed=1), template_ids=ids, identities=[f"p{i % 10}" for i in range(ROWS)])
    return gallery


def found_ids(gallery: Gallery) -> set[str]:
    return set(gallery.search(unit_rows(1, DIM, seed=2), k=1_000, exact=True).template_ids[0])


def shard_files(grid: Cluster, host: str) -> list[Path]:
    return list((grid.home.hosts_directory / host).glob("tenants/*/*/shard-*"))


def state_of(grid: Cluster, host: str) -> str:
    return next(status.state for status in grid.hosts() if status.host == host)


def test_hosts_and_replicas_are_told(grid: Cluster) -> None:
    assert [(h.host, h.state, h.replicas, h.primaries) for h in grid.hosts()] == [
        (f"host-{i}", UP, 0, 0) for i in range(3)
    ]
    assert {(h.p95_ms, h.breaker, h.failures, h.hedges) for h in grid.hosts()} == {(None,) * 4}, "none was asked"
    gallery = filled(grid)
    for _ in range(60):
        found_ids(gallery)
    hosts = grid.hosts()
    assert sum(h.replicas for h in hosts) == 8
    assert sum(h.primaries for h in hosts) == 4
    observed = [h for h in hosts if h.p95_ms is not None]
    assert observed
    assert all((h.breaker, h.failures) == ("closed", 0) and h.p95_ms > 0 for h in observed if h.p95_ms)
    entries = grid.replicas()
    assert [(entry.gallery, entry.shard) for entry in entries] == [("acme/staff", shard) for shard in range(4)]
    for entry in entries:
        assert (len(entry.in_sync), entry.wanted, entry.missing, entry.joining) == (2, 2, 0, ())
        assert entry.in_sync[0] == entry.primary
    stats = gallery.stats()
    assert (stats.replicas, stats.min_in_sync, stats.in_sync) == (2, 1, 2)
    assert stats.hosts == ("host-0", "host-1", "host-2")


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_host_is_drained_while_reads_and_writes_go_on(any_grid: Cluster, replicas: int) -> None:
    grid = any_grid
    gallery = filled(grid, replicas=replicas)
    host = grid.replicas()[0].primary
    held = next(status.replicas for status in grid.hosts() if status.host == host)
    ended, failures = threading.Event(), list[Exception]()
    probe = unit_rows(ROWS, DIM, seed=1)[:1]
    acknowledged = {f"t{i}" for i in range(ROWS)}

    def go_on(step: Callable[[int], None]) -> None:
        for i in range(1_000_000):
            try:
                step(i)
            except Exception as error:  # noqa: BLE001 - the test fails with it below
                failures.append(error)
                return
            if ended.is_set():
                return

    def write(i: int) -> None:
        ids = [f"w{i}-{j}" for j in range(4)]
        # As a client does who repeats what was not confirmed while a primary changed.
        gallery.enroll(unit_rows(4, DIM, seed=100 + i), template_ids=ids, if_exists="skip")
        acknowledged.update(ids)

    def read(i: int) -> None:
        assert gallery.search(probe, k=1, exact=True).template_ids == (("t0",),)

    threads = [threading.Thread(target=go_on, args=(step,)) for step in (write, read)]
    for thread in threads:
        thread.start()
    told: list[tuple[int, int]] = []
    try:
        assert grid.drain(host, progress=lambda done, total: told.append((done, total)), timeout_s=LONG_S) == held
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (held, held)
    assert state_of(grid, host) == DRAINING
    assert shard_files(grid, host) == []
    assert all(host not in entry.in_sync and not entry.missing for entry in grid.replicas())
    assert {record.template_id for record in gallery.templates(sorted(acknowledged))} == acknowledged
    assert len(gallery) == len(acknowledged)
    grid.undrain(host)
    assert state_of(grid, host) == UP


def test_a_host_that_is_empty_is_drained_at_once(grid: Cluster) -> None:
    told: list[tuple[int, int]] = []
    assert grid.drain("host-1", progress=lambda done, total: told.append((done, total))) == 0
    assert told == [(0, 0)]
    gallery = filled(grid, replicas=1, shards=6)
    assert "host-1" not in gallery.stats().hosts
    grid.undrain("host-1")
    grid.undrain("host-1")


def test_draining_waits_as_long_as_it_may_and_may_be_repeated(open_home: Open) -> None:
    with open_home() as grid:
        filled(grid)
        host = grid.replicas()[0].primary
        with pytest.raises(DeadlineExceeded, match=f"{host} is not empty yet"):
            grid.drain(host, timeout_s=1e-9)
        assert state_of(grid, host) == DRAINING
    with open_home() as grid:
        assert state_of(grid, host) == DRAINING, "also in the next process"
        grid.drain(host, timeout_s=LONG_S)
        assert shard_files(grid, host) == []
        assert len(found_ids(grid.gallery("acme/staff"))) == ROWS


def test_draining_need_not_be_waited_for(grid: Cluster) -> None:
    filled(grid)
    host = grid.replicas()[0].primary
    held = grid.drain(host, wait=False)
    assert held == next(status.replicas for status in grid.hosts() if status.host == host) > 0
    assert state_of(grid, host) == DRAINING


def test_a_host_that_somebody_undrains_is_waited_for_no_longer(grid: Cluster) -> None:
    filled(grid)
    host = grid.replicas()[0].primary
    with pytest.raises(ClusterNotReady, match="drain it again"):
        grid.drain(host, progress=lambda done, total: grid.undrain(host), timeout_s=LONG_S)
    assert len(found_ids(grid.gallery("acme/staff"))) == ROWS


def test_what_cannot_be_drained_is_said_before_anything_is_moved(grid: Cluster) -> None:
    filled(grid, replicas=3)
    with pytest.raises(ClusterNotReady, match=r"acme/staff has 3 replicas.*host-1, host-2; add a host"):
        grid.drain("host-0")
    assert state_of(grid, "host-0") == UP
    for call in (lambda: grid.drain("host-9"), lambda: grid.drain("host-9", wait=False), lambda: grid.undrain("x")):
        with pytest.raises(InvalidParameter, match="known: host-0, host-1, host-2"):
            call()
    for timeout_s in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidParameter, match="timeout_s"):
            grid.drain("host-0", timeout_s=timeout_s)


def test_a_replica_that_differs_is_named_and_copied_anew(grid: Cluster) -> None:
    gallery = filled(grid, shards=1)
    assert grid.compare() == []
    (entry,) = grid.replicas()
    backup = entry.in_sync[1]
    shard = grid.runtime._hosts[backup].replica(gallery._route.gallery_id, 0).shard  # type: ignore[attr-defined]
    (stored,) = shard.templates_between(5, 6)
    digest = record_digest(5, stored.template_id, "somebody else", stored.metadata, stored.lsn)
    with shard._store.transaction() as db:
        db.execute("UPDATE templates SET identity = 'somebody else', digest = ? WHERE row = 5", (digest,))
    assert grid.compare(timeout_s=LONG_S) == [f"shard 0 of acme/staff on {backup} differs from {entry.primary}"]
    (mended,) = grid.replicas()
    assert set(mended.in_sync) == set(entry.in_sync)
    assert grid.compare() == []
    assert [(i.identity, i.templates) for i in gallery.identities()] == [(f"p{i}", ROWS // 10) for i in range(10)]


def test_comparing_works_on_every_runtime(any_grid: Cluster) -> None:
    filled(any_grid)
    assert any_grid.compare() == []
    any_grid.coordinator.look_after()


def test_erasing_what_is_due_leaves_other_galleries_alone(grid: Cluster) -> None:
    galleries = [filled(grid, name, shards=1) for name in ("acme/a", "acme/b")]
    for gallery in galleries:
        gallery.delete(identity="p3")
    assert [len(grid.erasure_report(name)) for name in (None, "acme/a")] == [4, 2]
    assert grid.erase_due("acme/a") == grid.erase_due() == 0, "nothing is due yet"
    later = time.time() + 20 * 3_600
    erasure = grid.coordinator.erasure  # type: ignore[union-attr]
    assert erasure.erase_due(later, gallery_id=galleries[0]._route.gallery_id) == 1
    assert {entry.gallery: entry.is_clean for entry in grid.erasure_report()} == {"acme/a": True, "acme/b": False}
    for call in (grid.erase_due, grid.erasure_report):
        with pytest.raises(UnknownGallery):
            call("acme/none")


def test_a_report_knows_what_is_overdue() -> None:
    entry = ReplicaErasure("acme/a", 0, "host-0", True, True, 3, True, 1_000, 2_000.0)
    assert not entry.is_overdue(1_999.0)
    assert entry.is_overdue(2_001.0)


def test_sizes_are_told_while_the_coordinator_is_away(grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = filled(grid)
    before = gallery.stats()

    def away(name: str) -> GalleryRoute:
        raise HostUnavailable("the coordinator is away")

    monkeypatch.setattr(grid.router._routes, "_lookup", away)
    assert len(gallery) == ROWS
    gallery.delete(identity="p0")
    after = gallery.stats()
    assert (after.templates, after.hosts, after.in_sync) == (ROWS - ROWS // 10, before.hosts, 2)


def test_sizes_show_at_once_what_has_changed(grid: Cluster) -> None:
    gallery = grid.gallery("acme/staff", create=True, dim=DIM, shards=1)
    rng = np.random.default_rng(5)
    gallery.enroll(rng.standard_normal((1_100, DIM), dtype=np.float32))
    grid.wait_until_idle()
    assert gallery.stats().model_id is not None
    grid.drop("acme/staff")
    with pytest.raises(UnknownGallery):
        gallery.stats()


def test_a_closed_cluster_answers_nothing(grid: Cluster) -> None:
    gallery = filled(grid)
    grid.close()
    calls: tuple[Callable[[], object], ...] = (
        grid.hosts,
        grid.replicas,
        lambda: grid.drain("host-0"),
        lambda: grid.undrain("host-0"),
        grid.compare,
        grid.erasure_report,
        grid.erase_due,
        gallery.stats,
    )
    for call in calls:
        with pytest.raises(ShardClosed, match="closed"):
            call()


def test_the_coordinators_actor_has_every_method() -> None:
    """What `Cluster` asks of a coordinator is there on Ray too, and let through by its process."""
    from coordinator.coordinator import Coordinator
    from coordinator.coordinator_process import METHODS

    public = {name for name in vars(RayCoordinator) if not name.startswith("_")} - {"close"}
    assert public == {method for method in METHODS if "." not in method}
    assert public <= set(vars(Coordinator))
