"""`RemoteSnapshots`: snapshots of a service's galleries, in the store that its operator has set."""

from __future__ import annotations

from datetime import datetime

from cluster.client.call import Operation, T
from cluster.client.operations import snapshots as _snapshots
from cluster.client.operations.snapshots import RemovedSnapshots
from cluster.client.transport import Transport
from cluster.results import SnapshotInfo


class RemoteSnapshots:
    """Verbs on snapshots. Errors besides those of connections: UnknownGallery, UnknownSnapshot, StoreBusy,
    StoreUnavailable, AlreadyExists, AccessError.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _run(self, operation: Operation[T]) -> T:
        return self._transport.run(operation)

    def create(self, gallery: str, *, expires_at: datetime | None = None) -> SnapshotInfo:
        """Make a snapshot while the gallery is in use; it is complete when this returns. expires_at: with a zone."""
        return self._run(_snapshots.create(gallery, expires_at))

    def list(self, gallery: str) -> list[SnapshotInfo]:
        """A gallery's snapshots, oldest first; also of one that was dropped."""
        return self._run(_snapshots.list_of(gallery))

    def restore(self, gallery: str, snapshot_id: str, *, into: str) -> int:
        """Make a new gallery of the same tenant of a snapshot; how many templates it has."""
        return self._run(_snapshots.restore(gallery, snapshot_id, into))

    def delete(self, gallery: str, snapshot_id: str) -> None:
        """Remove a snapshot, and what no other one needs of it."""
        self._run(_snapshots.delete(gallery, snapshot_id))

    def delete_expired(self, tenant: str) -> RemovedSnapshots:
        """Remove every snapshot of a tenant whose time is over, of galleries that were dropped too."""
        return self._run(_snapshots.delete_expired(tenant))
