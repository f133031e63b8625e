"""Tenants whose files are encrypted, through a whole home: nothing of them is in any file, and without the key, or once
the tenant is dropped, nothing of them can be read; others in the same home notice nothing."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from cluster.cli import run
from cluster.exports import export_gallery
from coordinator.directories import shard_directory
from coordinator.encryption import TENANT_KEYS
from coordinator.home import Home
from coordinator.identity_catalog import IdentityCatalog, IdentityChange
from coordinator.key_service import KeySource, MasterKey, parse_key
from shard.closed import ClosedShard
from shard.errors import EncryptedGallery, InvalidParameter, KeyUnavailable, WrongKey
from shard.shard import Shard
from tests.faces_like import unit_rows

DIM, N = 64, 2_400
ROWS = unit_rows(N, DIM, seed=5)
MASTER, OTHER = os.urandom(32).hex(), os.urandom(32).hex()
IDS = [f"secret-id-{i}" for i in range(N)]
PEOPLE = [f"secret-person-{i // 4}" for i in range(N)]


@contextmanager
def home(path: Path, key: str | None = MASTER, **settings: Any) -> Iterator[Cluster]:
    with Cluster.open(path, shard_hosts=2, encryption_key=key, **settings) as grid:
        yield grid


def fill(grid: Cluster, name: str, **options: Any) -> None:
    gallery = grid.gallery(name, create=True, dim=DIM, **{"shards": 2, **options})
    gallery.enroll(ROWS, identities=PEOPLE, template_ids=IDS, metadata=[{"secret-metadata": i} for i in range(N)])
    grid.wait_until_idle()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A home with an encrypted tenant, whose gallery is trained and has two replicas, and one in the clear."""
    with home(tmp_path / "home") as grid:
        assert grid.tenants.create("acme", is_encrypted=True).is_encrypted
        fill(grid, "acme/staff", replicas=2)
        assert grid.coordinator.gallery("acme/staff").model_id is not None
        grid.gallery("open/staff", create=True, dim=DIM, shards=1).enroll(ROWS[:10] * -1, template_ids=IDS[:10])
    return tmp_path / "home"


def top(grid: Cluster, name: str = "acme/staff", **options: Any) -> list[str]:
    found = grid.gallery(name).search(ROWS[:5], k=1, **options)
    return [ids[0] for ids in found.template_ids]


def model_bytes(path: Path) -> list[bytes]:
    with home(path) as grid:
        route = grid.coordinator.gallery("acme/staff")
        assert route.model_id is not None
        data = grid.coordinator._catalog.model_data(route.gallery_id, route.model_id)  # type: ignore[union-attr]
    return [data[at : at + 16] for at in (len(data) // 3, len(data) // 2, len(data) - 100)]


def leaks(path: Path, extra: list[bytes]) -> list[tuple[str, bytes]]:
    """Files of a home with plaintext of acme. The tenant in the clear has other floats, and the first ids only."""
    floats = [ROWS[i].tobytes()[at : at + 12] for i in (0, 77, 1_500, N - 1) for at in (0, 128)]
    patterns = [b"secret-person", b"secret-metadata", b"secret-id-1234", *floats, *extra]
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 8
    return [(str(file.relative_to(path)), p) for file in files for p in patterns if p in file.read_bytes()]


def test_nothing_of_an_encrypted_tenant_is_in_any_file_of_the_home(path: Path) -> None:
    extra = model_bytes(path)
    assert leaks(path, extra) == []
    with home(path) as grid:
        assert top(grid) == top(grid, exact=True) == IDS[:5]
        grid.gallery("acme/staff").delete(identities=["secret-person-7"])
        grid.gallery("acme/staff").flush()
        grid.coordinator.erase("acme/staff")
        assert leaks(path, extra) == []
        keys = dict(grid.coordinator._catalog.keys.all()[0])  # type: ignore[union-attr]
    assert leaks(path, [*extra, *keys.values(), *(key.hex().encode() for key in keys.values())]) == []
    with home(path) as grid:
        assert top(grid) == top(grid, exact=True) == IDS[:5]
        assert len(grid.gallery("acme/staff")) == N - 4
        assert grid.coordinator.compare() == []


def test_a_home_without_the_master_key_serves_the_others_and_loses_nothing(path: Path) -> None:
    for key, error in ((None, KeyUnavailable), (OTHER, KeyUnavailable)):
        with home(path, key) as grid:
            assert top(grid, "open/staff", exact=True)
            for ask in (
                lambda grid=grid: top(grid),
                lambda grid=grid: grid.gallery("acme/staff").enroll(ROWS[:1]),
                lambda grid=grid: grid.gallery("acme/staff").templates(IDS[:1]),
            ):
                with pytest.raises(error):
                    ask()
            for _ in range(3):
                grid.coordinator.look_after()
            assert all(len(replicas.in_sync) == 2 for replicas in grid.replicas() if replicas.gallery == "acme/staff")
            with pytest.raises((KeyUnavailable, WrongKey)):
                grid.gallery("acme/more", create=True, dim=DIM)
            assert [gallery.name for gallery in grid.galleries()] == ["acme/staff", "open/staff"]
    with home(path) as grid:
        assert top(grid) == IDS[:5]
        assert all(len(replicas.in_sync) == 2 for replicas in grid.replicas() if replicas.gallery == "acme/staff")


def test_the_files_of_a_dropped_tenant_cannot_be_read_from_a_copy(path: Path, tmp_path: Path) -> None:
    with home(path) as grid:
        route = grid.coordinator.gallery("acme/staff")
        with grid.coordinator._catalog.reading() as db:  # type: ignore[union-attr]
            (wrapped,) = db.execute(TENANT_KEYS.select().with_only_columns(TENANT_KEYS.c.wrapped)).scalars()
    shutil.copytree(path, tmp_path / "stolen")
    with home(path) as grid:
        grid.tenants.drop("acme")
        assert not (path / "hosts/host-0/tenants" / route.gallery_id[:8]).exists()
        # The wrapped key is in no file any more, the log of the catalog included.
        assert leaks(path, [bytes(wrapped)[8:40]]) == []
        assert top(grid, "open/staff", exact=True)
    for host in ("host-0", "host-1"):  # the files come back, the key does not
        shutil.copytree(tmp_path / "stolen/hosts" / host, path / "hosts" / host, dirs_exist_ok=True)
        directory = shard_directory(path / "hosts" / host, route.gallery_id, 0)
        for opens in (Shard, ClosedShard):
            with pytest.raises(KeyUnavailable):
                opens(directory, {}.__getitem__)
    with home(path) as grid:
        assert [gallery.name for gallery in grid.galleries()] == ["open/staff"]
        assert leaks(path, []) == []


def test_a_tenant_whose_key_was_destroyed_is_a_named_error(path: Path) -> None:
    with home(path) as grid:
        catalog = grid.coordinator._catalog  # type: ignore[union-attr]
        tenant = grid.tenants.get("acme")
        assert top(grid) == IDS[:5]
        with catalog.writing() as db:
            catalog.keys.destroy(db, tenant.tenant_id)
        grid.coordinator.look_after()
        with pytest.raises(KeyUnavailable):
            top(grid)
    with home(path) as grid:
        with pytest.raises(KeyUnavailable):
            top(grid)
        assert top(grid, "open/staff", exact=True)
        grid.tenants.drop("acme")
    assert not list(path.glob(f"hosts/*/tenants/{tenant.tenant_id}"))


def test_a_lost_replica_is_copied_anew_and_encrypted_too(path: Path) -> None:
    with home(path) as grid:
        route = grid.coordinator.gallery("acme/staff")
    lost = shard_directory(path / "hosts/host-1", route.gallery_id, 0)
    shutil.rmtree(lost)
    with home(path) as grid:
        for _ in range(200):
            grid.coordinator.look_after()
            held = [r for r in grid.replicas() if r.gallery == "acme/staff"]
            if all(len(r.in_sync) == 2 for r in held):
                break
            for copy in list(grid.coordinator.replication._copying.values()):  # type: ignore[union-attr]
                copy.exception()
        assert all(len(r.in_sync) == 2 for r in held)
        assert grid.coordinator.compare() == []
        assert top(grid) == IDS[:5]
    assert (lost / "encryption.json").is_file()
    assert leaks(path, []) == []


def test_the_same_model_of_two_tenants_is_sealed_for_one_and_there_for_both(path: Path) -> None:
    with home(path) as grid:
        for name in ("acme/one", "open/twin"):
            fill(grid, name, shards=1)
        ours, theirs = (grid.coordinator.gallery(name) for name in ("acme/one", "open/twin"))
        assert ours.model_id == theirs.model_id
        assert top(grid, "acme/one") == top(grid, "open/twin") == IDS[:5]
        grid.drop("open/twin")
        assert top(grid, "acme/one") == IDS[:5]
    with home(path) as grid:
        assert top(grid, "acme/one") == IDS[:5]
        fill(grid, "open/twin", shards=1)
        grid.tenants.drop("acme")
    with home(path) as grid:
        assert top(grid, "open/twin") == IDS[:5]
        grid.coordinator.train("open/twin")


def test_fsck_checks_with_the_key_mends_from_a_replica_and_says_what_it_cannot_without(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsck(key: str | None, *arguments: str) -> tuple[int, Any]:
        monkeypatch.setenv("FACEGRID_ENCRYPTION_KEY", key or "")
        capsys.readouterr()
        code = run(["fsck", "acme/staff", *arguments, "--home", str(path), "--json"])
        return code, json.loads(capsys.readouterr().out)

    with home(path) as grid:
        grid.gallery("acme/staff").flush()
        route = grid.coordinator.gallery("acme/staff")
    assert fsck(MASTER)[0] == 0
    floats = shard_directory(path / "hosts/host-1", route.gallery_id, 0) / "segment-000001/floats.enc"
    (model,) = (path / "hosts/host-1/models").iterdir()
    for file in (floats, model):
        data = bytearray(file.read_bytes())
        data[5_000] ^= 8
        file.write_bytes(data)
    code, report = fsck(MASTER)
    assert (code, {damage["part"] for damage in report["damages"]}) == (6, {"floats", "model"})
    code, report = fsck(None)
    assert code == 6
    assert {damage["what"].partition(": ")[2].split(";")[0][:6] for damage in report["damages"]} == {"tenant"}
    assert fsck(MASTER, "--repair")[0] == 0
    assert fsck(MASTER)[0] == 0
    with home(path) as grid:
        assert grid.coordinator.compare() == []
        assert top(grid) == IDS[:5]
    assert leaks(path, model_bytes(path)) == []


def test_the_command_line_makes_encrypted_tenants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ["tenant", "create", "acme", "--encrypted", "--home", str(tmp_path / "home")]
    assert run(create) == 2
    assert "encryption_key_file" in capsys.readouterr().err
    (tmp_path / "key").write_bytes(os.urandom(32))
    monkeypatch.setenv("FACEGRID_ENCRYPTION_KEY_FILE", str(tmp_path / "key"))
    assert run(create) == 0
    assert run(["doctor", "--home", str(tmp_path / "home")]) in (0, 1)
    with Cluster.open(tmp_path / "home") as grid:
        assert grid.tenants.get("acme").is_encrypted


def test_names_of_identities_that_are_being_renamed_are_sealed(path: Path) -> None:
    with home(path) as grid:
        catalog = grid.coordinator._catalog  # type: ignore[union-attr]
        records, route = IdentityCatalog(catalog), grid.coordinator.gallery("acme/staff")
        change = IdentityChange(route.gallery_id, ("secret-person-3", "secret-person-4"), "secret-person-5", 1)
        records.begin(change)
        assert records.under_way(route.gallery_id) == records.under_way() == [change]
        assert leaks(path, []) == []
        with catalog.writing() as db:
            catalog.keys.destroy(db, route.gallery_id[:8])
        assert records.under_way() == []
        with pytest.raises(KeyUnavailable):
            records.under_way(route.gallery_id)


def test_identities_are_renamed_and_merged_as_in_other_galleries(path: Path) -> None:
    with home(path) as grid:
        gallery = grid.gallery("acme/staff")
        assert gallery.rename_identity("secret-person-3", "secret-person-new") == 4
        assert gallery.merge_identities(["secret-person-5", "secret-person-6"], "secret-person-new") == 8
        found = gallery.templates(IDS[12:16])
        assert {template.identity for template in found} == {"secret-person-new"}
        assert top(grid) == top(grid, exact=True) == IDS[:5]
        assert grid.coordinator.compare() == []
    assert leaks(path, []) == []


def test_remembered_answers_of_an_encrypted_tenant_are_sealed(path: Path) -> None:
    with home(path) as grid:
        tenants = {name: grid.tenants.get(name).tenant_id for name in ("acme", "open")}
        for name, tenant_id in tenants.items():
            assert grid.idempotency.begin(tenant_id, "key", b"digest") is None
            grid.idempotency.finish(tenant_id, "key", f"answer with {name}-template".encode())
        for name, tenant_id in tenants.items():
            known = grid.idempotency.begin(tenant_id, "key", b"digest")
            assert known is not None
            assert known.reply == f"answer with {name}-template".encode()
    files = [file.read_bytes() for file in path.glob("catalog.db*")]
    assert not any(b"acme-template" in data for data in files)
    assert any(b"open-template" in data for data in files)


def test_snapshots_are_refused_and_others_can_be_restored_encrypted(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with home(path) as grid:
        with pytest.raises(EncryptedGallery, match="in the clear"):
            grid.snapshots(tmp_path / "store").create("acme/staff", progress=False)
        assert not [file for file in (tmp_path / "store").rglob("*") if file.is_file() and file.stat().st_size > 4_096]
        with pytest.raises(EncryptedGallery):
            export_gallery(grid, "acme/staff", tmp_path / "out.parquet", format="parquet", progress=False)
        assert not list(tmp_path.glob("*out.parquet*"))
        store = grid.snapshots(tmp_path / "store")
        store.create("open/staff", progress=False)
        (made,) = store.list()
        store.restore(made.snapshot_id, into="acme/restored", progress=False)
        assert top(grid, "acme/restored", exact=True) == top(grid, "open/staff", exact=True)
        restored = grid.coordinator.gallery("acme/restored")
    assert (shard_directory(path / "hosts" / restored.hosts[0], restored.gallery_id, 0) / "encryption.json").is_file()


def test_an_encrypted_tenant_needs_a_key_that_is_set(tmp_path: Path) -> None:
    with home(tmp_path / "home", None) as grid:
        with pytest.raises(InvalidParameter, match="encryption_key_file"):
            grid.tenants.create("acme", is_encrypted=True)
        assert grid.tenants.all() == []


class _Kms:
    """A service as an operator would write one: it can be told to refuse."""

    refuses = False
    key = MasterKey(bytes(range(32)))

    def wrap(self, key: bytes, context: str) -> bytes:
        return b"kms:" + self.key.wrap(key, context)

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        if self.refuses:
            raise ConnectionError(f"no answer for {wrapped!r}")
        return self.key.unwrap(wrapped.removeprefix(b"kms:"), context)


def kms() -> _Kms:
    return _Kms()


def test_a_key_service_of_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = f"{__name__}:kms"
    with home(tmp_path / "home", None, encryption_kms=entry) as grid:
        grid.tenants.create("acme", is_encrypted=True)
        grid.gallery("acme/staff", create=True, dim=DIM, shards=1).enroll(ROWS[:100], template_ids=IDS[:100])
        assert top(grid) == IDS[:5]
    monkeypatch.setattr(_Kms, "refuses", True)
    with home(tmp_path / "home", None, encryption_kms=entry) as grid, pytest.raises(KeyUnavailable):
        top(grid)
    monkeypatch.setattr(_Kms, "refuses", False)
    with home(tmp_path / "home", None, encryption_kms=entry) as grid:
        assert top(grid) == IDS[:5]


def test_a_key_service_that_hangs_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, goes_on, unwrap = threading.Event(), threading.Event(), _Kms.unwrap

    def hanging(self: _Kms, wrapped: bytes, context: str) -> bytes:
        asked.set()
        assert goes_on.wait(60)
        return unwrap(self, wrapped, context)

    with home(tmp_path / "home", None, encryption_kms=f"{__name__}:kms") as grid:
        grid.tenants.create("acme", is_encrypted=True)
        for name in ("acme/staff", "open/staff"):
            grid.gallery(name, create=True, dim=DIM, shards=1).enroll(ROWS[:100], template_ids=IDS[:100])
        monkeypatch.setattr(_Kms, "unwrap", hanging)
        grid.coordinator._catalog.keys._known.clear()  # type: ignore[union-attr]
        grid.coordinator.look_after()
        assert asked.wait(60)
        grid.coordinator.look_after()
        assert top(grid, "open/staff") == IDS[:5]
        with pytest.raises(KeyUnavailable):
            top(grid)
        goes_on.set()
        while grid.coordinator._catalog.keys._asking.is_set():  # type: ignore[union-attr]
            grid.coordinator.look_after()
        grid.coordinator.look_after()
        assert top(grid) == IDS[:5]


@pytest.mark.parametrize("entry", ["nowhere", "no.module:f", f"{__name__}:missing", "os:getcwd"])
def test_what_is_no_key_service_is_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(InvalidParameter, match="encryption_kms"):
        Cluster.open(tmp_path / "home", encryption_kms=entry)
    Home(tmp_path / "home").close()  # nothing is left locked


@pytest.mark.parametrize("text", [bytes(range(32)).hex(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="])
def test_the_forms_of_a_key(tmp_path: Path, text: str) -> None:
    assert parse_key(f" {text}\n", "a test") == bytes(range(32))
    for data in (text.encode(), bytes(range(32))):
        (tmp_path / "key").write_bytes(data)
        service = KeySource(file=tmp_path / "key").service()
        assert service is not None
        assert service.unwrap(MasterKey(bytes(range(32))).wrap(b"k" * 32, "c"), "c") == b"k" * 32


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "secret-that-is-no-key", "A" * 44])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text or " ")
    for source in (KeySource(text=text or " "), KeySource(file=tmp_path / "key")):
        with pytest.raises(InvalidParameter) as caught:
            source.service()
        assert len(text) < 3 or text not in str(caught.value)
        assert not text or text not in repr(KeySource(text=text))
    with pytest.raises(KeyUnavailable):
        KeySource(file=tmp_path / "missing").service()
    with pytest.raises(InvalidParameter, match="several"):
        KeySource(text=MASTER, file=tmp_path / "key").service()


def test_a_wrapped_key_is_bound_to_its_tenant() -> None:
    master = MasterKey(bytes(32))
    wrapped = master.wrap(b"k" * 32, "facegrid tenant 00000001")
    with pytest.raises(WrongKey):
        master.unwrap(wrapped, "facegrid tenant 00000002")
    with pytest.raises(WrongKey):
        MasterKey(bytes(range(32))).unwrap(wrapped, "facegrid tenant 00000001")
    assert master.unwrap(wrapped, "facegrid tenant 00000001") == b"k" * 32
    assert master.wrap(b"k" * 32, "facegrid tenant 00000001") != wrapped
