"""The control plane and its catalog where something failed half way or a file is damaged."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.catalog import DROPPING, READY, Catalog
from coordinator.coordinator import Coordinator
from coordinator.directories import gallery_directories, gallery_directory, shard_directory
from coordinator.home import Home
from coordinator.router import Router
from coordinator.runtime import LocalRuntime
from coordinator.types import Coverage, GallerySpec
from shard.errors import (
    AlreadyExists,
    ClusterNotReady,
    CorruptData,
    FacegridError,
    InvalidParameter,
    StorageError,
    WriteFailed,
)
from shard.types import SearchParams
from tests.faces_like import unit_rows
from tests.plans import explained

SPEC = GallerySpec("acme/staff", 64, 2, 256, None)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LocalRuntime]:
    opened = LocalRuntime(tmp_path / "hosts", ["host-0"])
    yield opened
    opened.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.db")
    yield opened
    opened.close()


def change(tmp_path: Path, sql: str) -> None:
    with sqlite3.connect(tmp_path / "catalog.db") as db:
        db.execute(sql)
    db.close()


def test_a_name_whose_creation_failed_can_be_created_again(catalog: Catalog, runtime: LocalRuntime) -> None:
    coordinator = Coordinator(catalog, runtime)
    catalog.add_gallery("00" * 8, SPEC, [("host-0",), ("host-0",)])
    route = coordinator.create_gallery(SPEC)
    assert coordinator.galleries() == [route]
    with pytest.raises(AlreadyExists):
        coordinator.create_gallery(SPEC)


def test_a_name_whose_removal_failed_can_be_created_again(
    catalog: Catalog, runtime: LocalRuntime, tmp_path: Path
) -> None:
    coordinator = Coordinator(catalog, runtime)
    old = coordinator.create_gallery(SPEC)
    catalog.set_state(old.gallery_id, DROPPING)
    new = coordinator.create_gallery(SPEC)
    assert new.gallery_id != old.gallery_id
    assert list(gallery_directories(tmp_path / "hosts/host-0")) == [new.gallery_id]


def test_a_catalog_that_refuses_a_write_is_a_named_error(
    catalog: Catalog, runtime: LocalRuntime, tmp_path: Path
) -> None:
    change(tmp_path, "CREATE TRIGGER full BEFORE INSERT ON galleries BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    with pytest.raises(WriteFailed, match=r"catalog\.db: disk full"):
        Coordinator(catalog, runtime).create_gallery(SPEC)


def test_a_catalog_that_lost_a_table_is_a_named_error(catalog: Catalog, runtime: LocalRuntime, tmp_path: Path) -> None:
    coordinator = Coordinator(catalog, runtime)
    coordinator.create_gallery(SPEC)
    change(tmp_path, "DROP TABLE shards")
    with pytest.raises(StorageError, match=r"catalog\.db: no such table"):
        coordinator.gallery(SPEC.name)


def test_a_gallery_whose_directory_is_lost_does_not_open(
    catalog: Catalog, runtime: LocalRuntime, tmp_path: Path
) -> None:
    route = Coordinator(catalog, runtime).create_gallery(SPEC)
    runtime.close()
    gallery_directory(tmp_path / "hosts/host-0", route.gallery_id).rename(tmp_path / "elsewhere")
    again = LocalRuntime(tmp_path / "hosts", ["host-0"])
    with pytest.raises(CorruptData, match=route.gallery_id):
        Coordinator(catalog, again)
    again.close()


def test_creating_a_gallery_reads_no_table_of_galleries_from_end_to_end(
    catalog: Catalog, runtime: LocalRuntime
) -> None:
    coordinator = Coordinator(catalog, runtime)
    plans: list[str] = []
    with explained(catalog, plans):
        coordinator.create_gallery(SPEC)
    steps = [step for plan in plans for step in plan.splitlines()]
    assert any(step.startswith("SEARCH galleries USING INDEX") for step in steps)
    # How many replicas each host has is counted on an index; tables of hosts are small.
    scans = {step for step in steps if step.startswith("SCAN")}
    assert scans == {"SCAN hosts", "SCAN replicas USING COVERING INDEX ix_replicas_host"}


def test_numpy_integers_are_plain_in_the_catalog(catalog: Catalog, runtime: LocalRuntime) -> None:
    spec = GallerySpec("acme/staff", np.int64(64), 2, np.int32(256), None)  # type: ignore[arg-type]
    route = Coordinator(catalog, runtime).create_gallery(spec)
    assert (type(route.dim), route.dim, type(route.code_bits), route.code_bits) == (int, 64, int, 256)


@pytest.mark.parametrize("code_bits", [0, 100, 2048, "512"])
def test_code_bits_out_of_range_are_refused(catalog: Catalog, runtime: LocalRuntime, code_bits: int) -> None:
    with pytest.raises(InvalidParameter, match="code_bits"):
        Coordinator(catalog, runtime).create_gallery(GallerySpec("acme/staff", 64, 2, code_bits, None))


def test_a_home_without_its_hosts_directory_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    try:
        home.hosts_directory.rmdir()
        with pytest.raises(CorruptData, match="hosts"):
            home.local_hosts()
    finally:
        home.close()


def test_a_coordinator_that_opens_partly_does_without_a_damaged_shard_and_a_lost_host(
    catalog: Catalog, runtime: LocalRuntime, tmp_path: Path
) -> None:
    """Each is the only copy: it answers nothing, all others do, and its gallery can be dropped."""
    first = Coordinator(catalog, runtime)
    damaged = first.create_gallery(SPEC)
    kept = first.create_gallery(replace(SPEC, name="acme/kept"))
    runtime.close()
    catalog.add_gallery("00" * 8, replace(SPEC, name="acme/away", shards=1), [("host-9",)])
    catalog.set_state("00" * 8, READY)
    shard_directory(tmp_path / "hosts/host-0", damaged.gallery_id, 0).rename(tmp_path / "elsewhere")
    again = LocalRuntime(tmp_path / "hosts", ["host-0"])
    try:
        with pytest.raises(ClusterNotReady, match="host-9, which are not here"):
            Coordinator(catalog, again)
        coordinator = Coordinator(catalog, again, opens_partly=True)
        router, probes, params = Router(again, coordinator.gallery), unit_rows(3, 64, seed=1), SearchParams(1)
        assert router.search(kept, probes, params).coverage.is_complete
        for name, coverage in (("acme/staff", Coverage(1, 2)), ("acme/away", Coverage(0, 1))):
            route = coordinator.gallery(name)
            found = router.search(route, probes, params, deadline_ms=500, allow_partial=True)
            assert found.coverage == coverage
            with pytest.raises(FacegridError):
                router.search(route, probes, params, deadline_ms=500)
            coordinator.drop_gallery(name)
            fresh = coordinator.create_gallery(replace(SPEC, name=name))
            assert router.search(fresh, probes, params).coverage.is_complete
    finally:
        again.close()
