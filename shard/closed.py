"""`ClosedShard`: a shard's directory under its lock, with its database and no index.

A shard whose files are not what the manifest says does not open; this much of it does, so that the damage can be found
and mended. It answers no searches.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from shard.encrypted_segments import segments_of
from shard.encryption import cipher_of
from shard.errors import CorruptData, FacegridError
from shard.files import DirectoryLock
from shard.model import SearchModel
from shard.rows import ModelLoader
from shard.segments import SegmentFiles
from shard.store import SegmentRow, Store


class ClosedShard:
    """The files of a shard that nobody has open (HomeLocked otherwise)."""

    def __init__(self, directory: Path, load_model: ModelLoader, *, key: bytes | None = None) -> None:
        """Open the database, which brings one of an older format to today's.

        key: as of `Shard`, whose KeyUnavailable and WrongKey it raises too. Raises CorruptData if it is not a shard's
        or cannot be read, FormatTooNew, HomeLocked. A model that cannot be loaded is no error here.
        """
        if not (directory / "shard.db").is_file():
            raise CorruptData(f"{directory} is not a shard: it has no shard.db")
        self.directory = directory
        self.model: SearchModel | None = None
        with contextlib.ExitStack() as undo:
            self._lock = undo.enter_context(DirectoryLock(directory))
            cipher = cipher_of(directory, key)
            self.store = Store(directory / "shard.db", cipher.database_key if cipher else None)
            undo.callback(self.store.close)
            stated = self.store.meta("dim") or ""
            if not stated.isascii() or not stated.isdigit() or not int(stated):
                raise CorruptData(f"{self.store.path}: dim: expected a number of floats, got {stated!r}")
            self.dim = int(stated)
            self._segments = segments_of(directory, self.dim, cipher)
            if model_id := self.store.meta("model_id"):
                with contextlib.suppress(FacegridError, OSError):  # `shard.check` tells that it is not there
                    self.model = load_model(model_id)
            undo.pop_all()

    def files(self, row: SegmentRow) -> SegmentFiles:
        """The files of one segment."""
        return self._segments.files(row.segment)

    def frozen(self) -> AbstractContextManager[None]:
        """Nothing is written inside: only who holds the lock could."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def amending(self) -> Iterator[sqlite3.Connection]:
        """A transaction that changes what follows from the rest; WriteFailed."""
        with self.store.transaction() as db:
            yield db

    def close(self) -> None:
        """Close the database and release the lock. Idempotent."""
        self._segments.close()
        self.store.close()
        self._lock.close()

    def __enter__(self) -> ClosedShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
