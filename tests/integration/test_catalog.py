"""The catalog on SQLite and on a real PostgreSQL: routes, compare-and-set, races, upgrade, a server that restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cluster import Cluster
from cluster.cli.checks import Finding, check_home
from coordinator.catalog import CREATING, DROPPING, LOOKED_AFTER, METADATA, READY, RESTORING, Catalog
from coordinator.database import Database
from coordinator.snapshot_catalog import RestoreRecord, SnapshotCatalog, SnapshotRecord
from coordinator.tenant_types import Quotas
from coordinator.tenants import Tenants
from coordinator.types import DOWN, DRAINING, GONE, UP, GallerySpec, HostRecord, ShardConfig
from shard.errors import (
    AlreadyExists,
    CorruptData,
    FacegridError,
    FormatTooNew,
    InvalidParameter,
    NotFound,
    ShardClosed,
    StaleRoute,
    StorageError,
    UnknownGallery,
    WriteFailed,
)
from tests.faces_like import unit_rows
from tests.integration.conftest import SharedRay
from tests.integration.postgres import PASSWORD, PostgresServer, without_password

SPEC = GallerySpec("acme/staff", 64, 2, 256, None, replicas=3, min_in_sync=2)
GALLERY = "00" * 8
PLACEMENT = [("c", "a", "b"), ("b", "d", "c")]
WAIT_S = 120.0
STATES = (CREATING, READY, RESTORING)


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = Catalog(url)
    yield opened
    opened.close()


@pytest.fixture
def staff(catalog: Catalog) -> Catalog:
    """A catalog with one ready gallery of two shards."""
    catalog.add_gallery(GALLERY, SPEC, PLACEMENT)
    catalog.set_state(GALLERY, READY)
    return catalog


def execute(url: str, *statements: str) -> None:
    database = Database(url)
    with database.writing() as db:
        for statement in statements:
            db.exec_driver_sql(statement)
    database.close()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same time; their results, or the errors of Facegrid that they raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(WAIT_S)
        try:
            return call()
        except FacegridError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# Galleries and routes


def test_snapshots_and_restores_are_remembered(catalog: Catalog, url: str) -> None:
    made = SnapshotRecord("20260131T120000Z-0a1b2c3d", GALLERY, SPEC.name, "/mnt", "2026-01-31T12:00:00Z", None, 2**40)
    later = replace(made, snapshot_id="20260201T120000Z-0a1b2c3d", expires_at="2026-03-01T12:00:00Z")
    snapshots = SnapshotCatalog(catalog)
    snapshots.add(later)
    snapshots.add(made)
    snapshots.put_restore(RestoreRecord("acme/copy", made.snapshot_id, None))
    snapshots.put_restore(RestoreRecord("acme/copy", made.snapshot_id, GALLERY))
    again = Catalog(url)
    assert SnapshotCatalog(again).records() == [made, later]
    assert SnapshotCatalog(again).restore("acme/copy") == RestoreRecord("acme/copy", made.snapshot_id, GALLERY)
    again.close()
    snapshots.remove((made.snapshot_id, "unknown"))
    assert snapshots.records() == [later]


def test_tables_of_snapshots_come_to_a_catalog_that_has_none(catalog: Catalog, url: str) -> None:
    """One that was made before there were snapshots; the version of the schema is the same."""
    execute(url, "DROP TABLE snapshots", "DROP TABLE restores")
    again = Catalog(url)
    assert SnapshotCatalog(again).records() == []
    again.close()


def test_tenants_from_before_there_were_jobs_have_the_usual_quota(catalog: Catalog, url: str) -> None:
    """The version of the schema is the same."""
    Tenants(catalog, lambda: None).create("acme", quotas=Quotas(galleries=3, jobs=None))
    execute(url, "ALTER TABLE tenants DROP COLUMN max_jobs")
    again = Catalog(url)
    assert Tenants(again, lambda: None).get("acme").quotas == Quotas(galleries=3, jobs=10)
    again.close()
    once_more = Catalog(url)
    assert Tenants(once_more, lambda: None).get("acme").quotas.jobs == 10
    once_more.close()


def test_a_gallery_that_is_restored_is_hidden_and_looked_after(staff: Catalog) -> None:
    staff.set_state(GALLERY, RESTORING)
    assert staff.galleries() == []
    with pytest.raises(UnknownGallery):
        staff.gallery(SPEC.name)
    (route,) = staff.galleries(*LOOKED_AFTER)
    first, second = staff.shards()
    assert [config.in_sync for config in (first, second)] == list(route.in_sync)
    assert staff.shards_on("d") == [second]
    changed = staff.reconfigure(replace(first, in_sync=("c", "b")))
    assert staff.shards() == [changed, second]
    staff.set_state(GALLERY, READY)
    assert staff.gallery(SPEC.name).in_sync[0] == ("c", "b")
    staff.begin_drop(GALLERY)
    assert staff.shards() == []


def test_a_route_names_hosts_in_sync_and_epochs(staff: Catalog) -> None:
    route = staff.gallery(SPEC.name)
    assert route.in_sync == (("c", "a", "b"), ("b", "c", "d"))
    assert route.hosts == ("c", "b")
    assert route.epochs == (1, 1)
    assert (route.replicas, route.min_in_sync, route.version) == (3, 2, 2)
    assert staff.galleries() == [route]
    assert staff.shards_per_host() == {"a": 1, "b": 2, "c": 2, "d": 1}


def test_shards_are_found_by_number_and_by_host(staff: Catalog) -> None:
    first = ShardConfig(GALLERY, 0, 1, "c", ("c", "a", "b"), ())
    second = ShardConfig(GALLERY, 1, 1, "b", ("b", "c", "d"), ())
    assert staff.shard(GALLERY, 1) == second
    assert staff.shards() == [first, second]
    assert staff.shards_on("a") == [first]
    assert staff.shards_on("c") == [first, second]
    assert staff.shards_on("e") == []
    for gallery, shard in ((GALLERY, 2), ("ff" * 8, 0)):
        with pytest.raises(UnknownGallery):
            staff.shard(gallery, shard)


def test_shards_of_galleries_that_are_not_ready_are_asked_for_one_by_one(catalog: Catalog) -> None:
    catalog.add_gallery(GALLERY, SPEC, PLACEMENT)
    assert catalog.shards() == catalog.shards_on("a") == catalog.galleries() == []
    assert catalog.shard(GALLERY, 0).primary == "c"
    assert catalog.shards_per_host()["b"] == 2
    assert [route.name for route in catalog.galleries(CREATING)] == [SPEC.name]
    with pytest.raises(UnknownGallery):
        catalog.gallery(SPEC.name)


def test_galleries_are_in_order_of_their_names_on_any_database(catalog: Catalog) -> None:
    names = ["a/b", "a-b/c", "a.b/c", "a_b/c", "a0/c"]
    for number, name in enumerate(names):
        catalog.add_gallery(f"{number:016x}", replace(SPEC, name=name), PLACEMENT)
        catalog.set_state(f"{number:016x}", READY)
    assert [route.name for route in catalog.galleries()] == sorted(names)


@pytest.mark.parametrize(
    "placement", [[("a",)], [("a",), ()], [("a",), ("b", "b")], ["host-0", "host-1"], [("a",), ("b",), ("c",)]]
)
def test_a_placement_that_is_none_is_refused(catalog: Catalog, placement: Any) -> None:
    with pytest.raises(InvalidParameter):
        catalog.add_gallery(GALLERY, SPEC, placement)
    assert catalog.shards_per_host() == {}
    assert catalog.galleries(CREATING) == []


def test_a_removed_gallery_leaves_nothing(staff: Catalog) -> None:
    staff.set_model(GALLERY, "m1", b"model", 1000)
    assert (staff.model_data(GALLERY, "m1"), staff.model_templates("m1")) == (b"model", 1000)
    staff.remove_gallery(GALLERY)
    with staff.reading() as db:
        rows = {
            name: db.execute(sa.select(sa.func.count()).select_from(t)).scalar() for name, t in METADATA.tables.items()
        }
    # The tenant's id is never given again.
    assert {name: count for name, count in rows.items() if count} == {"meta": 1, "tenants": 1}


def test_a_model_is_kept_while_a_gallery_uses_it(staff: Catalog) -> None:
    other = "11" * 8
    staff.add_gallery(other, replace(SPEC, name="acme/visitors"), PLACEMENT)
    for gallery in (GALLERY, other):
        staff.set_model(gallery, "m1", b"model", 1000)
    staff.set_model(GALLERY, "m2", b"newer", 8000)
    assert (staff.model_data(other, "m1"), staff.model_data(GALLERY, "m2")) == (b"model", b"newer")
    staff.remove_gallery(other)
    with staff.reading() as db:
        assert db.exec_driver_sql("SELECT model_id FROM models").scalars().all() == ["m2"]


# Compare-and-set


def test_a_shard_is_reconfigured_at_the_epoch_that_was_read(staff: Catalog) -> None:
    before = staff.gallery(SPEC.name)
    wanted = ShardConfig(GALLERY, 0, 1, "b", ("a", "b"), ("e", "d"))
    written = staff.reconfigure(wanted)
    assert written == ShardConfig(GALLERY, 0, 2, "b", ("b", "a"), ("d", "e")) == staff.shard(GALLERY, 0)
    after = staff.gallery(SPEC.name)
    assert after == replace(before, in_sync=(("b", "a"), ("b", "c", "d")), epochs=(2, 1), version=before.version + 1)
    assert staff.shards_on("e") == [written]
    assert staff.shards_per_host() == {"a": 1, "b": 2, "c": 1, "d": 2, "e": 1}


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_another_epoch_is_stale_and_changes_nothing(staff: Catalog, epoch: int) -> None:
    staff.reconfigure(staff.shard(GALLERY, 0))
    before = (staff.gallery(SPEC.name), staff.shards())
    with pytest.raises(StaleRoute, match=f"has epoch 2; the change was for {epoch}"):
        staff.reconfigure(ShardConfig(GALLERY, 0, epoch, "z", ("z",), ()))
    assert (staff.gallery(SPEC.name), staff.shards()) == before


@pytest.mark.parametrize(
    ("primary", "in_sync", "joining"),
    [("a", (), ()), ("a", ("b",), ()), ("a", ("b",), ("a",)), ("a", ("a", "b"), ("b",)), ("a", ("a", "a"), ())],
)
def test_hosts_that_contradict_each_other_are_refused(
    staff: Catalog, primary: str, in_sync: tuple[str, ...], joining: tuple[str, ...]
) -> None:
    before = staff.shards()
    with pytest.raises(InvalidParameter, match=f"shard 0 of {GALLERY}"):
        staff.reconfigure(ShardConfig(GALLERY, 0, 1, primary, in_sync, joining))
    assert staff.shards() == before


def test_only_a_shard_of_a_ready_gallery_is_reconfigured(staff: Catalog) -> None:
    config = staff.shard(GALLERY, 0)
    for wrong in (replace(config, shard=2), replace(config, gallery_id="ff" * 8)):
        with pytest.raises(UnknownGallery):
            staff.reconfigure(wrong)
    assert staff.gallery(SPEC.name).version == 2
    staff.set_state(GALLERY, DROPPING)
    with pytest.raises(UnknownGallery):
        staff.reconfigure(config)
    assert staff.shard(GALLERY, 0) == config


def test_of_many_that_read_an_epoch_one_wins(staff: Catalog, url: str) -> None:
    # Half of them as another process would, with connections of its own.
    other = Catalog(url)
    for _ in range(5):
        read = staff.shard(GALLERY, 0)
        hosts = [f"host-{i}" for i in range(8)]
        wanted = [replace(read, primary=host, in_sync=(host,), joining=()) for host in hosts]
        results = together(
            *(
                lambda c=catalog, w=config: c.reconfigure(w)
                for config, catalog in zip(wanted, (staff, other) * 4, strict=True)
            )
        )
        (winner,) = [result for result in results if isinstance(result, ShardConfig)]
        assert winner.epoch == read.epoch + 1
        assert {type(result) for result in results} == {ShardConfig, StaleRoute}
        assert staff.shard(GALLERY, 0) == other.shard(GALLERY, 0) == winner
    assert staff.gallery(SPEC.name).epochs == (6, 1)
    assert staff.gallery(SPEC.name).version == 7
    other.close()


def test_no_change_is_lost_when_all_repeat_theirs(staff: Catalog) -> None:
    def join(host: str) -> None:
        while True:
            read = staff.shard(GALLERY, 1)
            try:
                staff.reconfigure(replace(read, joining=(*read.joining, host)))
            except StaleRoute:
                continue
            return

    hosts = [f"host-{i}" for i in range(6)]
    assert together(*(lambda h=host: join(h) for host in hosts)) == [None] * 6
    assert staff.shard(GALLERY, 1) == ShardConfig(GALLERY, 1, 7, "b", ("b", "c", "d"), tuple(hosts))


def test_shards_of_a_gallery_are_reconfigured_side_by_side(catalog: Catalog) -> None:
    spec = replace(SPEC, shards=6)
    catalog.add_gallery(GALLERY, spec, [("a", "b", "c")] * 6)
    catalog.set_state(GALLERY, READY)
    configs = [catalog.shard(GALLERY, shard) for shard in range(6)]
    results = together(*(lambda c=config: catalog.reconfigure(replace(c, primary="b")) for config in configs))
    assert catalog.shards() == results
    assert catalog.gallery(spec.name).epochs == (2,) * 6
    assert catalog.gallery(spec.name).version == 2 + 6


def test_a_gallery_removed_while_it_is_reconfigured_leaves_nothing(staff: Catalog) -> None:
    for _ in range(5):
        read = staff.shard(GALLERY, 0)
        changed, removed = together(
            lambda config=read: staff.reconfigure(config), lambda: staff.remove_gallery(GALLERY)
        )
        assert removed is None
        assert isinstance(changed, (ShardConfig, UnknownGallery))
        assert staff.shards_per_host() == {}
        staff.add_gallery(GALLERY, SPEC, PLACEMENT)
        staff.set_state(GALLERY, READY)


def test_of_many_galleries_of_a_name_one_is_entered(catalog: Catalog) -> None:
    results = together(*(lambda i=i: catalog.add_gallery(f"{i:016x}", SPEC, PLACEMENT) for i in range(8)))
    assert [type(result) for result in results if result is not None] == [AlreadyExists] * 7
    assert [route.name for route in catalog.galleries(CREATING)] == [SPEC.name]
    assert sum(catalog.shards_per_host().values()) == 6


def test_a_reader_sees_one_state_of_the_catalog(staff: Catalog) -> None:
    query = "SELECT MAX(epoch) FROM shards"
    with staff.reading() as db:
        assert db.exec_driver_sql(query).scalar_one() == 1
        staff.reconfigure(staff.shard(GALLERY, 0))
        assert db.exec_driver_sql(query).scalar_one() == 1
    with staff.reading() as db:
        assert db.exec_driver_sql(query).scalar_one() == 2


# Hosts


def test_hosts_are_up_when_they_are_registered_and_change_since(catalog: Catalog) -> None:
    catalog.register_hosts(["b", "a"], now=100.25)
    assert catalog.hosts() == [HostRecord("a", UP, 100.25), HostRecord("b", UP, 100.25)]
    catalog.set_host_state("a", DOWN, 200.5)
    catalog.set_host_state("a", DOWN, 300.0)
    catalog.register_hosts(["a", "c"], now=400.0)
    assert catalog.hosts() == [HostRecord("a", DOWN, 200.5), HostRecord("b", UP, 100.25), HostRecord("c", UP, 400.0)]
    for state, now in ((DRAINING, 500.0), (GONE, 600.0), (UP, 700.0)):
        catalog.set_host_state("a", state, now)
        assert catalog.hosts()[0] == HostRecord("a", state, now)


def test_a_host_that_is_not_there_and_a_state_that_is_none_are_refused(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="'a'"):
        catalog.set_host_state("a", DOWN, 1.0)
    catalog.register_hosts(["a"])
    with pytest.raises(InvalidParameter, match="up, down, draining, gone"):
        catalog.set_host_state("a", "dead", 1.0)


def test_hosts_may_register_at_the_same_time(catalog: Catalog) -> None:
    assert together(*[lambda: catalog.register_hosts([f"host-{i}" for i in range(9)])] * 6) == [None] * 6
    assert [(record.host, record.state) for record in catalog.hosts()] == [(f"host-{i}", UP) for i in range(9)]


# Opening, upgrading, closing

FIRST_DDL = (
    "CREATE TABLE models (model_id VARCHAR(64) NOT NULL, templates INTEGER NOT NULL, data {blob} NOT NULL,"
    " PRIMARY KEY (model_id))",
    "CREATE TABLE galleries (gallery_id VARCHAR(32) NOT NULL, name VARCHAR(130) NOT NULL, state VARCHAR(16) NOT NULL,"
    " dim INTEGER NOT NULL, code_bits INTEGER NOT NULL, embedder VARCHAR(64), model_id VARCHAR(64),"
    " version INTEGER NOT NULL, PRIMARY KEY (gallery_id), UNIQUE (name),"
    " FOREIGN KEY(model_id) REFERENCES models (model_id))",
    "CREATE TABLE shards (gallery_id VARCHAR(32) NOT NULL, shard INTEGER NOT NULL, host VARCHAR(64) NOT NULL,"
    " PRIMARY KEY (gallery_id, shard), FOREIGN KEY(gallery_id) REFERENCES galleries (gallery_id))",
    "INSERT INTO models VALUES ('m1', 1000, {bytes})",
    "INSERT INTO galleries VALUES ('g1', 'acme/staff', 'ready', 128, 512, 'sface_2021dec', 'm1', 7)",
    "INSERT INTO galleries VALUES ('g2', 'acme/new', 'creating', 64, 256, NULL, NULL, 1)",
    "INSERT INTO shards VALUES ('g1', 0, 'host-0'), ('g1', 1, 'host-1'), ('g2', 0, 'host-0')",
)


SECOND_DDL = (
    FIRST_DDL[0],
    "CREATE TABLE hosts (host VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, since {double} NOT NULL,"
    " PRIMARY KEY (host))",
    "CREATE TABLE meta (name VARCHAR(32) NOT NULL, value VARCHAR(64) NOT NULL, PRIMARY KEY (name))",
    "CREATE TABLE galleries (gallery_id VARCHAR(32) NOT NULL, name VARCHAR(130) NOT NULL, state VARCHAR(16) NOT NULL,"
    " dim INTEGER NOT NULL, code_bits INTEGER NOT NULL, embedder VARCHAR(64), model_id VARCHAR(64),"
    " version INTEGER NOT NULL, replicas INTEGER DEFAULT '1' NOT NULL, min_in_sync INTEGER DEFAULT '1' NOT NULL,"
    " PRIMARY KEY (gallery_id), UNIQUE (name), FOREIGN KEY(model_id) REFERENCES models (model_id))",
    'CREATE TABLE shards (gallery_id VARCHAR(32) NOT NULL, shard INTEGER NOT NULL, "primary" VARCHAR(64) NOT NULL,'
    " epoch INTEGER DEFAULT '1' NOT NULL, PRIMARY KEY (gallery_id, shard),"
    " FOREIGN KEY(gallery_id) REFERENCES galleries (gallery_id))",
    "CREATE TABLE replicas (gallery_id VARCHAR(32) NOT NULL, shard INTEGER NOT NULL, host VARCHAR(64) NOT NULL,"
    " state VARCHAR(16) NOT NULL, PRIMARY KEY (gallery_id, shard, host),"
    " FOREIGN KEY(gallery_id, shard) REFERENCES shards (gallery_id, shard))",
    "CREATE INDEX ix_replicas_host ON replicas (host)",
    "INSERT INTO meta VALUES ('schema', '2'), ('home', '00112233aabbccdd')",
    "INSERT INTO models VALUES ('m1', 1000, {bytes})",
    "INSERT INTO galleries VALUES ('fe42cbdffeb9a7a8', 'acme/staff', 'ready', 128, 512, NULL, 'm1', 7, 2, 1),"
    " ('fe42cbdffeb9a7a9', 'acme/new', 'creating', 64, 256, NULL, NULL, 1, 1, 1),"
    " ('fe42cbdffeb9a7aa', 'beta/staff', 'restoring', 64, 256, NULL, NULL, 1, 1, 1),"
    " ('fe42cbdffeb9a7ab', '#fe42cbdffeb9a7ab', 'dropping', 64, 256, NULL, NULL, 1, 1, 1)",
    "INSERT INTO shards VALUES ('fe42cbdffeb9a7a8', 0, 'a', 3), ('fe42cbdffeb9a7a9', 0, 'a', 1),"
    " ('fe42cbdffeb9a7aa', 0, 'a', 1), ('fe42cbdffeb9a7ab', 0, 'a', 1)",
    "INSERT INTO replicas VALUES ('fe42cbdffeb9a7a8', 0, 'a', 'in_sync'), ('fe42cbdffeb9a7a8', 0, 'b', 'joining'),"
    " ('fe42cbdffeb9a7a9', 0, 'a', 'in_sync'), ('fe42cbdffeb9a7aa', 0, 'a', 'in_sync'),"
    " ('fe42cbdffeb9a7ab', 0, 'a', 'in_sync')",
)


def make_first_version(url: str) -> None:
    """A catalog as Facegrid wrote it before it had epochs. Never regenerate this."""
    execute(url, *in_words_of(url, FIRST_DDL))


def make_second_version(url: str) -> None:
    """A catalog as Facegrid wrote it before it had tenants. Never regenerate this."""
    execute(url, *in_words_of(url, SECOND_DDL))


def in_words_of(url: str, statements: Sequence[str]) -> list[str]:
    words = {"blob": "BLOB", "bytes": "x'6D6F64656C'", "double": "DOUBLE"}
    if url.startswith("postgresql"):
        words = {"blob": "BYTEA", "bytes": "'model'", "double": "DOUBLE PRECISION"}
    return [statement.format(**words) for statement in statements]


def columns(url: str) -> dict[str, set[tuple[str, str, bool]]]:
    database = Database(url)
    with database.reading() as db:
        inspector = sa.inspect(db)
        found = {
            table: {(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)}
            for table in inspector.get_table_names()
        }
    database.close()
    return found


def indexes(url: str) -> set[tuple[str, tuple[str | None, ...]]]:
    database = Database(url)
    with database.reading() as db:
        inspector = sa.inspect(db)
        found = {
            (table, tuple(index["column_names"]))
            for table in inspector.get_table_names()
            for index in inspector.get_indexes(table)
        }
    database.close()
    return found


def test_a_catalog_of_the_first_version_is_upgraded(url: str, tmp_path: Path) -> None:
    make_first_version(url)
    for _ in range(2):
        catalog = Catalog(url)
        route = catalog.gallery("acme/staff")
        assert (route.in_sync, route.epochs) == ((("host-0",), ("host-1",)), (1, 1))
        assert (route.replicas, route.min_in_sync, route.version) == (1, 1, 7)
        assert (route.dim, route.code_bits, route.embedder, route.model_id) == (128, 512, "sface_2021dec", "m1")
        assert (catalog.model_data(route.gallery_id, "m1"), catalog.model_templates("m1")) == (b"model", 1000)
        assert [route.name for route in catalog.galleries(CREATING)] == ["acme/new"]
        assert catalog.shards_per_host() == {"host-0": 2, "host-1": 1}
        catalog.close()
    catalog = Catalog(url)
    assert catalog.reconfigure(catalog.shard("g1", 1)).epoch == 2
    catalog.close()


def test_tenants_come_to_a_catalog_of_the_second_version(url: str) -> None:
    make_second_version(url)
    found: list[list[tuple[str, str]]] = []
    for _ in range(2):
        catalog = Catalog(url)
        tenants = Tenants(catalog, lambda: None)
        assert [tenant.quotas for tenant in tenants.all()] == [Quotas(), Quotas()]
        found.append([(tenant.name, tenant.tenant_id) for tenant in tenants.all()])
        acme, beta = (tenant_id for _, tenant_id in found[0])
        assert [route.name for route in catalog.galleries(*STATES, tenant_id=acme)] == ["acme/new", "acme/staff"]
        assert [route.name for route in catalog.galleries(*STATES, tenant_id=beta)] == ["beta/staff"]
        (config,) = catalog.shards_of("fe42cbdffeb9a7a8")
        assert config == ShardConfig("fe42cbdffeb9a7a8", 0, 3, "a", ("a",), ("b",))
        assert catalog.gallery("acme/staff").version == 7
        assert [route.gallery_id for route in catalog.galleries(DROPPING)] == ["fe42cbdffeb9a7ab"]
        catalog.close()
    assert [name for name, _ in found[0]] == ["acme", "beta"]
    assert found[0] == found[1]
    catalog = Catalog(url)
    Tenants(catalog, lambda: None).drop("acme")
    dropped = {route.gallery_id[-1] for route in catalog.galleries(DROPPING)}
    assert (dropped, [route.name for route in catalog.galleries(RESTORING)]) == ({"8", "9", "b"}, ["beta/staff"])
    catalog.close()


@pytest.mark.parametrize("make", [make_first_version, make_second_version])
def test_an_upgraded_catalog_has_the_tables_of_a_new_one(
    url: str, tmp_path: Path, request: pytest.FixtureRequest, make: Callable[[str], None]
) -> None:
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    if url.startswith("postgresql"):
        fresh = request.getfixturevalue("postgres").new_database()
    make(url)
    for where in (url, fresh):
        Catalog(where).close()
    assert columns(url) == columns(fresh)
    assert indexes(url) == indexes(fresh)


def test_an_upgrade_that_fails_changes_nothing(url: str) -> None:
    make_first_version(url)
    execute(url, "CREATE TABLE replicas (something INTEGER)")
    before = columns(url)
    for _ in range(2):
        with pytest.raises(StorageError):
            Catalog(url)
    assert columns(url) == before
    execute(url, "DROP TABLE replicas")
    catalog = Catalog(url)
    assert catalog.gallery("acme/staff").epochs == (1, 1)
    catalog.close()


@pytest.mark.parametrize("make", [make_first_version, make_second_version])
def test_many_may_open_a_new_catalog_or_upgrade_an_old_one_at_the_same_time(
    url: str, make: Callable[[str], None]
) -> None:
    make(url)
    opened = together(*[lambda: Catalog(url)] * 4)
    epochs = (1, 1) if make is make_first_version else (3,)
    assert [catalog.gallery("acme/staff").epochs for catalog in opened] == [epochs] * 4
    assert [tenant.name for tenant in Tenants(opened[0], lambda: None).all()] in (["acme"], ["acme", "beta"])
    for catalog in opened:
        catalog.close()


@pytest.mark.parametrize(("version", "error"), [("4", FormatTooNew), ("1", CorruptData), ("new", CorruptData)])
def test_a_version_that_is_not_known_is_refused(url: str, version: str, error: type[FacegridError]) -> None:
    Catalog(url).close()
    execute(url, f"UPDATE meta SET value = '{version}' WHERE name = 'schema'")
    with pytest.raises(error, match="schema"):
        Catalog(url)


def test_a_lost_table_is_not_made_again_empty(url: str) -> None:
    Catalog(url).close()
    execute(url, "DROP TABLE replicas")
    with pytest.raises(CorruptData, match="lost its tables replicas"):
        Catalog(url)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM replicas WHERE shard = 0",
        "UPDATE replicas SET state = 'joining' WHERE shard = 0 AND host = 'c'",
        "DELETE FROM replicas WHERE shard = 0; DELETE FROM shards WHERE shard = 0",
    ],
)
def test_lost_rows_are_named_and_not_guessed(staff: Catalog, url: str, damage: str) -> None:
    execute(url, *damage.split(";"))
    with pytest.raises(CorruptData):
        staff.gallery(SPEC.name)
    with pytest.raises(CorruptData):
        staff.galleries()


def test_tables_of_others_are_made_when_a_catalog_is_opened(url: str) -> None:
    Catalog(url).close()
    table = sa.Table("jobs_of_a_test", METADATA, sa.Column("job", sa.Integer, primary_key=True))
    try:
        catalog = Catalog(url)
        with catalog.writing() as db:
            db.execute(table.insert(), {"job": 1})
        with catalog.reading() as db:
            assert db.execute(sa.select(table.c.job)).scalars().all() == [1]
        catalog.close()
    finally:
        METADATA.remove(table)


def test_a_closed_catalog_stays_closed(staff: Catalog) -> None:
    staff.close()
    staff.close()
    with pytest.raises(ShardClosed):
        staff.galleries()
    with pytest.raises(ShardClosed):
        staff.reconfigure(ShardConfig(GALLERY, 0, 1, "a", ("a",), ()))


def test_a_catalog_belongs_to_the_home_that_claimed_it(catalog: Catalog, url: str) -> None:
    catalog.claim("aa" * 8)
    catalog.claim("aa" * 8)
    with pytest.raises(InvalidParameter, match="belongs to home aaaaaaaaaaaaaaaa, not to bbbbbbbbbbbbbbbb") as caught:
        catalog.claim("bb" * 8)
    assert without_password(str(caught.value))


# A whole home


def test_a_home_with_its_catalog_at_a_url_is_opened_again(url: str, tmp_path: Path) -> None:
    home, url = tmp_path / "home", url.replace("catalog.db", "elsewhere.db")
    rows = unit_rows(50, 64, seed=3)
    ids = [f"t{i}" for i in range(50)]
    with Cluster.open(home, catalog=url) as grid:
        grid.gallery("acme/staff", create=True, dim=64, shards=3).enroll(rows, template_ids=ids)
    with Cluster.open(home, catalog=url) as grid:
        assert [gallery.name for gallery in grid.galleries()] == ["acme/staff"]
        found = grid.gallery("acme/staff").search(rows[:5], k=1)
        assert found.template_ids == tuple((template_id,) for template_id in ids[:5])
    assert not (home / "catalog.db").exists()


def test_a_home_is_never_opened_with_a_second_catalog(url: str, tmp_path: Path) -> None:
    url = url.replace("catalog.db", "elsewhere.db")
    Cluster.open(tmp_path / "remote", catalog=url).close()
    with pytest.raises(CorruptData, match="has shard hosts and no catalog"):
        Cluster.open(tmp_path / "remote")
    with pytest.raises(InvalidParameter, match="belongs to home"):
        Cluster.open(tmp_path / "other", catalog=url)
    Cluster.open(tmp_path / "local").close()
    with pytest.raises(InvalidParameter, match="has its catalog in"):
        Cluster.open(tmp_path / "local", catalog=url)


def test_doctor_looks_at_the_catalog_that_is_set(url: str, tmp_path: Path) -> None:
    url = url.replace("catalog.db", "elsewhere.db")
    with Cluster.open(tmp_path / "home", catalog=url) as grid:
        settings = grid.settings
        grid.gallery("acme/staff", create=True, dim=64, shards=2)
    assert PASSWORD not in repr(settings)
    for given, status in ((settings, "ok"), (settings.model_copy(update={"catalog": None}), "fail")):
        findings = [found for found in check_home(given, is_deep=False) if isinstance(found, Finding)]
        assert [found.status for found in findings if found.check == "catalog"] == [status]
    assert not (tmp_path / "home" / "catalog.db").exists()


# PostgreSQL only


def test_the_server_may_restart_between_calls(postgres: PostgresServer) -> None:
    catalog = Catalog(postgres.new_database())
    catalog.add_gallery(GALLERY, SPEC, PLACEMENT)
    catalog.set_state(GALLERY, READY)
    # Several connections wait in the pool: none of them may fail a call afterwards.
    together(*[catalog.galleries] * 4)
    for mode in ("fast", "immediate"):
        postgres.stop(mode)
        postgres.start()
        config = catalog.shard(GALLERY, 0)
        assert catalog.reconfigure(config).epoch == config.epoch + 1
    assert [route.epochs for route in together(*[lambda: catalog.gallery(SPEC.name)] * 4)] == [(3, 1)] * 4
    catalog.close()


def test_what_fails_while_the_server_is_down_is_named(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    catalog = Catalog(url)
    catalog.add_gallery(GALLERY, SPEC, PLACEMENT)
    catalog.set_state(GALLERY, READY)
    config = catalog.shard(GALLERY, 0)
    calls: list[tuple[Callable[[], object], type[StorageError]]] = [
        (catalog.galleries, StorageError),
        (lambda: catalog.shard(GALLERY, 0), StorageError),
        (lambda: catalog.reconfigure(config), WriteFailed),
        (lambda: catalog.set_state(GALLERY, DROPPING), WriteFailed),
        (lambda: Catalog(url), StorageError),
    ]
    postgres.stop()
    try:
        for call, expected in calls:
            with pytest.raises(StorageError, match=f"127.0.0.1:{postgres.port}/test") as caught:
                call()
            assert type(caught.value) is expected
            assert without_password(str(caught.value))
    finally:
        postgres.start()
    assert catalog.shard(GALLERY, 0) == config
    assert catalog.reconfigure(config).epoch == 2
    catalog.close()


def test_a_server_that_stops_within_a_transaction_takes_all_of_it_back(postgres: PostgresServer) -> None:
    catalog = Catalog(postgres.new_database())
    catalog.register_hosts(["a"], now=1.0)
    try:
        with pytest.raises(WriteFailed), catalog.writing() as db:  # noqa: PT012 - the last statement must raise in it
            db.exec_driver_sql("UPDATE hosts SET state = 'down'")
            postgres.stop()
            db.exec_driver_sql("UPDATE hosts SET since = 2")
    finally:
        postgres.start()
    assert catalog.hosts() == [HostRecord("a", UP, 1.0)]
    catalog.close()


def test_a_wrong_password_is_not_shown(postgres: PostgresServer) -> None:
    url = postgres.new_database().replace(PASSWORD, "verraten")
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        Catalog(url)
    assert "verraten" not in str(caught.value)


def test_a_commit_is_durable_though_the_database_is_set_otherwise(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    postgres.execute("postgres", f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    catalog = Catalog(url)
    with catalog.writing() as db:
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    catalog.close()


@pytest.mark.ray
def test_a_coordinator_on_ray_has_its_catalog_at_the_url(
    ray_cluster: SharedRay, postgres: PostgresServer, tmp_path: Path
) -> None:
    settings = {"runtime": "ray", "ray_address": ray_cluster.address, "catalog": postgres.new_database()}
    rows = unit_rows(30, 64, seed=4)
    with Cluster.open(tmp_path / "home", **settings) as grid:
        grid.gallery("acme/staff", create=True, dim=64, shards=3).enroll(
            rows, template_ids=[f"t{i}" for i in range(30)]
        )
    with Cluster.open(tmp_path / "home", **settings) as grid:
        assert grid.gallery("acme/staff").search(rows[7:8], k=1).template_ids == (("t7",),)
    assert not (tmp_path / "home" / "catalog.db").exists()
