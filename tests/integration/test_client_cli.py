"""The command line against a service: what it says of a home it says of a service; what it cannot do it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.cli import run
from tests.faces_like import unit_rows
from tests.integration.served import serving

DIM = 64
Answer = Callable[..., tuple[int, Any, list[Any]]]


@dataclass(frozen=True)
class Where:
    """A service, a key of the tenant acme, and one of the operator."""

    url: str
    key: str
    operator: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Where]:
    """A service with the tenant acme."""
    with Cluster.open(tmp_path_factory.mktemp("served") / "home") as grid, serving(grid) as url:
        grid.tenants.create("acme")
        keys = [grid.tenants.create_key(tenant, "all", scopes=("admin",))[1] for tenant in ("acme", None)]
        yield Where(url, *keys)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "URL", "KEY", "KEY_FILE", "EMBEDDER"):
        monkeypatch.delenv(f"FACEGRID_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run with --json: exit code, the document on stdout, the objects on stderr."""

    def call(*arguments: object) -> tuple[int, Any, list[Any]]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, [json.loads(line) for line in err.splitlines()]

    return call


def test_commands_say_of_a_service_what_they_say_of_a_home(answer: Answer, service: Where) -> None:
    url, key = service.url, service.key
    Path("key").write_text(f"{key}\n")
    rows = unit_rows(20, DIM, seed=1)
    np.save("rows.npy", rows)
    Path("names.txt").write_text("\n".join(["Ann", ""] * 10))
    Path("ids.txt").write_text("\n".join(f"t{i}" for i in range(20)))
    enrolling = ("--embeddings", "rows.npy", "--identities", "names.txt", "--ids", "ids.txt")
    commands = [
        ("gallery", "create", "acme/cli", "--dim", DIM, "--shards", 2),
        ("gallery", "create", "acme/cli", "--dim", DIM),
        ("gallery", "create", "acme/cli", "--dim", DIM, "--exist-ok"),
        ("enroll", "acme/cli", *enrolling),
        ("enroll", "acme/cli", *enrolling),
        ("enroll", "acme/cli", *enrolling, "--if-exists", "skip"),
        ("search", "acme/cli", "--embeddings", "rows.npy", "-k", 3),
        ("search", "acme/cli", "--embeddings", "rows.npy", "-k", 0),
        ("search", "acme/none", "--embeddings", "rows.npy"),
        ("gallery", "show", "acme/cli", "--identities"),
        ("gallery", "list"),
        ("update", "acme/cli", "t3", "--metadata", '{"door": 4}'),
        ("search", "acme/cli", "--embeddings", "rows.npy", "--where", '{"door": {"gte": 4}}'),
        ("list", "acme/cli", "--identity", "Ann"),
        ("identity", "rename", "acme/cli", "Ann", "Eve"),
        ("identity", "rename", "acme/cli", "Ann", "Eve"),
        ("identity", "merge", "acme/cli", "--identity", "Eve", "--into", "Ann", "--yes"),
        ("identities", "acme/cli"),
        ("delete", "acme/cli", "--identity", "Ann", "--yes"),
        ("delete", "acme/cli", "--identity", "Ann", "--yes"),
        ("train", "acme/cli"),
        ("train", "--all"),
        ("compact", "acme/cli", "--now"),
        ("gallery", "drop", "acme/cli", "--yes"),
    ]
    for command in commands:
        expected = answer(*command, "--home", "home")
        assert settled(answer(*command, "--url", url, "--key-file", "key")) == settled(expected), command


def settled(value: Any) -> Any:
    """Without what a service does not tell or what changes from run to run."""
    if isinstance(value, dict):
        return {name: settled(entry) for name, entry in value.items() if name not in ("hosts", "disk_bytes")}
    return [settled(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def test_status_and_erasure_report(answer: Answer, service: Where) -> None:
    url, key = service.url, service.key
    at = ("--url", url, "--key", key)
    answer("gallery", "create", "acme/status", "--dim", DIM, *at)
    code, document, _ = answer("status", *at)
    assert (code, document["url"], document["key"]["tenant"]) == (0, url, "acme")
    assert [gallery["name"] for gallery in document["galleries"]] == ["acme/status"]
    assert key not in json.dumps(document)
    code, document, _ = answer("erasure-report", "acme/status", *at)
    assert (code, document["overdue"], {one["gallery"] for one in document["replicas"]}) == (0, 0, {"acme/status"})
    assert answer("cluster", "status", *at)[0] == 11  # the operator's


def test_tenants_and_keys(answer: Answer, service: Where) -> None:
    url = service.url
    Path("operator").write_text(service.operator)
    at = ("--url", url, "--key-file", "operator")
    assert answer("tenant", "create", "globex", "--max-galleries", 3, *at)[1]["tenant"]["quotas"]["galleries"] == 3
    assert [tenant["name"] for tenant in answer("tenant", "list", *at)[1]["tenants"]] == ["acme", "globex"]
    assert answer("tenant", "update", "globex", "--weight", 20, *at)[1]["tenant"]["weight"] == 20
    code, made, _ = answer("key", "create", "globex", "--scope", "read", *at)
    assert answer("status", "--url", url, "--key", made["secret"])[1]["key"]["scopes"] == ["read"]
    rotated = answer("key", "rotate", made["key"]["key_id"], *at)[1]
    assert answer("status", "--url", url, "--key", made["secret"])[0] == 11
    assert answer("key", "revoke", rotated["key"]["key_id"], *at)[0] == 0
    assert len(answer("key", "list", "globex", *at)[1]["keys"]) >= 1
    assert answer("audit", "globex", *at)[1]["entries"]
    assert answer("tenant", "show", "globex", *at)[1]["usage"]["galleries"] == 0
    assert answer("tenant", "drop", "globex", "--yes", *at)[0] == 0
    for operators in (("key", "list", "--operator"), ("key", "create", "--operator"), ("audit",)):
        code, _, (error,) = answer(*operators, *at)
        assert (code, error["error"]["code"]) == (2, "invalid_parameter")
    assert answer("cluster", "status", *at)[0] == 0


def test_options_of_a_home_do_not_go_with_a_service(answer: Answer) -> None:
    for option, value in (("--home", "h"), ("--runtime", "ray"), ("--shard-hosts", 2), ("--kernel", "scalar")):
        code, _, (error,) = answer("gallery", "list", "--url", "http://127.0.0.1:9", option, value)
        assert (code, error["error"]["code"]) == (2, "invalid_parameter")
        assert option in error["error"]["message"]


def test_settings_come_from_options_then_from_the_environment(
    answer: Answer, service: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = service.url, service.key
    monkeypatch.setenv("FACEGRID_URL", url)
    assert answer("gallery", "list")[2][0]["error"]["code"] == "unauthenticated"
    monkeypatch.setenv("FACEGRID_KEY", key)
    assert answer("gallery", "list")[0] == 0
    assert answer("gallery", "list", "--key", key[:-3] + "xyz")[0] == 11
    Path("key").write_text("nonsense\nmore")
    assert answer("gallery", "list", "--key-file", "key")[0] == 11
    monkeypatch.delenv("FACEGRID_KEY")
    Path("key").write_text(f"  {key}  \nmore")
    monkeypatch.setenv("FACEGRID_KEY_FILE", "key")
    assert answer("gallery", "list")[0] == 0
    assert answer("gallery", "list", "--home", "nowhere")[0] == 3, "an option counts before the environment"


@pytest.mark.parametrize(
    "command",
    [
        ("fsck",), ("doctor",), ("serve", "--port", 0), ("rollout", "status"), ("rollout", "rollback", "acme/x"),
        ("cluster", "drain", "host-0"), ("cluster", "undrain", "host-0"), ("cluster", "compare"),
        ("snapshot", "abandon", "acme/x", "--yes"),
        ("calibrate", "acme/x"), ("calibration", "acme/x"),
    ],
)  # fmt: skip
def test_what_needs_a_home_says_so(answer: Answer, command: tuple[object, ...]) -> None:
    code, document, (error,) = answer(*command, "--url", "http://127.0.0.1:9")
    verb = " ".join(str(word) for word in command[:2] if "/" not in str(word) and not str(word).startswith("-"))
    assert (code, document, error["error"]["code"]) == (2, None, "invalid_parameter")
    assert f"{verb.split(' host')[0]} works on a home, not over --url" in error["error"]["message"]


def test_a_key_is_shown_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").write_text("\n")
    for given in (
        ("--url", "http://127.0.0.1:9", "--key", "fg_secret"),
        ("--url", "http://elsewhere.test", "--key", "fg_secret"),
        ("--url", "http://user:fg_secret@h"),
        ("--url", "http://127.0.0.1:9", "--key", "fg_secret with spaces"),
        ("--url", "http://127.0.0.1:9", "--key", "fg_secret", "--key-file", "key"),
        ("--url", "http://127.0.0.1:9", "--key-file", "empty"),
        ("--url", "http://127.0.0.1:9", "--key-file", "missing"),
        ("--url", "http://127.0.0.1:9", "--home", "home", "--key", "fg_secret"),
        ("--url", "nonsense", "--key", "fg_secret", "-vv"),
    ):
        code = run(["gallery", "list", *given])
        out, err = capsys.readouterr()
        assert code in (2, 9)
        assert "secret" not in out + err
