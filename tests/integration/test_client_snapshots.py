"""Snapshots through a service: by the client, and as a scheduled job makes them, by the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'facegrid[snapshots]'")

from cluster import Cluster
from cluster.cli import run
from shard.errors import InvalidParameter, PermissionDenied, UnknownSnapshot, UnknownTenant
from tests.faces_like import unit_rows
from tests.integration.served import serving
from tests.integration.test_jobs import until

DIM = 64
SOON_S = 5
Answer = Callable[..., tuple[int, Any, list[Any]]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a service with galleries of two tenants: its url, and keys of a tenant, a reader of it, and the operator."""
    store = str(tmp_path_factory.mktemp("store"))
    with (
        Cluster.open(tmp_path_factory.mktemp("served") / "home") as grid,
        serving(grid, snapshot_store=store) as url,
    ):
        for tenant in ("acme", "beta"):
            grid.tenants.create(tenant)
        for name in ("acme/staff", "acme/guests", "beta/staff"):
            grid.gallery(name, create=True, dim=DIM).enroll(unit_rows(20, DIM, seed=1))
        made = {
            name: grid.tenants.create_key(tenant, name, scopes=scopes)[1]
            for name, tenant, scopes in (
                ("acme", "acme", ("admin",)),
                ("reader", "acme", ("read",)),
                ("operator", None, ("admin",)),
            )
        }
        yield {"url": url, **made}


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, keys: dict[str, str]) -> Answer:
    """Run on the service with a key and --json: exit code, the document on stdout, the objects on stderr."""

    def call(key: str, *arguments: object) -> tuple[int, Any, list[Any]]:
        monkeypatch.setenv("FACEGRID_KEY", keys[key])
        capsys.readouterr()
        code = run(["--url", keys["url"], *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, [json.loads(line) for line in err.splitlines()]

    return call


def test_the_verbs(keys: dict[str, str]) -> None:
    with Cluster.connect(keys["url"], keys["acme"]) as grid:
        soon = datetime.now(timezone.utc) + timedelta(seconds=SOON_S)
        old = grid.snapshots.create("acme/staff", expires_at=soon)
        kept = grid.snapshots.create("acme/staff")
        # By id, which begins with the second: two of one second are in any order.
        assert [one.snapshot_id for one in grid.snapshots.list("acme/staff")] == sorted(
            (old.snapshot_id, kept.snapshot_id)
        )
        assert (kept.templates, kept.expires_at) == (20, None)
        removed: list[str] = []
        until(lambda: bool(removed.extend(grid.snapshots.delete_expired("acme").snapshot_ids) or removed))
        assert removed == [old.snapshot_id]
        assert grid.snapshots.delete_expired("acme").snapshot_ids == ()
        assert grid.snapshots.restore("acme/staff", kept.snapshot_id, into="acme/again") == 20
        assert grid.gallery("acme/again").stats().templates == 20
        with pytest.raises(InvalidParameter, match="same tenant"):
            grid.snapshots.restore("acme/staff", kept.snapshot_id, into="beta/again")
        with pytest.raises(InvalidParameter, match="zone"):
            grid.snapshots.create("acme/staff", expires_at=datetime(2030, 1, 1))
        with pytest.raises(UnknownTenant):
            grid.snapshots.delete_expired("beta")
        grid.snapshots.delete("acme/staff", kept.snapshot_id)
        with pytest.raises(UnknownSnapshot):
            grid.snapshots.restore("acme/staff", kept.snapshot_id, into="acme/more")
        grid.drop("acme/again")
    with Cluster.connect(keys["url"], keys["reader"]) as grid, pytest.raises(PermissionDenied):
        grid.snapshots.delete_expired("acme")


def test_all_galleries_and_what_has_expired(answer: Answer) -> None:
    code, made, _ = answer("operator", "snapshot", "create", "--all", "--keep-days", SOON_S / 86_400)
    assert code == 0
    assert [one["gallery"] for one in made["galleries"]] == ["acme/guests", "acme/staff", "beta/staff"]
    ids = {one["snapshot"]["snapshot_id"] for one in made["galleries"]}
    code, one, _ = answer("acme", "snapshot", "create", "acme/staff", "--keep-days", "30")
    assert code == 0
    listed = answer("reader", "snapshot", "list", "--gallery", "acme/staff")[1]["snapshots"]
    assert one["snapshot"] in listed
    assert len(listed) == 2
    removed: list[str] = []

    def is_done() -> bool:
        code, document, _ = answer("operator", "snapshot", "delete", "--expired", "--yes")
        assert code == 0
        removed.extend(document["deleted"])
        return len(removed) == 3

    until(is_done)
    assert set(removed) == ids
    assert answer("reader", "snapshot", "list", "--gallery", "acme/staff")[1]["snapshots"] == [one["snapshot"]]
    assert answer("acme", "snapshot", "delete", "--expired", "--yes")[1]["deleted"] == []


def test_what_cannot_be_asked_of_a_service(answer: Answer, tmp_path: Path) -> None:
    for arguments, says in {
        ("create", "acme/staff", tmp_path): "no STORE with --url",
        ("create", "--all", tmp_path): "no STORE with --url",
        ("create", "acme/staff", tmp_path, "--all"): "got both",
        ("create",): "expected a GALLERY or --all",
        ("list",): "expected a STORE, or --url and --gallery",
        ("delete", "--yes"): "either a SNAPSHOT or --expired",
    }.items():
        code, _, errors = answer("operator", "snapshot", *arguments)
        assert code == 2
        assert says in errors[-1]["error"]["message"]


def test_one_that_fails_does_not_keep_the_others_from_being_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, store = tmp_path / "home", tmp_path / "store"
    with Cluster.open(home) as grid:
        files: list[Path] = []
        for name in ("acme/a", "acme/b"):
            grid.gallery(name, create=True, dim=DIM).enroll(unit_rows(20, DIM, seed=1))
            grid.gallery(name).flush()
            files = files or sorted(home.rglob("floats.f32"))  # of the first one
    with files[0].open("r+b") as file:
        file.write(b"\xff" * 64)
    assert run(["--home", str(home), "snapshot", "create", "--all", str(store), "--json"]) == 10
    failed, made = json.loads(capsys.readouterr().out)["galleries"]
    assert (failed["gallery"], failed["error"]["code"]) == ("acme/a", "corrupt_data")
    assert made["snapshot"]["templates"] == 20
    assert run(["--home", str(home), "snapshot", "create", "acme/b", "--json"]) == 2
    assert "expected a STORE" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed, which makes the certificate")
def test_the_command_line_trusts_whom_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, private_key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subject = ("-subj", "/CN=faces", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    files = ("-keyout", str(private_key), "-out", str(certificate))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject], check=True, capture_output=True
    )
    with Cluster.open(tmp_path / "home") as grid, serving(grid, certificate=certificate, key=private_key) as url:
        grid.tenants.create("acme")
        monkeypatch.setenv("FACEGRID_URL", url)
        monkeypatch.setenv("FACEGRID_KEY", grid.tenants.create_key("acme", "all", scopes=("read",))[1])
        assert run(["gallery", "list"]) == 9
        assert "certificate is not trusted" in capsys.readouterr().err
        monkeypatch.setenv("FACEGRID_URL_AUTHORITY", str(certificate))
        assert run(["gallery", "list"]) == 0
        monkeypatch.setenv("FACEGRID_URL_AUTHORITY", str(tmp_path / "nothing"))
        assert run(["gallery", "list"]) == 2
    monkeypatch.delenv("FACEGRID_URL_AUTHORITY")
    monkeypatch.setenv("FACEGRID_URL", "http://faces.invalid")
    assert run(["gallery", "list"]) == 2
    assert "plain" in capsys.readouterr().err
    monkeypatch.setenv("FACEGRID_URL_INSECURE", "true")
    assert run(["gallery", "list"]) == 9
