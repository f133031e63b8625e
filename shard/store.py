"""The SQLite database of a shard: log and manifest. What it names exists; what it does not name is garbage.

Owns every SQL statement but those of `shard.schema`. It knows nothing of embeddings, codes or files: `shard.shard`
writes those first and then commits here, and the commit is the moment a write becomes true.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shard import schema
from shard.cipher_database import connect
from shard.digests import label_crc, label_half, record_digest
from shard.errors import CorruptData, FormatTooNew, ShardClosed, StorageError, WriteFailed
from shard.failpoints import step
from shard.files import sync_directory, sync_file
from shard.keys import template_keys
from shard.log import Entry
from shard.types import EnrollBatch, IdentityCount, KeyArray, RowArray, TemplateRecord

_MANY = 16_384  # records read at a time where all of them are
_FEW = 16  # rows that are asked for by a parameter each
_WRITER_CACHE_KIB, _READER_CACHE_KIB = 1_024, 64
"""Page caches. The reader's is small: it is resident for every open shard, and the kernel caches the file too."""
KEPT_OPERATIONS = 10_000
"""Operations whose outcome is remembered: a caller repeats a write at once or not at all."""
_CHECKPOINT_PAGES = 8_000
"""The log is copied into the database when it has this many pages (32 MB): a page that several batches touch is copied
once. Four times faster inserts of scattered ids than with SQLite's 1,000 (benchmarks.ingest)."""


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
    is_dropped: bool = False


class StoredTemplate(NamedTuple):
    """One row of `templates`, its digest compared."""

    row: int
    template_id: str
    identity: str | None
    metadata: bytes | None
    lsn: int
    digest: int


def _connect(path: Path, key: bytes | None, cache_kib: int) -> sqlite3.Connection:
    try:
        connection = connect(path, key)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "secure_delete=ON",
                f"cache_size=-{cache_kib}",
                f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
            ):
                connection.execute(f"PRAGMA {pragma}").close()
            undo.pop_all()
    except (sqlite3.DatabaseError, MemoryError) as error:
        raise _unreadable(path, error) from error
    return connection


def _settle(connection: sqlite3.Connection, path: Path, *, is_settled: bool) -> None:
    """Copy what the log has into the database, empty the log, and make both durable, before anything is built on it.

    Where an fsync of the log failed, its pages are clean for the kernel and are never written again, yet they can be
    read: SQLite takes such a commit for whole, and puts later ones, which are synced and acknowledged, behind it. A
    loss of power would then take them all. In the database the pages are written anew; and the log has to be gone, or
    what is left of it would be replayed over them. After a clean close there is no log, and its removal is synced.

    is_settled: no need to sync it. Such a close has synced the database before it removed the log, so that one which
    comes back after a loss of power holds what the database has; and SQLite syncs the directory when it first syncs the
    next log, before anything in that is acknowledged or copied.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("database is locked")
        sync_file(log)  # SQLite holds no lock on this file that closing it would release
        is_settled = False
    if not is_settled:
        sync_directory(path.parent)
    size, (page_size,) = path.stat().st_size, connection.execute("PRAGMA page_size").fetchone()
    if size % int(page_size):  # which SQLCipher tells as text
        # SQLite notices a missing page, and reads zeros where a part of the last one is missing.
        raise ValueError(f"{size} bytes are no whole number of pages of {page_size}")


_FAULTS_OF_THE_DISK = (
    "disk I/O error",
    "database or disk is full",
    "unable to open database file",
    "attempt to write a readonly database",
    "database is locked",
)
"""SQLite's words for faults that are not in the file itself."""


def _unreadable(path: Path, error: Exception) -> StorageError:
    """What opening fails with: StorageError where the machine is at fault and it may work later, else CorruptData."""
    if isinstance(error, MemoryError) or str(error) in _FAULTS_OF_THE_DISK:
        return StorageError(f"could not open {path}: {error or 'out of memory'}")
    return CorruptData(f"{path} is not a readable shard database: {error}")


class Store:
    """One shard's database: one connection that writes, one that reads, each behind its own lock."""

    def __init__(self, path: Path, key: bytes | None = None, *, is_settled: bool = False) -> None:
        """Open an existing database; FormatTooNew or CorruptData if this version cannot read it.

        key: 32 bytes that it is encrypted with, None for one in the clear. is_settled: it was closed in order, and
        nobody has opened it since; see `_settle`.
        """
        self.path, self._key = path, key
        self._write_lock, self._read_lock = threading.RLock(), threading.Lock()
        self._is_closed = False
        with contextlib.ExitStack() as undo:
            try:
                self._writer = undo.enter_context(contextlib.closing(_connect(path, key, _WRITER_CACHE_KIB)))
                self._reader = undo.enter_context(contextlib.closing(_connect(path, key, _READER_CACHE_KIB)))
                _settle(self._writer, path, is_settled=is_settled)
                found = schema.version(self._reader)
                if found < schema.FORMAT_VERSION:
                    with _transaction(self._writer):
                        schema.upgrade(self._writer)
            except (sqlite3.DatabaseError, ValueError, MemoryError) as error:
                raise _unreadable(path, error) from error
            if found > schema.FORMAT_VERSION:
                raise FormatTooNew(f"{path} has format {found}; this Facegrid reads up to {schema.FORMAT_VERSION}")
            undo.pop_all()

    @classmethod
    def create(cls, path: Path, meta: dict[str, str], key: bytes | None = None) -> Store:
        """Create the schema and the first meta entries in one transaction; an existing complete one is opened."""
        connection = _connect(path, key, _WRITER_CACHE_KIB)
        try:
            with _transaction(connection):
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    schema.create(connection, meta)
        except (sqlite3.DatabaseError, MemoryError) as error:
            raise _unreadable(path, error) from error
        finally:
            connection.close()
        return cls(path, key)

    def renew_writer(self) -> None:
        """A fresh connection that writes, with nothing left in the log; StorageError if that cannot be had.

        After a failed sync the log may hold pages that never reached the disk and that nobody would sync again; copied
        into the database and synced there, they no longer matter.
        """
        with self._write_lock:
            self._writer.close()
            self._writer = _connect(self.path, self._key, _WRITER_CACHE_KIB)
            self.checkpoint()

    def checkpoint(self) -> None:
        """Copy the log into the database and cut it to nothing; WriteFailed if SQLite fails or readers keep it."""
        with self._write_lock:
            try:
                is_busy, *_ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                raise WriteFailed(f"{self.path}: checkpoint: {error}") from error
            if is_busy:
                raise WriteFailed(f"{self.path}: checkpoint: the log is in use by a reader")

    def scrub(self) -> None:
        """Leave no byte of deleted rows in the database or its log: rewrite the one, cut the other to nothing."""
        with self._write_lock, self._read_lock:
            if self._is_closed:
                raise ShardClosed(f"{self.path} is closed")
            try:
                self._writer.execute("VACUUM")
            except sqlite3.Error as error:
                raise WriteFailed(f"{self.path}: vacuum: {error}") from error
            self.checkpoint()

    def close(self) -> None:
        """Close both connections. Idempotent."""
        with self._write_lock, self._read_lock:
            self._is_closed = True
            self._reader.close()
            self._writer.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A durable transaction: synced on leaving, rolled back on an error.

        WriteFailed if SQLite fails, CorruptData for a damaged page or rows that contradict each other.
        """
        with self._write_lock:
            try:
                with _transaction(self._writer):
                    yield self._writer
            except (sqlite3.OperationalError, sqlite3.ProgrammingError, MemoryError) as error:
                raise WriteFailed(f"could not write {self.path}: {error or 'out of memory'}") from error
            except sqlite3.Error as error:
                raise CorruptData(f"{self.path} is not a sound shard database: {error}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection that reads; CorruptData for a damaged page, StorageError if the disk fails.

        Whoever reads takes all rows before looking at one: a cursor that an error leaves in the middle keeps its
        snapshot, and the connection would go on seeing what was deleted since.
        """
        with self._read_lock:
            if self._is_closed:
                raise ShardClosed(f"{self.path} is closed")
            try:
                yield self._reader
            except (sqlite3.OperationalError, MemoryError) as error:
                raise StorageError(f"could not read {self.path}: {error or 'out of memory'}") from error
            except sqlite3.DatabaseError as error:
                raise CorruptData(f"{self.path} is not a sound shard database: {error}") from error

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own that sees one state and changes nothing; StorageError if it cannot be had.

        The log cannot be cut meanwhile, so nobody may `scrub`: a shard is `frozen` around it.
        """
        try:
            connection = connect(self.path, self._key)
        except sqlite3.Error as error:
            raise StorageError(f"could not read {self.path}: {error}") from error
        with contextlib.closing(connection):
            connection.execute("BEGIN")
            yield connection

    def meta(self, key: str) -> str | None:
        """One value of the meta table, None if it is not there."""
        with self._reading() as db:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def segments(self) -> list[SegmentRow]:
        """Segments in row order."""
        columns = "segment, first_row, rows, capacity, sealed, floats_crc, keys_crc, dropped"
        with self._reading() as db:
            rows = db.execute(f"SELECT {columns} FROM segments ORDER BY segment").fetchall()
        return [SegmentRow(a, b, c, d, bool(e), f, g, bool(h)) for a, b, c, d, e, f, g, h in rows]

    def appends(self, first: int, last: int) -> list[tuple[int, int, bytes]]:
        """(first row, rows, CRC32C of the floats) of each append to rows first <= row < last that no seal covers."""
        sql = "SELECT first_row, rows, crc FROM appends WHERE first_row >= ? AND first_row < ? ORDER BY first_row"
        with self._reading() as db:
            return db.execute(sql, (first, last)).fetchall()

    def epochs(self) -> list[tuple[int, int]]:
        """(epoch, LSN of its first entry), ascending."""
        with self._reading() as db:
            return db.execute("SELECT epoch, first_lsn FROM epochs ORDER BY epoch").fetchall()

    def operation(self, operation: bytes) -> tuple[int, int, int] | None:
        """(LSN, done, left out) of a write that was carried out before under this id."""
        with self._reading() as db:
            found = db.execute(
                "SELECT lsn, done, left_out FROM operations WHERE operation = ?", (operation,)
            ).fetchone()
        return None if found is None else (int(found[0]), int(found[1]), int(found[2]))

    def codes_crc(self, segment: int, model_id: str) -> bytes | None:
        """Checksums of a segment's stored codes of that model, None if it has none."""
        with self._reading() as db:
            row = db.execute("SELECT crc FROM codes WHERE segment = ? AND model_id = ?", (segment, model_id)).fetchone()
        return bytes(row[0]) if row else None

    def code_models(self, segment: int) -> set[str]:
        """Ids of the models that the segment has stored codes of."""
        with self._reading() as db:
            found = db.execute("SELECT model_id FROM codes WHERE segment = ?", (segment,)).fetchall()
        return {str(model_id) for (model_id,) in found}

    def operations_after(self, lsn: int) -> list[tuple[bytes, int, int, int]]:
        """(operation, LSN, done, left out) of the writes after an LSN that are remembered, by LSN."""
        sql = "SELECT operation, lsn, done, left_out FROM operations WHERE lsn > ? ORDER BY lsn"
        with self._reading() as db:
            return db.execute(sql, (lsn,)).fetchall()

    def tombstones(self) -> list[int]:
        """Rows that were deleted and not compacted, ascending."""
        with self._reading() as db:
            return [row for (row,) in db.execute("SELECT row FROM tombstones ORDER BY row").fetchall()]

    def rows_after(self, lsn: int, first: int, last: int) -> RowArray:
        """Those of the live rows first <= row < last with a later LSN, (n,) int64 ascending."""
        sql = "SELECT row FROM templates WHERE row >= ? AND row < ? AND lsn > ? ORDER BY row"
        with self._reading() as db:
            found = db.execute(sql, (first, last, lsn)).fetchall()
        return np.array(found, dtype=np.int64).reshape(-1)

    def buried(self, first: int, last: int, after_lsn: int = 0) -> list[tuple[int, int, int]]:
        """(row, LSN, unix seconds) of the tombstones of rows first <= row < last that are younger than the LSN."""
        sql = "SELECT row, lsn, deleted_at FROM tombstones WHERE row >= ? AND row < ? AND lsn > ? ORDER BY row"
        with self._reading() as db:
            return db.execute(sql, (first, last, after_lsn)).fetchall()

    def oldest_burial(self) -> tuple[int, int | None]:
        """How many tombstones there are, and the oldest one's unix seconds (None without any)."""
        with self._reading() as db:
            count, oldest = db.execute("SELECT count(*), min(deleted_at) FROM tombstones").fetchone()
        return int(count), oldest

    def templates_between(self, first: int, last: int) -> list[StoredTemplate]:
        """The live rows first <= row < last, ascending; CorruptData if one is not what was written."""
        sql = (
            "SELECT row, template_id, identity, metadata, lsn, digest FROM templates"
            " WHERE row >= ? AND row < ? ORDER BY row"
        )
        with self._reading() as db:
            return [self._checked(StoredTemplate(*row)) for row in db.execute(sql, (first, last)).fetchall()]

    def templates_of(self, rows: RowArray) -> list[StoredTemplate]:
        """The live ones among the rows (n,) int64, ascending; CorruptData if one is not what was written."""
        sql = (
            "SELECT row, template_id, identity, metadata, lsn, digest FROM templates"
            " WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row"
        )
        with self._reading() as db:
            return [
                self._checked(StoredTemplate(*row)) for row in db.execute(sql, (json.dumps(rows.tolist()),)).fetchall()
            ]

    def live_among(self, rows: RowArray) -> RowArray:
        """The live ones among the rows (n,) int64, ascending."""
        sql = "SELECT row FROM templates WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row"
        with self._reading() as db:
            live = [row for (row,) in db.execute(sql, (json.dumps(rows.tolist()),)).fetchall()]
        return np.array(live, dtype=np.int64)

    def _checked(self, stored: StoredTemplate) -> StoredTemplate:
        row, template_id, identity, metadata, lsn, digest = stored
        if digest != record_digest(row, template_id, identity, metadata, lsn):
            raise CorruptData(f"{self.path}: the record of row {row} is not what was written", path=str(self.path))
        return stored

    def template_count(self) -> int:
        """Live templates."""
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM template_keys").fetchone()[0])

    def index_again(self, templates: int) -> None:
        """Write the tables that find rows again from the records.

        Raises CorruptData, with nothing changed, unless there are so many records and all of them are right.
        """
        with self._reading() as db:
            (last,) = db.execute("SELECT coalesce(max(row), -1) FROM templates").fetchone()
        found = sum(len(self.templates_between(row, row + _MANY)) for row in range(0, last + 1, _MANY))
        if found != templates:
            raise CorruptData(f"{self.path}: expected {templates} records, found {found}", path=str(self.path))
        with self.transaction() as db:
            schema.set_keys_again(db, 0, last + 1)
            schema.index_rows_again(db, 0, last + 1)
            schema.sum_again(db)

    def keys_of_rows(self, first: int, last: int) -> tuple[RowArray, KeyArray]:
        """(rows, keys) of the live rows first <= row < last, ascending."""
        with self._reading() as db:
            found = db.execute("SELECT row, key FROM templates WHERE row >= ? AND row < ? ORDER BY row", (first, last))
            rows, keys = np.array(found.fetchall(), dtype=np.int64).reshape(-1, 2).T
        return rows, keys.view(np.uint64)

    def labels(self, rows: Collection[int]) -> dict[int, tuple[str, str | None]]:
        """Row to (template id, identity) for those of the rows that are live."""
        values: Collection[Any] = rows
        if len(rows) <= _FEW:  # a parameter each saves writing and parsing JSON; the statements are few and cached
            wanted = ",".join("?" * len(rows))
        else:
            wanted, values = "SELECT value FROM json_each(?)", [json.dumps(list(rows))]
        sql = f"SELECT row, template_id, identity, digest FROM templates WHERE row IN ({wanted})"
        with self._reading() as db:
            found = db.execute(sql, tuple(values)).fetchall()
        self._check_labels(found)
        return {row: (template_id, identity) for row, template_id, identity, _ in found}

    def _labelled(self, db: sqlite3.Connection, keys: KeyArray) -> list[tuple[int, str]]:
        """(row, template id) of the live rows whose id has one of the keys; CorruptData for a damaged record."""
        sql = f"SELECT row, template_id, identity, digest FROM templates WHERE row IN {_ROWS_OF_KEYS}"
        found = db.execute(sql, (_json_of(keys),)).fetchall()
        self._check_labels(found)
        return [(row, template_id) for row, template_id, _, _ in found]

    def _check_labels(self, found: Iterable[tuple[int, str, str | None, int]]) -> None:
        for row, template_id, identity, digest in found:
            if label_half(digest) != label_crc(row, template_id, identity):
                raise CorruptData(f"{self.path}: the labels of row {row} are not what was written", path=str(self.path))

    def check_sums(self) -> None:
        """CorruptData if the tables that find rows by id and by identity do not add up to what was written."""
        with self._reading() as db:
            stated = db.execute("SELECT value FROM meta WHERE key = 'sums'").fetchone()
            keys = db.execute(f"SELECT {schema.KEY_SUMS} FROM template_keys").fetchone()
            named = db.execute("SELECT count(*), coalesce(sum(row), 0) FROM identity_rows").fetchone()
        found = (*keys, *named)
        expected = tuple(map(int, stated[0].split())) if stated else (0,) * len(found)
        if found != expected:
            raise CorruptData(
                f"{self.path}: the tables of ids and identities add up to {found}, expected {expected}",
                path=str(self.path),
            )

    def existing(self, template_ids: Sequence[str], keys: KeyArray) -> set[str]:
        """Those of the ids that are live. keys: (n,) uint64, of the ids."""
        with self._reading() as db:
            return set(template_ids).intersection(i for _, i in self._labelled(db, keys))

    def records(self, template_ids: Sequence[str], keys: KeyArray) -> list[TemplateRecord]:
        """The live templates among the ids, by row. keys: (n,) uint64, of the ids."""
        columns = "row, template_id, identity, metadata, lsn, digest"
        sql = f"SELECT {columns} FROM templates WHERE row IN {_ROWS_OF_KEYS} ORDER BY row"
        wanted = set(template_ids)
        with self._reading() as db:
            found = [self._checked(StoredTemplate(*row)) for row in db.execute(sql, (_json_of(keys),)).fetchall()]
        return [TemplateRecord(t.template_id, t.identity, t.metadata, t.lsn) for t in found if t.template_id in wanted]

    def identities(self, start: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities from `start` on, in byte order of UTF-8, with their live templates."""
        sql = (
            "SELECT identity, count(*) FROM identity_rows WHERE identity >= ?"
            " GROUP BY identity ORDER BY identity LIMIT ?"
        )
        with self._reading() as db:
            return [IdentityCount(*row) for row in db.execute(sql, (start, limit)).fetchall()]

    def ids_after(self, after: str, limit: int, identity: str | None) -> list[str]:
        """Up to `limit` live template ids that come after one in listing order (`shard.keys`), "" for the first.

        identity: of this one only. CorruptData if a record is not what was written.
        """
        key = _signed(template_keys([after]))[0] if after else _FIRST_KEY
        sql, values = (_IDS, (key, after, limit)) if identity is None else (_IDS_OF, (key, after, limit, identity))
        with self._reading() as db:
            found = db.execute(sql, values).fetchall()
        self._check_labels(found)
        return [template_id for _, template_id, _, _ in found]

    def label_rows(self, first: int, last: int, max_bytes: int) -> tuple[list[StoredTemplate], int]:
        """The live rows first <= row < last, ascending, read in one statement, and where they end.

        That is `last`, or the first row left out because labels would be more than `max_bytes`; one row always fits.
        CorruptData if one is not what was written.
        """
        found: list[StoredTemplate] = []
        size = 0
        sql = (
            "SELECT row, template_id, identity, metadata, lsn, digest FROM templates"
            " WHERE row >= ? AND row < ? ORDER BY row"
        )
        with self._reading() as db, contextlib.closing(db.execute(sql, (first, last))) as rows:
            for values in rows:
                stored = self._checked(StoredTemplate(*values))
                size += _label_bytes(stored)
                if found and size > max_bytes:
                    return found, stored.row
                found.append(stored)
        return found, last

    def has_moved(self, first_row: int, max_lsn: int) -> bool:
        """Whether a live row from `first_row` on has an LSN up to `max_lsn`."""
        sql = "SELECT 1 FROM templates WHERE row >= ? AND lsn <= ? LIMIT 1"
        with self._reading() as db:
            return db.execute(sql, (first_row, max_lsn)).fetchone() is not None

    def labels_by_key(
        self, from_key: int, first_row: int, max_rows: int, max_bytes: int
    ) -> tuple[list[StoredTemplate], int]:
        """Of the next `max_rows` live templates by key those in rows from `first_row` on, and the key to go on from.

        Keys are signed; the one to go on from is the least one after the last template. Rows ascend; there are fewer
        where labels would be more than `max_bytes`. Templates that share a key are never parted. CorruptData as
        `label_rows`.
        """
        page = "SELECT key FROM template_keys WHERE key >= ? ORDER BY key LIMIT 1 OFFSET ?"
        columns = "t.row, t.template_id, t.identity, t.metadata, t.lsn, t.digest"
        labels = (
            f"SELECT k.key, {columns} FROM template_keys AS k CROSS JOIN templates AS t ON t.row = k.row"
            " WHERE k.key BETWEEN ? AND ? AND k.row >= ? ORDER BY k.key"
        )
        found: list[StoredTemplate] = []
        size, key = 0, from_key
        with self._reading() as db:
            last = db.execute(page, (from_key, max_rows - 1)).fetchone()
            end = _LAST_KEY if last is None else int(last[0])
            with contextlib.closing(db.execute(labels, (from_key, end, first_row))) as rows:
                for own_key, *values in rows:
                    stored = self._checked(StoredTemplate(*values))
                    size += _label_bytes(stored)
                    if found and size > max_bytes and own_key != key:
                        end = key
                        break
                    found.append(stored)
                    key = own_key
        found.sort(key=lambda stored: stored.row)
        return found, _FIRST_KEY if end == _LAST_KEY else end + 1

    def rows_of(self, identities: Sequence[str]) -> RowArray:
        """Live rows that bear one of the identities, in no order."""
        with self._reading() as db:
            found = db.execute(_ROWS_OF_IDENTITIES, (json.dumps(list(identities)),)).fetchall()
        return np.array(found, dtype=np.int64).reshape(-1)

    def rows_to_delete(self, template_ids: Sequence[str], identities: Sequence[str]) -> list[int]:
        """Live rows that bear one of the ids or identities, ascending; CorruptData if the record of one is wrong."""
        wanted = set(template_ids)
        with self._reading() as db:
            found = self._labelled(db, template_keys(template_ids))
            rows = {row for row, template_id in found if template_id in wanted}
            rows.update(row for (row,) in db.execute(_ROWS_OF_IDENTITIES, (json.dumps(list(identities)),)).fetchall())
            # What finds a row goes by what its record says: of a wrong one the entries of others would stay or go.
            sql = (
                "SELECT row, template_id, identity, digest FROM templates WHERE row IN (SELECT value FROM json_each(?))"
            )
            records = db.execute(sql, (json.dumps(sorted(rows)),)).fetchall()
        self._check_labels(records)
        return sorted(rows)


_FIRST_KEY, _LAST_KEY = -(1 << 63), (1 << 63) - 1


def _label_bytes(stored: StoredTemplate) -> int:
    return len(stored.template_id) + len(stored.identity or "") + len(stored.metadata or b"")


_LISTED = "SELECT t.row, t.template_id, t.identity, t.digest"
_IDS = (
    f"{_LISTED} FROM template_keys AS k CROSS JOIN templates AS t ON t.row = k.row"
    " WHERE k.key >= ?1 AND (k.key > ?1 OR t.template_id > ?2) ORDER BY k.key, t.template_id LIMIT ?3"
)
_IDS_OF = (
    f"{_LISTED} FROM identity_rows AS i CROSS JOIN templates AS t ON t.row = i.row"
    " WHERE i.identity = ?4 AND (t.key > ?1 OR (t.key = ?1 AND t.template_id > ?2))"
    " ORDER BY t.key, t.template_id LIMIT ?3"
)
_ROWS_OF_IDENTITIES = "SELECT row FROM identity_rows WHERE identity IN (SELECT value FROM json_each(?))"
_ROWS_OF_KEYS = "(SELECT row FROM template_keys WHERE key IN (SELECT value FROM json_each(?)))"
"""Rows whose id has one of the keys; two ids may share a key, so the id has to be compared."""


def _json_of(keys: KeyArray) -> str:
    return json.dumps(_signed(keys))


def _signed(keys: KeyArray) -> list[int]:
    """Keys as SQLite's integers, which are signed."""
    signed: list[int] = keys.view(np.int64).tolist()
    return signed


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        with step("store.transaction.commit"):
            connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def put_entry(connection: sqlite3.Connection, entry: Entry) -> None:
    """Enter a write into the log's history inside the caller's transaction: its LSN, epoch and operation."""
    set_meta(connection, "lsn", str(entry.lsn))
    connection.execute("INSERT OR IGNORE INTO epochs VALUES (?, ?)", (entry.epoch, entry.lsn))
    if entry.operation:
        values = (entry.operation, entry.lsn, entry.done, entry.left_out)
        connection.execute("INSERT INTO operations VALUES (?, ?, ?, ?)", values)
        connection.execute("DELETE FROM operations WHERE lsn <= ?", (entry.lsn - KEPT_OPERATIONS,))


def put_history(connection: sqlite3.Connection, lsn: int, epochs: Iterable[tuple[int, int]]) -> None:
    """Take over another replica's LSN and its (epoch, first LSN) history, inside the caller's transaction."""
    set_meta(connection, "lsn", str(lsn))
    connection.execute("DELETE FROM epochs")
    connection.executemany("INSERT INTO epochs VALUES (?, ?)", list(epochs))


def put_operations(connection: sqlite3.Connection, operations: Iterable[tuple[bytes, int, int, int]]) -> None:
    """Remember writes that were carried out elsewhere, inside the caller's transaction; see `operations_after`."""
    connection.executemany("INSERT OR IGNORE INTO operations VALUES (?, ?, ?, ?)", operations)


def put_append(connection: sqlite3.Connection, first_row: int, rows: int, crc: bytes) -> None:
    """Write the CRC32C of an append's floats, which counts until its segment is sealed."""
    connection.execute("INSERT OR REPLACE INTO appends VALUES (?, ?, ?)", (first_row, rows, crc))


def drop_appends(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Forget the checksums of the appends of rows first <= row < last: the segment's own cover them now."""
    connection.execute("DELETE FROM appends WHERE first_row >= ? AND first_row < ?", (first, last))


def drop_segment(connection: sqlite3.Connection, row: SegmentRow) -> None:
    """Turn a segment of dead rows into a gap in the row numbers, inside the caller's transaction."""
    put_segment(connection, replace(row, is_dropped=True, floats_crc=None, keys_crc=None))
    connection.execute("DELETE FROM codes WHERE segment = ?", (row.segment,))
    drop_appends(connection, row.first_row, row.first_row + row.rows)
    connection.execute("DELETE FROM tombstones WHERE row >= ? AND row < ?", (row.first_row, row.first_row + row.rows))


def set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Write one meta entry inside the caller's transaction."""
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
    )


def put_segment(connection: sqlite3.Connection, row: SegmentRow) -> None:
    """Write one segment's entry inside the caller's transaction."""
    values = (
        row.segment, row.first_row, row.rows, row.capacity, row.is_sealed, row.floats_crc, row.keys_crc, row.is_dropped
    )  # fmt: skip
    connection.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def put_codes(connection: sqlite3.Connection, segment: int, model_id: str, crc: bytes) -> None:
    """Write the checksums of one segment's codes inside the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO codes VALUES (?, ?, ?)", (segment, model_id, crc))


def delete_codes_except(connection: sqlite3.Connection, model_ids: Collection[str]) -> None:
    """Forget the stored codes of all models but these, inside the caller's transaction."""
    connection.execute(
        "DELETE FROM codes WHERE model_id NOT IN (SELECT value FROM json_each(?))", (json.dumps(sorted(model_ids)),)
    )


def put_templates(connection: sqlite3.Connection, first_row: int, batch: EnrollBatch, keys: KeyArray, lsn: int) -> None:
    """Write the labels of consecutive rows inside the caller's transaction. keys: (n,) uint64, of the ids."""
    labels = zip(batch.template_ids, batch.identities, batch.metadata, strict=True)
    put_labels(connection, range(first_row, first_row + len(batch)), keys, labels, itertools.repeat(lsn))


def put_labels(
    connection: sqlite3.Connection,
    rows: Sequence[int],
    keys: KeyArray,
    labels: Iterable[tuple[str, str | None, bytes | None]],
    lsns: Iterable[int],
) -> None:
    """Write labels of ascending rows at the end, inside the caller's transaction. keys: (n,) uint64, of the ids.

    labels: (template id, identity, metadata) of each row; lsns: of each row.
    """
    if not rows:
        return
    values = [
        (row, key, template_id, identity, metadata, lsn, record_digest(row, template_id, identity, metadata, lsn))
        for row, key, (template_id, identity, metadata), lsn in zip(rows, _signed(keys), labels, lsns, strict=False)
    ]
    connection.executemany("INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    schema.index_rows(connection, rows[0], rows[-1] + 1)
    schema.add_sums(connection, 1, "row >= ? AND row < ?", (rows[0], rows[-1] + 1))


def bury_templates(connection: sqlite3.Connection, rows: Sequence[int], lsn: int, time_s: float) -> None:
    """Delete rows and leave a tombstone for each, inside the caller's transaction. time_s: unix seconds."""
    if not rows:
        return
    each = [(row,) for row in rows]
    schema.add_sums(connection, -1, "row IN (SELECT value FROM json_each(?))", (json.dumps(list(rows)),))
    for table, column in (("template_keys", "key"), ("identity_rows", "identity")):
        connection.executemany(
            f"DELETE FROM {table} WHERE row = ?1 AND {column} = (SELECT {column} FROM templates WHERE row = ?1)", each
        )
    connection.executemany("DELETE FROM templates WHERE row = ?", each)
    set_meta(connection, "last_burial", str(lsn))
    set_meta(connection, "last_burial_at", str(int(time_s)))
    put_tombstones(connection, [(row, lsn, int(time_s)) for row in rows])


def put_tombstones(connection: sqlite3.Connection, buried: Sequence[tuple[int, int, int]]) -> None:
    """Mark rows as given up, inside the caller's transaction: (row, LSN, unix seconds) of each."""
    connection.executemany("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", buried)
