"""What a host knows of the shards that it has closed, so that questions about them need not open them.

    <host>/at_rest.db    SQLite: one row for each shard that was closed in order

All of it follows from the shards, and is told from them again where it is missing: so it may lag behind a loss of
power, and a damaged file is begun anew. What it must not do is speak for a shard that has changed since. A row is
removed before its shard is opened, and counts only while the shard's database is the very file that was closed, without
a log.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shard.errors import StorageError
from shard.files import remove_file
from shard.shard import Shard
from shard.types import ErasureState, ShardStats

Key = tuple[str, int]
"""Gallery id and shard number."""
_FORMAT = 1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rest:
    """What is to be known of a closed shard. size, mtime_ns: of its database then.

    model_ids: the models that it needs, the active one among them.
    """

    configured_epoch: int
    configured_hosts: tuple[str, ...]
    stats: ShardStats
    erasure: ErasureState
    model_ids: tuple[str, ...]
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, shard: Shard) -> Rest:
        """What is to be known of an open shard that nobody uses; `stamped` once it is closed. StorageError."""
        return cls(
            shard.configured_epoch,
            shard.configured_hosts,
            shard.stats(),
            shard.erasure(),
            tuple(sorted(shard.model_ids())),
            0,
            0,
        )


def stamp(directory: Path) -> tuple[int, int] | None:
    """Size and time of the last change of a closed shard's database; None if it is not there, or was not closed."""
    try:
        found = (directory / "shard.db").stat()
        log = directory / "shard.db-wal"
        return None if log.exists() and log.stat().st_size else (found.st_size, found.st_mtime_ns)
    except OSError:
        return None


class RestStore:
    """The rows of one host. Thread-safe. A database that fails is no error: shards are then opened to be asked."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, which is begun anew if it is no readable database of this version."""
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        try:
            self._db = _connect(path)
        except sqlite3.Error as error:
            _LOG.warning("%s is begun anew: %s", path, error)
            try:
                for suffix in ("", "-wal", "-shm"):
                    remove_file(path.with_name(path.name + suffix))
                self._db = _connect(path)
            except (sqlite3.Error, StorageError) as again:
                _LOG.warning("%s cannot be had; closed shards are opened to be asked: %s", path, again)

    def load(self) -> dict[Key, Rest]:
        """Every row that is sound; whether it still counts is for `stamp` to tell."""
        with self._lock:
            if self._db is None:
                return {}
            try:
                rows = self._db.execute("SELECT gallery_id, shard, facts, crc FROM at_rest").fetchall()
            except sqlite3.Error as error:
                _LOG.warning("%s cannot be read: %s", self._path, error)
                return {}
        found = (((gallery_id, shard), _rest(facts)) for gallery_id, shard, facts, crc in rows if crc == _crc(facts))
        return {key: rest for key, rest in found if rest is not None}

    def put(self, entries: Iterable[tuple[Key, Rest]]) -> None:
        """Remember shards that were closed."""
        rows = [(*key, facts, _crc(facts)) for key, rest in entries for facts in (json.dumps(asdict(rest)),)]
        self._write("INSERT OR REPLACE INTO at_rest VALUES (?, ?, ?, ?)", rows)

    def remove(self, keys: Iterable[Key]) -> None:
        """Forget shards: they are about to be opened, or are gone."""
        self._write("DELETE FROM at_rest WHERE gallery_id = ? AND shard = ?", list(keys))

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._lock:
            if self._db is None or not rows:
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(sql, rows)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                # A row that stays where it should go is found out by its stamp.
                _LOG.warning("%s cannot be written: %s", self._path, error)
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the database. Idempotent."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # Synced at checkpoints only: whole after a loss of power, if not of the last moment.
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            db.execute(f"PRAGMA {pragma}").close()
        if db.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DROP TABLE IF EXISTS at_rest")
            db.execute(
                "CREATE TABLE at_rest (gallery_id TEXT NOT NULL, shard INTEGER NOT NULL, facts TEXT NOT NULL,"
                " crc INTEGER NOT NULL, PRIMARY KEY (gallery_id, shard)) WITHOUT ROWID"
            )
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _crc(facts: str) -> int:
    return zlib.crc32(facts.encode())


def _rest(facts: str) -> Rest | None:
    """What a row says; None where another version wrote it."""
    told = json.loads(facts)
    try:
        return Rest(
            configured_epoch=told["configured_epoch"],
            configured_hosts=tuple(told["configured_hosts"]),
            stats=ShardStats(**told["stats"]),
            erasure=ErasureState(**told["erasure"]),
            model_ids=tuple(told["model_ids"]),
            size=told["size"],
            mtime_ns=told["mtime_ns"],
        )
    except (KeyError, TypeError):
        return None
