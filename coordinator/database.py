"""A SQL database on SQLite or PostgreSQL: connections, transactions, and its failures as named errors.

Knows no table. A transaction that reads sees one state of the database. One that writes takes SQLite's only write lock
when it begins, so that it cannot lose its turn half way; on PostgreSQL it locks what it touches (READ COMMITTED).
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from shard.errors import CorruptData, InvalidParameter, MissingExtra, ShardClosed, StorageError, WriteFailed

SQLITE, POSTGRESQL = "sqlite", "postgresql"
_EXPECTED = "catalog: expected a URL such as postgresql+psycopg://user@host/database or sqlite:////path/catalog.db"
_SQLITE_ARGS = {"timeout": 60}
"""Seconds to wait for another's transaction."""
_POSTGRESQL_ARGS: dict[str, Any] = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Seconds and milliseconds until a server that does not answer counts as down."""
_POSTGRESQL_SETTINGS = {"lock_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}
"""A process that stops half way through a transaction must not stop the others for ever."""


class Database:
    """Connections to one database. Thread-safe."""

    def __init__(self, url: str | Path) -> None:
        """url: a SQLite file, or a SQLAlchemy URL. Connects at the first transaction.

        Raises InvalidParameter for another URL, MissingExtra for PostgreSQL without psycopg.
        """
        parsed = parse_url(url)
        self.shown = shown_url(parsed)
        """Where it is, for messages: the path of a SQLite file, or the URL without its password."""
        self.is_sqlite = parsed.get_backend_name() == SQLITE
        self._is_closed = False
        self._path = parsed.database if self.is_sqlite else None
        self._watching = threading.Lock()
        self._watcher: sqlite3.Connection | None = None
        self._engine: Engine = _sqlite_engine(parsed) if self.is_sqlite else _postgresql_engine(parsed)
        self._readers: Engine = self._engine
        self._writers: Engine = self._engine
        if self.is_sqlite:
            self._writers = self._engine.execution_options(begins_immediate=True)
        else:
            self._readers = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def close(self) -> None:
        """Close all connections; calls after it raise ShardClosed. Idempotent."""
        self._is_closed = True
        self._engine.dispose()
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None

    def change_mark(self) -> int | None:
        """A number that differs from an earlier one if anything was committed since; None where none can be had.

        SQLite tells it of any process's commits, in microseconds; PostgreSQL has nothing like it.
        """
        self._check_open()
        with self._watching:
            if self._path is None:
                return None
            try:
                if self._watcher is None:
                    self._watcher = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error:
                return None  # whoever reads finds out why

    def _check_open(self) -> None:
        # The engine would connect again, to a home whose lock may be another process's by now.
        if self._is_closed:
            raise ShardClosed(f"the catalog {self.shown} is closed")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database; StorageError if it cannot be read."""
        self._check_open()
        try:
            with self._readers.connect() as db:
                yield db
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise StorageError(f"could not read the catalog {self.shown}: {_reason(error)}") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; WriteFailed if it could not be committed.

        After WriteFailed nothing of it is in the database, unless the connection broke while it was being committed:
        who must know reads again.
        """
        self._check_open()
        try:
            with self._writers.begin() as db:
                yield db
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise WriteFailed(f"could not write the catalog {self.shown}: {_reason(error)}") from error

    def forget(self) -> None:
        """Have SQLite leave nothing of deleted rows in its log either; WriteFailed if a reader keeps it.

        On PostgreSQL it is the server's to remove dead rows, and its log.
        """
        if not self.is_sqlite:
            return
        self._check_open()
        try:
            with self._engine.connect() as db:
                connection: Any = db.connection.dbapi_connection
                (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
            raise WriteFailed(f"could not empty the log of the catalog {self.shown}: {error}") from error
        if is_busy:
            raise WriteFailed(
                f"could not empty the log of the catalog {self.shown}: a reader keeps it until the home is closed"
            )

    @contextlib.contextmanager
    def preparing(self, lock: int) -> Iterator[Connection]:
        """One transaction that may create and change tables, alone among those that give the same lock.

        Raises StorageError if the database does not let us, CorruptData for a file that is no SQLite database.
        """
        self._check_open()
        try:
            with self._writers.begin() as db:
                if not self.is_sqlite:
                    db.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
                yield db
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if self.is_sqlite and not isinstance(error, (sa.exc.OperationalError, sa.exc.TimeoutError)):
                raise CorruptData(f"{self.shown} is not a readable catalog: {_reason(error)}") from error
            raise StorageError(f"could not open the catalog {self.shown}: {_reason(error)}") from error


def parse_url(url: str | Path) -> URL:
    """A URL of a database we know; a Path is a SQLite file. InvalidParameter otherwise, never showing a password."""
    if isinstance(url, Path):
        return URL.create(SQLITE, database=str(url))
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Not shown, and not chained: what cannot be parsed may have a password anywhere.
        raise InvalidParameter(f"{_EXPECTED}; got text that is no URL") from None
    if parsed.drivername in (POSTGRESQL, "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in (SQLITE, "sqlite+pysqlite", "postgresql+psycopg"):
        raise InvalidParameter(f"{_EXPECTED}; got one for {parsed.drivername!r}")
    if parsed.get_backend_name() == SQLITE and parsed.database in (None, "", ":memory:"):
        raise InvalidParameter(f"{_EXPECTED}; got SQLite without a file")
    return parsed


def shown_url(url: URL) -> str:
    """The URL for a message: a file's path, or all of it but passwords, wherever they stand in it."""
    if url.get_backend_name() == SQLITE:
        return str(url.database)
    query = {name: "hidden" if "password" in name else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def _sqlite_engine(url: URL) -> Engine:
    engine = sa.create_engine(url, connect_args=_SQLITE_ARGS, hide_parameters=True)
    sa.event.listen(engine, "connect", _durable)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _durable(connection: Any, _record: object) -> None:
    # We begin transactions ourselves: the driver would leave what changes tables, and what reads, outside of them.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(db: Connection) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("begins_immediate") else "BEGIN")


def _postgresql_engine(url: URL) -> Engine:
    try:
        importlib.import_module("psycopg")
    except ImportError as error:
        raise MissingExtra(
            f"a catalog on PostgreSQL needs psycopg, which cannot be imported ({error});"
            " pip install 'facegrid[postgres]'"
        ) from error
    given = {name: value for name, value in _POSTGRESQL_ARGS.items() if name not in url.query}
    # A restarted server has cut our connections: each is tried before it is used, and replaced.
    engine = sa.create_engine(url, connect_args=given, pool_pre_ping=True, hide_parameters=True)
    sa.event.listen(engine, "connect", _bounded)
    return engine


def _bounded(connection: Any, _record: object) -> None:
    for name, value in _POSTGRESQL_SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    # With `off`, a crash of the server could take back an epoch that was handed out.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    """What the driver said, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
