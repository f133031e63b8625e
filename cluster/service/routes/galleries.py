"""Galleries: make, show, drop, train, erase."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cluster.gallery import Gallery
from cluster.results import GalleryStats
from cluster.service import schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from coordinator.heat import COLD
from coordinator.types import ReplicaErasure
from shard.errors import AlreadyExists, InvalidParameter, PermissionDenied, UnknownGallery, UnknownTenant

router = APIRouter(prefix="/v1/galleries")
ONE = "/{tenant}/{gallery}"


@operation(
    router, "POST", "", "galleries.create",
    body=schemas.GalleryBody, reply=schemas.GalleryReply, status=201, tag="galleries",
)  # fmt: skip
async def create(call: Asked) -> Response:
    """Make a gallery. Needs the scope admin, or the operator."""
    wanted = call.read(schemas.GalleryBody)
    name = _new_name(call, wanted.name)
    if (wanted.dim is None) == (wanted.embedder is None):
        raise InvalidParameter("expected either dim, for embeddings made elsewhere, or embedder; got both or neither")
    grid = call.gateway.cluster

    def make() -> GalleryStats:
        owner = grid.tenants.get(name.partition("/")[0])  # one that was never made has no galleries
        if call.principal.key.tenant_id not in (None, owner.tenant_id):
            raise UnknownGallery(f"gallery {name!r} is not in this key's tenant")
        if _exists(call, name):
            raise AlreadyExists(f"gallery {name!r} exists")
        return grid.gallery(name, create=True, **wanted.model_dump(exclude={"name"})).stats()

    stats = await call.run(make)
    call.gateway.forget_gallery(name)
    await call.audit_now()
    return call.reply(stats_values(stats), 201)


def _new_name(call: Call, name: str) -> str:
    key = call.principal.key
    tenant = name.partition("/")[0]
    if key.tenant is not None and key.tenant != tenant:
        raise UnknownGallery(f"gallery {name!r} is not in this key's tenant, {key.tenant}")
    call.exchange.gallery = name
    if "admin" not in key.scopes or key.galleries:
        raise PermissionDenied("this needs a key with the scope admin, bound to no gallery")
    return name


def _exists(call: Call, name: str) -> bool:
    try:
        call.gateway.cluster.gallery(name)
    except UnknownGallery:
        return False
    return True


@operation(router, "GET", "", "galleries.list", reply=schemas.GalleriesReply, tag="galleries")
async def list_galleries(call: Asked, tenant: Annotated[str | None, Query(max_length=63)] = None) -> Response:
    """The galleries that the key may use, by name."""
    key = call.principal.key
    wanted = tenant if key.tenant is None else key.tenant
    if tenant not in (None, wanted):
        raise UnknownTenant(f"no tenant {tenant!r:.80}")
    visible = await call.run(lambda: call.gateway.cluster.galleries(wanted))
    if key.galleries:
        visible = [gallery for gallery in visible if gallery.name.partition("/")[2] in key.galleries]
    heat = await call.run(call.gateway.cluster.heat)
    return call.reply(
        {"galleries": [{**_summary(gallery), "heat": heat.get(gallery.name, COLD)} for gallery in visible]}
    )


@operation(router, "GET", ONE, "galleries.show", reply=schemas.GalleryReply, tag="galleries")
async def show(call: Asked, tenant: str, gallery: str) -> Response:
    """A gallery and its size."""
    found = await call.gallery("read")
    return call.reply(stats_values(await call.run(found.stats)))


@operation(router, "DELETE", ONE, "galleries.drop", reply=None, status=204, tag="galleries")
async def drop(call: Asked, tenant: str, gallery: str) -> Response:
    """Remove a gallery, its faces and its files."""
    name = (await call.gallery("admin")).name
    await call.run(lambda: call.gateway.cluster.drop(name))
    call.gateway.forget_gallery(name)
    await call.audit_now()
    return Response(status_code=204)


@operation(router, "POST", f"{ONE}/train", "galleries.train", reply=schemas.TrainedReply, tag="galleries")
async def train(call: Asked, tenant: str, gallery: str) -> Response:
    """Train a search model now. Galleries do so by themselves at 1,000 templates, and as they grow."""
    found = await call.gallery("admin")
    report = await call.run(lambda: found.train(progress=False), kind="train")
    return call.reply(
        {
            "model_id": report.model_id,
            "templates": report.templates,
            "sample": report.sample,
            "seconds": report.seconds,
        }
    )


@operation(router, "POST", f"{ONE}/flush", "galleries.flush", reply=None, status=204, tag="galleries")
async def flush(call: Asked, tenant: str, gallery: str) -> Response:
    """Seal the open segment of every shard. Nothing is lost without it."""
    found = await call.gallery("admin")
    await call.run(found.flush)
    return Response(status_code=204)


@operation(router, "POST", f"{ONE}/erase", "galleries.erase", reply=None, status=204, tag="galleries")
async def erase(call: Asked, tenant: str, gallery: str) -> Response:
    """Remove the bytes of deleted faces from every replica's files now, instead of by the deadline."""
    found = await call.gallery("admin")
    await call.run(found.erase)
    await call.audit_now()
    return Response(status_code=204)


class ErasureReply(schemas.Reply):
    """What replicas hold of deleted faces."""

    replicas: list[dict[str, Any]]


@operation(router, "GET", f"{ONE}/erasure", "galleries.erasure", reply=ErasureReply, tag="galleries")
async def erasure(call: Asked, tenant: str, gallery: str) -> Response:
    """What the files of each replica hold still of deleted faces, and until when."""
    found = await call.gallery("read")
    report = await call.run(found.erasure_report)
    return call.reply({"replicas": [_erasure_values(one) for one in report]})


def _erasure_values(replica: ReplicaErasure) -> dict[str, Any]:
    values = asdict(replica)
    del values["host"]  # the operator's to know
    return {**values, "is_clean": replica.is_clean}


def stats_values(stats: GalleryStats) -> dict[str, Any]:
    """A gallery's size as a body; which hosts hold it is the operator's to know."""
    values = asdict(stats)
    del values["hosts"]
    return values


def _summary(gallery: Gallery) -> dict[str, Any]:
    return {name: getattr(gallery, name) for name in schemas.GallerySummary.model_fields if name != "heat"}
