"""Shards with several replicas when hosts die, come back, are cut off, drained or added; real hosts, one process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.messages import DigestReply, DigestRequest, InventoryReply, InventoryRequest, ReplicateRequest
from coordinator.replication import ReplicationPolicy
from coordinator.router import Router
from coordinator.types import DOWN, GalleryRoute, GallerySpec
from shard.digests import record_digest
from shard.errors import (
    FacegridError,
    HostUnavailable,
    IncompleteCoverage,
    NotEnoughReplicas,
    NotReplicated,
    ShardClosed,
    StaleRoute,
)
from shard.types import EnrollBatch, SearchParams
from tests.breakable_runtime import OUTSIDE, BreakableRuntime
from tests.faces_like import batch_of, unit_rows

DIM = 64
HOSTS = ("a", "b", "c")
POLICY = ReplicationPolicy(dead_s=0.3, away_s=0.0)
SOON_S = 30.0


class Grid:
    """Three hosts, a coordinator that looks after them when the test says so, and a router."""

    def __init__(self, directory: Path, *, names: tuple[str, ...] = HOSTS, policy: ReplicationPolicy = POLICY) -> None:
        self.directory, self.policy = directory, policy
        self.runtime = BreakableRuntime(directory / "hosts", names)
        self.open()

    def open(self) -> None:
        self.catalog = Catalog(self.directory / "catalog.db")
        self.coordinator = Coordinator(self.catalog, self.runtime, self.policy)
        self.router = Router(self.runtime, self.look_up, self.coordinator.report)

    def look_up(self, name: str) -> GalleryRoute:
        """The newest route, as a coordinator in another process tells it: one that is closed does not answer."""
        try:
            return self.coordinator.gallery(name)
        except ShardClosed as error:
            raise HostUnavailable(f"the coordinator is away: {error}") from error

    def create(self, replicas: int = 2, shards: int = 2, min_in_sync: int = 1) -> GalleryRoute:
        return self.coordinator.create_gallery(GallerySpec("acme/staff", DIM, shards, 256, None, replicas, min_in_sync))

    def route(self) -> GalleryRoute:
        return self.coordinator.gallery("acme/staff")

    def tick_until(self, condition: Callable[[], bool]) -> None:
        """Look after the hosts until it is so."""
        until = time.monotonic() + SOON_S
        while not condition():
            assert time.monotonic() < until, "it takes too long"
            self.coordinator.replication.tick()

    def is_whole(self) -> bool:
        """Every shard has the replicas that it should have, in sync, and nothing is on its way."""
        configs = self.catalog.shards()
        replicas = self.route().replicas
        return all(len(config.in_sync) == replicas and not config.joining for config in configs)

    def enroll(self, batch: EnrollBatch) -> int:
        return self.router.enroll(self.route(), batch, skip_existing=False, new_ids=False).enrolled

    def ids(self, route: GalleryRoute | None = None) -> set[str]:
        """Every template id that an exact search finds."""
        found = self.router.search(route or self.route(), unit_rows(1, DIM, seed=0), SearchParams(k=1_000, exact=True))
        assert found.coverage.is_complete
        return set(found.candidates.template_ids[0])

    def digests(self) -> list[set[DigestReply]]:
        """For each shard, what its replicas in sync say of themselves: one thing."""
        return [
            {
                self.runtime.host(host).execute(DigestRequest(config.gallery_id, config.shard))  # type: ignore[misc]
                for host in config.in_sync
            }
            for config in self.catalog.shards()
        ]

    def close(self) -> None:
        self.runtime.heal()
        self.coordinator.close()
        self.runtime.close()


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    opened = Grid(tmp_path)
    yield opened
    opened.close()


def test_replicas_are_alike_after_every_kind_of_write(grid: Grid) -> None:
    route = grid.create(replicas=3)
    assert [len(hosts) for hosts in route.in_sync] == [3, 3]
    assert grid.enroll(batch_of(unit_rows(300, DIM, seed=1), prefix="a", identity="Ada")) == 300
    assert grid.router.delete(route, template_ids=("a1", "a2"), identities=()) == 2
    grid.router.flush(route)
    grid.enroll(batch_of(unit_rows(20, DIM, seed=2), prefix="b"))
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert grid.ids() == {f"a{i}" for i in range(300)} - {"a1", "a2"} | {f"b{i}" for i in range(20)}


@pytest.mark.parametrize("victim", ["primary", "backup"])
def test_a_dead_host_loses_nothing_and_is_replaced(grid: Grid, victim: str) -> None:
    route = grid.create()
    grid.enroll(batch_of(unit_rows(200, DIM, seed=1), prefix="a"))
    dead = route.in_sync[0][0 if victim == "primary" else 1]
    grid.runtime.kill(dead)
    # Writes go on by themselves: whoever writes tells the coordinator.
    assert grid.enroll(batch_of(unit_rows(50, DIM, seed=2), prefix="b")) == 50
    assert grid.ids() == {f"a{i}" for i in range(200)} | {f"b{i}" for i in range(50)}
    grid.tick_until(lambda: grid.is_whole())
    assert all(dead not in hosts for hosts in grid.route().in_sync)
    assert {record.host: record.state for record in grid.catalog.hosts()}[dead] == DOWN
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert len(grid.ids()) == 250


def test_a_host_that_comes_back_catches_up(grid: Grid) -> None:
    grid.policy = grid.coordinator.replication.policy = ReplicationPolicy(dead_s=0.3, away_s=3_600)
    route = grid.create(replicas=3)
    grid.enroll(batch_of(unit_rows(200, DIM, seed=1), prefix="a"))
    away = route.in_sync[0][0]
    grid.runtime.kill(away)
    grid.enroll(batch_of(unit_rows(100, DIM, seed=2), prefix="b"))
    grid.router.delete(grid.route(), template_ids=("a0", "a1", "a2"), identities=())
    grid.runtime.start(away)
    grid.tick_until(lambda: grid.is_whole())
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert len(grid.ids()) == 297


def test_a_host_that_comes_back_too_late_keeps_nothing_of_what_another_has(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = grid.create(shards=4)
    grid.enroll(batch_of(unit_rows(100, DIM, seed=1), prefix="a"))
    away = route.in_sync[0][0]
    grid.runtime.kill(away)
    with monkeypatch.context() as slow:
        slow.setattr(grid.coordinator.replication, "_copy_what_joins", lambda: None)
        grid.tick_until(lambda: any(config.joining for config in grid.catalog.shards()))
        grid.runtime.start(away)
        grid.coordinator.replication.tick()
    grid.tick_until(grid.is_whole)

    def has_only_its_own() -> bool:
        found = grid.runtime.host(away).execute(InventoryRequest())
        assert isinstance(found, InventoryReply)
        told = [config for config in grid.catalog.shards() if away in config.in_sync]
        return sorted(zip(found.galleries, found.shards, strict=True)) == sorted((c.gallery_id, c.shard) for c in told)

    grid.tick_until(has_only_its_own)
    assert len(grid.ids()) == 100


def test_a_primary_that_wrote_alone_and_died_begins_anew(grid: Grid) -> None:
    """Its last entry was never acknowledged; the others went on without it."""
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="a"))
    primary, backup = route.in_sync[0]
    replica = grid.runtime.host(primary).replica(route.gallery_id, 0)
    grid.runtime.cut |= {(primary, backup), (primary, OUTSIDE), (OUTSIDE, primary)}
    with pytest.raises(NotReplicated, match=backup):
        replica.write(0, lambda shard: shard.enroll(batch_of(unit_rows(1, DIM, seed=5), prefix="lost")))
    grid.enroll(batch_of(unit_rows(5, DIM, seed=2), prefix="b"))
    assert grid.route().in_sync[0][0] == backup
    grid.runtime.heal()
    grid.tick_until(lambda: grid.is_whole())
    assert grid.ids() == {f"a{i}" for i in range(20)} | {f"b{i}" for i in range(5)}
    assert [len(told) for told in grid.digests()] == [1]


def test_what_is_settled_outlives_the_primary(grid: Grid) -> None:
    """Nobody had confirmed its last entry, which searches found there: it may have been lost with it until then."""
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="a"))
    primary, backup = route.in_sync[0]
    replica = grid.runtime.host(primary).replica(route.gallery_id, 0)
    grid.runtime.cut |= {(primary, backup)}
    with pytest.raises(NotReplicated, match=backup):
        replica.write(0, lambda shard: shard.enroll(batch_of(unit_rows(1, DIM, seed=5), prefix="late")))
    grid.runtime.heal()
    grid.router.settle(grid.route())
    grid.runtime.kill(primary)
    grid.tick_until(lambda: grid.route().in_sync[0][0] == backup)
    assert grid.ids() == {f"a{i}" for i in range(20)} | {"late0"}


def test_a_fenced_primary_confirms_nothing_and_answers_nothing(grid: Grid) -> None:
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="a"))
    primary, backup = route.in_sync[0]
    old = grid.runtime.host(primary).replica(route.gallery_id, 0)
    old.check_read(route.epochs[0])
    # Cut off from the coordinator and from the other replica; a router on its side reaches it still.
    grid.runtime.isolate(primary)
    grid.tick_until(lambda: grid.route().in_sync[0][0] == backup)
    grid.router.delete(grid.route(), template_ids=("a7",), identities=())
    with pytest.raises(FacegridError) as refused:
        old.write(0, lambda shard: shard.enroll(batch_of(unit_rows(1, DIM, seed=5), prefix="x")))
    assert isinstance(refused.value, NotReplicated | StaleRoute)
    with pytest.raises(StaleRoute, match="not been heard"):
        old.check_read(route.epochs[0])  # or a7, which was deleted, would be found there
    grid.runtime.heal()
    grid.tick_until(lambda: grid.is_whole())
    assert grid.ids() == {f"a{i}" for i in range(20)} - {"a7"}


def test_two_replicas_that_hear_only_the_coordinator_go_on_with_one(grid: Grid) -> None:
    route = grid.create(shards=1)
    primary, backup = route.in_sync[0]
    grid.runtime.cut |= {(primary, backup), (backup, primary)}
    assert grid.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="a")) == 20
    assert grid.route().in_sync[0] == (primary,)
    with pytest.raises(StaleRoute):
        grid.runtime.host(backup).replica(route.gallery_id, 0).check_read(0)
    assert len(grid.ids()) == 20
    grid.runtime.heal()
    grid.tick_until(lambda: grid.is_whole())
    assert [len(told) for told in grid.digests()] == [1]


def test_two_replicas_that_hear_only_the_coordinator_answer_reads_though_nobody_writes(grid: Grid) -> None:
    route = grid.create(shards=1)
    primary, backup = route.in_sync[0]
    grid.runtime.cut |= {(primary, backup), (backup, primary)}
    grid.tick_until(lambda: grid.route().in_sync[0] == (primary,))
    assert grid.ids() == set()


def test_a_primary_that_has_heard_of_a_later_epoch_decides_nothing(grid: Grid) -> None:
    """Or two replicas would have different entries of one epoch, which nobody could tell apart."""
    route = grid.create(shards=1)
    replica = grid.runtime.host(route.in_sync[0][0]).replica(route.gallery_id, 0)
    replica.accept(route.epochs[0] + 1)  # what its follower says first, before the coordinator's word has come
    with pytest.raises(StaleRoute, match="another replica decides"):
        replica.write(0, lambda shard: shard.enroll(batch_of(unit_rows(1, DIM, seed=1), prefix="x")))
    assert replica.shard.lsn == 0


def test_a_primary_waits_for_whoever_may_answer_still_and_not_for_who_gave_up(grid: Grid) -> None:
    route = grid.create(shards=1)
    primary, backup = route.in_sync[0]

    def answers() -> bool:
        with contextlib.suppress(StaleRoute):
            grid.runtime.host(backup).replica(route.gallery_id, 0).check_read(0)
            return True
        return False

    grid.tick_until(answers)
    replica = grid.runtime.host(primary).replica(route.gallery_id, 0)
    config = grid.catalog.shard(route.gallery_id, 0)
    replica.configure(replace(config, epoch=config.epoch + 1, in_sync=(primary,)), 1, (backup,))
    replica.check_write(0)
    replica.configure(replace(config, epoch=config.epoch + 2), 1)
    replica.configure(replace(config, epoch=config.epoch + 3, in_sync=(primary,)), 1)
    replica.check_read(0)
    with pytest.raises(StaleRoute, match="may answer reads for another"):
        replica.check_write(0)


def test_fewer_in_sync_than_the_gallery_wants_refuses_writes(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.writes.WRITE_DEADLINE_MS", 1_500)
    route = grid.create(shards=1, min_in_sync=2)
    grid.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="a"))
    grid.runtime.kill(route.in_sync[0][1])
    with pytest.raises(NotEnoughReplicas, match="the gallery wants 2"):
        grid.enroll(batch_of(unit_rows(1, DIM, seed=2), prefix="b"))
    # What was not acknowledged may be there or not.
    assert grid.ids() - {"b0"} == {f"a{i}" for i in range(20)}
    grid.tick_until(lambda: grid.is_whole())
    monkeypatch.undo()  # what the lost host was granted has to run out first
    assert grid.enroll(batch_of(unit_rows(1, DIM, seed=2), prefix="c")) == 1


def test_a_write_that_is_repeated_is_done_once(grid: Grid) -> None:
    """The answer of the primary is lost; the router sends the same operation again, to the one that follows it."""
    route = grid.create(shards=1)
    primary, _ = route.in_sync[0]
    grid.enroll(batch_of(unit_rows(3, DIM, seed=1), prefix="a"))
    grid.runtime.cut.add((primary, OUTSIDE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordinator.writes.ATTEMPT_S", 0.5)
        assert grid.enroll(batch_of(unit_rows(10, DIM, seed=2), prefix="b")) == 10
        assert grid.router.delete(grid.route(), template_ids=("b0", "b1"), identities=()) == 2
    assert grid.ids() == {"a0", "a1", "a2"} | {f"b{i}" for i in range(2, 10)}


def test_the_coordinator_starts_again_and_goes_on(grid: Grid) -> None:
    route = grid.create()
    grid.enroll(batch_of(unit_rows(60, DIM, seed=1), prefix="a"))
    grid.coordinator.close()
    assert len(grid.ids(route)) == 60  # nobody to ask for a route
    grid.runtime.kill("a")
    grid.open()
    grid.tick_until(lambda: all("a" not in hosts for hosts in grid.route().in_sync) and grid.is_whole())
    assert len(grid.ids()) == 60


def test_a_drained_host_is_emptied_and_a_new_one_filled(tmp_path: Path) -> None:
    grid = Grid(tmp_path, names=("a", "b"))
    grid.create(shards=4)
    grid.enroll(batch_of(unit_rows(200, DIM, seed=1), prefix="a"))
    grid.runtime._names = ("a", "b", "c")
    grid.runtime.start("c")
    grid.tick_until(lambda: "c" in grid.catalog.shards_per_host() and grid.is_whole())
    grid.coordinator.replication.drain("a")
    grid.tick_until(lambda: grid.coordinator.replication.left_on("a") == 0 and grid.is_whole())
    assert not list((tmp_path / "hosts" / "a").glob("tenants/*/*/shard-*"))
    assert [len(told) for told in grid.digests()] == [1] * 4
    assert len(grid.ids()) == 200
    grid.close()


def test_a_lost_directory_is_copied_from_the_other_replica(grid: Grid, tmp_path: Path) -> None:
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(60, DIM, seed=1), prefix="a"))
    primary, _ = route.in_sync[0]
    grid.runtime.kill(primary)
    database = next((tmp_path / "hosts" / primary).glob("tenants/*/*/shard-0000/shard.db"))
    database.write_bytes(b"no database" * 1_000)
    grid.runtime.start(primary)
    grid.tick_until(lambda: grid.route().in_sync[0][0] != primary and grid.is_whole())
    assert len(grid.ids()) == 60


def test_nothing_acknowledged_is_lost_while_hosts_die_one_after_another(tmp_path: Path) -> None:
    """Writers go on while one host after another is killed and started again; what they were told is there."""
    grid = Grid(tmp_path, policy=ReplicationPolicy(dead_s=0.3, away_s=3_600))
    route = grid.create(replicas=2, shards=2)
    kept: dict[str, bytes] = {}
    stop = threading.Event()
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        number = 0
        try:
            while not stop.is_set():
                batch = batch_of(unit_rows(3, DIM, seed=writer * 10_000 + number), prefix=f"w{writer}-{number}-")
                grid.router.enroll(route, batch, skip_existing=False, new_ids=False)
                kept.update(zip(batch.template_ids, (row.tobytes() for row in batch.embeddings), strict=True))
                if number % 3 == 2:
                    grid.router.delete(route, template_ids=batch.template_ids[:1], identities=())
                    del kept[batch.template_ids[0]]
                number += 1
        except Exception as error:  # noqa: BLE001 - shown by the test, which waits for the threads
            failures.append(error)

    writers = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for writer in writers:
        writer.start()
    for victim in ("a", "b", "c", "a"):
        before = len(kept)
        grid.tick_until(lambda: len(kept) > before + 20)  # noqa: B023
        grid.runtime.kill(victim)
        grid.tick_until(lambda: all(victim not in config.in_sync for config in grid.catalog.shards()))  # noqa: B023
        grid.runtime.start(victim)
        grid.tick_until(grid.is_whole)
    stop.set()
    for writer in writers:
        writer.join()
    assert not failures
    assert [len(told) for told in grid.digests()] == [1, 1]
    found = set()
    for config in grid.catalog.shards():
        shard = grid.runtime.host(config.primary).replica(config.gallery_id, config.shard).shard
        for stored in shard.templates_between(0, shard.index.rows):
            assert shard.gather(np.array([stored.row])).tobytes() == kept[stored.template_id]
            found.add(stored.template_id)
    assert found == kept.keys()
    grid.close()


def test_an_entry_of_an_old_epoch_is_refused(grid: Grid) -> None:
    route = grid.create(shards=1)
    primary, backup = route.in_sync[0]
    grid.runtime.kill(primary)
    grid.tick_until(lambda: grid.route().in_sync[0][0] == backup)
    with pytest.raises(StaleRoute):
        grid.runtime.host(backup).execute(ReplicateRequest(route.gallery_id, 0, route.epochs[0], ()))


def test_no_replica_no_answer(grid: Grid) -> None:
    route = grid.create(shards=1)
    for host in route.in_sync[0]:
        grid.runtime.kill(host)
    with pytest.raises(IncompleteCoverage):
        grid.router.search(route, unit_rows(1, DIM, seed=0), SearchParams(k=1), deadline_ms=1_000)
    partial = grid.router.search(
        route, unit_rows(1, DIM, seed=0), SearchParams(k=1), deadline_ms=1_000, allow_partial=True
    )
    assert partial.coverage.answered == 0


def test_damage_that_a_read_comes_upon_is_mended_from_another_replica(grid: Grid, tmp_path: Path) -> None:
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(60, DIM, seed=1), prefix="a"))
    grid.router.flush(route)
    before = grid.ids()
    grid.coordinator.watch(0.1)
    for host in route.in_sync[0]:
        floats = next((tmp_path / "hosts" / host).glob("tenants/*/*/shard-0000/segment-000001/floats.f32"))
        grid.runtime.kill(host)
        sound = floats.read_bytes()
        floats.write_bytes(sound[:1_000] + bytes([sound[1_000] ^ 4]) + sound[1_001:])
        grid.runtime.start(host)
        # Every search is right: the router goes to the other replica. One of them comes upon the damage.
        until = time.monotonic() + SOON_S
        while not (floats.is_file() and floats.read_bytes()[: len(sound)] == sound and grid.is_whole()):
            assert grid.ids() == before
            assert time.monotonic() < until
    assert grid.ids() == before


def test_replicas_that_differ_are_found_and_made_alike(grid: Grid) -> None:
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(60, DIM, seed=1), prefix="a"))
    assert grid.coordinator.replication.compare() == []
    backup = route.in_sync[0][1]
    shard = grid.runtime.host(backup).replica(route.gallery_id, 0).shard
    (stored,) = shard.templates_between(5, 6)
    digest = record_digest(5, stored.template_id, "somebody else", stored.metadata, stored.lsn)
    with shard._store.transaction() as db:
        db.execute("UPDATE templates SET identity = 'somebody else', digest = ? WHERE row = 5", (digest,))
    assert len(grid.digests()[0]) == 2
    (found,) = grid.coordinator.replication.compare()
    assert f"on {backup} differs" in found
    grid.tick_until(lambda: grid.is_whole() and len(grid.digests()[0]) == 1)
    assert len(grid.ids()) == 60


def test_the_bytes_of_the_deleted_are_gone_from_every_replica(grid: Grid, tmp_path: Path) -> None:
    route = grid.create(replicas=3, shards=2)
    rows = unit_rows(120, DIM, seed=1)
    grid.enroll(batch_of(rows, prefix="template-", identity="Ada Lovelace"))
    secret = batch_of(unit_rows(6, DIM, seed=2), prefix="forget-me-", identity="Grace Hopper")
    grid.enroll(secret)
    grid.router.delete(route, template_ids=(), identities=("Grace Hopper",))
    assert len(grid.ids()) == 120
    needles = [b"Grace Hopper", b"forget-me-", *(row.tobytes() for row in secret.embeddings)]
    assert sum(needle in raw_files(tmp_path) for needle in needles) == len(needles)
    report = grid.coordinator.erasure_report("acme/staff")
    assert len(report) == 6
    assert sum(entry.dead_rows for entry in report) == 18
    assert not any(entry.is_clean for entry in report if entry.dead_rows)
    due = {entry.due - entry.oldest for entry in report if entry.due and entry.oldest}
    assert due == {24 * 3600.0}
    assert grid.coordinator.erase_due() == 0
    now = time.time() + 20 * 3600
    assert grid.coordinator.erasure.erase_due(now) == 1  # one identity lives in one shard
    assert all(entry.is_clean and entry.due is None for entry in grid.coordinator.erasure_report())
    raw = raw_files(tmp_path)
    assert [needle for needle in needles if needle in raw] == []
    assert sum(row.tobytes() in raw for row in rows) == 120
    assert [len(told) for told in grid.digests()] == [1, 1]
    assert len(grid.ids()) == 120


def raw_files(directory: Path) -> bytes:
    """Every byte that the home has, one file after another."""
    return b"|".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_damage_that_nobody_has_met_is_mended_in_its_turn(grid: Grid, tmp_path: Path) -> None:
    route = grid.create(shards=1)
    grid.enroll(batch_of(unit_rows(60, DIM, seed=1), prefix="a"))
    grid.router.flush(route)
    for host in route.in_sync[0]:
        floats = next((tmp_path / "hosts" / host).glob("tenants/*/*/shard-0000/segment-000001/floats.f32"))
        sound = floats.read_bytes()
        with floats.open("r+b") as file:
            file.seek(1_000)
            file.write(b"\0" if sound[1_000] else b"\1")
        until = time.monotonic() + SOON_S
        while floats.read_bytes() != sound:
            grid.coordinator.replication.scrub_next()
            assert time.monotonic() < until
    assert grid.route().in_sync == route.in_sync  # mended in place
    assert len(grid.ids()) == 60
