"""Shard hosts in network namespaces of their own, cut off from each other, from the coordinator, from all, under load.

FACEGRID_TORTURE=n makes it n/10 random partitions instead of one (`make torture`); FACEGRID_CRASH_SEED is their seed.
Needs root and iproute2. Times that are asserted are generous, since the machine may be slow; what was measured is
printed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.directories import shard_directory
from coordinator.messages import (
    ControlRequest,
    DataRequest,
    DeleteRequest,
    DigestReply,
    DigestRequest,
    EnrollRequest,
    Reply,
    SearchReply,
    SearchRequest,
)
from coordinator.peers import LEASE_S
from coordinator.placement import shards_of
from coordinator.replication import ReplicationPolicy
from coordinator.router import Router
from coordinator.types import GallerySpec, ShardConfig
from shard.errors import HostUnavailable, NotReplicated, StaleRoute
from shard.shard import Shard
from shard.types import EnrollReceipt, SearchParams
from tests.faces_like import batch_of, unit_rows
from tests.integration.load import Load, Oracle
from tests.integration.netns import WORLD, Net, open_net
from tests.integration.piped import Piped, Send

HOSTS = ("a", "b", "c")
DIM, SHARDS, REPLICAS, BASE = 64, 4, 2, 400
POLICY = ReplicationPolicy(dead_s=2.0, away_s=3_600)
SECRET = b"0123456789abcdef0123456789abcdef"
ROUNDS = max(1, int(os.environ.get("FACEGRID_TORTURE", "10")) // 10)
SEED = int(os.environ.get("FACEGRID_CRASH_SEED", "1"))
SOON_S = 60.0
FENCE_S = LEASE_S + 5.0
"""A host that is cut off answers no read that begins later than this after the cut: its lease, and a slow machine."""
WHOLE_LIST = SearchParams(k=1_000, exact=True)


class NetRuntime:
    """Implements `coordinator.runtime.Runtime`; remembers every write that a host acknowledged."""

    def __init__(self, net: Net, directory: Path) -> None:
        self._net = net
        self._loop = ClientLoop(use_uvloop=True)
        self.pipes = {name: Piped(net, name, name, str(directory / name), SECRET) for name in HOSTS}
        self._addresses = {name: (net.address(name), pipe.begin()) for name, pipe in self.pipes.items()}
        self._clients = {
            name: DataClient(name, address, SECRET, self._loop) for name, address in self._addresses.items()
        }
        self.acknowledged: list[tuple[int, int, str, int, bytes]] = []
        """Shard, epoch, host, LSN (-1 of a deletion) and operation of every one."""

    def hosts(self) -> tuple[str, ...]:
        return HOSTS

    def addresses(self) -> dict[str, tuple[str, int]]:
        return self._addresses

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        future = self._clients[host].submit(request, deadline)
        if isinstance(request, EnrollRequest | DeleteRequest):
            future.add_done_callback(lambda done: self._note(host, request, done))
        return future

    def _note(self, host: str, request: EnrollRequest | DeleteRequest, done: Future[Reply]) -> None:
        if done.exception() is not None:
            return
        reply = done.result()
        if isinstance(request, DeleteRequest):
            for shard, epoch in zip(request.shards, request.epochs, strict=True):
                self.acknowledged.append((shard, epoch, host, -1, request.operation))
        elif isinstance(reply, EnrollReceipt):
            self.acknowledged.append((request.shard, request.epoch, host, reply.lsn, request.operation))

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        for host, _ in calls:
            if not (self._net.reaches(WORLD, host) and self._net.reaches(host, WORLD)):
                raise HostUnavailable(f"{host} is cut off from the coordinator")
        return [asked.result().unwrap() for asked in [self.pipes[host].ask(request) for host, request in calls]]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._loop.close()
        for pipe in self.pipes.values():
            pipe.close()


class Grid:
    """Hosts, coordinator, router, a gallery and its oracle."""

    def __init__(self, net: Net, directory: Path, undo: contextlib.ExitStack) -> None:
        self.net, self.directory = net, directory
        self.runtime = NetRuntime(net, directory)
        undo.callback(self.runtime.close)
        self.insiders = {name: Piped(net, name, "insider", "", SECRET) for name in HOSTS}
        """A client in each host's namespace: what it asks of that host passes no wire."""
        for pipe in self.insiders.values():
            undo.callback(pipe.close)
            pipe.begin()
        self.coordinator = Coordinator(Catalog(directory / "catalog.db"), self.runtime, POLICY)
        undo.callback(self.coordinator.close)
        self.coordinator.watch(0.5)
        self.router = Router(self.runtime, self.coordinator.gallery, self.coordinator.report)
        self.route = self.coordinator.create_gallery(GallerySpec("acme/staff", DIM, SHARDS, 256, None, REPLICAS))
        self.oracle = Oracle()
        batch = batch_of(unit_rows(BASE, DIM, seed=7), prefix="base-")
        assert self.router.enroll(self.route, batch, skip_existing=False, new_ids=True).enrolled == BASE
        self.oracle.add(batch.template_ids, batch.embeddings)

    @contextlib.contextmanager
    def under_load(self) -> Iterator[Load]:
        """Write and search meanwhile; then heal, wait until all is whole, and compare everything with the oracle."""
        load = Load(self.router, self.route, self.oracle, first_id=next(_LOADS))
        load.start()
        try:
            self.wait(lambda: load.has_written_since(0.0), "the load to begin")
            yield load
            self.heal(load)
        finally:
            self.net.heal()
            load.stop()
        self.wait(self.all_answer, "every replica to answer reads")
        assert not load.wrong, load.wrong[:3]
        assert not load.errors, [(what, repr(error)) for _, what, error in load.errors[:3]]
        self.check()
        # Half of it stays; a list can hold only so many.
        written = tuple(sorted(name for name in self.oracle.alive() if name.startswith("w")))[::2]
        with self.oracle.changing(written, None):
            assert self.router.delete(self.route, template_ids=written, identities=()) == len(written)

    def heal(self, load: Load) -> None:
        """Connect all again, and wait until every shard has its replicas and the load goes on."""
        began = time.monotonic()
        self.net.heal()
        self.wait(self.is_whole, "all replicas to be in sync again")
        whole = time.monotonic()
        self.wait(self.all_answer, "every replica to answer reads again")
        answered = time.monotonic()
        self.wait(lambda: load.has_written_since(answered), "the load to go on")
        print(
            f"healed: every shard on {REPLICAS} hosts after {whole - began:.2f} s,"
            f" each of them answers reads after {answered - began:.2f} s"
        )

    def wait(self, condition: Callable[[], bool], what: str) -> float:
        """Wait for something; seconds it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + SOON_S, f"not within {SOON_S:g} s: {what}"
            time.sleep(0.02)
        return time.monotonic() - began

    def configs(self) -> list[ShardConfig]:
        return self.coordinator.shard_configs()

    def config(self, shard: int) -> ShardConfig:
        return self.configs()[shard]

    def is_whole(self) -> bool:
        return all(len(c.in_sync) == REPLICAS and not c.joining for c in self.configs())

    def all_answer(self) -> bool:
        """Every replica in sync hears the others, and so answers."""
        try:
            for config in self.configs():
                for host in config.in_sync:
                    self.list_inside(host, config)
        except StaleRoute:
            return False
        return True

    def leads_nothing(self, host: str) -> bool:
        return all(config.primary != host for config in self.configs())

    def inside(self, host: str, request: DataRequest) -> Reply:
        """What a host answers to somebody in its own namespace."""
        address = self.runtime.addresses()[host]
        reply: Reply = self.insiders[host].ask(Send(host, address, request, 10.0)).result(SOON_S).unwrap()
        return reply

    def list_inside(self, host: str, config: ShardConfig) -> set[str]:
        """Template ids of a shard that a host answers an insider with, who knows this configuration."""
        probe = unit_rows(1, DIM, seed=0)
        reply = self.inside(host, SearchRequest(config.gallery_id, (config.shard,), probe, WHOLE_LIST, (config.epoch,)))
        assert isinstance(reply, SearchReply)
        return set(reply.candidates.template_ids[0])

    def enroll_inside(self, host: str, config: ShardConfig, prefix: str) -> Reply:
        """What an insider is told who writes a template to a shard at a host."""
        batch = batch_of(unit_rows(1, DIM, seed=1), prefix=prefix)
        request = EnrollRequest(
            config.gallery_id, config.shard, config.epoch, os.urandom(16), batch, skip_existing=False
        )
        return self.inside(host, request)

    def check(self) -> None:
        """Replicas are alike and have what was acknowledged; no two hosts ever confirmed writes of one epoch."""
        configs = self.configs()
        alive = self.oracle.alive()
        shards = dict(zip(alive, shards_of([None] * len(alive), tuple(alive), SHARDS).tolist(), strict=True))
        for config in configs:
            expected = {name for name, shard in shards.items() if shard == config.shard}
            told = set()
            for host in config.in_sync:
                reply = self.inside(host, DigestRequest(config.gallery_id, config.shard))
                assert isinstance(reply, DigestReply)
                told.add(reply)
                assert self.list_inside(host, config) == expected
            assert len(told) == 1, f"replicas of shard {config.shard} differ: {told}"
        self.check_acknowledgements()

    def check_acknowledgements(self) -> None:
        by_epoch: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
        by_lsn: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
        for shard, epoch, host, lsn, operation in self.runtime.acknowledged:
            by_epoch[shard, epoch].add(host)
            if lsn >= 0:
                by_lsn[shard, lsn].add(operation)
        assert all(len(hosts) == 1 for hosts in by_epoch.values()), "two primaries in one epoch"
        assert all(len(operations) == 1 for operations in by_lsn.values()), "two writes with one LSN"


_LOADS = itertools.count()


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with open_net(HOSTS) as opened:
        yield opened


@pytest.fixture(scope="module")
def grid(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    with contextlib.ExitStack() as undo:
        yield Grid(net, tmp_path_factory.mktemp("grid"), undo)


def fenced_after(
    grid: Grid, host: str, config: ShardConfig, cut_at: float
) -> tuple[float, list[tuple[float, set[str]]]]:
    """Seconds from the cut until the host refuses an insider's reads, and its answers until then, and when asked."""
    answers: list[tuple[float, set[str]]] = []
    while True:
        began = time.monotonic()
        try:
            answers.append((began, grid.list_inside(host, config)))
        except StaleRoute:
            return began - cut_at, answers
        assert began < cut_at + FENCE_S, f"{host} answers reads {began - cut_at:.1f} s after it was cut off"


def test_a_primary_cut_off_with_a_router_is_fenced(grid: Grid) -> None:
    """Whoever is on its side gets no stale answer and no acknowledgement, and nothing that was written there stays."""
    with grid.under_load() as load:
        config = grid.config(0)
        primary = config.primary
        victim = next(name for name in (f"base-{i}" for i in range(BASE)) if shards_of([None], (name,), SHARDS)[0] == 0)
        cut_at = time.monotonic()
        grid.net.pull(primary)
        deleting: list[float] = []

        def delete() -> None:
            with grid.oracle.changing((victim,), None):
                grid.router.delete(grid.route, template_ids=(victim,), identities=())
            deleting.append(time.monotonic())

        deleter = threading.Thread(target=delete)
        deleter.start()
        with pytest.raises((NotReplicated, StaleRoute)):
            grid.enroll_inside(primary, config, "lost-")
        fence_s, answers = fenced_after(grid, primary, config, cut_at)
        deleter.join()
        gone_at = deleting[0]
        assert all(victim not in names for began, names in answers if began >= gone_at)
        with pytest.raises((NotReplicated, StaleRoute)):
            grid.enroll_inside(primary, config, "lost-too-")
        with pytest.raises(StaleRoute):
            grid.list_inside(primary, config)
        taken_s = grid.wait(lambda: grid.leads_nothing(primary) and load.has_written_since(gone_at), "others to lead")
        print(
            f"\n{primary} cut off from all but a router: fenced for reads after {fence_s:.2f} s ({len(answers)} answers"
            f" until then), deletion elsewhere acknowledged after {gone_at - cut_at:.2f} s, and {taken_s:.2f} s later"
            f" all else; longest gap between searches {load.longest_gap(load.searches, cut_at, time.monotonic()):.2f} s"
        )


def test_a_host_cut_off_from_the_coordinator_only_is_fenced(grid: Grid) -> None:
    """It hears the other hosts still, and they tell it that they do not count on it any more."""
    with grid.under_load():
        config = grid.config(1)
        primary = config.primary
        cut_at = time.monotonic()
        grid.net.cut(WORLD, primary)
        grid.net.cut(primary, WORLD)
        grid.wait(lambda: grid.leads_nothing(primary), "others to lead")
        led_s = time.monotonic() - cut_at
        with pytest.raises((NotReplicated, StaleRoute)):
            grid.enroll_inside(primary, config, "never-")
        fence_s, _ = fenced_after(grid, primary, config, cut_at)
        print(
            f"\n{primary} cut off from the coordinator: replaced after {led_s:.2f} s, refuses reads by {fence_s:.2f} s"
        )


@pytest.mark.parametrize("ways", ["both ways", "to the backup", "to the primary"])
def test_replicas_cut_off_from_each_other_go_on_with_one(grid: Grid, ways: str) -> None:
    with grid.under_load() as load:
        config = grid.config(2)
        primary, backup = config.in_sync
        cut_at = time.monotonic()
        if ways != "to the primary":
            grid.net.cut(primary, backup)
        if ways != "to the backup":
            grid.net.cut(backup, primary)

        def one_is_left() -> bool:
            return all(not {primary, backup} <= set(config.in_sync) for config in grid.configs())

        grid.wait(one_is_left, "the coordinator to choose one")
        chosen_s = time.monotonic() - cut_at
        (left,) = {primary, backup} & set(grid.config(2).in_sync)
        other = backup if left == primary else primary
        fence_s, _ = fenced_after(grid, other, config, cut_at)
        grid.wait(lambda: load.has_written_since(cut_at + chosen_s), "the load to go on")
        print(
            f"\n{primary} and {backup} cut off from each other {ways}: one chosen after {chosen_s:.2f} s, the other"
            f" refuses reads by {fence_s:.2f} s, longest gap between searches"
            f" {load.longest_gap(load.searches, cut_at, time.monotonic()):.2f} s, between writes"
            f" {load.longest_gap(load.writes, cut_at, time.monotonic()):.2f} s"
        )


def test_random_partitions_under_load(grid: Grid) -> None:
    print(f"\nreplay: FACEGRID_TORTURE={ROUNDS * 10} FACEGRID_CRASH_SEED={SEED} pytest {Path(__file__).name}")
    rng = np.random.default_rng(SEED)
    ways = list(itertools.permutations(grid.net.places, 2))
    for number in range(ROUNDS):
        with grid.under_load() as load:
            for _ in range(int(rng.integers(1, 4))):
                cuts = [ways[i] for i in rng.choice(len(ways), int(rng.integers(1, 7)), replace=False)]
                began = time.monotonic()
                for way in cuts:
                    grid.net.cut(*way)
                print(f"round {number}: cut {' '.join(f'{a}>{b}' for a, b in cuts)}")
                # How long is part of what is drawn: shorter and longer than what makes a host count as dead.
                time.sleep(float(rng.uniform(0.5, 6.0)))
                grid.net.heal()
            gap = load.longest_gap(load.searches, began, time.monotonic())
            print(f"round {number}: longest gap between searches of the last cut {gap:.2f} s")


def test_the_files_hold_exactly_what_was_acknowledged(grid: Grid) -> None:
    """Last in this file: it closes the hosts."""
    grid.wait(grid.is_whole, "all replicas at the end")
    configs, expected = grid.configs(), grid.oracle.alive()
    assert not grid.oracle.doubtful()
    grid.coordinator.close()
    grid.runtime.close()
    found: list[dict[str, bytes]] = [{}, {}]
    for config in configs:
        for number, host in enumerate(config.in_sync):
            directory = shard_directory(grid.directory / host, config.gallery_id, config.shard)
            with Shard(directory, _no_model) as shard:
                for stored in shard.templates_between(0, shard.index.rows):
                    assert stored.template_id not in found[number]
                    found[number][stored.template_id] = shard.gather(np.array([stored.row])).tobytes()
    assert found == [expected, expected]
    hosts = {host for _, _, host, _, _ in grid.runtime.acknowledged}
    print(f"\n{len(grid.runtime.acknowledged)} acknowledged writes of {sorted(hosts)}, {len(expected)} templates")


def _no_model(model_id: str) -> Any:
    raise AssertionError(f"no model was trained, yet {model_id} is named")
