"""Several processes enroll the same ids under different identities, while hosts fail: an id is in its gallery once.

Each process is a router of its own; the hosts are real, in this process, and have leases.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from coordinator import claimed_ids
from coordinator.claims import keepers_of
from coordinator.messages import DataRequest, EnrollRequest, RecordsReply, RecordsRequest
from coordinator.placement import shards_of
from coordinator.router import Router
from coordinator.types import EnrollOutcome
from shard.errors import DeadlineExceeded, DuplicateTemplate, EnrollIncomplete, FacegridError
from shard.keys import template_keys
from shard.types import EnrollBatch
from tests.faces_like import unit_rows
from tests.integration.test_replication import DIM, Grid

SHARDS = 4
ADA, BOB = "Ada", "Bob"
SOON_S = 60.0
ROUNDS = max(2, int(os.environ.get("FACEGRID_TORTURE", "0")) // 5)


class Processes:
    """Routers over one grid, and what they write."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.route = grid.create(shards=SHARDS)
        self.routers = [Router(grid.runtime, grid.look_up, self._report, is_alone=False) for _ in range(3)]
        self.threads = ThreadPoolExecutor(8)
        self._held: threading.Event | None = None

    def _report(self, gallery_id: str, shard: int, epoch: int, error: str) -> None:
        self.grid.coordinator.report(gallery_id, shard, epoch, error)

    def enroll(self, router: int, identity: str, *ids: str, skip_existing: bool = False) -> EnrollOutcome:
        rows = unit_rows(len(ids), DIM, seed=router)
        batch = EnrollBatch(rows, ids, (identity,) * len(ids), (None,) * len(ids))
        return self.routers[router].enroll(self.route, batch, skip_existing=skip_existing, new_ids=False)

    def begin(self, router: int, identity: str, *ids: str) -> Future[EnrollOutcome]:
        return self.threads.submit(self.enroll, router, identity, *ids)

    @contextmanager
    def held(self) -> Iterator[threading.Event]:
        """The first write of a batch to a shard inside is held at its sender; the event says that it is."""
        is_held, may_go = threading.Event(), threading.Event()

        def on_send(start: str, host: str, request: DataRequest) -> None:
            if isinstance(request, EnrollRequest) and not is_held.is_set():
                is_held.set()
                assert may_go.wait(SOON_S)

        self.grid.runtime.on_send = on_send
        try:
            yield is_held
        finally:
            may_go.set()
            self.grid.runtime.on_send = lambda start, host, request: None

    def stored(self, *ids: str) -> dict[str, list[tuple[int, str | None]]]:
        """Shard and identity of each template that has one of the ids, as the primaries say."""
        found: dict[str, list[tuple[int, str | None]]] = {template_id: [] for template_id in ids}
        route = self.grid.route()
        for shard in range(route.shards):
            request = RecordsRequest(route.gallery_id, (shard,), ids, (route.epochs[shard],))
            reply = self.grid.runtime.submit(route.hosts[shard], request, deadline=time.monotonic() + SOON_S).result()
            assert isinstance(reply, RecordsReply)
            for record in reply.records:
                found[record.template_id].append((shard, record.identity))
        return found

    def keeper(self, template_id: str) -> int:
        return int(keepers_of(template_keys([template_id]), SHARDS)[0])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    grid = Grid(tmp_path)
    opened = Processes(grid)
    yield opened
    opened.threads.shutdown()
    grid.close()


def place_of(identity: str) -> int:
    return int(shards_of([identity], ["any"], SHARDS)[0])


def test_one_of_many_has_an_id(processes: Processes) -> None:
    assert place_of(ADA) != place_of(BOB), "in two shards, neither of which knows of the other"
    ids = [f"t{i}" for i in range(20)]
    under_way = [
        (template_id, identity, processes.begin(router, identity, template_id))
        for template_id in ids
        for router, identity in enumerate((ADA, BOB, "Cy"))
    ]
    written: dict[str, str] = {}
    for template_id, identity, future in under_way:
        if isinstance(future.exception(SOON_S), DuplicateTemplate):
            continue
        assert future.result().enrolled == 1
        assert written.setdefault(template_id, identity) == identity
    assert sorted(written) == sorted(ids)
    assert processes.stored(*ids) == {i: [(place_of(identity), identity)] for i, identity in written.items()}


def test_batches_that_meet_take_turns(processes: Processes) -> None:
    """Each wants what others have, of several shards, in another order: nobody waits for ever."""
    ids = [f"t{i}" for i in range(12)]
    turns = [ids[first:] + ids[:first] for first in range(0, 12, 2)]
    under_way = [
        processes.threads.submit(processes.enroll, n % 3, ADA, *turn, skip_existing=True)
        for n, turn in enumerate(turns)
    ]
    assert sorted(future.result(SOON_S).enrolled for future in under_way) == [0] * 5 + [12]


def test_what_is_claimed_is_waited_for(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_ids, "WAIT_S", 0.2)
    with processes.held() as is_held:
        first = processes.begin(0, ADA, "t", "u")
        assert is_held.wait(SOON_S)
        with pytest.raises(DeadlineExceeded, match="another process is writing one of these template ids"):
            processes.enroll(1, BOB, "t", "v")
        assert processes.enroll(1, BOB, "v").enrolled == 1, "what was claimed with it is free again"
    assert first.result(SOON_S).enrolled == 2
    with pytest.raises(DuplicateTemplate):
        processes.enroll(1, BOB, "t")


def test_a_write_that_outlives_its_claim_gives_way(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose process died would: it holds up others for a moment."""
    monkeypatch.setattr(claimed_ids, "HOLD_S", 0.3)
    with processes.held() as is_held:
        first = processes.begin(0, ADA, "t")
        assert is_held.wait(SOON_S)
        assert processes.enroll(1, BOB, "t").enrolled == 1
    with pytest.raises(DuplicateTemplate, match="the first 't'; nothing of this write is left in acme/staff"):
        first.result(SOON_S)
    assert processes.stored("t") == {"t": [(place_of(BOB), BOB)]}


def test_what_else_was_in_the_batch_stays(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_ids, "HOLD_S", 0.3)
    with processes.held() as is_held:
        first = processes.begin(0, ADA, "t", "u", "v")
        assert is_held.wait(SOON_S)
        assert processes.enroll(1, BOB, "u").enrolled == 1
    with pytest.raises(EnrollIncomplete, match=r"1 of 3 template ids .* the first 'u'; 2 are durable in acme/staff"):
        first.result(SOON_S)
    ada, bob = [(place_of(ADA), ADA)], [(place_of(BOB), BOB)]
    assert processes.stored("t", "u", "v") == {"t": ada, "u": bob, "v": ada}
    assert processes.enroll(0, ADA, "t", "u", "v", skip_existing=True).skipped == 3


def test_nothing_is_taken_back_that_may_be_another_ones(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_ids, "HOLD_S", 0.3)
    with processes.held() as is_held:
        first = processes.threads.submit(processes.enroll, 0, ADA, "t", "u", skip_existing=True)
        assert is_held.wait(SOON_S)
        assert processes.enroll(1, BOB, "t").enrolled == 1
        assert processes.enroll(2, ADA, "u").enrolled == 1
    with pytest.raises(EnrollIncomplete, match="the first 't'; they are in acme/staff twice, under two identities"):
        first.result(SOON_S)
    ada, bob = (place_of(ADA), ADA), (place_of(BOB), BOB)
    assert processes.stored("t", "u") == {"t": sorted([ada, bob]), "u": [ada]}


@pytest.mark.parametrize("other", [None, BOB], ids=["alone", "with another"])
@pytest.mark.parametrize("fault", ["killed", "started again", "handed over", "isolated"])
def test_a_claim_is_lost_with_its_primary(processes: Processes, fault: str, other: str | None) -> None:
    grid, keeper = processes.grid, processes.keeper("t")
    primary = processes.route.hosts[keeper]
    with processes.held() as is_held:
        first = processes.begin(0, ADA, "t")
        assert is_held.wait(SOON_S)
        if fault in ("killed", "started again"):
            grid.runtime.kill(primary)
        if fault == "started again":
            grid.runtime.start(primary)
        elif fault == "handed over":
            assert grid.coordinator.hand_over(primary) > 0
        elif fault == "isolated":
            grid.runtime.isolate(primary)
        if fault != "started again":
            grid.tick_until(lambda: grid.route().hosts[keeper] != primary)
        if other is not None:
            with looked_after(grid):
                assert processes.enroll(1, other, "t").enrolled == 1
    with looked_after(grid):
        if other is None:
            assert first.result(SOON_S).enrolled == 1
        else:
            with pytest.raises(DuplicateTemplate, match="nothing of this write is left"):
                first.result(SOON_S)
        identity = other or ADA
        grid.runtime.heal()
        assert processes.stored("t") == {"t": [(place_of(identity), identity)]}


def test_nobody_asks_the_coordinator(processes: Processes) -> None:
    """Writes that name ids go on while it is away."""
    processes.enroll(0, ADA, "t")
    processes.grid.coordinator.close()
    assert processes.enroll(0, ADA, "u").enrolled == 1
    with pytest.raises(DuplicateTemplate):
        processes.enroll(1, BOB, "u")


@contextmanager
def looked_after(grid: Grid) -> Iterator[None]:
    """Inside, the coordinator looks after its hosts again and again."""
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            with suppress(FacegridError):
                grid.coordinator.replication.tick()
            ended.wait(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_hosts_fail_while_all_write_the_same_ids(processes: Processes, seed: int) -> None:
    """Who is told that a template is stored finds it, under its identity; nobody finds an id twice."""
    grid, chance = processes.grid, random.Random(seed)
    ids, identities = [f"t{i}" for i in range(40)], (ADA, BOB, "Cy", "Di")
    written: dict[str, list[str]] = {template_id: [] for template_id in ids}

    def write(router: int, chance: random.Random) -> None:
        mine = chance.sample(ids, len(ids))
        while mine:
            some, identity = (
                [mine.pop() for _ in range(min(len(mine), chance.choice((1, 1, 3))))],
                chance.choice(identities),
            )
            try:
                processes.enroll(router, identity, *some)
            except (DuplicateTemplate, EnrollIncomplete):
                continue
            for template_id in some:
                written[template_id].append(identity)

    with looked_after(grid):
        writers = [
            processes.threads.submit(write, router, random.Random((seed + 1) * 100 + router)) for router in range(3)
        ]
        while not all(writer.done() for writer in writers):
            name = chance.choice(grid.runtime.hosts())
            fault = chance.choice(("kill", "isolate", "cut off", "hand over"))
            if fault == "kill":
                grid.runtime.kill(name)
                wait(writers, timeout=chance.uniform(0.0, 1.0))
                grid.runtime.start(name)
            elif fault == "hand over":
                with suppress(FacegridError):
                    grid.coordinator.hand_over(name)
            else:
                if fault == "isolate":
                    grid.runtime.isolate(name)
                else:
                    grid.runtime.cut |= {way for host in grid.runtime.hosts() for way in ((name, host), (host, name))}
                wait(writers, timeout=chance.uniform(0.0, 4.0))
                grid.runtime.heal()
            wait(writers, timeout=1.0)
        for writer in writers:
            writer.result()
        grid.runtime.heal()
    stored = processes.stored(*ids)
    assert all(len(places) <= 1 for places in stored.values()), "an id is there twice"
    told = {template_id: identities for template_id, identities in written.items() if identities}
    assert len(told) > len(ids) / 2
    assert {i: [(place_of(identity), identity) for identity in known] for i, known in told.items()} == {
        i: stored[i] for i in told
    }
