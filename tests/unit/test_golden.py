"""Files of every format there was are opened with everything in them: `tests/golden`, which is never made again."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from coordinator.erasure import Erasure
from shard.check import check_shard
from shard.closed import ClosedShard
from shard.model import SearchModel
from shard.schema import FORMAT_VERSION
from shard.search import search_shards
from shard.shard import Shard
from shard.types import SearchParams
from tests.golden.make import HERE, KEY, home_content, shard_content, text


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / name / "expected.json").read_text())
    return found


def plain(value: object) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(value))


def state(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of the files of segments."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("segment-*/*")}


def test_a_shard_of_format_3(tmp_path: Path) -> None:
    shutil.copytree(HERE / "shard-3", tmp_path / "golden")
    directory = tmp_path / "golden" / "shard"
    sealed = {name: found for name, found in state(directory).items() if "segment-000004" not in name}
    assert len(sealed) == 6

    def load_model(model_id: str) -> SearchModel:
        return SearchModel.from_bytes((tmp_path / "golden" / f"{model_id}.model").read_bytes())

    content = expected("shard-3")
    with ClosedShard(directory, load_model) as closed:
        assert check_shard(closed) == []
    for _ in range(2):
        with Shard(directory, load_model) as shard:
            assert check_shard(shard) == []
            assert plain(shard_content(shard)) == content
            floats = shard.gather(np.array([row for row, *_ in content["templates"]]))
            found = search_shards([shard], floats, SearchParams(k=1))
            assert [names[0] for names in found.template_ids] == [entry[1] for entry in content["templates"]]
        after = state(directory)
        assert {name: after[name] for name in sealed} == sealed


def test_an_encrypted_shard_of_format_1(tmp_path: Path) -> None:
    shutil.copytree(HERE / "encrypted-1", tmp_path / "golden")
    directory = tmp_path / "golden" / "shard"
    sealed = {name: found for name, found in state(directory).items() if "segment-000004" not in name}
    assert len(sealed) == 6

    def load_model(model_id: str) -> SearchModel:
        return SearchModel.from_bytes((tmp_path / "golden" / f"{model_id}.model").read_bytes())

    with ClosedShard(directory, load_model, key=KEY) as closed:
        assert check_shard(closed) == []
    for _ in range(2):
        with Shard(directory, load_model, key=KEY) as shard:
            assert check_shard(shard) == []
            assert plain(shard_content(shard)) == expected("encrypted-1")
        after = state(directory)
        assert {name: after[name] for name in sealed} == sealed


def test_a_home_of_format_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(HERE / "home-1" / "home", tmp_path / "home")
    sealed = {name: found for name, found in state(tmp_path).items() if "segment-000001" in name}
    assert len(sealed) == 4
    with monkeypatch.context() as patch:
        # What was deleted there is past its deadline by any later clock, and erasing it writes files anew.
        patch.setattr(Erasure, "erase_due", lambda *_, **__: 0)
        for _ in range(2):
            with Cluster.open(tmp_path / "home") as grid:
                assert plain(home_content(grid)) == expected("home-1")
            after = state(tmp_path)
            assert {name: after[name] for name in sealed} == sealed
    home_is_sound(tmp_path / "home")


def test_what_was_deleted_in_a_home_of_format_1_is_erased(tmp_path: Path) -> None:
    home = Path(shutil.copytree(HERE / "home-1" / "home", tmp_path / "home"))
    with Cluster.open(home) as grid:
        grid.wait_until_idle()
        assert grid.coordinator.erasure.erase_due(now=2**33) == 0, "nothing is left to be due"
        (gallery,) = grid.galleries()
        assert [replica.dead_rows for replica in grid.erasure_report(gallery.name)] == [0, 0]
        assert plain(home_content(grid)) == expected("home-1")
    home_is_sound(home)


def home_is_sound(home: Path) -> None:
    for directory in home.rglob("shard-000?"):
        with ClosedShard(directory, {}.__getitem__) as closed:
            assert check_shard(closed) == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_shard_of_an_older_format_becomes_todays(tmp_path: Path, version: int) -> None:
    directory = tmp_path / "shard"
    shutil.copytree(HERE / f"shard-{version}", directory)
    with sqlite3.connect(directory / "shard.db") as db:
        db.executescript((directory / "shard.sql").read_text())
        stated = db.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
        assert stated == (str(version),)
    db.close()
    for name in ("shard.sql", "expected.json"):
        (directory / name).unlink()
    content, floats = expected(f"shard-{version}"), np.fromfile(directory / "segment-000001" / "floats.f32", "<f4")
    records = content["records"]
    for _ in range(2):
        with Shard(directory, {}.__getitem__) as shard:
            assert check_shard(shard) == []
            stored = shard.templates_between(0, shard.index.rows)
            assert [[t.row, t.template_id, t.identity, text(t.metadata), t.lsn] for t in stored] == records
            assert shard.existing([name for _, name, *_ in records]) == {name for _, name, *_ in records}
            assert [row for row, _, _ in shard.buried(0, 100)] == content["dead"]
            assert (shard.lsn, len(shard)) == (content["lsn"], len(records))
            named = [identity for _, _, identity, *_ in records if identity]
            assert {i.identity: i.templates for i in shard.identities("", 10)} == {i: named.count(i) for i in named}
            np.testing.assert_array_equal(shard.gather(np.arange(20)).reshape(-1), floats)
            own = np.array([t.row for t in stored])
            found = search_shards([shard], shard.gather(own), SearchParams(k=1))
            assert [names[0] for names in found.template_ids] == [t.template_id for t in stored]
    with sqlite3.connect(directory / "shard.db") as db:
        stated = db.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
    db.close()
    assert stated == (str(FORMAT_VERSION),)
