"""URLs of databases: which are taken, and that no message shows a password."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.config import load_settings
from coordinator.catalog import Catalog
from coordinator.database import Database, parse_url, shown_url
from shard.errors import CorruptData, InvalidParameter, MissingExtra, StorageError

SECRET = "verraten"


def test_a_path_is_a_sqlite_file_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c %20 d.db"
    Catalog(path).close()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_reached_by_psycopg(scheme: str) -> None:
    assert parse_url(f"{scheme}://user@host/db").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "catalog.db",
        "sqlite://",
        "sqlite:///:memory:",
        f"mysql://user:{SECRET}@host/db",
        f"postgresql+asyncpg://user:{SECRET}@host/db",
        f"postgresql://user:{SECRET}@host:port/db",
        f"postgresql:/user:{SECRET}@host/db",
    ],
)
def test_other_urls_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidParameter, match=r"catalog: expected a URL such as postgresql\+psycopg://") as caught:
        Database(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{SECRET}@h/d", f"postgresql://u@h/d?password={SECRET}&sslpassword={SECRET}"]
)
def test_a_password_is_hidden_wherever_it_stands(url: str) -> None:
    shown = shown_url(parse_url(url))
    assert shown.startswith("postgresql+psycopg://u")
    assert SECRET not in shown


def test_settings_do_not_show_the_catalog() -> None:
    settings = load_settings({"FACEGRID_CATALOG": f"postgresql://u:{SECRET}@h/d"})
    assert settings.catalog == f"postgresql://u:{SECRET}@h/d"
    assert SECRET not in f"{settings!r} {settings}"


def test_postgresql_without_psycopg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'facegrid\[postgres\]'"):
        Database("postgresql://user@host/db")


def test_a_server_that_is_not_there_is_a_storage_error() -> None:
    # Port 1 of the loopback address refuses at once.
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:1/db") as caught:
        Catalog(f"postgresql://user:{SECRET}@127.0.0.1:1/db")
    assert type(caught.value) is StorageError
    assert SECRET not in str(caught.value)


def test_a_file_that_is_no_database_is_corrupt_and_one_that_cannot_be_opened_is_not(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CorruptData, match=r"text\.db"):
        Catalog(tmp_path / "text.db")
    with pytest.raises(StorageError, match=r"nowhere") as caught:
        Catalog(tmp_path / "nowhere" / "catalog.db")
    assert type(caught.value) is StorageError
