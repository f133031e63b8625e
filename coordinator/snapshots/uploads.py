"""Objects that a creation stores, counted: those written, and those that were there already."""

from __future__ import annotations

import threading

from coordinator.snapshots.manifest import BlockEntry, ObjectRef
from coordinator.snapshots.store import SnapshotStore


class Uploads:
    """Stores objects and counts them. Thread-safe."""

    def __init__(self, store: SnapshotStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}
        self._reused: dict[str, int] = {}

    def put(self, data: bytes) -> ObjectRef:
        """Store an object, unless it is there; StoreUnavailable."""
        ref, is_new = self.store.put(data)
        self._count(ref, is_new)
        return ref

    def has(self, block: BlockEntry) -> bool:
        """Whether both objects of a block are there."""
        return self._has(block.floats) and self._has(block.labels)

    def _has(self, ref: ObjectRef) -> bool:
        return ref.sha256 in self._written or ref.sha256 in self._reused or self.store.has(ref)

    def reuse(self, block: BlockEntry) -> None:
        """Count a block whose objects are there."""
        for ref in (block.floats, block.labels):
            self._count(ref, is_new=False)

    def _count(self, ref: ObjectRef, is_new: bool) -> None:
        with self._lock:
            if is_new:
                self._written[ref.sha256] = ref.size
            else:
                self._reused.setdefault(ref.sha256, ref.size)

    def counts(self) -> tuple[int, int, int, int]:
        """Objects and bytes written, objects and bytes that were there."""
        reused = {sha: size for sha, size in self._reused.items() if sha not in self._written}
        return len(self._written), sum(self._written.values()), len(reused), sum(reused.values())
