"""Hosts that hand over what they lead, and leave in order: no entry diverges, nobody waits, and they are taken back."""

from __future__ import annotations

import threading
import time

from coordinator.types import DRAINING, GONE
from tests.faces_like import batch_of, unit_rows
from tests.integration.test_replication import DIM, Grid
from tests.integration.test_replication import grid as grid  # a fixture


def test_primaries_are_handed_over_while_writers_write(grid: Grid) -> None:
    route = grid.create(replicas=3)
    host, stopped, written = route.in_sync[0][0], threading.Event(), [0]

    def write() -> None:
        while not stopped.is_set():
            written[0] += grid.enroll(batch_of(unit_rows(2, DIM, seed=written[0]), prefix=f"w{written[0]}-"))

    writer = threading.Thread(target=write)
    writer.start()
    led = sum(hosts[0] == host for hosts in route.in_sync)
    assert grid.coordinator.hand_over(host) == led
    stopped.set()
    writer.join()
    now = grid.route().in_sync
    assert all(hosts[0] != host and host in hosts for hosts in now)
    grid.enroll(batch_of(unit_rows(2, DIM, seed=999), prefix="last"))
    assert len(grid.ids()) == written[0] + 2
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert grid.coordinator.hand_over(host) == 0


def test_a_host_that_leaves_is_missed_by_nobody_and_given_nothing(grid: Grid) -> None:
    route = grid.create(replicas=3)
    host = route.in_sync[0][0]
    grid.enroll(batch_of(unit_rows(50, DIM, seed=1), prefix="a"))
    assert grid.coordinator.leave(host) == len(route.in_sync)
    assert all(host not in hosts for hosts in grid.route().in_sync)
    began = time.monotonic()
    grid.enroll(batch_of(unit_rows(50, DIM, seed=2), prefix="b"))
    print(f"a write after a host has left took {time.monotonic() - began:.3f} s")
    grid.coordinator.replication.tick()
    assert all(host not in (*config.in_sync, *config.joining) for config in grid.catalog.shards())
    grid.coordinator.replication._leaving.clear()  # as when its time is over, or it has started again
    grid.tick_until(grid.is_whole)
    assert all(host in hosts for hosts in grid.route().in_sync)
    assert [len(told) for told in grid.digests()] == [1, 1]


def test_a_host_that_was_drained_and_ends_is_gone(grid: Grid) -> None:
    grid.create()
    host = grid.route().in_sync[0][0]
    grid.coordinator.drain(host)
    grid.tick_until(lambda: grid.coordinator.replicas_left(host) == 0)
    assert state(grid, host) == DRAINING
    grid.runtime.kill(host)
    grid.tick_until(lambda: state(grid, host) == GONE)


def state(grid: Grid, host: str) -> str:
    return {record.host: record.state for record in grid.catalog.hosts()}[host]
