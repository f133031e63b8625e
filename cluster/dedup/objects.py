"""Objects of a snapshot as mapped memory: in place where the store is a directory, in a nameless file elsewhere.

A nameless file has no directory entry, so that nothing of a gallery stays on a worker's disk when it ends, however it
ends. What is mapped is no memory of the process's own: the system drops and reads pages as it likes.
"""

from __future__ import annotations

import mmap
import tempfile
import threading
from collections import OrderedDict
from typing import BinaryIO

from coordinator.snapshots.manifest import ObjectRef
from coordinator.snapshots.store import SnapshotStore
from shard.errors import StoreUnavailable, WriteFailed

KEPT_BYTES = 1 << 30
"""Mapped bytes that are kept at hand for the next who asks; those in use are kept by who uses them."""
KEPT_OBJECTS = 1_024


class MappedObjects:
    """The objects of one store, mapped when they are asked for. Thread-safe."""

    def __init__(self, store: SnapshotStore, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._store, self._kept_bytes = store, kept_bytes
        self._kept: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, ref: ObjectRef) -> mmap.mmap:
        """The object's bytes, read-only. Those of a directory are of the right size, and verified by `verify` alone;
        others are verified here. CorruptData names what is missing or damaged.
        """
        with self._lock:
            found = self._kept.get(ref.sha256)
            if found is not None:
                self._kept.move_to_end(ref.sha256)
                return found
        mapped = self._mapped(ref)
        with self._lock:
            if ref.sha256 not in self._kept:
                self._kept[ref.sha256] = mapped
                self._bytes += ref.size
            while self._kept and (self._bytes > self._kept_bytes or len(self._kept) > KEPT_OBJECTS):
                # Not closed: whoever still has it keeps it.
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return mapped

    def verify(self, ref: ObjectRef) -> None:
        """CorruptData, naming the object, unless its bytes are those of its name."""
        self._store.verify(ref)

    def _mapped(self, ref: ObjectRef) -> mmap.mmap:
        file = self._store.local_file(ref)
        if file is None:
            return _nameless(self._store.get(ref))
        try:
            with file.open("rb") as opened:
                return _map(opened)
        except OSError as error:
            raise StoreUnavailable(f"could not map {file}: {error.strerror or error}") from error


def _nameless(data: bytes) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            return _map(file)
    except OSError as error:
        where = tempfile.gettempdir()
        raise WriteFailed(f"could not keep an object of {len(data)} bytes in {where}: {error.strerror}") from error


def _map(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
