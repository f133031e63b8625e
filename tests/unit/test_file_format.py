"""docs/file-format.md has every table, column, entry and array that there is, and nothing else."""

from __future__ import annotations

import ast
import contextlib
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.catalog import Catalog
from coordinator.catalog_schema import SCHEMA_VERSION
from coordinator.home import HOME_FORMAT
from coordinator.idempotency import REQUESTS
from shard import model, schema
from shard.store import Store
from shard.training import train
from tests.faces_like import unit_rows
from tests.unit.test_docs import DOCS, ROOT, code, rows

TEXT = (DOCS / "file-format.md").read_text()


def sections(kind: str) -> dict[str, str]:
    """Table name to the text below its heading."""
    parts = re.split(r"^(#+ .*)$", TEXT, flags=re.MULTILINE)
    headings = zip(parts[1::2], parts[2::2], strict=True)
    named = ((re.fullmatch(rf"### {kind} `(\w+)`", heading), body) for heading, body in headings)
    return {match[1]: body for match, body in named if match}


def documented(kind: str) -> dict[str, list[str]]:
    """Table to its columns."""
    found = {name: body.partition("\n| entry |")[0] for name, body in sections(kind).items()}
    return {name: [code(row[0]) for row in rows(body)] for name, body in found.items()}


def real(path: Path) -> dict[str, list[str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}


def test_tables_of_a_shard(tmp_path: Path) -> None:
    Store.create(tmp_path / "shard.db", {"dim": "64"}).close()
    assert documented("Table") == real(tmp_path / "shard.db")


def test_tables_of_the_catalog(tmp_path: Path) -> None:
    Catalog(tmp_path / "catalog.db").close()
    assert REQUESTS.name in documented("Catalog table")  # made where its module is imported
    assert documented("Catalog table") == real(tmp_path / "catalog.db")


def written_entries() -> Iterator[str]:
    """Every text given to `set_meta` as the key, and what `shard.schema` writes by itself."""
    yield from ("format_version", "dim", "sums")
    for path in (ROOT / "shard").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "set_meta":
                key = node.args[1]
                assert isinstance(key, ast.Constant), f"{path}: line {node.lineno}"
                yield key.value


def test_entries_of_meta() -> None:
    table = sections("Table")["meta"].partition("\n| entry |")[2]
    listed = [code(row[0]) for row in rows(f"| entry |{table}") if row[0].startswith("`")]
    assert sorted(listed) == sorted(set(written_entries()))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("`shard.db`", schema.FORMAT_VERSION),
        ("catalog", SCHEMA_VERSION),
        ("model", model.FORMAT_VERSION),
        ("home", HOME_FORMAT),
    ],
)
def test_versions(name: str, version: int) -> None:
    table = TEXT.partition("\n## Versions\n")[2]
    assert max(int(row[0].removeprefix(name)) for row in rows(table) if row[0].startswith(f"{name} ")) == version


def test_the_layout_of_a_model() -> None:
    data = train(unit_rows(1_000, 64, seed=1), code_bits=128).to_bytes()
    magic, version, reserved, header = struct.unpack_from("<8sHHI", data)
    assert (magic, version, reserved) == (b"FGMODEL\n", model.FORMAT_VERSION, 0)
    assert struct.unpack_from("<I", data, 16) == (zlib.crc32(data[:16]),)
    assert (20 + header) % 64 == 0
    table = TEXT.partition("\n| array |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(row[0] for row in rows(f"| array |{table}")))
    found = re.findall(rb'\["(\w+)","', data[20 : 20 + header])
    assert sorted(named) == sorted(name.decode() for name in found)
