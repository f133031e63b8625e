"""A detached home one of whose hosts is lost with the only copies of some shards: everybody else goes on. On Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Cluster
from coordinator.actors import HEALTH
from coordinator.ray_stop import stop_home
from shard.errors import FacegridError, IncompleteCoverage
from tests.faces_like import unit_rows
from tests.integration.conftest import RayNodes, ray_nodes
from tests.waiting import wait_for

pytestmark = pytest.mark.ray

ROWS = unit_rows(40, 64, seed=1)
ENVIRONMENT = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(("a", "b"), ENVIRONMENT) as started:
        yield started


def opened(nodes: RayNodes, home: Path, **settings: Any) -> Cluster:
    return Cluster.open(home, runtime="ray", ray_address=nodes.address, ray_detached=True, **settings)


def test_the_control_plane_starts_without_a_lost_host(
    nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.ray_cluster.PATIENCE_S", 5.0)
    monkeypatch.setattr("coordinator.writes.WRITE_DEADLINE_MS", 2_000)
    home, store = tmp_path / "home", tmp_path / "store"
    with opened(nodes, home) as grid:
        for name, replicas in (("one/alone", 1), ("two/both", 2)):
            grid.gallery(name, create=True, dim=64, shards=2, replicas=replicas).enroll(ROWS)
        assert {shard.primary for shard in grid.replicas() if shard.gallery == "one/alone"} == {"a", "b"}
        snapshot = grid.snapshots(store).create("one/alone", progress=False).manifest.snapshot_id
    nodes.remove("b")
    with opened(nodes, home, audit_days=7) as grid:  # other settings: another coordinator
        check_incomplete(grid)
        kill_coordinator(grid)
        wait_for(lambda: is_down(grid, "b"), "the coordinator to be there again")
        check_incomplete(grid)
        home_id = grid.home.home_id
    stop_home(nodes.address, home_id, close_s=5.0)
    with opened(nodes, home) as grid:  # not even an actor of the lost host is there
        wait_for(lambda: is_down(grid, "b"), "the host to count as lost")
        check_incomplete(grid)
        grid.drop("one/alone")
        assert grid.snapshots(store).restore(snapshot, progress=False).templates == len(ROWS)
        assert grid.gallery("one/alone").search(ROWS, k=1).coverage.is_complete
        nodes.add("b")
        wait_for(lambda: all(len(shard.in_sync) == shard.wanted for shard in grid.replicas()), "all replicas")
    stop_home(nodes.address, home_id)


def is_down(grid: Cluster, host: str) -> bool:
    """Whether the coordinator says so."""
    try:
        return {status.host: status.state for status in grid.hosts()}.get(host) == "down"
    except FacegridError:
        return False


def kill_coordinator(grid: Cluster) -> None:
    """Ray starts it again."""
    actor = grid.coordinator.actor  # type: ignore[union-attr]
    before = actor.call("health", group=HEALTH)
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return bool(actor.call("health", group=HEALTH, timeout_s=2.0) != before)
        except FacegridError:
            return False

    wait_for(is_back, "another process of the coordinator")


def check_incomplete(grid: Cluster) -> None:
    """One gallery lacks a shard and says so; another does not."""
    assert grid.gallery("two/both").search(ROWS, k=1).coverage.is_complete
    alone = grid.gallery("one/alone")
    found = alone.search(ROWS, k=1, allow_partial=True)
    assert (found.coverage.answered, found.coverage.asked) == (1, 2)
    with pytest.raises(IncompleteCoverage, match="1 of 2 shards answered for one/alone"):
        alone.search(ROWS, k=1)
    with pytest.raises(FacegridError) as refused:
        alone.enroll(unit_rows(40, 64, seed=2))
    assert refused.value.code in ("host_unavailable", "enroll_incomplete")
