"""Tenants, keys and the audit log on SQLite and on a real PostgreSQL: races, quotas, dropping, indexes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.catalog import DROPPING, READY, Catalog
from coordinator.snapshot_catalog import RestoreRecord, SnapshotCatalog
from coordinator.tenant_types import AuditEntry, Quotas
from coordinator.tenants import Tenants
from coordinator.types import GallerySpec
from shard.errors import (
    AlreadyExists,
    FacegridError,
    QuotaExceeded,
    Unauthenticated,
    UnknownGallery,
    UnknownTenant,
)
from tests.plans import explained

SPEC = GallerySpec("acme/staff", 64, 1, 256, None)
WAIT_S = 120.0


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = Catalog(url)
    yield opened
    opened.close()


@pytest.fixture
def tenants(catalog: Catalog) -> Tenants:
    return Tenants(catalog, lambda: None)


def add(catalog: Catalog, tenant_id: str, name: str, number: int) -> str:
    gallery_id = f"{tenant_id}-{number:016x}"
    catalog.add_gallery(gallery_id, replace(SPEC, name=name), [("a",)])
    catalog.set_state(gallery_id, READY)
    return gallery_id


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


def test_a_gallery_makes_its_tenant(catalog: Catalog, tenants: Tenants) -> None:
    catalog.add_gallery("00" * 8, SPEC, [("a",)])
    (tenant,) = tenants.all()
    assert (tenant.name, tenant.quotas) == ("acme", Quotas())
    made = add(catalog, tenant.tenant_id, "acme/more", 1)
    assert [route.gallery_id for route in catalog.galleries(tenant_id=tenant.tenant_id)] == [made]


def test_many_make_one_tenant(tenants: Tenants) -> None:
    made = together(*[lambda: tenants.ensure("acme")] * 6)
    assert len({tenant.tenant_id for tenant in made}) == 1
    assert tenants.all() == made[:1]


def test_one_of_many_creates_a_tenant(tenants: Tenants) -> None:
    made = together(*[lambda: tenants.create("acme")] * 6)
    assert sorted(type(result).__name__ for result in made) == ["AlreadyExists"] * 5 + ["TenantRecord"]
    assert isinstance(made[0], (AlreadyExists, type(tenants.get("acme"))))


def test_a_quota_of_galleries_holds_when_many_are_created_at_once(catalog: Catalog, tenants: Tenants) -> None:
    tenant_id = tenants.create("acme", quotas=Quotas(galleries=3)).tenant_id
    other_id = tenants.create("beta").tenant_id
    made = together(
        *[lambda n=n: add(catalog, tenant_id, f"acme/g{n}", n) for n in range(6)],
        lambda: add(catalog, other_id, "beta/g", 0),
    )
    refused = [result for result in made if isinstance(result, FacegridError)]
    assert [type(error) for error in refused] == [QuotaExceeded] * 3
    assert "may have 3 galleries; it has 3" in str(refused[0])
    (first, *_) = catalog.galleries(tenant_id=tenant_id)
    catalog.begin_drop(first.gallery_id)
    add(catalog, tenant_id, "acme/again", 9)
    with pytest.raises(QuotaExceeded):
        add(catalog, tenant_id, "acme/more", 10)
    tenants.update("acme", quotas=Quotas())
    add(catalog, tenant_id, "acme/more", 10)


def test_dropping_a_tenant_drops_what_is_its_own(catalog: Catalog, tenants: Tenants) -> None:
    tenant_id, other_id = tenants.create("acme").tenant_id, tenants.create("acme.two").tenant_id
    ready = add(catalog, tenant_id, "acme/staff", 1)
    half = f"{tenant_id}-{2:016x}"
    catalog.add_gallery(half, replace(SPEC, name="acme/half"), [("a",)])
    other = add(catalog, other_id, "acme.two/staff", 3)
    restores = SnapshotCatalog(catalog)
    for gallery in ("acme/staff", "acme.two/staff"):
        restores.put_restore(RestoreRecord(gallery, "20260131T120000Z-0a1b2c3d", None))
    _, text = tenants.create_key("acme", "app", scopes=["read"])
    _, kept = tenants.create_key("acme.two", "app", scopes=["read"])
    _, root = tenants.create_key(None, "root", scopes=["admin"])
    tenants.drop("acme")
    with pytest.raises(UnknownGallery):
        catalog.gallery("acme/staff")
    assert {route.gallery_id for route in catalog.galleries(DROPPING)} == {ready, half}
    # Whoever was creating it learns that it is gone, and does not bring it back.
    with pytest.raises(UnknownGallery):
        catalog.set_state(half, READY)
    assert (restores.restore("acme/staff"), restores.restore("acme.two/staff") is None) == (None, False)
    with pytest.raises(Unauthenticated):
        tenants.authenticate(text)
    assert [tenants.authenticate(good).tenant for good in (kept, root)] == ["acme.two", None]
    assert catalog.gallery("acme.two/staff").gallery_id == other
    # Created again it is another tenant, and what was meant for the one before does not reach it.
    assert tenants.create("acme").tenant_id != tenant_id
    with pytest.raises(UnknownTenant, match="dropped meanwhile"):
        add(catalog, tenant_id, "acme/staff", 4)
    catalog.remove_gallery(ready)
    assert [tenant.name for tenant in tenants.all()] == ["acme", "acme.two"]


def test_keys_are_rotated_one_after_the_other(tenants: Tenants) -> None:
    tenants.create("acme")
    key, _ = tenants.create_key("acme", "app", scopes=["write"], galleries=["staff"], expires_at=4e9)
    rotated = together(*[lambda: tenants.rotate_key(key.key_id, overlap_s=60.0)] * 5)
    good = 0
    for same, text in rotated:
        assert same == key
        try:
            good += tenants.authenticate(text) == key
        except Unauthenticated:
            continue
    assert good == 2  # the newest, and the one before
    assert tenants.revoke_key(key.key_id).revoked_at is not None


def test_the_log_is_kept_read_and_trimmed(tenants: Tenants) -> None:
    tenants.create("acme")
    key, _ = tenants.create_key("acme", "app", scopes=["write"])
    entries = [
        AuditEntry(float(i // 3), "acme", key.key_id, "faces.enroll", "acme/staff", 2**40, "ok", f"r{i}")
        for i in range(30)
    ]
    tenants.record(entries)
    tenants.record([AuditEntry(5.0, None, None, "auth", None, None, "unauthenticated", "r")])
    assert tenants.audit("acme", limit=1_000) == entries[::-1]
    page = tenants.audit("acme", before=5.0, limit=4)
    assert page == entries[14:8:-1]  # the rest of the moment at which the page would end
    assert tenants.trim_audit(5.0) == 15
    assert len(tenants.audit(None)) == 16


def test_what_is_asked_often_is_read_by_indexes_alone(tmp_path: Path) -> None:
    """As SQLite plans it; PostgreSQL scans tables of few rows whatever their indexes."""
    catalog = Catalog(tmp_path / "catalog.db")
    tenants = Tenants(catalog, lambda: None)
    tenants.create("acme")
    _, text = tenants.create_key("acme", "app", scopes=["read"])
    plans: list[str] = []
    with explained(catalog, plans):
        tenants.authenticate(text)
        assert len(plans) == 1
        catalog.find("acme/staff")
        tenants.audit("acme", before=3.0)
    steps = "\n".join(plans)
    assert "SEARCH api_keys USING INDEX" in steps
    assert "SCAN" not in steps, steps
    catalog.close()
