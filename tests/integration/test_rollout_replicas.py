"""Rollouts over shards with replicas while hosts are down, come back, join and die; real hosts, one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.messages import ActivateModel, ControlRequest, ModelsReply, ModelsRequest, PrepareModel
from coordinator.replication import ReplicationPolicy
from coordinator.rollout_catalog import Baseline
from coordinator.types import DOWN
from shard.drift import code_statistics
from shard.errors import FacegridError
from shard.model import SearchModel
from shard.training import train
from shard.types import SearchParams
from tests.faces_like import batch_of, unit_rows
from tests.integration.test_replication import DIM, SOON_S, Grid

NAME = "acme/staff"
ROWS = unit_rows(9_000, DIM, seed=1)
STAYS = ReplicationPolicy(dead_s=0.3, away_s=3_600)
"""What a host that is down held is not copied elsewhere."""


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    opened = Grid(tmp_path, policy=STAYS)
    yield opened
    opened.close()


def other_model(seed: int) -> SearchModel:
    return train(unit_rows(1_200, DIM, seed=seed), code_bits=256)


def roll_out(grid: Grid, model: SearchModel) -> None:
    """Without training, which wants every shard to be there."""
    statistics = code_statistics(model, ROWS[:1_200])
    baseline = Baseline(statistics, (0,) * grid.route().shards)
    grid.coordinator._rollouts.start(NAME, model, 1_200, baseline)


def models(grid: Grid) -> dict[tuple[str, int], str | None]:
    """(host, shard) of every replica in sync that is running, and the model that it is searched by."""
    found: dict[tuple[str, int], str | None] = {}
    for config in grid.catalog.shards():
        for host in config.in_sync:
            if host in grid.runtime._hosts:
                reply = grid.runtime.host(host).execute(ModelsRequest(config.gallery_id, (config.shard,)))
                assert isinstance(reply, ModelsReply)
                found[host, config.shard] = reply.model_ids[0]
    return found


def assert_found(grid: Grid, rows: int) -> None:
    """Every answer is of one model, and finds what it was asked for."""
    outcome = grid.router.search(grid.route(), ROWS[:rows:20], SearchParams(k=1))
    assert outcome.coverage.is_complete
    np.testing.assert_allclose(outcome.candidates.scores[:, 0], 1, atol=1e-6)


def tick_until(grid: Grid, condition: Callable[[], bool]) -> None:
    """Look after hosts and models until it is so."""
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        grid.coordinator.replication.tick()
        grid.coordinator.tend_models()


def is_down(grid: Grid, host: str) -> bool:
    return any(record.host == host and record.state == DOWN for record in grid.catalog.hosts())


def test_every_replica_is_prepared_and_switched_and_back(grid: Grid) -> None:
    grid.create(replicas=3)
    grid.enroll(batch_of(ROWS[:1_200]))
    grid.router.flush(grid.route())
    first = grid.coordinator.train(NAME).model_id
    assert set(models(grid).values()) == {first}
    assert len(models(grid)) == 6
    grid.enroll(batch_of(ROWS[1_200:1_600], first=1_200))
    grid.router.flush(grid.route())
    second = grid.coordinator.train(NAME, seed=1).model_id
    assert set(models(grid).values()) == {second} != {first}
    (status,) = grid.coordinator.rollouts()
    assert (status.state, status.replicas, status.prepared, status.activated) == ("done", 6, 6, 6)
    assert_found(grid, 1_600)
    grid.coordinator.roll_back(NAME)
    assert set(models(grid).values()) == {first}
    assert_found(grid, 1_600)
    assert [len(told) for told in grid.digests()] == [1, 1]


def test_a_host_that_is_down_is_not_waited_for_and_gets_the_model_when_it_is_back(grid: Grid) -> None:
    grid.create(replicas=3)
    grid.enroll(batch_of(ROWS[:1_200]))
    grid.coordinator.train(NAME)
    grid.runtime.kill("b")
    tick_until(grid, lambda: is_down(grid, "b"))
    second = grid.coordinator.train(NAME, seed=1).model_id
    assert set(models(grid).values()) == {second}
    assert_found(grid, 1_200)
    grid.runtime.start("b")
    tick_until(grid, grid.is_whole)
    assert {model for (host, _), model in models(grid).items() if host == "b"} == {second}
    assert_found(grid, 1_200)


def test_the_only_replica_of_a_shard_is_brought_along_when_its_host_is_back(grid: Grid) -> None:
    """It counts as in sync all the time; until it is switched its answers are repeated exactly."""
    grid.create(replicas=1, shards=3)
    grid.enroll(batch_of(ROWS[:1_200]))
    first = grid.coordinator.train(NAME).model_id
    away = grid.route().in_sync[0][0]
    grid.runtime.kill(away)
    tick_until(grid, lambda: is_down(grid, away))
    second = other_model(5)
    roll_out(grid, second)
    assert grid.coordinator.rollouts()[0].state == "done"
    assert set(models(grid).values()) == {second.model_id}
    grid.runtime.start(away)
    grid.coordinator.replication.tick()
    assert set(models(grid).values()) == {first, second.model_id}
    assert_found(grid, 1_200)
    tick_until(grid, lambda: set(models(grid).values()) == {second.model_id})
    assert_found(grid, 1_200)


@pytest.mark.parametrize("kind", [PrepareModel, ActivateModel])
def test_a_host_that_dies_in_the_middle_does_not_stop_a_rollout(grid: Grid, kind: type) -> None:
    grid.create(replicas=2)
    grid.enroll(batch_of(ROWS[:1_200]))
    grid.coordinator.train(NAME)
    victim = grid.route().in_sync[0][0]
    real = grid.runtime.control

    def dying(calls: list[tuple[str, ControlRequest]]) -> object:
        if any(host == victim and isinstance(request, kind) for host, request in calls):
            grid.runtime.control = real  # type: ignore[method-assign]
            grid.runtime.kill(victim)
        return real(calls)

    grid.coordinator.watch(0.05)
    grid.runtime.control = dying  # type: ignore[assignment, method-assign]
    second = other_model(6)
    roll_out(grid, second)
    assert grid.coordinator.rollouts()[0].state == "done"
    assert grid.route().model_id == second.model_id
    assert victim not in {host for host, _ in models(grid)}
    assert set(models(grid).values()) == {second.model_id}
    assert_found(grid, 1_200)
    grid.runtime.start(victim)
    wait_until(grid.is_whole)
    assert set(models(grid).values()) == {second.model_id}


def wait_until(condition: Callable[[], bool]) -> None:
    """Until the watch has brought it about."""
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.01)


@pytest.mark.parametrize("moment", range(3))
def test_a_rollout_between_the_steps_of_an_admission_reaches_the_new_replica(grid: Grid, moment: int) -> None:
    """0: before it has rows; 1: when it has them; 2: when the catalog says that it is in sync."""
    grid.create(replicas=2)
    grid.enroll(batch_of(ROWS[:1_200]))
    grid.coordinator.train(NAME)
    away = grid.route().in_sync[0][1]
    grid.runtime.kill(away)
    tick_until(grid, lambda: is_down(grid, away))
    grid.enroll(batch_of(ROWS[1_200:1_600], first=1_200))
    second = other_model(7)
    real, calls = grid.coordinator.replication._bring, [0]

    def bring(gallery_id: str, shard: int, host: str) -> None:
        real(gallery_id, shard, host)
        if (shard, host) == (0, away):
            calls[0] += 1
            if calls[0] == moment + 1:
                roll_out(grid, second)

    grid.coordinator.replication._bring = bring
    grid.runtime.start(away)
    tick_until(
        grid, lambda: calls[0] >= 3 and grid.is_whole() and grid.coordinator.rollouts()[0].model_id == second.model_id
    )
    tick_until(grid, lambda: grid.coordinator.rollouts()[0].state == "done")
    assert set(models(grid).values()) == {second.model_id}
    assert_found(grid, 1_600)


def test_models_come_and_go_while_hosts_do_and_templates_are_deleted(tmp_path: Path) -> None:
    """In the end every replica has one model and the same rows, and each template is found with its true score."""
    grid = Grid(tmp_path, policy=STAYS)
    route = grid.create(replicas=2, shards=2)
    grid.enroll(batch_of(ROWS[:1_000]))
    stop, failures = threading.Event(), []
    kept = set(range(1_000))

    def write() -> None:
        try:
            for first in range(1_000, len(ROWS), 10):
                if stop.is_set():
                    return
                grid.router.enroll(
                    route, batch_of(ROWS[first : first + 10], first=first), skip_existing=False, new_ids=True
                )
                kept.update(range(first, first + 10))
                grid.router.delete(route, template_ids=(f"t{first}",), identities=())
                kept.remove(first)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    candidates = [other_model(seed) for seed in (8, 9)]
    for turn, victim in enumerate(("a", "b", "c")):
        before = len(kept)
        tick_until(grid, lambda: len(kept) > before + 30)  # noqa: B023
        grid.runtime.kill(victim)
        tick_until(grid, lambda: all(victim not in config.in_sync for config in grid.catalog.shards()))  # noqa: B023
        roll_out(grid, candidates[turn % 2])
        grid.runtime.start(victim)
        tick_until(grid, grid.is_whole)
        if turn == 1:
            grid.coordinator.roll_back(NAME)
    stop.set()
    writer.join()
    assert not failures
    with_model = grid.route().model_id
    tick_until(grid, lambda: set(models(grid).values()) == {with_model})
    assert [len(told) for told in grid.digests()] == [1, 1]
    wanted = sorted(kept)[::15]
    found = grid.router.search(grid.route(), ROWS[wanted], SearchParams(k=1)).candidates
    assert [ids[0] for ids in found.template_ids] == [f"t{i}" for i in wanted]
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)
    grid.close()


def test_a_replica_in_sync_that_cannot_prepare_leaves_the_gallery_as_it_was(grid: Grid) -> None:
    """Its host is there, so it is no reason to go on without it."""
    grid.create(replicas=2)
    grid.enroll(batch_of(ROWS[:1_200]))
    grid.router.flush(grid.route())
    first = grid.coordinator.train(NAME).model_id
    shard = grid.runtime.host(grid.route().in_sync[1][1]).replica(grid.route().gallery_id, 1).shard
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "prepare", _full)
        with pytest.raises(FacegridError, match="no space left"):
            grid.coordinator.train(NAME, seed=1)
    assert grid.coordinator.rollouts()[0].state == "rolled_back"
    assert set(models(grid).values()) == {first}
    assert_found(grid, 1_200)


def _full(_model: SearchModel) -> int:
    raise FacegridError("no space left on device")
