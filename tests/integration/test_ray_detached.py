"""A home whose actors outlive the process that opened it, on nodes that come and go: one story, under load.

What is asserted is generous, since the machine may be slow; what was measured is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.api import Cluster
from cluster.config import load_settings
from coordinator.actor_names import COORDINATOR, HOST
from coordinator.actors import HEALTH, RaySession
from coordinator.finding import open_home
from coordinator.types import ShardConfig
from shard.errors import ClusterNotReady, FacegridError
from tests.faces_like import unit_rows
from tests.integration.conftest import RayNodes, ray_nodes
from tests.integration.load import Load, Oracle
from tests.waiting import wait_for

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
DIM, SHARDS, BASE = 64, 4, 100
SOON_S = 60.0
ENVIRONMENT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
CONTROL = "control"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=SOON_S, env=environment, cwd=ROOT
    )


class Driver:
    """A process that has the home open."""

    def __init__(self, home: Path, address: str) -> None:
        command = [sys.executable, "-m", "tests.integration.detached_driver", str(home), address]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        assert self._process.stdout is not None
        self.pids: dict[str, int] = json.loads(self._process.stdout.readline())

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait for its end."""
        self._process.send_signal(number)
        self._process.wait(SOON_S)


class Story:
    """The cluster, a process's view of the home that others have open, and load on it."""

    def __init__(self, nodes: RayNodes, home: Path, grid: Cluster, driver: Driver) -> None:
        self.nodes, self.home, self.grid, self.driver = nodes, home, grid, driver
        gallery = grid.gallery("acme/staff", create=True, dim=DIM, shards=SHARDS, replicas=2)
        rows, ids = unit_rows(BASE, DIM, seed=7), tuple(f"base-{i}" for i in range(BASE))
        gallery.enroll(rows, template_ids=ids)
        self.load = Load(grid.router, grid.coordinator.gallery("acme/staff"), Oracle())
        self.load.oracle.add(ids, rows)

    def configs(self) -> list[ShardConfig]:
        """Who holds each shard; nothing while the coordinator is away."""
        with contextlib.suppress(FacegridError):
            return self.grid.coordinator.shard_configs()
        return []

    def is_whole(self) -> bool:
        """Every shard is on two hosts, and nothing is on its way."""
        configs = self.configs()
        return len(configs) == SHARDS and all(len(c.in_sync) == 2 and not c.joining for c in configs)

    def pid(self, host: str) -> int | None:
        """Of a shard host's process, None while there is none."""
        with contextlib.suppress(FacegridError):
            return int(self.actor(host).call("health", group=HEALTH, timeout_s=2.0))
        return None

    def actor(self, host: str) -> Any:
        """Of a shard host."""
        return self.grid.runtime._links[host].actor  # type: ignore[attr-defined]

    def coordinator_pid(self) -> int | None:
        """None while it is away."""
        with contextlib.suppress(FacegridError):
            return int(self.grid.coordinator.actor.call("health", group=HEALTH, timeout_s=2.0))
        return None

    def state(self, host: str) -> str | None:
        """Of a host, as `facegrid cluster status` tells it."""
        with contextlib.suppress(FacegridError):
            return {status.host: status.state for status in self.grid.hosts()}.get(host)
        return None

    def suffer(self, what: str, fault: Callable[[], object], is_over: Callable[[], bool] = lambda: True) -> None:
        """Do something under load, wait until all is well again, and print the longest gaps."""
        began = time.monotonic()
        fault()
        wait_for(lambda: is_over() and self.is_whole(), f"all replicas after: {what}")
        whole = time.monotonic()
        wait_for(lambda: self.load.has_written_since(whole), f"load after: {what}")
        gaps = [self.load.longest_gap(done, began, whole) for done in (self.load.searches, self.load.writes)]
        print(f"{what}: longest gap between searches {gaps[0]:.2f} s, writes {gaps[1]:.2f} s; {whole - began:.1f} s")
        assert not self.load.wrong, self.load.wrong[:3]
        errors = [(text, repr(error)) for _, text, error in self.load.errors]
        assert not errors, errors[:3]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """`a` is the head; the coordinator has a node of its own."""
    with ray_nodes(("a", "b"), ENVIRONMENT) as started:
        started.add(CONTROL, {"facegrid_control": 1})
        yield started


@pytest.fixture
def story(nodes: RayNodes, tmp_path: Path) -> Iterator[Story]:
    """A gallery of two replicas, opened by a driver and under load from a process that joined."""
    home = tmp_path / "home"
    driver = Driver(home, nodes.address)
    settings = load_settings(home=home)
    with open_home(nodes.address) as attachment, Cluster.attach(settings, attachment) as grid:
        told = Story(nodes, home, grid, driver)
        told.load.start()
        try:
            wait_for(lambda: told.load.has_written_since(0.0), "the load to begin")
            yield told
        finally:
            told.load.stop()
            driver.end(signal.SIGKILL)


def test_a_home_outlives_its_driver_its_nodes_and_its_hosts(story: Story) -> None:
    story.suffer("driver killed", lambda: story.driver.end(signal.SIGKILL))
    with pytest.raises(ClusterNotReady, match="run detached on the Ray cluster"):
        Cluster.open(story.home, runtime="ray", ray_address=story.nodes.address)
    driver = Driver(story.home, story.nodes.address)
    try:
        assert driver.pids == story.driver.pids
        commands_join(story)
        a_host_leaves_and_returns_elsewhere(story)
        story.suffer("node added", lambda: story.nodes.add("c"), lambda: holds(story, "c") > 0)
        the_coordinators_node_is_replaced(story)
        a_host_is_drained_and_goes(story)
    finally:
        driver.end(signal.SIGTERM)
    story.suffer("driver ended", lambda: None)
    story.load.stop()
    expected, doubtful = story.load.oracle.alive(), story.load.oracle.doubtful()
    stop_ends_all(story)
    check_content(story.home, expected, doubtful)


def commands_join(story: Story) -> None:
    """The command line works on the home that the driver has open."""
    told = facegrid(story, "cluster", "status")
    assert {host["host"]: host["state"] for host in told["hosts"]} == {"a": "up", "b": "up"}
    refused = run("cluster.cli", *options(story), "cluster", "stop")
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["code"] == "home_locked"


def options(story: Story) -> list[str]:
    return ["--json", "--home", str(story.home), "--runtime", "ray", "--ray-address", story.nodes.address]


def facegrid(story: Story, *words: str) -> Any:
    done = run("cluster.cli", *options(story), *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def a_host_leaves_and_returns_elsewhere(story: Story) -> None:
    """Its primaries are others' before it closes; its node comes back with another address, and the host with it."""
    before = story.pid("b")

    def leave() -> None:
        began = time.monotonic()
        done = run("coordinator.leave", "--address", story.nodes.address, "--host", "b")
        print(f"leave took {time.monotonic() - began:.2f} s: {done.stdout.strip()}")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"host": "b", "missed": SHARDS, "fault": ""}
        assert all((config.primary, config.in_sync) == ("a", ("a",)) for config in story.configs())
        left = time.monotonic()
        wait_for(lambda: story.load.has_written_since(left), "writes without the host that left")
        print(f"first write after the host had left: {story.load.first_write_after(left):.2f} s")
        story.nodes.remove("b")
        story.nodes.add("b", address="127.0.0.2")

    story.suffer("host left and returned", leave, lambda: story.pid("b") not in (None, before))
    assert story.actor("b").call("data_address", group=HEALTH)[0] == "127.0.0.2"


def the_coordinators_node_is_replaced(story: Story) -> None:
    """It starts again with the hosts of its first start; one has come since."""
    before = story.coordinator_pid()

    def replace_node() -> None:
        story.nodes.remove(CONTROL)
        gone = time.monotonic()
        wait_for(lambda: story.load.has_written_since(gone), "load while the coordinator is away")
        story.nodes.add(CONTROL, {"facegrid_control": 1})

    story.suffer("coordinator's node replaced", replace_node, lambda: story.coordinator_pid() not in (None, before))
    assert story.grid.coordinator.hosts() == story.grid.runtime.hosts() == ("a", "b", "c")


def a_host_is_drained_and_goes(story: Story) -> None:
    assert facegrid(story, "cluster", "drain", "c")["left"] == 0
    story.suffer("drained node removed", lambda: story.nodes.remove("c"), lambda: story.state("c") == "gone")
    session = RaySession.join(story.nodes.address, story.grid.coordinator.actor.where.namespace, timeout_s=SOON_S)
    wait_for(lambda: f"{HOST} c" not in titles(session), "the actor of a host that is gone to end")
    story.suffer("node added again", lambda: story.nodes.add("c"), lambda: holds(story, "c") > 0)
    assert story.state("c") == "up"


def holds(story: Story, host: str) -> int:
    return sum(host in config.in_sync for config in story.configs())


def titles(session: RaySession) -> list[str]:
    return [where.title for where in session.detached()]


def stop_ends_all(story: Story) -> None:
    ended = facegrid(story, "cluster", "stop")["ended"]
    assert ended == [COORDINATOR, f"{HOST} a", f"{HOST} b", f"{HOST} c"]
    session = RaySession.join(story.nodes.address, story.grid.coordinator.actor.where.namespace, timeout_s=SOON_S)
    assert titles(session) == []
    assert facegrid(story, "cluster", "stop") == {"ended": []}


def check_content(home: Path, expected: dict[str, bytes], doubtful: set[str]) -> None:
    """What was acknowledged is there, bit for bit, and nothing else but what failed."""
    with Cluster.open(home) as grid:
        gallery = grid.gallery("acme/staff")
        assert len(expected) <= len(gallery) <= len(expected) + len(doubtful)
        probes = np.stack([np.frombuffer(row, np.float32) for row in expected.values()])
        found = gallery.search(probes, k=1, exact=True)
        assert [ids[0] for ids in found.template_ids] == list(expected)
    print(f"{len(expected)} templates at the end")
