"""The commands that list templates and change labels: JSON, exit codes, words for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli import run
from tests.faces_like import unit_rows

DIM = 64
NAME = "acme/staff"


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, Any]]:
    """Run with --json: exit code, the document on stdout, the code of the error on stderr."""

    def call(*arguments: object) -> tuple[int, Any, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        errors = [line["error"]["code"] for line in map(json.loads, err.splitlines()) if "error" in line]
        return code, json.loads(out) if out else None, errors[0] if errors else None

    return call


@pytest.fixture(autouse=True)
def gallery(answer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Templates t0 to t8: three of ann, three of bob, three of nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACEGRID_HOME", str(tmp_path / "home"))
    np.save("rows.npy", unit_rows(9, DIM, seed=1))
    Path("ids.txt").write_text("".join(f"t{i}\n" for i in range(9)))
    Path("names.txt").write_text("ann\n" * 3 + "bob\n" * 3 + "\n" * 3)
    assert answer("gallery", "create", NAME, "--dim", DIM, "--shards", 2)[0] == 0
    assert answer("enroll", NAME, "--embeddings", "rows.npy", "--ids", "ids.txt", "--identities", "names.txt")[0] == 0


def test_list_goes_page_by_page(answer: Any) -> None:
    found, cursor = [], None
    while True:
        code, page, _ = answer("list", NAME, "--limit", 4, *(["--cursor", cursor] if cursor else []))
        assert code == 0
        found += [t["template_id"] for t in page["templates"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert sorted(found) == [f"t{i}" for i in range(9)]
    of_ann = answer("list", NAME, "--identity", "ann")[1]["templates"]
    assert sorted(t["template_id"] for t in of_ann) == ["t0", "t1", "t2"]
    assert answer("list", NAME, "--cursor", "x")[::2] == (2, "invalid_parameter")


def test_update_then_search_where(answer: Any) -> None:
    assert answer("update", NAME, "t4", "--metadata", '{"site": "north"}')[:2] == (
        0,
        {"gallery": NAME, "template": {"template_id": "t4", "identity": "bob", "metadata": {"site": "north"}}},
    )
    code, found, _ = answer("search", NAME, "--embeddings", "rows.npy", "--where", '{"site": "north"}')
    assert code == 0
    assert all([c["template_id"] for c in probe["candidates"]] == ["t4"] for probe in found["probes"])
    assert answer("search", NAME, "--embeddings", "rows.npy", "--where", '{"site": "south"}')[0] == 1
    assert answer("search", NAME, "--embeddings", "rows.npy", "--where", "{site}")[::2] == (2, "invalid_parameter")
    assert answer("update", NAME, "t4", "--metadata", "null")[1]["template"]["metadata"] is None
    assert answer("update", NAME, "t4", "--metadata", "[]")[::2] == (2, "invalid_parameter")
    assert answer("update", NAME, "nobody", "--metadata", "{}")[::2] == (3, "unknown_template")


def test_identities_are_listed_renamed_and_merged(answer: Any) -> None:
    def counts() -> dict[str, int]:
        return {e["identity"]: e["templates"] for e in answer("identities", NAME)[1]["identities"]}

    assert counts() == {"ann": 3, "bob": 3}
    assert answer("identity", "rename", NAME, "ann", "eve")[1]["templates"] == 3
    assert counts() == {"bob": 3, "eve": 3}
    assert answer("identity", "rename", NAME, "ann", "zoe")[::2] == (3, "unknown_identity")
    assert answer("identity", "rename", NAME, "eve", "bob")[::2] == (4, "already_exists")
    merge = ("identity", "merge", NAME, "--identity", "eve", "--into", "bob")
    assert answer(*merge)[::2] == (2, "invalid_parameter")
    assert answer(*merge, "--yes")[:2] == (
        0,
        {"gallery": NAME, "identities": ["eve"], "into": "bob", "templates": 3},
    )
    assert counts() == {"bob": 6}


def test_words_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", NAME, "--limit", "2"]) == 0
    assert "--cursor" in capsys.readouterr().out
    assert run(["identities", NAME]) == 0
    assert "ann" in capsys.readouterr().out
