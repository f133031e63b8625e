"""A detached home whose coordinator starts again, whose nodes come and go, and whose hosts do not open. Without Ray."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Cluster
from cluster.service.auth import Keys
from coordinator import coordinator_process
from coordinator.actor_names import COORDINATOR, HOST, NAMESPACE_PREFIX
from coordinator.actors import RaySession
from coordinator.attachment import Attached, Attachment
from coordinator.catalog import Catalog
from coordinator.home import Home
from coordinator.host import ShardHost
from coordinator.leave import Left, leave
from coordinator.ray_cluster import RayCluster, RayOptions, _failures
from coordinator.ray_stop import stop_home
from coordinator.replication import ReplicationPolicy
from coordinator.types import DOWN, GONE, UP, GallerySpec
from shard.errors import (
    ClusterNotReady,
    FacegridError,
    HomeLocked,
    HostUnavailable,
    IncompleteCoverage,
    StorageError,
)
from tests.faces_like import unit_rows
from tests.fake_ray import FakeRay, fake_ray
from tests.waiting import wait_for

pytest.importorskip("uvloop", reason="uvloop is not installed: pip install 'facegrid[cluster]'")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    for pause in ("ray_cluster.SCAN_S", "attachment.LOOK_S"):
        monkeypatch.setattr(f"coordinator.{pause}", 3_600.0)  # these tests scan and look themselves
    monkeypatch.setattr("coordinator.ray_cluster.PATIENCE_S", 0.2)
    monkeypatch.setattr("coordinator.ray_seats.LOOK_S", 0.02)
    with fake_ray(monkeypatch, "a", "b") as made:
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path / "home")
    yield opened
    opened.close()


def start(home: Home, *, is_detached: bool = True, needed: tuple[str, ...] = (), **settings: Any) -> RayCluster:
    options = RayOptions("127.0.0.1:1", is_detached=is_detached, replication=ReplicationPolicy(dead_s=0.3))
    return RayCluster.start(options, home.directory, home.home_id, home.secret, needed, needed_hosts=needed, **settings)


@pytest.fixture
def cluster(ray: FakeRay, home: Home) -> Iterator[RayCluster]:
    running = start(home)
    yield running
    running.close()


def attached(cluster: RayCluster, home: Home) -> Attached:
    where = cluster.coordinator.actor.where
    return Attached(Attachment(str(home.directory), where, cluster.host_actors, home.secret))


class Database:
    """The catalog's, which may be away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away, self.asked = False, 0
        monkeypatch.setattr(coordinator_process, "Catalog", self.open)

    def open(self, *args: Any) -> Catalog:
        self.asked += 1
        if self.is_away:
            raise StorageError("the database is away")
        return Catalog(*args)


def test_a_coordinator_that_starts_again_makes_nobody_drop_hosts_that_came_later(
    ray: FakeRay, cluster: RayCluster, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.add_host("c")
    assert cluster.scan() == ["c"]
    wait_for(lambda: len(cluster.coordinator.host_records()) == 3, "the catalog to know the host")
    database, gateway = Database(monkeypatch), attached(cluster, home)
    try:
        cluster.close()
        database.is_away = True
        ray.restart(COORDINATOR)
        with pytest.raises(HostUnavailable, match="hosts that came later are not known yet"):
            gateway.look()
        assert gateway.runtime.hosts() == ("a", "b", "c")
        database.is_away = False
        cluster.coordinator.actor.call("open")
        assert gateway.look() == []
        assert gateway.runtime.hosts() == ("a", "b", "c")
    finally:
        gateway.close()


def test_a_driver_tells_a_coordinator_that_starts_again_while_its_database_is_away(
    ray: FakeRay, cluster: RayCluster, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, gateway = Database(monkeypatch), attached(cluster, home)
    try:
        database.is_away = True
        ray.restart(COORDINATOR)
        ray.add_host("c")
        with pytest.raises(StorageError, match="the database is away"):
            cluster.scan()
        assert gateway.look() == ["c"]
        assert gateway.runtime.hosts() == ("a", "b", "c")
    finally:
        gateway.close()


def retire(ray: FakeRay, cluster: RayCluster, host: str) -> None:
    """Drain a host and take its node."""
    wait_for(lambda: host in {record.host for record in cluster.coordinator.host_records()}, "the host to be known")
    cluster.coordinator.drain(host)
    ray.remove_node(f"node of {host}")
    wait_for(lambda: GONE in {r.state for r in cluster.coordinator.host_records() if r.host == host}, "it to be gone")
    cluster.scan()
    assert host not in cluster.actors


def test_a_host_that_was_retired_is_nobodys_when_the_coordinator_starts_again(
    ray: FakeRay, cluster: RayCluster, home: Home
) -> None:
    retire(ray, cluster, "a")
    ray.restart(COORDINATOR)
    ray.add_host("c")
    assert cluster.scan() == ["c"]
    assert cluster.coordinator.hosts() == ("b", "c")
    assert cluster.coordinator.actor.call("host_actors").keys() == {"b", "c"}
    cluster.close()
    again = start(home)
    try:
        assert again.coordinator.hosts() == again.runtime.hosts() == ("b", "c")
    finally:
        again.close()


def test_a_host_that_leaves_waits_for_a_coordinator_that_starts_again(
    ray: FakeRay, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when both their pods are replaced at once. Closed untold, it would be missed as one that was killed is."""
    monkeypatch.setattr("coordinator.leave.RETRY_S", 0.01)
    route = cluster.coordinator.create_gallery(GallerySpec("acme/staff", 64, 2, 256, None, 2, 1))
    database = Database(monkeypatch)
    database.is_away = True
    ray.restart(COORDINATOR)
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(leave, "127.0.0.1:1", "a", timeout_s=60.0)
        wait_for(lambda: database.asked > 3, "the coordinator to be asked more than once")
        assert not leaving.done()
        database.is_away = False
        assert leaving.result(30) == Left("a", 2)
    assert cluster.coordinator.gallery("acme/staff").in_sync == (("b",), ("b",)) != route.in_sync


def test_a_coordinator_that_is_closed_is_away_until_another_one_comes(ray: FakeRay, cluster: RayCluster) -> None:
    """A driver that takes over closes one that did not answer: for gateways that ask it meanwhile it is only away."""
    tenants = cluster.coordinator.tenants
    tenants.create("acme")
    keys = Keys(tenants)
    _, text = tenants.create_key("acme", "one", scopes=("read",))
    known = keys.authenticate(text)
    cluster.coordinator.actor.call("close")
    with pytest.raises(HostUnavailable, match="another one takes its place"):
        cluster.coordinator.hosts()
    assert keys.authenticate(text) == known


def test_a_host_leaves_though_no_coordinator_comes(
    ray: FakeRay, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.leave.RETRY_S", 0.01)
    Database(monkeypatch).is_away = True
    ray.restart(COORDINATOR)
    left = leave("127.0.0.1:1", "a", timeout_s=0.5)
    assert (left.missed, left.fault) == (None, "the database is away")


def test_a_coordinator_forgets_no_host_while_ray_cannot_say(ray: FakeRay, cluster: RayCluster) -> None:
    ray.fault = RuntimeError("the control store is away")
    coordinator = ray.restart(COORDINATOR)
    refused = coordinator.know_hosts(cluster.host_actors)
    assert refused.code == "host_unavailable"
    assert "could not be looked for: RuntimeError: the control store is away" in refused.message
    ray.fault = None
    assert coordinator.know_hosts({}).code is None
    assert cluster.coordinator.hosts() == ("a", "b")


def test_a_host_is_reached_no_more_though_ray_does_not_let_go_of_its_actor(
    ray: FakeRay, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.actors.KILL_S", 0.05)
    monkeypatch.setattr(ray, "kill", lambda *_, **__: None)
    with pytest.raises(HostUnavailable, match="shard host a was ended, and Ray has it still"):
        retire(ray, cluster, "a")
    assert cluster.runtime.hosts() == cluster.coordinator.hosts() == ("b",)
    assert "a" not in cluster.host_actors


def test_the_end_of_one_actor_by_itself_does_not_end_a_stop(
    ray: FakeRay, cluster: RayCluster, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = cluster.running()
    cluster.actors["a"].kill()
    monkeypatch.setattr(RaySession, "detached", lambda _: listed)
    assert stop_home("127.0.0.1:1", home.home_id, close_s=0.1) == [COORDINATOR, f"{HOST} b"]
    assert ray.named == {}


@pytest.mark.parametrize("error", [HostUnavailable("a host"), RuntimeError("Ray raises anything")])
def test_no_error_ends_the_looks_for_nodes_and_hosts(
    ray: FakeRay, home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    looks = Counter[str]()

    def fail(of: object) -> None:
        looks[type(of).__name__] += 1
        raise error

    for pause in ("ray_cluster.SCAN_S", "attachment.LOOK_S"):
        monkeypatch.setattr(f"coordinator.{pause}", 0.01)
    monkeypatch.setattr(RayCluster, "scan", fail)
    monkeypatch.setattr(Attached, "look", fail)
    cluster = start(home)
    gateway = attached(cluster, home)
    try:
        wait_for(lambda: min(looks["RayCluster"], looks["Attached"]) > 2, "more looks")
    finally:
        gateway.close()
        cluster.close()


# Nodes


def test_a_node_that_was_killed_is_listed_for_a_while_beside_its_replacement(
    ray: FakeRay, cluster: RayCluster, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.close()
    ray.remove_node("node of b")
    ray.add_host("b", "another node")
    now, looks = ray.nodes(), Counter[str]()

    def nodes() -> list[dict[str, Any]]:
        looks["nodes"] += 1
        return now if looks["nodes"] > 5 else [*now, {**now[-1], "NodeID": "node of b"}]

    monkeypatch.setattr(ray, "nodes", nodes)
    again = start(home)
    assert looks["nodes"] > 5
    assert again.runtime.hosts() == ("a", "b")
    again.close()


@pytest.mark.parametrize("is_seen_away", [True, False])
def test_a_host_gets_the_settings_of_now_with_its_next_node(
    ray: FakeRay, cluster: RayCluster, home: Home, is_seen_away: bool
) -> None:
    cluster.close()
    again = start(home, open_shards=7)
    try:
        before = {name: ray.actor(f"{HOST} {name}").process.mark().unwrap() for name in "ab"}
        again.scan()
        ray.remove_node("node of b")
        if is_seen_away:
            again.scan()
        ray.add_host("b", "another node")
        again.scan()
        after = {name: ray.actor(f"{HOST} {name}").process.mark().unwrap() for name in "ab"}
        assert after["a"] == before["a"]
        assert after["b"] != before["b"]
        process = ray.actor(f"{HOST} b").process
        again.scan()
        assert ray.actor(f"{HOST} b").process is process
    finally:
        again.close()


# Hosts that are lost, or do not open


def opened(home: Path, **settings: Any) -> Cluster:
    return Cluster.open(home, runtime="ray", ray_address="127.0.0.1:1", ray_detached=True, **settings)


@pytest.mark.parametrize("has_actor", [True, False], ids=["its actor waits", "it has no actor"])
def test_one_lost_host_holds_up_only_the_gallery_of_which_it_has_the_only_copy(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_actor: bool
) -> None:
    monkeypatch.setattr("coordinator.writes.WRITE_DEADLINE_MS", 1_000)
    monkeypatch.setattr("coordinator.ray_runtime.REFRESH_S", 0.3)
    home, rows = tmp_path / "home", unit_rows(40, 64, seed=1)
    ids = [f"t{i}" for i in range(len(rows))]
    with opened(home) as grid:
        for name, replicas in (("one/alone", 1), ("two/both", 2)):
            gallery = grid.gallery(name, create=True, dim=64, shards=2, replicas=replicas)
            gallery.enroll(rows, template_ids=ids)
        assert {shard.primary for shard in grid.replicas() if shard.gallery == "one/alone"} == {"a", "b"}
        snapshot = grid.snapshots(tmp_path / "store").create("one/alone", progress=False).manifest.snapshot_id
    ray.remove_node("node of b")
    if not has_actor:
        stop_all(ray)
    with opened(home, audit_days=7) as grid:  # other settings: another coordinator
        assert grid.gallery("two/both").search(rows, k=1).coverage.is_complete
        wait_for(lambda: "down" in {h.state for h in grid.hosts() if h.host == "b"}, "the host to count as lost")
        grid.gallery("two/new", create=True, dim=64, shards=1).enroll(rows[:1], template_ids=["new"])
        alone = grid.gallery("one/alone")
        found = alone.search(rows, k=1, allow_partial=True)
        assert (found.coverage.answered, found.coverage.asked) == (1, 2)
        with pytest.raises(IncompleteCoverage, match="1 of 2 shards answered for one/alone"):
            alone.search(rows, k=1)
        with pytest.raises(FacegridError, match=r"shard host '?b'?") as refused:
            alone.enroll(unit_rows(40, 64, seed=2))
        assert refused.value.code in ("host_unavailable", "enroll_incomplete")
        grid.drop("one/alone")
        assert grid.snapshots(tmp_path / "store").restore(snapshot, progress=False).templates == len(rows)
        assert grid.gallery("one/alone").search(rows, k=1).template_ids == tuple((name,) for name in ids)
        ray.add_host("b")
        assert grid.ray is not None
        grid.ray.scan()
        wait_for(lambda: all(len(s.in_sync) == s.wanted for s in grid.replicas()), "all replicas to be there")


def test_a_host_whose_disk_was_lost_holds_up_only_the_gallery_of_which_it_had_the_only_copy(
    ray: FakeRay, tmp_path: Path
) -> None:
    home, rows = tmp_path / "home", unit_rows(40, 64, seed=1)
    with opened(home) as grid:
        for name, replicas in (("one/alone", 1), ("two/both", 2)):
            grid.gallery(name, create=True, dim=64, shards=2, replicas=replicas).enroll(rows)
        snapshot = grid.snapshots(tmp_path / "store").create("one/alone", progress=False).manifest.snapshot_id
    stop_all(ray)
    shutil.rmtree(home / "hosts" / "b")
    with opened(home) as grid:
        assert grid.gallery("two/both").search(rows, k=1).coverage.is_complete
        with pytest.raises(FacegridError):
            grid.gallery("one/alone").search(rows, k=1)
        grid.drop("one/alone")
        assert grid.snapshots(tmp_path / "store").restore(snapshot, progress=False).templates == len(rows)
        assert grid.gallery("one/alone").search(rows, k=1).coverage.is_complete
        wait_for(lambda: all(len(s.in_sync) == s.wanted for s in grid.replicas()), "all replicas to be there")


def stop_all(ray: FakeRay) -> None:
    """As `facegrid cluster stop`."""
    ((_, namespace), *_) = ray.named
    stop_home("127.0.0.1:1", namespace.removeprefix(NAMESPACE_PREFIX), close_s=0.1)
    assert ray.named == {}


@pytest.mark.parametrize("needed", [(), ("b",)], ids=["nobody needs it", "it alone has a shard"])
def test_a_host_that_does_not_open_is_waited_for_by_no_detached_home(
    ray: FakeRay, home: Home, monkeypatch: pytest.MonkeyPatch, needed: tuple[str, ...]
) -> None:
    monkeypatch.setattr("coordinator.host_process.LOCK_WAIT_S", 0.1)
    other = ShardHost("b", home.hosts_directory / "b")
    cluster = start(home, needed=needed)
    try:
        assert cluster.runtime.hosts() == cluster.coordinator.hosts() == ("a", "b")
        wait_for(lambda: {r.host: r.state for r in cluster.coordinator.host_records()}["b"] == DOWN, "b to be down")
        other.close()
        wait_for(lambda: {r.host: r.state for r in cluster.coordinator.host_records()}["b"] == UP, "b to be up")
    finally:
        other.close()
        cluster.close()


@pytest.mark.parametrize(("is_detached", "locked"), [(True, "ab"), (False, "b")])
def test_what_keeps_hosts_from_opening_is_raised(
    ray: FakeRay, home: Home, monkeypatch: pytest.MonkeyPatch, is_detached: bool, locked: str
) -> None:
    monkeypatch.setattr("coordinator.host_process.LOCK_WAIT_S", 0.1)
    others = [ShardHost(name, home.hosts_directory / name) for name in locked]
    try:
        with pytest.raises(HomeLocked, match=f"hosts/{locked[0]}"):
            start(home, is_detached=is_detached)
    finally:
        for other in others:
            other.close()


def test_a_home_with_a_coordinator_that_runs_is_taken_over_without_any_host(
    ray: FakeRay, cluster: RayCluster, home: Home
) -> None:
    cluster.close()
    for name in "ab":
        ray.remove_node(f"node of {name}")
    again = start(home)
    assert again.coordinator.hosts() == ("a", "b")
    again.close()


def test_a_home_without_any_host_does_not_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_ray(monkeypatch), pytest.raises(ClusterNotReady, match=r"no live node .* hosts present: none"):
        RayCluster.start(
            RayOptions("127.0.0.1:1", is_detached=True, start_timeout_s=0.1),
            home.directory,
            home.home_id,
            home.secret,
            ("a",),
        )


def test_silent_hosts_are_waited_for_together(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as patience goes; longer only if nobody has answered."""
    waits: list[float] = []

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        waits.append(timeout)
        return [], refs

    monkeypatch.setattr(ray, "wait", wait)
    session = RaySession.join("127.0.0.1:1", "facegrid-x", timeout_s=1.0, is_detached=True)
    actors = {name: session.spawn(Silent, (), title=f"{HOST} {name}") for name in "abc"}
    failures = _failures(actors, 10.0, 20.0)
    assert list(failures) == ["a", "b", "c"]
    assert {type(error) for error in failures.values()} == {HostUnavailable}
    assert waits == pytest.approx([10.0] * 3 + [20.0] * 3, abs=1.0)


class Silent:
    """A host of which no answer comes."""

    def data_address(self) -> None:
        """No answer."""

    def close(self) -> None:
        """Nothing to close."""
