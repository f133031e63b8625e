"""Snapshots of a tenant's galleries, in the operator's store.

The store is a setting of the service: no request names a URL. Each tenant has a folder of its own there, named by its
id, so that a tenant created again under an old name finds none of the old one's.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, Response

from cluster.results import SnapshotInfo
from cluster.service import schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from cluster.service.problems import HttpProblem
from cluster.service.routes.galleries import ONE
from cluster.snapshots import Snapshots, snapshot_info
from coordinator.snapshots.places import below
from shard.errors import UnknownSnapshot

router = APIRouter()
OF_GALLERY = f"/v1/galleries{ONE}/snapshots"
OF_TENANT = "/v1/tenants/{tenant}/snapshots"


class SnapshotReply(schemas.Reply):
    """A snapshot. size: bytes of its objects."""

    snapshot_id: str
    gallery: str
    created_at: str
    expires_at: str | None
    templates: int
    shards: int
    dim: int
    embedder: str | None
    model_id: str | None
    size: int


class SnapshotsReply(schemas.Reply):
    """A gallery's snapshots, oldest first."""

    snapshots: list[SnapshotReply]


class RestoredReply(schemas.Reply):
    """The gallery that was made of a snapshot."""

    gallery: str
    templates: int


class RemovedReply(schemas.Reply):
    """Snapshots that were removed, and how many objects with how many bytes no other one needed."""

    snapshot_ids: list[str]
    objects: int
    size: int


@operation(
    router,
    "POST",
    OF_GALLERY,
    "snapshots.create",
    body=schemas.SnapshotBody,
    reply=SnapshotReply,
    status=201,
    tag="snapshots",
)
async def create(call: Asked, tenant: str, gallery: str) -> Response:
    """Make a snapshot while the gallery is in use. Complete when it answers."""
    name = call.gallery_name("admin")
    wanted = call.read(schemas.SnapshotBody)
    expires_at = None if wanted.expires_at is None else datetime.fromtimestamp(wanted.expires_at, timezone.utc)

    def make() -> SnapshotInfo:
        store = _store(call, tenant)
        return snapshot_info(store.create(name, expires_at=expires_at, progress=False).manifest)

    made = await call.run(make, kind="snapshot")
    await call.audit_now()
    return call.reply(asdict(made), 201)


@operation(router, "GET", OF_GALLERY, "snapshots.list", reply=SnapshotsReply, tag="snapshots")
async def list_snapshots(call: Asked, tenant: str, gallery: str) -> Response:
    """The gallery's snapshots, also of one that was dropped and had this name."""
    name = call.gallery_name("read")
    found = await call.run(lambda: _store(call, tenant).list(name), kind="snapshot")
    return call.reply({"snapshots": [asdict(one) for one in found]})


@operation(
    router, "POST", OF_GALLERY + "/{snapshot_id}/restore", "snapshots.restore",
    body=schemas.RestoreBody, reply=RestoredReply, status=201, tag="snapshots",
)  # fmt: skip
async def restore(call: Asked, tenant: str, gallery: str, snapshot_id: str) -> Response:
    """Make a new gallery of a snapshot: the same faces, ids, identities and metadata."""
    name = call.gallery_name("admin")
    wanted = call.read(schemas.RestoreBody)
    into = call.named_gallery(f"{tenant}/{wanted.into}", "admin")

    def perform() -> dict[str, Any]:
        store = _store(call, tenant)
        _check(store, name, snapshot_id)
        report = store.restore(snapshot_id, into=into, progress=False)
        return {"gallery": into, "templates": report.templates}

    restored = await call.run(perform, kind="snapshot")
    call.gateway.forget_gallery(into)
    await call.audit_now(restored["templates"])
    return call.reply(restored, 201)


@operation(router, "DELETE", OF_GALLERY + "/{snapshot_id}", "snapshots.delete", reply=None, status=204, tag="snapshots")
async def delete(call: Asked, tenant: str, gallery: str, snapshot_id: str) -> Response:
    """Remove a snapshot, and what no other one needs of it."""
    name = call.gallery_name("admin")

    def perform() -> None:
        store = _store(call, tenant)
        _check(store, name, snapshot_id)
        store.delete(snapshot_id)

    await call.run(perform, kind="snapshot")
    await call.audit_now()
    return Response(status_code=204)


@operation(router, "POST", OF_TENANT + "/expire", "snapshots.expire", reply=RemovedReply, tag="snapshots")
async def expire(call: Asked, tenant: str) -> Response:
    """Remove every snapshot of the tenant whose time is over, also of galleries that were dropped."""
    name = await call.tenant(tenant)
    report = await call.run(lambda: _store(call, name).delete_expired(), kind="snapshot")
    await call.audit_now(len(report.snapshot_ids))
    return call.reply({"snapshot_ids": list(report.snapshot_ids), "objects": report.objects, "size": report.size})


def _store(call: Call, tenant: str) -> Snapshots:
    """The tenant's folder of the store. Blocks."""
    gateway = call.gateway
    if gateway.snapshot_store is None:
        raise HttpProblem(501, "no_snapshot_store", "the operator of this service has set no store for snapshots")
    tenant_id = gateway.tenant_id(call.principal, tenant)
    return gateway.cluster.snapshots(below(gateway.snapshot_store, tenant_id))


def _check(store: Snapshots, gallery: str, snapshot_id: str) -> None:
    """UnknownSnapshot unless it is one of this gallery."""
    if not any(one.snapshot_id == snapshot_id for one in store.list(gallery)):
        raise UnknownSnapshot(f"{gallery} has no snapshot {snapshot_id!r:.80}")
