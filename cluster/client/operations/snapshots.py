"""Snapshots of a service's galleries, in the store that its operator has set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cluster.client.call import Operation
from cluster.client.operations.requests import SLOW_S, gallery_path, get, quoted, remove, write
from cluster.client.wire import entry, record, records
from cluster.results import SnapshotInfo
from shard.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class RemovedSnapshots:
    """Ids of what was removed, and how many objects with how many bytes no other snapshot of the tenant needed."""

    snapshot_ids: tuple[str, ...]
    objects: int
    size: int


def create(gallery: str, expires_at: datetime | None) -> Operation[SnapshotInfo]:
    """Make one. Sent again where its answer was lost, it would be another, so it is not."""
    body = {"expires_at": None if expires_at is None else _seconds(expires_at)}
    path = gallery_path(gallery, "snapshots")
    return record(SnapshotInfo, (yield from write(path, body, is_idempotent=False, patience_s=SLOW_S)))


def _seconds(at: datetime) -> float:
    if at.tzinfo is None:
        raise InvalidParameter(f"expires_at: expected a time with a zone, got {at.isoformat()}")
    return at.timestamp()


def list_of(gallery: str) -> Operation[list[SnapshotInfo]]:
    """Those of one gallery, oldest first."""
    document = yield from get(gallery_path(gallery, "snapshots"))
    return records(SnapshotInfo, entry(document, "snapshots", list), "snapshots")


def restore(gallery: str, snapshot_id: str, into: str) -> Operation[int]:
    """Make a gallery of one; its templates."""
    tenant, _, own = into.partition("/")
    if tenant != gallery.partition("/")[0]:
        raise InvalidParameter(f"into: expected a gallery of the same tenant as {gallery}, got {into!r:.160}")
    path = gallery_path(gallery, "snapshots", quoted(snapshot_id), "restore")
    document = yield from write(path, {"into": own}, is_idempotent=False, patience_s=SLOW_S)
    return int(entry(document, "templates", int))


def delete(gallery: str, snapshot_id: str) -> Operation[None]:
    """Remove one."""
    yield from remove(gallery_path(gallery, "snapshots", quoted(snapshot_id)))


def delete_expired(tenant: str) -> Operation[RemovedSnapshots]:
    """Remove those of a tenant whose time is over; twice is once."""
    path = f"/v1/tenants/{quoted(tenant)}/snapshots/expire"
    document = yield from write(path, is_idempotent=True, patience_s=SLOW_S)
    ids = tuple(str(one) for one in entry(document, "snapshot_ids", list))
    return record(RemovedSnapshots, document, snapshot_ids=ids)
