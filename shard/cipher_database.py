"""A shard's database under SQLCipher, as a connection that behaves as the standard library's.

SQLCipher encrypts every page of the database and of its log, with a nonce of its own each time it is written, and
authenticates it (AES-256-CBC, HMAC-SHA512). Its driver is a copy of `sqlite3` with exceptions of its own; here they are
those of `sqlite3`, so that nobody else has to know. The only importer of `sqlcipher3`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from shard.errors import MissingExtra

_Result = TypeVar("_Result")


def connect(path: Path, key: bytes | None, *, cached_statements: int = 64) -> sqlite3.Connection:
    """A connection without implicit transactions, usable from any thread. key: 32 bytes, None for one in the clear.

    Raises sqlite3's errors; a wrong key is a DatabaseError at the first statement. MissingExtra without SQLCipher.
    """
    options = {"isolation_level": None, "check_same_thread": False, "cached_statements": cached_statements}
    if key is None:
        return cast(sqlite3.Connection, sqlite3.connect(path, **cast(Any, options)))
    driver, connection_type = _driver()
    connection = _translated(driver, lambda: driver.connect(str(path), factory=connection_type, **options))
    try:
        # What is sorted or vacuumed must not go to a temporary file; the log of errors would go to stderr.
        for pragma in (f"key = \"x'{key.hex()}'\"", "cipher_log_level = NONE", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return cast(sqlite3.Connection, connection)


def _translated(driver: Any, call: Callable[[], _Result]) -> _Result:
    try:
        return call()
    except driver.Error as error:
        same: type[Exception] = getattr(sqlite3, type(error).__name__, sqlite3.DatabaseError)
        raise same(*error.args) from None


_made: list[tuple[Any, type[Any]]] = []


def _driver() -> tuple[Any, type[Any]]:
    """SQLCipher's driver, and its connection whose cursors raise the errors of `sqlite3`."""
    if not _made:
        try:
            from sqlcipher3 import dbapi2
        except ImportError as error:
            raise MissingExtra(f"encrypted shards need the extra `encryption`: {error}") from error
        _made.append((dbapi2, _connection_type(dbapi2)))
    return _made[0]


def _connection_type(driver: Any) -> type[Any]:
    class Cursor(driver.Cursor):  # type: ignore[misc]
        def execute(self, *args: Any) -> Any:
            return _translated(driver, lambda: super(Cursor, self).execute(*args))

        def executemany(self, *args: Any) -> Any:
            return _translated(driver, lambda: super(Cursor, self).executemany(*args))

        def fetchone(self) -> Any:
            return _translated(driver, lambda: super(Cursor, self).fetchone())

        def fetchmany(self, *args: Any) -> Any:
            return _translated(driver, lambda: super(Cursor, self).fetchmany(*args))

        def fetchall(self) -> Any:
            return _translated(driver, lambda: super(Cursor, self).fetchall())

        def __next__(self) -> Any:
            return _translated(driver, lambda: super(Cursor, self).__next__())

    class Connection(driver.Connection):  # type: ignore[misc]
        # The driver's own `execute` and `executemany` go through `cursor`.
        def cursor(self, *_args: Any) -> Any:
            return _translated(driver, lambda: super(Connection, self).cursor(Cursor))

    return Connection
