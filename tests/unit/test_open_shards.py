"""Which shards of a host are open: closing loses nothing, nothing in use is closed, and what is closed can be asked."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import open_shards
from coordinator.at_rest import Key, RestStore
from coordinator.heat import COLD, HOT, WARM, hottest
from coordinator.host import ShardHost
from coordinator.messages import (
    BuriedReply,
    BuriedRequest,
    ConfigureShards,
    DeleteRequest,
    EnrollRequest,
    ErasureReply,
    ErasureRequest,
    FlushRequest,
    HealthReply,
    HealthRequest,
    HeatReply,
    HeatRequest,
    IdentitiesReply,
    IdentitiesRequest,
    RecordsReply,
    RecordsRequest,
    ReplicateRequest,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from coordinator.open_shards import FILES_EACH, OpenShards, default_limit
from coordinator.types import ShardConfig
from shard.errors import CorruptData, ShardClosed, StaleRoute
from shard.holds import Holds
from shard.shard import Shard
from shard.types import SearchParams
from tests.faces_like import batch_of, unit_rows
from tests.hosts import configure_all_alone, configure_alone, create_alone

DIM = 64
GALLERIES = tuple(f"{i:016x}" for i in range(5))
EXACT = SearchParams(k=3, exact=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ShardHost]:
    """Room for two shards, and five galleries of ten templates."""
    opened = ShardHost("a", tmp_path / "a", open_shards=2)
    for number, gallery in enumerate(GALLERIES):
        create_alone(opened, gallery, 0, DIM)
        enroll(opened, gallery, number)
    yield opened
    opened.close()


def enroll(host: ShardHost, gallery: str, seed: int, prefix: str = "t") -> None:
    batch = batch_of(unit_rows(10, DIM, seed), prefix=prefix, identity=f"person-{seed}")
    host.execute(EnrollRequest(gallery, 0, 1, os.urandom(16), batch, False))


def open_galleries(host: ShardHost) -> set[str]:
    reply = host.execute(HeatRequest())
    assert isinstance(reply, HeatReply)
    return set(reply.galleries)


def best(host: ShardHost, gallery: str, seed: int) -> str:
    reply = host.execute(SearchRequest(gallery, (0,), unit_rows(10, DIM, seed)[4:5], EXACT, (1,)))
    assert isinstance(reply, SearchReply)
    return reply.candidates.template_ids[0][0]


def stats_of(host: ShardHost, gallery: str) -> int:
    reply = host.execute(StatsRequest(gallery, (0,), (1,)))
    assert isinstance(reply, StatsReply)
    return reply.stats[0].templates


def files_of(directory: Path) -> int:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(str(directory) in os.readlink(link) for link in links if link.is_symlink())


def test_every_verb_is_right_with_room_for_two_of_five(host: ShardHost, tmp_path: Path) -> None:
    for turn in range(2):
        for number, gallery in enumerate(GALLERIES):
            assert best(host, gallery, number) == "t4"
            enroll(host, gallery, 100 + number, prefix=f"more{turn}-")
            host.execute(FlushRequest(gallery, (0,), (1,)))
            records = host.execute(RecordsRequest(gallery, (0,), ("t1", f"more{turn}-3", "none"), (1,)))
            assert isinstance(records, RecordsReply)
            assert len(records.records) == 2
            identities = host.execute(IdentitiesRequest(gallery, (0,), "", 10, (1,)))
            assert isinstance(identities, IdentitiesReply)
            assert [entry.identity for entry in identities.identities] == sorted(
                [f"person-{number}", f"person-{100 + number}"]
            )
            assert len(open_galleries(host)) <= 2
            assert files_of(tmp_path) <= 2 * FILES_EACH + 4
    assert [stats_of(host, gallery) for gallery in GALLERIES] == [30] * 5
    assert all(best(host, gallery, number) == "t4" for number, gallery in enumerate(GALLERIES))


def test_a_shard_in_use_is_not_closed(host: ShardHost) -> None:
    with host.replica(GALLERIES[0], 0).using() as shard:
        for number, gallery in enumerate(GALLERIES):
            assert best(host, gallery, number) == "t4"
        assert GALLERIES[0] in open_galleries(host)
        assert len(shard) == 10
    for number in (1, 2, 3):
        best(host, GALLERIES[number], number)
    assert GALLERIES[0] not in open_galleries(host)


def test_questions_about_closed_shards_open_none(host: ShardHost) -> None:
    host.execute(DeleteRequest(GALLERIES[0], (0,), (1,), b"o" * 16, ("t0", "t1"), ()))
    for number in (1, 2, 3):
        best(host, GALLERIES[number], number)
    before = open_galleries(host)
    assert GALLERIES[0] not in before
    assert [stats_of(host, gallery) for gallery in GALLERIES] == [8, 10, 10, 10, 10]
    erasure = host.execute(ErasureRequest(GALLERIES[0], (0,)))
    assert isinstance(erasure, ErasureReply)
    assert erasure.states[0].dead_rows == 2
    buried = host.execute(BuriedRequest())
    assert isinstance(buried, BuriedReply)
    assert (buried.galleries, buried.shards, buried.oldest) == ((GALLERIES[0],), (0,), (erasure.states[0].oldest,))
    health = host.execute(HealthRequest(GALLERIES[0], (0,)))
    assert isinstance(health, HealthReply)
    assert [(told.epoch, told.lsn, told.fault) for told in health.shards] == [(1, 2, "")]
    assert open_galleries(host) == before


def test_a_host_that_starts_again_opens_nothing_that_was_closed_in_order(host: ShardHost, tmp_path: Path) -> None:
    host.close()
    again = ShardHost("a", tmp_path / "a", open_shards=2)
    with pytest.raises(StaleRoute, match="no configuration"):
        best(again, GALLERIES[0], 0)
    many = [ShardConfig(gallery, 0, 1, "a", ("a",), ()) for gallery in GALLERIES]
    open_shards_before = open_galleries(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordinator.host.OPENED_AHEAD", 3)
        again.execute(ConfigureShards(tuple(many), (1,) * 5))
    assert open_galleries(again) == open_shards_before == set()
    assert [stats_of(again, gallery) for gallery in GALLERIES] == [10] * 5
    assert open_galleries(again) == set()
    assert [best(again, gallery, number) for number, gallery in enumerate(GALLERIES)] == ["t4"] * 5
    again.close()


def test_what_was_written_down_counts_for_no_shard_that_has_changed(host: ShardHost, tmp_path: Path) -> None:
    host.close()
    directory = tmp_path / "a/galleries" / GALLERIES[0] / "shard-0000"
    with Shard(directory, {}.__getitem__) as shard:
        shard.enroll(batch_of(unit_rows(5, DIM, seed=9), prefix="late"))
    again = ShardHost("a", tmp_path / "a", open_shards=2)
    assert again.replica(GALLERIES[1], 0).lazy.rest is not None
    configure_alone(again, GALLERIES[0], 0)
    assert stats_of(again, GALLERIES[0]) == 15
    again.close()


def test_after_a_kill_the_shards_that_were_open_are_opened(host: ShardHost, tmp_path: Path) -> None:
    """The database's log is there still: what was written down before the shard was opened says nothing."""
    copy = tmp_path / "copy"
    best(host, GALLERIES[0], 0)
    enroll(host, GALLERIES[0], 50, prefix="late")
    os.system(f"cp -a {tmp_path / 'a'} {copy}")  # as the files of a killed process are
    again = ShardHost("a", copy, open_shards=2)
    assert open_galleries(again) == set()
    configure_all_alone(again)
    assert [stats_of(again, gallery) for gallery in GALLERIES] == [20, 10, 10, 10, 10]
    again.close()


def test_a_damaged_file_of_what_is_at_rest_is_begun_anew(host: ShardHost, tmp_path: Path) -> None:
    host.close()
    (tmp_path / "a/at_rest.db").write_bytes(b"no database" * 999)
    again = ShardHost("a", tmp_path / "a", open_shards=2)
    configure_all_alone(again)
    assert [best(again, gallery, number) for number, gallery in enumerate(GALLERIES)] == ["t4"] * 5
    again.close()
    assert len(RestStore(tmp_path / "a/at_rest.db").load()) == 5


def test_a_row_that_is_not_what_was_written_is_passed_over(host: ShardHost, tmp_path: Path) -> None:
    host.close()
    store = RestStore(tmp_path / "a/at_rest.db")
    assert len(store.load()) == 5
    store._write("UPDATE at_rest SET facts = replace(facts, '10', '11') WHERE gallery_id = ?", [(GALLERIES[0],)])
    store._write("UPDATE at_rest SET facts = '{}', crc = 2745614147 WHERE gallery_id = ?", [(GALLERIES[1],)])
    assert set(store.load()) == {(gallery, 0) for gallery in GALLERIES[2:]}
    store.close()


def test_a_backup_that_was_closed_still_decides_nothing_and_refuses_an_older_epoch(
    host: ShardHost, tmp_path: Path
) -> None:
    config = ShardConfig(GALLERIES[0], 0, 3, "b", ("b", "a"), ())
    host.execute(ConfigureShards((config,), (1,)))
    for number in (1, 2, 3):
        best(host, GALLERIES[number], number)
    assert GALLERIES[0] not in open_galleries(host)
    with pytest.raises(StaleRoute, match="older than 3"):
        host.execute(ReplicateRequest(GALLERIES[0], 0, 2, ()))
    with (
        pytest.raises(StaleRoute, match="another replica decides"),
        host.replica(GALLERIES[0], 0).using() as shard,
    ):
        shard.enroll(batch_of(unit_rows(1, DIM, seed=1), prefix="x"))
    with pytest.raises(StaleRoute, match="b is primary"):
        enroll(host, GALLERIES[0], 1, prefix="x")


def test_a_shard_is_not_closed_before_it_is_configured(tmp_path: Path) -> None:
    host = ShardHost("a", tmp_path / "a", open_shards=1)
    for gallery in GALLERIES:
        create_alone(host, gallery, 0, DIM)
    host.close()
    (tmp_path / "a/at_rest.db").unlink()
    again = ShardHost("a", tmp_path / "a", open_shards=1)
    replicas = [again.replica(gallery, 0) for gallery in GALLERIES]
    assert open_galleries(again) == set(GALLERIES)
    for gallery in GALLERIES:
        configure_alone(again, gallery, 0)
    best_of_none = again.execute(SearchRequest(GALLERIES[0], (0,), unit_rows(1, DIM, 0), EXACT, (1,)))
    assert isinstance(best_of_none, SearchReply)
    assert len(open_galleries(again)) == 1
    assert all(replica.epoch == 1 for replica in replicas)
    again.close()


def test_a_shard_that_does_not_open_again_is_a_named_error_and_told(host: ShardHost, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        best(host, GALLERIES[number], number)
    database = tmp_path / "a/galleries" / GALLERIES[0] / "shard-0000/shard.db"
    whole = database.read_bytes()
    database.write_bytes(b"x" * len(whole))
    with pytest.raises(CorruptData):
        best(host, GALLERIES[0], 0)
    health = host.execute(HealthRequest("", ()))
    assert isinstance(health, HealthReply)
    assert [told.gallery_id for told in health.shards if told.fault.startswith("corrupt_data")] == [GALLERIES[0]]
    database.write_bytes(whole)
    assert best(host, GALLERIES[0], 0) == "t4"
    health = host.execute(HealthRequest("", ()))
    assert isinstance(health, HealthReply)
    assert not health.shards


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_idle_shards_are_closed_and_large_ones_stay_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_shards, "LARGE_ROWS", 10)
    clock = _Clock()

    def opens(key: Key, directory: Path, is_settled: bool, holds: Holds) -> Shard:
        return Shard(directory, {}.__getitem__, is_settled=is_settled, holds=holds)

    shards = OpenShards(tmp_path / "at_rest.db", opens, 10, idle_s=100.0, clock=clock)
    entries = []
    for number, rows in enumerate((1, 40)):
        directory = tmp_path / f"shard-{number}"
        Shard.create(directory, dim=DIM, load_model={}.__getitem__).close()
        entry = shards.lazy((f"{number:016x}", 0), directory)
        entry.may_close = lambda shard: True
        with entry.using() as shard:
            shard.enroll(batch_of(unit_rows(rows, DIM, seed=1)))
        entries.append(entry)
    assert [shards.heat(entry) for entry in entries] == [HOT, HOT]
    clock.now = 310.0
    shards.close_idle()
    assert [shards.heat(entry) for entry in entries] == [COLD, WARM]
    clock.now = 600.0
    shards.close_idle()
    assert [shards.heat(entry) for entry in entries] == [COLD, COLD]
    assert [entry.lsn for entry in entries] == [1, 1]
    shards.close()
    with pytest.raises(ShardClosed), entries[0].using():
        pass


def test_one_with_something_unfinished_stays_open(host: ShardHost) -> None:
    best(host, GALLERIES[0], 0)
    replica = host.replica(GALLERIES[0], 0)
    replica._unconfirmed = frozenset({"b"})
    for number in (1, 2, 3):
        best(host, GALLERIES[number], number)
    assert GALLERIES[0] in open_galleries(host)
    replica._unconfirmed = frozenset()
    best(host, GALLERIES[1], 1)
    best(host, GALLERIES[4], 4)
    assert GALLERIES[0] not in open_galleries(host)


def test_a_dropped_shard_is_forgotten(host: ShardHost, tmp_path: Path) -> None:
    lazy = host.replica(GALLERIES[0], 0).lazy
    host._close((GALLERIES[0], 0))
    with pytest.raises(ShardClosed), lazy.using():
        pass
    host.close()
    assert {key[0] for key in RestStore(tmp_path / "a/at_rest.db").load()} == set(GALLERIES[1:])


def test_the_limit_follows_from_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (1_024, 4_096))
    assert default_limit() == 103
    assert default_limit(hosts=4) == 25
    monkeypatch.setattr("resource.getrlimit", lambda which: (1 << 20, 1 << 20))
    assert default_limit() == 512


def test_a_gallery_is_as_hot_as_its_hottest_shard() -> None:
    assert [hottest(states) for states in ((), (COLD,), (COLD, WARM), (WARM, HOT, COLD))] == [COLD, COLD, WARM, HOT]


def test_a_stamp_is_part_of_what_is_known(host: ShardHost) -> None:
    rest = host.replica(GALLERIES[0], 0).lazy.rest
    assert rest is not None
    assert rest.size > 0
    assert replace(rest, size=0) != rest
