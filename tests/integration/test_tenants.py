"""Tenants of a whole home: directories, limits, what is left of one that was dropped, homes from before tenants."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from cluster import Cluster
from cluster.cli import run
from cluster.tenancy import usage
from coordinator.directories import gallery_directories, gallery_directory, shards_on, tenant_of
from coordinator.tenant_types import AuditEntry, Quotas, Usage
from coordinator.types import GallerySpec
from shard.errors import (
    AlreadyExists,
    FacegridError,
    InvalidParameter,
    QuotaExceeded,
    Unauthenticated,
    UnknownGallery,
    UnknownTenant,
)
from tests.faces_like import unit_rows
from tests.golden.make import HERE
from tests.integration.conftest import SharedRay

DIM = 64
ROWS = unit_rows(40, DIM, seed=1)
IDS = [f"t{i}" for i in range(40)]


def test_a_tenants_galleries_are_below_its_directory(tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home", shard_hosts=2) as grid:
        staff = grid.gallery("acme/staff", create=True, dim=DIM, shards=3, replicas=2)
        grid.gallery("acme/more", create=True, dim=DIM, shards=1, replicas=2)
        grid.gallery("beta/staff", create=True, dim=DIM, shards=2, replicas=2)
        acme, beta = (grid.tenants.get(name).tenant_id for name in ("acme", "beta"))
        hosts = sorted(grid.home.hosts_directory.iterdir())
        for host in hosts:
            assert sorted(path.name for path in (host / "tenants").iterdir()) == sorted([acme, beta])
            assert not (host / "galleries").exists()
        route = staff._route
        assert tenant_of(route.gallery_id) == acme
        assert [(route.gallery_id, n) in shards_on(hosts[0]) for n in range(3)] == [True] * 3
        assert {tenant_of(name) for name in gallery_directories(hosts[0])} == {acme, beta}
        assert [gallery.name for gallery in grid.galleries("acme")] == ["acme/more", "acme/staff"]
        grid.drop("acme/staff")
        assert not gallery_directory(hosts[0], route.gallery_id).exists()
        grid.drop("acme/more")
        # Its directory goes with its last gallery; the tenant stays.
        assert [path.name for host in hosts for path in (host / "tenants").iterdir()] == [beta, beta]
        assert grid.galleries("acme") == []
        with pytest.raises(UnknownTenant):
            grid.galleries("nobody")


@pytest.mark.parametrize(
    "gallery_id", ["", "..", "a" * 16 + "/", "../../0123456789abcdef", "0" * 8, "0" * 8 + "-" + "0" * 15]
)
def test_no_other_text_becomes_a_directory(tmp_path: Path, gallery_id: str) -> None:
    with pytest.raises(InvalidParameter, match="gallery id"):
        gallery_directory(tmp_path, gallery_id)
    with pytest.raises(InvalidParameter, match="gallery id"):
        tenant_of(gallery_id)


def test_a_tenant_that_is_created_again_never_sees_old_faces(tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        old = grid.gallery("acme/staff", create=True, dim=DIM, shards=2)
        other = grid.gallery("acme.two/staff", create=True, dim=DIM, shards=2)
        for gallery in (old, other):
            gallery.enroll(ROWS, template_ids=IDS, identities=["Ada"] * 40)
        snapshot = grid.snapshots(tmp_path / "store").create("acme/staff")
        before = grid.tenants.get("acme")
        _, text = grid.tenants.create_key("acme", "app", scopes=["admin"])
        grid.tenants.drop("acme")
        (host,) = grid.home.hosts_directory.iterdir()
        assert not (host / "tenants" / before.tenant_id).exists()
        assert not list(host.rglob(f"*{before.tenant_id}*"))
        with pytest.raises(Unauthenticated):
            grid.tenants.authenticate(text)
        with pytest.raises(UnknownGallery):
            grid.gallery("acme/staff")

        new = grid.gallery("acme/staff", create=True, dim=DIM, shards=2)
        assert grid.tenants.get("acme").tenant_id != before.tenant_id
        assert (len(new), list(new.identities()), new.search(ROWS[:3], k=5).template_ids) == (0, [], ((), (), ()))
        assert tenant_of(snapshot.manifest.gallery_id) == before.tenant_id  # by which a service tells them apart
        new.enroll(ROWS[:5], template_ids=[f"n{i}" for i in range(5)])
        for call in (lambda: old.search(ROWS[:1], k=5), lambda: old.enroll(ROWS[5:6], template_ids=["x"])):
            # A handle of before leads to nothing, or to the new gallery by its name; never to what was dropped.
            try:
                found = call()
            except FacegridError:
                continue
            assert not {name for names in found.template_ids for name in names} & set(IDS)
        assert other.search(ROWS[:1], k=1).template_ids == (("t0",),)
    with Cluster.open(tmp_path / "home") as grid:
        found = grid.gallery("acme/staff").search(ROWS, k=40, exact=True)
        assert not {name for names in found.template_ids for name in names} & set(IDS)


def test_a_half_restored_gallery_goes_with_its_tenant(tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        grid.gallery("acme/staff", create=True, dim=DIM, shards=1).enroll(ROWS, template_ids=IDS)
        made = grid.snapshots(tmp_path / "store").create("acme/staff").manifest
        spec = grid.coordinator.gallery("acme/staff")
        wanted = GallerySpec("beta/staff", spec.dim, 1, spec.code_bits, None)
        grid.coordinator.snapshots.begin_restore(wanted, made.snapshot_id, None)
        with pytest.raises(AlreadyExists, match="half restored"):
            grid.gallery("beta/staff", create=True, dim=DIM)
        grid.tenants.drop("beta")
        assert len(grid.gallery("beta/staff", create=True, dim=DIM)) == 0


def test_a_home_from_before_tenants_keeps_its_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(HERE / "home-1" / "home", tmp_path / "home")
    host = tmp_path / "home" / "hosts" / "host-0"
    (old_id,) = gallery_directories(host)
    with Cluster.open(tmp_path / "home") as grid:
        (tenant,) = grid.tenants.all()
        assert tenant.name == "golden"
        assert [gallery.name for gallery in grid.galleries("golden")] == ["golden/faces"]
        new = grid.gallery("golden/more", create=True, dim=DIM, shards=1)
        assert sorted(gallery_directories(host)) == sorted([old_id, new._route.gallery_id])
        assert gallery_directories(host)[old_id] == host / "galleries" / old_id
        assert usage(grid, "golden").galleries == 2
    for command in ("fsck", "doctor"):
        assert run([command, "--home", str(tmp_path / "home"), "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()
    with Cluster.open(tmp_path / "home") as grid:
        assert len(grid.gallery("golden/faces")) == 37
        grid.tenants.drop("golden")
        assert gallery_directories(host) == {}
        assert not list((host / "tenants").iterdir())


def test_fsck_finds_what_is_wrong_in_a_tenants_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        gallery = grid.gallery("acme/staff", create=True, dim=DIM, shards=1)
        gallery.enroll(ROWS, template_ids=IDS)
        gallery.flush()
    (floats,) = (tmp_path / "home").glob("hosts/host-0/tenants/*/*/shard-0000/segment-000001/floats.f32")
    data = bytearray(floats.read_bytes())
    data[100] ^= 1
    floats.write_bytes(data)
    assert run(["fsck", "--home", str(tmp_path / "home"), "--json"]) == 6
    assert f"{floats.relative_to(tmp_path / 'home')}" in capsys.readouterr().out


def test_limits_are_held_and_counted(tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        tenant = grid.tenants.create("acme", quotas=Quotas(galleries=1, templates=50))
        staff = grid.gallery("acme/staff", create=True, dim=DIM, shards=2)
        with pytest.raises(QuotaExceeded, match="may have 1 galleries"):
            grid.gallery("acme/more", create=True, dim=DIM)
        with pytest.raises(AlreadyExists):
            grid.gallery("acme/staff", create=True, dim=DIM, shards=3)
        staff.enroll(ROWS, template_ids=IDS)
        staff.delete(template_ids=IDS[:5])
        has = usage(grid, "acme")
        assert has == Usage(1, 35, staff.stats().disk_bytes)
        tenant.quotas.check("acme", has, templates=15)
        with pytest.raises(QuotaExceeded, match="may have 50 templates; it has 35, asked for 16 more"):
            tenant.quotas.check("acme", has, templates=16)
        # What was refused left nothing behind.
        (host,) = grid.home.hosts_directory.iterdir()
        assert list(gallery_directories(host)) == [staff._route.gallery_id]


def test_the_audit_log_is_trimmed_when_a_home_is_opened(tmp_path: Path) -> None:
    now = time.time()
    entries = [AuditEntry(now - days * 86_400, None, None, "search", None, 1, "ok", "") for days in (1, 11, 401)]
    with Cluster.open(tmp_path / "home") as grid:
        grid.wait_until_idle()
        grid.tenants.record(entries)
    for settings, kept in (({}, 2), ({"audit_days": 10.0}, 1)):
        with Cluster.open(tmp_path / "home", **settings) as grid:
            grid.wait_until_idle()
            assert len(grid.tenants.audit(None)) == kept


@pytest.mark.ray
def test_tenants_are_reached_through_the_coordinators_actor(ray_cluster: SharedRay, tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home", runtime="ray", ray_address=ray_cluster.address) as grid:
        tenants = grid.tenants
        made = tenants.create("acme", quotas=Quotas(galleries=1), weight=5)
        assert tenants.get("acme") == made == tenants.all()[0]
        assert tenants.update("acme", keeps_thumbnails=True).keeps_thumbnails
        grid.gallery("acme/staff", create=True, dim=DIM, shards=3).enroll(ROWS, template_ids=IDS)
        with pytest.raises(QuotaExceeded):
            grid.gallery("acme/more", create=True, dim=DIM)
        assert usage(grid, "acme").templates == 40
        key, text = tenants.create_key("acme", "app", scopes=["read"])
        assert tenants.authenticate(text) == key == tenants.keys("acme")[0] == tenants.key(key.key_id)
        _, text = tenants.rotate_key(key.key_id)
        assert tenants.revoke_key(key.key_id).revoked_at is not None
        with pytest.raises(Unauthenticated, match="was revoked"):
            tenants.authenticate(text)
        entry = AuditEntry(1.0, "acme", key.key_id, "search", "acme/staff", 1, "ok", "r")
        tenants.record([entry])
        assert tenants.audit("acme") == [entry]
        assert tenants.trim_audit() == 1
        tenants.drop("acme")
        with pytest.raises(UnknownTenant):
            tenants.get("acme")
        assert not list(grid.home.hosts_directory.glob(f"*/tenants/{made.tenant_id}"))
