"""The SQLite database of a shard: log and manifest. What it names exists; what it does not name is garbage.

Owns the schema and every SQL statement. It knows nothing of embeddings, codes or files: `shard.shard` writes those
first and then commits here, and the commit is the moment a write becomes true.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shard.errors import CorruptData, FormatTooNew, ShardClosed, StorageError, WriteFailed
from shard.types import EnrollBatch, IdentityCount, TemplateRecord

FORMAT_VERSION = 1
_WRITER_CACHE_KIB, _READER_CACHE_KIB = 1_024, 64
"""Page caches. The reader's is small: it is resident for every open shard, and the kernel caches the file too."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    segment INTEGER PRIMARY KEY, first_row INTEGER NOT NULL, rows INTEGER NOT NULL, capacity INTEGER NOT NULL,
    sealed INTEGER NOT NULL, floats_crc BLOB, keys_crc BLOB);
CREATE TABLE codes (
    segment INTEGER NOT NULL, model_id TEXT NOT NULL, crc BLOB NOT NULL, PRIMARY KEY (segment, model_id)) WITHOUT ROWID;
CREATE TABLE templates (
    row INTEGER PRIMARY KEY, template_id TEXT NOT NULL UNIQUE, identity TEXT, metadata BLOB, lsn INTEGER NOT NULL);
CREATE INDEX templates_by_identity ON templates (identity) WHERE identity IS NOT NULL;
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, lsn INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment as the manifest states it; the checksums are None while it is the open tail."""

    segment: int
    first_row: int
    rows: int
    capacity: int
    is_sealed: bool
    floats_crc: bytes | None
    keys_crc: bytes | None


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", f"cache_size=-{cache_kib}"):
                connection.execute(f"PRAGMA {pragma}").close()
            undo.pop_all()
    except sqlite3.DatabaseError as error:
        raise CorruptData(f"{path} is not a readable shard database: {error}") from error
    return connection


class Store:
    """One shard's database: one connection that writes, one that reads, each behind its own lock."""

    def __init__(self, path: Path) -> None:
        """Open an existing database; FormatTooNew or CorruptData if this version cannot read it."""
        self.path = path
        self._write_lock, self._read_lock = threading.RLock(), threading.Lock()
        self._is_closed = False
        with contextlib.ExitStack() as undo:
            try:
                self._writer = undo.enter_context(contextlib.closing(_connect(path, _WRITER_CACHE_KIB)))
                self._reader = undo.enter_context(contextlib.closing(_connect(path, _READER_CACHE_KIB)))
                version = _format_version(self._reader)
            except (sqlite3.DatabaseError, ValueError) as error:
                raise CorruptData(f"{path} is not a readable shard database: {error}") from error
            if version > FORMAT_VERSION:
                raise FormatTooNew(f"{path} has format {version}; this Facegrid reads up to {FORMAT_VERSION}")
            undo.pop_all()

    @classmethod
    def create(cls, path: Path, meta: dict[str, str]) -> Store:
        """Create the schema and the first meta entries in one transaction; an existing complete one is opened."""
        connection = _connect(path, _WRITER_CACHE_KIB)
        try:
            with _transaction(connection):
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                    rows = {"format_version": str(FORMAT_VERSION), "lsn": "0", **meta}
                    connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
        finally:
            connection.close()
        return cls(path)

    def close(self) -> None:
        """Close both connections. Idempotent."""
        with self._write_lock, self._read_lock:
            self._is_closed = True
            self._reader.close()
            self._writer.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A durable transaction: synced on leaving, rolled back on an error; WriteFailed if SQLite fails."""
        with self._write_lock:
            try:
                with _transaction(self._writer):
                    yield self._writer
            except sqlite3.Error as error:
                raise WriteFailed(f"{self.path}: {error}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection that reads; CorruptData for a damaged page, StorageError if the disk fails."""
        with self._read_lock:
            if self._is_closed:
                raise ShardClosed(f"{self.path} is closed")
            try:
                yield self._reader
            except sqlite3.OperationalError as error:
                raise StorageError(f"could not read {self.path}: {error}") from error
            except sqlite3.DatabaseError as error:
                raise CorruptData(f"{self.path} is not a sound shard database: {error}") from error

    def meta(self, key: str) -> str | None:
        """One value of the meta table, None if it is not there."""
        with self._reading() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def segments(self) -> list[SegmentRow]:
        """Segments in row order."""
        columns = "segment, first_row, rows, capacity, sealed, floats_crc, keys_crc"
        with self._reading() as db:
            rows = db.execute(f"SELECT {columns} FROM segments ORDER BY segment").fetchall()
        return [SegmentRow(a, b, c, d, bool(e), f, g) for a, b, c, d, e, f, g in rows]

    def codes_crc(self, segment: int, model_id: str) -> bytes | None:
        """Checksums of a segment's stored codes of that model, None if it has none."""
        with self._reading() as db:
            row = db.execute("SELECT crc FROM codes WHERE segment = ? AND model_id = ?", (segment, model_id)).fetchone()
        return bytes(row[0]) if row else None

    def tombstones(self) -> list[int]:
        """Rows that were deleted and not compacted, ascending."""
        with self._reading() as db:
            return [row for (row,) in db.execute("SELECT row FROM tombstones ORDER BY row")]

    def template_count(self) -> int:
        """Live templates."""
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM templates").fetchone()[0])

    def ids_of_rows(self, first: int, last: int) -> list[tuple[int, str]]:
        """(row, template id) of the live rows first <= row < last, ascending."""
        with self._reading() as db:
            return db.execute(
                "SELECT row, template_id FROM templates WHERE row >= ? AND row < ? ORDER BY row", (first, last)
            ).fetchall()

    def labels(self, rows: Iterable[int]) -> dict[int, tuple[str, str | None]]:
        """Row to (template id, identity) for those of the rows that are live."""
        sql = "SELECT row, template_id, identity FROM templates WHERE row IN (SELECT value FROM json_each(?))"
        with self._reading() as db:
            found = db.execute(sql, (json.dumps(list(rows)),)).fetchall()
        return {row: (template_id, identity) for row, template_id, identity in found}

    def existing(self, template_ids: Iterable[str]) -> set[str]:
        """Those of the ids that are live."""
        sql = "SELECT template_id FROM templates WHERE template_id IN (SELECT value FROM json_each(?))"
        with self._reading() as db:
            return {i for (i,) in db.execute(sql, (json.dumps(list(template_ids)),))}

    def records(self, template_ids: Iterable[str]) -> list[TemplateRecord]:
        """The live templates among the ids, by row."""
        sql = (
            "SELECT template_id, identity, metadata, lsn FROM templates"
            " WHERE template_id IN (SELECT value FROM json_each(?)) ORDER BY row"
        )
        with self._reading() as db:
            found = db.execute(sql, (json.dumps(list(template_ids)),)).fetchall()
        return [TemplateRecord(*row) for row in found]

    def identities(self, start: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities from `start` on, in byte order of UTF-8, with their live templates."""
        sql = "SELECT identity, count(*) FROM templates WHERE identity >= ? GROUP BY identity ORDER BY identity LIMIT ?"
        with self._reading() as db:
            return [IdentityCount(*row) for row in db.execute(sql, (start, limit))]

    def rows_to_delete(self, template_ids: Iterable[str], identities: Iterable[str]) -> list[int]:
        """Live rows that bear one of the ids or identities, ascending."""
        sql = (
            "SELECT row FROM templates WHERE template_id IN (SELECT value FROM json_each(?1))"
            " UNION SELECT row FROM templates WHERE identity IN (SELECT value FROM json_each(?2)) ORDER BY row"
        )
        parameters = (json.dumps(list(template_ids)), json.dumps(list(identities)))
        with self._reading() as db:
            return [row for (row,) in db.execute(sql, parameters)]


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _format_version(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
    if row is None:
        raise ValueError("it states no format version")
    return int(row[0])


def next_lsn(connection: sqlite3.Connection) -> int:
    """Advance the shard's log sequence number inside the caller's transaction."""
    (value,) = connection.execute(
        "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'lsn' RETURNING value"
    ).fetchone()
    return int(value)


def set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Write one meta entry inside the caller's transaction."""
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
    )


def put_segment(connection: sqlite3.Connection, row: SegmentRow) -> None:
    """Write one segment's entry inside the caller's transaction."""
    values = (row.segment, row.first_row, row.rows, row.capacity, row.is_sealed, row.floats_crc, row.keys_crc)
    connection.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def put_codes(connection: sqlite3.Connection, segment: int, model_id: str, crc: bytes) -> None:
    """Write the checksums of one segment's codes inside the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO codes VALUES (?, ?, ?)", (segment, model_id, crc))


def put_templates(connection: sqlite3.Connection, first_row: int, batch: EnrollBatch, lsn: int) -> None:
    """Write the labels of consecutive rows inside the caller's transaction."""
    labels = zip(batch.template_ids, batch.identities, batch.metadata, strict=True)
    connection.executemany(
        "INSERT INTO templates VALUES (?, ?, ?, ?, ?)", ((first_row + i, *label, lsn) for i, label in enumerate(labels))
    )
