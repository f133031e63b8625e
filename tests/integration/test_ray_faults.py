"""A gallery on Ray while hosts are killed, stopped, removed, added and drained and the coordinator dies, under load.

FACEGRID_TORTURE=n makes it n/30 rounds instead of one (`make torture`). What is asserted is generous, since the machine
may be slow; what was measured is printed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.actors import HEALTH
from coordinator.directories import shard_directory
from coordinator.home import Home
from coordinator.messages import DigestReply, DigestRequest
from coordinator.ray_cluster import RayCluster, RayOptions
from coordinator.replication import ReplicationPolicy
from coordinator.router import Router
from coordinator.types import GallerySpec, ShardConfig
from shard.errors import FacegridError
from shard.shard import Shard
from shard.types import EnrollBatch
from tests.faces_like import unit_rows
from tests.integration.conftest import RayNodes, ray_nodes
from tests.integration.load import Load, Oracle
from tests.waiting import wait_for

pytestmark = pytest.mark.ray

ROUNDS = max(1, int(os.environ.get("FACEGRID_TORTURE", "30")) // 30)
DIM, SHARDS, REPLICAS = 64, 4, 2
BASE = 1_050
"""Templates enrolled at first: enough to train a model. Most are deleted then, so that a list can hold all."""
POLICY = ReplicationPolicy(dead_s=2.0, away_s=2.0)
SOON_S = 60.0
"""Recovery time: within it every shard has all its replicas again and no caller has seen an error."""
ENVIRONMENT = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}


class Grid:
    """A running cluster, its gallery and the load on it."""

    def __init__(self, nodes: RayNodes, home: Home) -> None:
        self.nodes, self.home = nodes, home
        options = RayOptions(nodes.address, replication=POLICY)
        self.cluster = RayCluster.start(options, home.directory, home.home_id, home.secret, ())
        self.coordinator = self.cluster.coordinator
        spec = GallerySpec("acme/staff", DIM, SHARDS, 256, None, REPLICAS)
        self.route = self.coordinator.create_gallery(spec)
        self.router = Router(self.cluster.runtime, self.coordinator.gallery, self.coordinator.report)
        self.load = Load(self.router, self.route, Oracle())
        self._fill()

    def _fill(self) -> None:
        rows = unit_rows(BASE, DIM, seed=7)
        ids = tuple(f"base-{i}" for i in range(BASE))
        batch = EnrollBatch(rows, ids, (None,) * BASE, (None,) * BASE)
        assert self.router.enroll(self.route, batch, skip_existing=False, new_ids=True).enrolled == BASE
        self.coordinator.train("acme/staff")
        assert self.router.delete(self.route, template_ids=ids[500:], identities=()) == BASE - 500
        self.load.oracle.add(ids[:500], rows[:500])
        self.load.oracle.add(ids[500:], None)

    def configs(self) -> list[ShardConfig]:
        """Who holds each shard; nothing while the coordinator is away."""
        with contextlib.suppress(FacegridError):
            return self.coordinator.shard_configs()
        return []

    def is_whole(self) -> bool:
        """Every shard has its replicas, and nothing is on its way."""
        configs = self.configs()
        return len(configs) == SHARDS and all(len(c.in_sync) == REPLICAS and not c.joining for c in configs)

    def holders(self) -> set[str]:
        """Hosts that hold something."""
        return {host for config in self.configs() for host in (*config.in_sync, *config.joining)}

    def pid(self, host: str) -> int:
        """Of a shard host's process."""
        return int(self.cluster.actors[host].call("health", group=HEALTH, timeout_s=SOON_S))

    def busiest(self, *candidates: str) -> str:
        """The one of the hosts that is primary of the most shards."""
        leads = [config.primary for config in self.configs()]
        return max(candidates, key=leads.count)

    def suffer(self, what: str, fault: Callable[[], object], is_over: Callable[[], bool]) -> None:
        """Break something under load, wait until all is well again, and print how long it took."""
        began = time.monotonic()
        fault()
        # Breaking it may take its time (Ray waits for a node's processes); what is measured begins when it begins.
        wait_for(lambda: is_over() and self.is_whole(), f"all replicas after: {what}")
        whole = time.monotonic()
        wait_for(lambda: self.load.has_written_since(whole), f"load after: {what}")
        load = self.load
        print(
            f"{what}: first write begun after it done at {load.first_write_after(began):.2f} s,"
            f" longest gap between searches {load.longest_gap(load.searches, began, whole):.2f} s,"
            f" between writes {load.longest_gap(load.writes, began, whole):.2f} s,"
            f" every shard on {REPLICAS} hosts after {whole - began:.2f} s"
        )
        self.check_load()

    def check_load(self) -> None:
        """No caller has seen an error or a wrong answer."""
        assert not self.load.wrong, self.load.wrong[:3]
        assert not self.load.errors, [(what, repr(error)) for _, what, error in self.load.errors[:3]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A cluster of the module's own: `a` is the head and where the coordinator is."""
    with ray_nodes(("a", "b", "c"), ENVIRONMENT) as started:
        yield started


@pytest.fixture
def grid(nodes: RayNodes, tmp_path: Path) -> Iterator[Grid]:
    home = Home(tmp_path / "home")
    opened = Grid(nodes, home)
    opened.load.start()
    try:
        yield opened
    finally:
        opened.load.stop()
        opened.cluster.close()
        home.close()


def test_nothing_acknowledged_is_lost_whatever_dies(grid: Grid) -> None:
    wait_for(lambda: grid.load.has_written_since(0.0), "the load to begin")
    for number in range(ROUNDS):
        print(f"\nround {number + 1} of {ROUNDS}")
        kill_a_host(grid)
        remove_a_node(grid, "b")
        stop_a_host(grid)
        kill_the_coordinator(grid)
        fresh = "d" if number == 0 else "b"
        add_a_node(grid, fresh)
        kill_the_coordinator(grid)
        assert fresh in grid.coordinator.hosts(), "a coordinator that starts again forgot a host that came late"
        drain_a_host(grid, "c")
        if number + 1 < ROUNDS:
            bring_back(grid)
    grid.load.stop()
    grid.check_load()
    wait_for(grid.is_whole, "all replicas at the end")
    configs = grid.configs()
    check_alike(grid, configs)
    expected = grid.load.oracle.alive()
    print(f"{len(grid.load.writes)} writes, {len(grid.load.searches)} searches, {len(expected)} templates at the end")
    grid.cluster.close()
    check_files(grid.home, configs, expected)


def kill_a_host(grid: Grid) -> None:
    victim = grid.busiest("b", "c")
    pid = grid.pid(victim)

    def is_another() -> bool:
        with contextlib.suppress(FacegridError):
            return grid.pid(victim) != pid
        return False

    grid.suffer(f"shard host {victim} killed", lambda: os.kill(pid, signal.SIGKILL), is_another)


def remove_a_node(grid: Grid, host: str) -> None:
    grid.suffer(
        f"node of {host} removed",
        lambda: grid.nodes.remove(host),
        lambda: host not in grid.holders(),
    )


def stop_a_host(grid: Grid) -> None:
    victim = grid.busiest("c", *(name for name in grid.holders() if name not in "abc"))
    pid = grid.pid(victim)

    def stop() -> None:
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        wait_for(
            lambda: (
                victim not in {host for config in grid.configs() for host in config.in_sync}
                and grid.load.has_written_since(began + POLICY.dead_s)
            ),
            "the others to go on without a host that is stopped",
        )
        print(f"shard host {victim} stopped: the others went on after {time.monotonic() - began:.2f} s")
        os.kill(pid, signal.SIGCONT)

    grid.suffer(f"shard host {victim} stopped until the others went on", stop, lambda: True)
    assert grid.pid(victim) == pid


def kill_the_coordinator(grid: Grid) -> None:
    pid = grid.coordinator.actor.call("health", group=HEALTH, timeout_s=SOON_S)
    searched = len(grid.load.searches)

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        wait_for(lambda: not grid.configs() or len(grid.load.searches) > searched + 20, "searches to go on")
        wait_for(lambda: bool(grid.configs()), "the coordinator to come back")
        print(f"coordinator killed: back after {time.monotonic() - began:.2f} s")

    grid.suffer("coordinator killed", kill, lambda: True)
    assert grid.coordinator.actor.call("health", group=HEALTH, timeout_s=SOON_S) != pid


def add_a_node(grid: Grid, host: str) -> None:
    grid.suffer(f"node of {host} added", lambda: grid.nodes.add(host), lambda: host in grid.holders())


def drain_a_host(grid: Grid, host: str) -> None:
    grid.suffer(
        f"shard host {host} drained",
        lambda: grid.coordinator.drain(host),
        lambda: grid.coordinator.replicas_left(host) == 0,
    )


def bring_back(grid: Grid) -> None:
    """As it was before the round, for another one."""
    grid.coordinator.undrain("c")
    if not grid.nodes.has("b"):
        grid.nodes.add("b")
    grid.coordinator.drain("d")
    wait_for(lambda: {"a", "b", "c"} <= grid.holders() and grid.is_whole(), "the hosts of the next round")
    grid.coordinator.undrain("d")


def check_alike(grid: Grid, configs: list[ShardConfig]) -> None:
    """All replicas in sync of a shard say the same of themselves."""
    for config in configs:
        told = set()
        for host in config.in_sync:
            request = DigestRequest(config.gallery_id, config.shard)
            reply = grid.cluster.runtime.submit(host, request, deadline=time.monotonic() + SOON_S).result()
            assert isinstance(reply, DigestReply)
            told.add(reply)
        assert len(told) == 1, f"replicas of shard {config.shard} differ: {told}"


def check_files(home: Home, configs: list[ShardConfig], expected: dict[str, bytes]) -> None:
    """Every replica in sync has exactly what was acknowledged, to the bit."""
    found: list[dict[str, bytes]] = [{}, {}]
    for config in configs:
        for number, host in enumerate(config.in_sync):
            directory = shard_directory(home.hosts_directory / host, config.gallery_id, config.shard)
            with Shard(directory, model_of(home, host)) as shard:
                for stored in shard.templates_between(0, shard.index.rows):
                    assert stored.template_id not in found[number]
                    found[number][stored.template_id] = shard.gather(np.array([stored.row])).tobytes()
    for replica in found:
        assert replica.keys() == expected.keys()
        assert replica == expected


def model_of(home: Home, host: str) -> Callable[[str], object]:
    from shard.model import SearchModel

    models = home.hosts_directory / host / "models"
    return lambda model_id: SearchModel.from_bytes((models / f"{model_id}.model").read_bytes())
