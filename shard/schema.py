"""The tables of a shard's database, their version, and how an older version becomes this one.

Rows of `templates` are appended; the two tables that find them by id and by identity are written in their own order,
a batch at a time, so that a batch touches each page once however scattered its ids are. Ids are found by their key
(`shard.keys`), a third of the bytes of an id; the id itself, in `templates`, decides.
"""

from __future__ import annotations

import sqlite3
import time

import numpy as np

from shard.digests import record_digest
from shard.keys import template_keys

FORMAT_VERSION = 3
"""1: ids and identities in SQLite's own indexes of `templates`, which a large batch of scattered ids had to wander.
2: no digests of records, no epochs, no operations; one replica only, and no compaction."""

_TEMPLATES = """
CREATE TABLE templates (
    row INTEGER PRIMARY KEY, key INTEGER NOT NULL, template_id TEXT NOT NULL, identity TEXT, metadata BLOB,
    lsn INTEGER NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE template_keys (key INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (key, row)) WITHOUT ROWID;
CREATE TABLE identity_rows (
    identity TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (identity, row)) WITHOUT ROWID
"""
_LOG = """
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, lsn INTEGER NOT NULL, deleted_at INTEGER NOT NULL);
CREATE TABLE appends (first_row INTEGER PRIMARY KEY, rows INTEGER NOT NULL, crc BLOB NOT NULL);
CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, first_lsn INTEGER NOT NULL);
CREATE TABLE operations (
    operation BLOB PRIMARY KEY, lsn INTEGER NOT NULL, done INTEGER NOT NULL, left_out INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX operations_by_lsn ON operations (lsn)
"""
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    segment INTEGER PRIMARY KEY, first_row INTEGER NOT NULL, rows INTEGER NOT NULL, capacity INTEGER NOT NULL,
    sealed INTEGER NOT NULL, floats_crc BLOB, keys_crc BLOB, dropped INTEGER NOT NULL DEFAULT 0);
CREATE TABLE codes (
    segment INTEGER NOT NULL, model_id TEXT NOT NULL, crc BLOB NOT NULL, PRIMARY KEY (segment, model_id)) WITHOUT ROWID;
{_LOG};
{_TEMPLATES}"""


def create(connection: sqlite3.Connection, meta: dict[str, str]) -> None:
    """Make the tables and the first entries of `meta`, in the caller's transaction."""
    _execute_all(connection, _SCHEMA)
    rows = {"format_version": str(FORMAT_VERSION), "lsn": "0", **meta}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())


def version(connection: sqlite3.Connection) -> int:
    """The version that the database states; ValueError if it states none."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
    if row is None:
        raise ValueError("it states no format version")
    return int(row[0])


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring an older database to FORMAT_VERSION, in the caller's transaction; nothing to do for one of today."""
    found = version(connection)
    if found >= FORMAT_VERSION:
        return
    connection.create_function("template_key", 1, _key_of, deterministic=True)
    connection.create_function("record_digest", 5, record_digest, deterministic=True)
    if found == 1:
        connection.execute("DROP INDEX templates_by_identity")
    else:
        connection.execute("DROP TABLE template_keys")
        connection.execute("DROP TABLE identity_rows")
    connection.execute("ALTER TABLE templates RENAME TO old_templates")
    connection.execute("ALTER TABLE tombstones RENAME TO old_tombstones")
    connection.execute("ALTER TABLE segments ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0")
    _execute_all(connection, _TEMPLATES)
    _execute_all(connection, _LOG)
    connection.execute(
        "INSERT INTO templates SELECT row, template_key(template_id), template_id, identity, metadata, lsn,"
        " record_digest(row, template_id, identity, metadata, lsn) FROM old_templates ORDER BY row"
    )
    # When they were deleted was not written down: as of now, so that the deadline of their bytes is kept from here on.
    connection.execute("INSERT INTO tombstones SELECT row, lsn, ? FROM old_tombstones", (int(time.time()),))
    connection.execute("DROP TABLE old_templates")
    connection.execute("DROP TABLE old_tombstones")
    index_rows(connection, 0, 1 << 62)
    sum_again(connection)
    connection.execute("UPDATE meta SET value = ? WHERE key = 'format_version'", (str(FORMAT_VERSION),))


def index_rows(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Make rows first <= row < last of `templates` findable by id and identity, in the caller's transaction."""
    connection.execute(
        "INSERT INTO template_keys SELECT key, row FROM templates WHERE row >= ? AND row < ? ORDER BY key",
        (first, last),
    )
    connection.execute(
        "INSERT INTO identity_rows SELECT identity, row FROM templates"
        " WHERE row >= ? AND row < ? AND identity IS NOT NULL ORDER BY identity",
        (first, last),
    )


def index_rows_again(connection: sqlite3.Connection, first: int, last: int) -> None:
    """As `index_rows`, whatever is said of the rows first <= row < last already."""
    for table in ("template_keys", "identity_rows"):
        # A row that is no integer is one of no range; damage can make such a one.
        connection.execute(
            f"DELETE FROM {table} WHERE (row >= ? AND row < ?) OR typeof(row) != 'integer'", (first, last)
        )
    index_rows(connection, first, last)


def set_keys_again(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Write the keys of rows first <= row < last of `templates` as their ids give them, in the caller's transaction."""
    connection.create_function("template_key", 1, _key_of, deterministic=True)
    connection.execute("UPDATE templates SET key = template_key(template_id) WHERE row >= ? AND row < ?", (first, last))


KEY_SUMS = (
    "count(*), coalesce(sum(key & 4294967295), 0), coalesce(sum((key >> 32) & 4294967295), 0), coalesce(sum(row), 0)"
)
"""What `meta.sums` begins with, of template_keys. Then come the number and the sum of rows of identity_rows."""


def add_sums(connection: sqlite3.Connection, sign: int, condition: str, values: tuple[object, ...]) -> None:
    """Keep `meta.sums` right for rows of `templates` that come (1) or go (-1), in the caller's transaction."""
    named = "count(identity), coalesce(sum(CASE WHEN identity IS NULL THEN 0 ELSE row END), 0)"
    change = connection.execute(f"SELECT {KEY_SUMS}, {named} FROM templates WHERE {condition}", values).fetchone()
    stated = connection.execute("SELECT value FROM meta WHERE key = 'sums'").fetchone()
    before = map(int, stated[0].split()) if stated else (0,) * len(change)
    sums = " ".join(str(a + sign * b) for a, b in zip(before, change, strict=True))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('sums', ?)", (sums,))


def sum_again(connection: sqlite3.Connection) -> None:
    """Write `meta.sums` as `templates` gives it, in the caller's transaction."""
    connection.execute("DELETE FROM meta WHERE key = 'sums'")
    add_sums(connection, 1, "1", ())


def _key_of(template_id: str) -> int:
    return int(template_keys([template_id]).view(np.int64)[0])


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)
