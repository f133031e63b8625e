"""Renaming identities while hosts die and while the coordinator is closed: nothing is lost or there twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator import identities
from coordinator.messages import EnrollRequest, MoveOutRequest
from coordinator.placement import shards_of
from shard.errors import ShardClosed
from shard.types import EnrollBatch, SearchParams
from tests.faces_like import unit_rows
from tests.integration.test_replication import DIM, Grid

SHARDS, ROWS = 2, 40
OLD = "ann"
NEW = next(
    name
    for name in (f"name-{i}" for i in range(50))
    if int(shards_of((name,), ("",), SHARDS)[0]) != int(shards_of((OLD,), ("",), SHARDS)[0])
)
FROM, TO = (int(shards_of((name,), ("",), SHARDS)[0]) for name in (OLD, NEW))


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grid]:
    monkeypatch.setattr(identities, "PAGE_ROWS", 12)
    opened = Grid(tmp_path)
    opened.create(replicas=3, shards=SHARDS)
    batch = EnrollBatch(
        unit_rows(ROWS, DIM, seed=1), tuple(f"t{i}" for i in range(ROWS)), (OLD,) * 30 + (None,) * 10, (None,) * ROWS
    )
    opened.enroll(batch)
    yield opened
    opened.close()


def assert_renamed(grid: Grid) -> None:
    route, probe = grid.route(), unit_rows(1, DIM, seed=2)
    everything = grid.router.search(route, probe, SearchParams(k=200, exact=True)).candidates.template_ids[0]
    assert sorted(everything) == sorted(f"t{i}" for i in range(ROWS))
    named = grid.router.search(route, probe, SearchParams(k=200, exact=True, identities=(NEW,))).candidates
    assert sorted(named.template_ids[0]) == sorted(f"t{i}" for i in range(30))
    assert [(e.identity, e.templates) for e in grid.router.identities(route, start="", limit=9)] == [(NEW, 30)]
    assert sum(stats.templates for stats in grid.router.stats(route)) == ROWS


@pytest.mark.parametrize("shard", [FROM, TO], ids=["from", "to"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_primary_dies_on_the_way(grid: Grid, shard: int, step: int) -> None:
    """At each of the first steps: what was asked then may have been done or not."""
    steps: list[Any] = []
    victim = grid.route().hosts[shard]

    def on_send(start: str, host: str, request: Any) -> None:
        if isinstance(request, (MoveOutRequest, EnrollRequest)):
            steps.append(request)
            if len(steps) == step:
                grid.runtime.kill(victim)

    grid.runtime.on_send = on_send
    assert 0 < grid.coordinator.identities.rename("acme/staff", OLD, NEW) <= 30
    assert len(steps) > step
    grid.tick_until(lambda: victim not in {h for hosts in grid.route().in_sync for h in hosts})
    assert_renamed(grid)
    grid.runtime.start(victim)
    grid.tick_until(grid.is_whole)
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert_renamed(grid)


def test_a_coordinator_that_is_closed_goes_on_when_it_is_back(grid: Grid) -> None:
    changes = grid.coordinator.identities
    pages: list[Any] = []

    def on_send(start: str, host: str, request: Any) -> None:
        if isinstance(request, EnrollRequest):
            pages.append(request)
            if len(pages) == 2:
                changes._closing.set()

    grid.runtime.on_send = on_send
    with pytest.raises(ShardClosed):
        changes.rename("acme/staff", OLD, NEW)
    grid.runtime.on_send = lambda start, host, request: None
    # The old shard lets the identity go: what is there can be deleted meanwhile.
    assert grid.router.delete(grid.route(), template_ids=("t29",), identities=()) == 1
    grid.coordinator.close()
    grid.open()
    grid.coordinator.identities.wait()
    grid.enroll(EnrollBatch(unit_rows(ROWS, DIM, seed=1)[29:30], ("t29",), (NEW,), (None,)))
    assert_renamed(grid)
    assert [len(told) for told in grid.digests()] == [1, 1]
