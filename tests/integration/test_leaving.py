"""Hosts that hand over what they lead, and leave in order: no entry diverges, nobody waits, and they are taken back.

Above all nothing that was deleted is found on one that left, whatever is slow and whoever dies half way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.messages import ConfigureShards, ControlRequest, ListReply, ListRequest, Reply, YieldReply, YieldShards
from coordinator.replica import Replica
from coordinator.replication import TELL_S, YIELD_S, ReplicationPolicy
from coordinator.types import DRAINING, GONE, ShardConfig
from shard.errors import HostUnavailable, StaleRoute
from tests.breakable_runtime import OUTSIDE
from tests.faces_like import batch_of, unit_rows
from tests.integration.test_replication import DIM, Grid
from tests.integration.test_replication import grid as grid  # a fixture

AT_ONCE_S = 2.0
"""More than a loaded machine takes for a write; less than leases last, for which it waits where a host was killed."""
SHORT_LEASE_S = 1.5
BEGINS_ANEW = "begins anew"
"""What a primary logs of a replica that has entries which no one else has: all that it held is copied."""


@pytest.fixture
def calm(tmp_path: Path) -> Iterator[Grid]:
    """Nobody is taken for dead."""
    opened = Grid(tmp_path, policy=ReplicationPolicy(dead_s=60, away_s=60))
    yield opened
    opened.close()


def test_primaries_are_handed_over_while_writers_write(grid: Grid, caplog: pytest.LogCaptureFixture) -> None:
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
    assert BEGINS_ANEW not in caplog.text
    assert grid.coordinator.hand_over(host) == 0


def test_a_primary_that_hands_over_begins_no_write_until_it_is_told_or_time_is_up(grid: Grid) -> None:
    route = grid.create(shards=1, replicas=3)
    host = route.in_sync[0][0]
    replica = grid.runtime.host(host).replica(route.gallery_id, 0)

    def yields(for_s: float) -> tuple[int, ...]:
        (reply,) = grid.runtime.control([(host, YieldShards((route.gallery_id,), (0,), route.epochs, for_s))])
        assert isinstance(reply, YieldReply)
        return reply.lsns

    grid.enroll(batch_of(unit_rows(3, DIM, seed=1), prefix="a"))
    assert yields(60.0) == (replica.lazy.lsn,)
    with pytest.raises(StaleRoute, match="handed over"):
        replica.write(0, lambda shard: shard.flush())
    assert yields(0.0) == (-1,)
    replica.write(0, lambda shard: shard.flush())
    assert yields(0.5) == (replica.lazy.lsn,)
    assert grid.enroll(batch_of(unit_rows(3, DIM, seed=2), prefix="b")) == 3  # whoever decided has died
    assert grid.route() == route


def test_a_shard_whose_writes_take_long_keeps_no_other_from_changing_hands_in_time(
    calm: Grid, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = calm.create(replicas=3, shards=9)
    host, stopped = route.in_sync[0][0], threading.Event()
    led = [config for config in calm.catalog.shards() if config.primary == host]
    busy = calm.runtime.host(host).replica(route.gallery_id, led[0].shard)
    inside, may_end = threading.Event(), threading.Event()

    def compact(_: object) -> None:
        inside.set()
        may_end.wait(60)

    def write(number: int) -> None:
        for turn in range(1_000):
            if stopped.is_set():
                return
            calm.enroll(batch_of(unit_rows(8, DIM, seed=turn), prefix=f"w{number}-{turn}-"))

    compacting = threading.Thread(target=lambda: busy.write(0, compact))
    compacting.start()
    assert inside.wait(10)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    decided = _decided(calm, monkeypatch, lambda config: _write(calm, host, config))
    for writer in writers:
        writer.start()
    moved = calm.coordinator.hand_over(host)
    may_end.set()
    stopped.set()
    for thread in (compacting, *writers):
        thread.join()
    assert (moved, len(decided)) == (len(led) - 1, len(led) - 1)
    assert all("handed over" in outcome for outcome in decided), "a shard changes hands that writes"
    assert calm.route().in_sync[led[0].shard][0] == host
    calm.tick_until(calm.is_whole)
    calm.router.settle(calm.route())
    assert [len(told) for told in calm.digests()] == [1] * 9
    assert BEGINS_ANEW not in caplog.text


def test_what_cannot_be_handed_over_in_time_is_not_and_writes_at_once(
    calm: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = calm.create(replicas=3, shards=6)
    host = route.in_sync[0][0]
    calm.runtime.cut |= {(OUTSIDE, other) for other in calm.runtime.hosts() if other != host}
    assert calm.coordinator.hand_over(host) == 0  # those that could follow do not say so
    replica = calm.runtime.host(host).replica(route.gallery_id, 0)
    replica.write(0, lambda shard: shard.flush())
    calm.runtime.heal()
    led = sum(hosts[0] == host for hosts in route.in_sync)
    decided = _decided(calm, monkeypatch, lambda _: str(threading.Event().wait(YIELD_S - TELL_S)))
    assert led > 1
    assert calm.coordinator.hand_over(host) == len(decided) == 1  # the catalog takes its time


def test_a_host_that_leaves_is_missed_by_nobody_and_given_nothing(grid: Grid, caplog: pytest.LogCaptureFixture) -> None:
    route = grid.create(replicas=3)
    host = route.in_sync[0][0]
    grid.enroll(batch_of(unit_rows(50, DIM, seed=1), prefix="a"))
    assert all(_ids(grid, host, config) for config in grid.catalog.shards())
    assert grid.coordinator.leave(host) == len(route.in_sync)
    assert all(host not in hosts for hosts in grid.route().in_sync)
    for shard, epoch in enumerate(route.epochs):
        for asked in range(epoch + 4):  # 0 is any
            with pytest.raises(StaleRoute):
                grid.runtime.host(host).replica(route.gallery_id, shard).check_read(asked)
    began = time.monotonic()
    grid.enroll(batch_of(unit_rows(50, DIM, seed=2), prefix="b"))
    took_s = time.monotonic() - began
    print(f"a write after a host has left took {took_s:.3f} s")
    assert took_s < AT_ONCE_S
    grid.coordinator.replication.tick()
    assert all(host not in (*config.in_sync, *config.joining) for config in grid.catalog.shards())
    grid.coordinator.replication._leaving.clear()  # as when its time is over, or it has started again
    grid.tick_until(grid.is_whole)
    assert all(host in hosts for hosts in grid.route().in_sync)
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert BEGINS_ANEW not in caplog.text


def test_a_host_that_has_left_stays_silent_though_it_starts_again_and_hears_the_past(grid: Grid) -> None:
    route = grid.create(shards=1)
    primary, host = route.in_sync[0]
    before = grid.catalog.shard(route.gallery_id, 0)
    assert grid.coordinator.leave(host) == 1
    past = ConfigureShards((before,), (1,))
    for _ in range(2):
        grid.runtime.control([(host, past)])  # of a coordinator that was stopped on its way
        with pytest.raises(StaleRoute, match=r"is not in sync|has no configuration yet"):
            grid.runtime.host(host).replica(route.gallery_id, 0).check_read(0)
        grid.runtime.kill(host)
        grid.runtime.start(host)
    assert grid.route().in_sync[0] == (primary,)


def test_nobody_waits_for_a_host_once_it_knows_and_a_later_primary_waits_for_it_until_then(grid: Grid) -> None:
    route = grid.create(shards=1, replicas=3)
    primary, backup, host = route.in_sync[0]
    config = grid.catalog.shard(route.gallery_id, 0)
    grid.tick_until(lambda: _may_read(grid, host, config))

    def told(name: str, known: ShardConfig, released: tuple[str, ...] = ()) -> Replica:
        replica = grid.runtime.host(name).replica(route.gallery_id, 0)
        replica.configure(known, 1, released)
        return replica

    without = replace(config, epoch=config.epoch + 1, in_sync=(primary, backup))
    led = told(primary, without)
    told(backup, without)
    with pytest.raises(StaleRoute, match="may answer reads for another"):
        led.check_write(0)
    told(primary, config, (host,))  # an earlier epoch says nothing of this one
    with pytest.raises(StaleRoute, match="may answer reads for another"):
        led.check_write(0)
    told(primary, without, (host,))
    led.check_write(0)
    # The backup has not heard that the host knows; its primary is lost, and was heard of long ago.
    follower = told(backup, replace(without, epoch=without.epoch + 1, primary=backup, in_sync=(backup,)), (primary,))
    with pytest.raises(StaleRoute, match="may answer reads for another"):
        follower.check_write(0)


@pytest.mark.parametrize("slow", ["the catalog", "the primary", "the host that leaves", "nobody hears it"])
def test_a_deleted_template_is_not_returned_by_a_host_that_leaves_slowly(
    calm: Grid, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    scene = _Scene.of(calm, monkeypatch)
    wait_s, has_decided = threading.Event().wait, threading.Event()
    catalog_s = SHORT_LEASE_S if slow == "the catalog" else 0.0
    _decided(calm, monkeypatch, lambda _: str(wait_s(catalog_s)), after=has_decided.set)
    if slow == "nobody hears it":
        scene.on_control = lambda host, _: scene.fail() if host == scene.host else None
    elif slow != "the catalog":
        who = scene.host if slow == "the host that leaves" else scene.primary
        scene.on_control = lambda host, _: wait_s(SHORT_LEASE_S) if host == who else None
    with scene.watched() as watch:
        leaving = threading.Thread(target=calm.coordinator.leave, args=(scene.host,))
        leaving.start()
        assert has_decided.wait(10)
        watch.delete_all()
        leaving.join()
    assert calm.ids() == set()


@pytest.mark.parametrize(
    "dies", ["before it decides", "once it has decided", "before it tells the host", "before its last word"]
)
def test_a_deleted_template_is_not_returned_though_the_coordinator_dies_half_way(
    calm: Grid, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    scene = _Scene.of(calm, monkeypatch)
    asked: Callable[[str, ControlRequest], bool] = {
        "before it tells the host": lambda host, _: host == scene.host,
        "before its last word": lambda _, request: isinstance(request, ConfigureShards) and bool(request.released),
    }.get(dies, lambda host, _: False)
    scene.on_control = lambda host, request: scene.die() if asked(host, request) else None
    if dies == "before it decides":
        _decided(calm, monkeypatch, lambda _: str(scene.die()))
    elif dies == "once it has decided":
        _decided(calm, monkeypatch, lambda _: "", after=scene.die)
    with scene.watched() as watch:
        with pytest.raises(_Died):
            calm.coordinator.leave(scene.host)
        scene.on_control = lambda host, request: None
        calm.coordinator.close()
        calm.open()
        watch.delete_all()
    calm.coordinator.replication.tick()
    calm.tick_until(calm.is_whole)
    assert calm.ids() == set()
    assert [len(told) for told in calm.digests()] == [1]


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


class _Died(Exception):
    """The coordinator's process is no more."""


class _Scene:
    """A shard on two hosts with leases of SHORT_LEASE_S, of which the backup is to leave."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        route = grid.create(shards=1)
        self.primary, self.host = route.in_sync[0]
        self.key = (route.gallery_id, 0)
        self.on_control: Callable[[str, ControlRequest], object] = lambda host, request: None
        self._has_died = False

    @classmethod
    def of(cls, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> _Scene:
        monkeypatch.setattr("coordinator.peers.LEASE_S", SHORT_LEASE_S)
        monkeypatch.setattr("coordinator.peers.BEACON_S", 0.1)
        scene, inner = cls(grid), grid.runtime.control

        def control(calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
            for host, request in calls:
                scene.on_control(host, request)
            return inner(calls)

        grid.runtime.control = control  # type: ignore[method-assign]
        return scene

    def fail(self) -> None:
        raise HostUnavailable("it is cut off from the coordinator")

    def die(self) -> None:
        """The process ends here: nothing that it has still under way reaches anybody."""
        self.on_control = lambda host, request: self.die()
        raise _Died

    def watched(self) -> _Watch:
        config = self.grid.catalog.shard(*self.key)
        self.grid.tick_until(lambda: _may_read(self.grid, self.host, config))
        return _Watch(self.grid, self.host, config)


class _Watch:
    """Reads of a host under the configuration of the beginning, one after another, while all that it has is deleted.

    A read that begins after a deletion was acknowledged must not find what was deleted.
    """

    def __init__(self, grid: Grid, host: str, config: ShardConfig) -> None:
        self._grid, self._host, self._config = grid, host, config
        self._ids = tuple(f"a{i}" for i in range(20))
        grid.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="a"))
        assert _ids(grid, host, config) == set(self._ids)
        self._deleted_at: float | None = None
        self._reads: list[tuple[float, set[str]]] = []
        self._has_found, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> _Watch:
        self._thread.start()
        assert self._has_found.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        # What the host was granted until now has run out after that.
        self._stopped.wait(1.2 * SHORT_LEASE_S)
        self._stopped.set()
        self._thread.join()
        assert self._deleted_at is not None
        late_s = [began - self._deleted_at for began, found in self._reads if found and began > self._deleted_at]
        assert not late_s, f"deleted templates were returned for {max(late_s):.2f} s"

    def delete_all(self) -> None:
        self._grid.router.delete(self._grid.route(), template_ids=self._ids, identities=())
        self._deleted_at = time.monotonic()

    def _read(self) -> None:
        while not self._stopped.wait(0.01):
            began = time.monotonic()
            try:
                self._reads.append((began, _ids(self._grid, self._host, self._config)))
            except StaleRoute:
                continue
            self._has_found.set()


def _ids(grid: Grid, host: str, config: ShardConfig) -> set[str]:
    request = ListRequest(config.gallery_id, (config.shard,), "", 1_000, None, (config.epoch,))
    reply = grid.runtime.host(host).execute(request)
    assert isinstance(reply, ListReply)
    return set(reply.template_ids)


def _may_read(grid: Grid, host: str, config: ShardConfig) -> bool:
    try:
        grid.runtime.host(host).replica(config.gallery_id, config.shard).check_read(config.epoch)
    except StaleRoute:
        return False
    return True


def _write(grid: Grid, host: str, config: ShardConfig) -> str:
    """What becomes of a write to a shard at a host under the epoch before a configuration."""
    try:
        grid.runtime.host(host).replica(config.gallery_id, config.shard).write(config.epoch, lambda shard: None)
    except StaleRoute as error:
        return str(error)
    return "written"


def _decided(
    grid: Grid,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[ShardConfig], str],
    after: Callable[[], None] = lambda: None,
) -> list[str]:
    """What `before` says of each configuration that the catalog is given from now on."""
    outcomes: list[str] = []
    inner = grid.catalog.reconfigure

    def reconfigure(config: ShardConfig) -> ShardConfig:
        outcomes.append(before(config))
        decided = inner(config)
        after()
        return decided

    monkeypatch.setattr(grid.catalog, "reconfigure", reconfigure)
    return outcomes
