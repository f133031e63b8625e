"""`facegrid tenant`, `facegrid key` and `facegrid audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from cluster.cli import run
from coordinator.tenant_types import AuditEntry
from shard.errors import Unauthenticated

Answer = Callable[..., tuple[int, Any]]
NO_QUOTAS = {"galleries": None, "templates": None, "queries_per_s": None, "bytes": None, "jobs": 10}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def answer(home: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run with --json: exit code and document, or the error where there is none."""

    def call(*arguments: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--home", str(home), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else json.loads(err.splitlines()[-1])["error"]

    return call


def test_a_tenant_is_created_shown_changed_and_dropped(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = tmp_path / "master.key"
    master.write_text("00" * 32)
    monkeypatch.setenv("FACEGRID_ENCRYPTION_KEY_FILE", str(master))
    limits = (
        "--max-galleries",
        3,
        "--max-templates",
        1000,
        "--max-queries-per-s",
        "2.5",
        "--max-bytes",
        10**12,
        "--max-jobs",
        3,
    )
    code, document = answer("tenant", "create", "acme", *limits, "--weight", 20, "--thumbnails", "--encrypted")
    tenant = document["tenant"]
    quotas = {"galleries": 3, "templates": 1000, "queries_per_s": 2.5, "bytes": 10**12, "jobs": 3}
    assert (code, tenant["name"], tenant["quotas"], tenant["weight"]) == (0, "acme", quotas, 20)
    assert tenant["keeps_thumbnails"]
    assert tenant["is_encrypted"]
    assert answer("tenant", "create", "acme")[0] == 4
    answer("gallery", "create", "acme/staff", "--dim", 64, "--shards", 1)
    code, document = answer("tenant", "show", "acme")
    assert (code, document["tenant"]) == (0, tenant)
    assert (document["usage"]["galleries"], document["usage"]["templates"]) == (1, 0)
    code, document = answer(
        "tenant", "update", "acme", "--max-templates", "none", "--max-bytes", 5, "--thumbnails", "no"
    )
    assert document["tenant"]["quotas"] == {**quotas, "templates": None, "bytes": 5}
    assert (document["tenant"]["keeps_thumbnails"], document["tenant"]["weight"]) == (False, 20)
    assert answer("tenant", "list")[1]["tenants"] == [document["tenant"]]
    assert answer("tenant", "drop", "acme")[0] == 2  # nobody can be asked
    code, document = answer("tenant", "drop", "acme", "--yes")
    assert (code, document["dropped"], document["usage"]["galleries"]) == (0, "acme", 1)
    assert answer("tenant", "list")[1] == {"tenants": []}
    assert answer("gallery", "list")[1] == {"galleries": []}
    assert answer("tenant", "show", "acme")[0] == 3


def test_a_gallery_makes_its_tenant(answer: Answer) -> None:
    assert answer("gallery", "create", "acme/staff", "--dim", 64)[0] == 0
    (tenant,) = answer("tenant", "list")[1]["tenants"]
    assert (tenant["name"], tenant["quotas"], tenant["weight"]) == ("acme", NO_QUOTAS, 10)


@pytest.mark.parametrize(
    "given",
    [("--max-galleries", "-1"), ("--max-templates", "1.5"), ("--max-bytes", "٣"), ("--max-queries-per-s", "fast"),
     ("--max-queries-per-s", "nan"), ("--max-bytes", "9" * 30), ("--weight", 0)],
)  # fmt: skip
def test_limits_out_of_range_are_refused(answer: Answer, given: tuple[str, object]) -> None:
    code, error = answer("tenant", "create", "acme", *given)
    assert (code, error["code"]) == (2, "invalid_parameter")


def test_keys_are_created_listed_rotated_and_revoked(answer: Answer, home: Path) -> None:
    code, root = answer("key", "create", "--operator", "--name", "root")
    assert (code, root["key"]["tenant"], root["key"]["scopes"]) == (0, None, ["admin"])
    answer("tenant", "create", "acme")
    given = ("--scope", "read", "--scope", "write", "--gallery", "staff", "--expires-days", 2)
    _, own = answer("key", "create", "acme", "--name", "door 3", *given)
    assert (own["key"]["scopes"], own["key"]["galleries"]) == (["write", "read"], ["staff"])
    assert own["key"]["expires_at"] == pytest.approx(own["key"]["created_at"] + 2 * 86_400, abs=60)
    assert answer("key", "list", "--operator")[1]["keys"] == [root["key"]]
    listed = answer("key", "list", "acme")[1]
    assert listed["keys"] == [own["key"]]
    assert own["secret"][16:] not in json.dumps(listed)
    _, rotated = answer("key", "rotate", own["key"]["key_id"], "--overlap-hours", 1)
    assert rotated["key"] == own["key"]
    with Cluster.open(home) as grid:
        for text in (own["secret"], rotated["secret"]):
            assert grid.tenants.authenticate(text).name == "door 3"
    assert answer("key", "revoke", own["key"]["key_id"])[1]["key"]["revoked_at"] is not None
    with Cluster.open(home) as grid:
        for text in (own["secret"], rotated["secret"]):
            with pytest.raises(Unauthenticated):
                grid.tenants.authenticate(text)
        assert grid.tenants.authenticate(root["secret"]).allows("admin", "acme/staff")
    code, error = answer("key", "rotate", own["key"]["key_id"])
    assert (code, error["code"]) == (3, "unknown_key")


@pytest.mark.parametrize(
    "arguments",
    [("key", "create"), ("key", "create", "acme", "--operator"), ("key", "list"), ("key", "create", "acme"),
     ("key", "create", "acme", "--scope", "root"), ("key", "create", "--operator", "--scope", "read"),
     ("key", "create", "acme", "--scope", "read", "--expires-days", "-1")],
)  # fmt: skip
def test_what_makes_no_key_is_refused(answer: Answer, arguments: tuple[str, ...]) -> None:
    answer("tenant", "create", "acme")
    code, error = answer(*arguments)
    assert (code, error["code"]) == (2, "invalid_parameter")


def test_people_get_the_text_of_a_key_alone_on_stdout(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "create", "--operator", "--home", str(home)]) == 0
    out, err = capsys.readouterr()
    text = out.strip()
    assert len(text) == 59
    assert text not in err
    assert "only time" in err
    with Cluster.open(home) as grid:
        assert grid.tenants.authenticate(text).tenant is None


def test_the_audit_log_is_shown_page_by_page(answer: Answer, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer("tenant", "create", "acme")
    with Cluster.open(home) as grid:
        now = grid.tenants.get("acme").created_at
        entry = AuditEntry(now, "acme", None, "search", "acme/staff", 1, "ok", "")
        grid.tenants.record([replace(entry, at=now + i, request_id=f"r{i}") for i in (1, 2, 3)])
    page = answer("audit", "acme", "--limit", 2)[1]["entries"]
    assert [entry["request_id"] for entry in page] == ["r3", "r2"]
    rest = answer("audit", "--before", page[-1]["at"])[1]["entries"]
    assert [entry["request_id"] for entry in rest] == ["r1"]
    assert answer("audit", "nobody")[0] == 3
    capsys.readouterr()
    assert run(["audit", "--home", str(home)]) == 0
    assert "acme/staff" in capsys.readouterr().out
