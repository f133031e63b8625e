"""Faces by embedding: enroll, list, get, update, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cluster.gallery import Gallery
from cluster.metadata import metadata_json
from cluster.results import Template
from cluster.service import media, schemas
from cluster.service.calls import Asked, Call
from cluster.service.enroll_again import enroll_again
from cluster.service.once import Attempt, once
from cluster.service.operations import operation
from cluster.service.routes.galleries import ONE
from cluster.thumbnails import without_reserved
from shard.errors import InvalidParameter, UnknownTemplate
from shard.types import MAX_ID_BYTES, EnrollBatch, FloatArray
from shard.validate import check_batch, check_embeddings, normalised

router = APIRouter(prefix=f"/v1/galleries{ONE}")


@operation(router, "POST", "/faces", "faces.enroll", body=schemas.EnrollBody, reply=schemas.EnrollReply, tag="faces")
async def enroll(call: Asked, tenant: str, gallery: str) -> Response:
    """Store embeddings with labels; durable and searchable when it answers. All or nothing is refused."""
    found = await call.gallery("write")
    wanted = call.read(schemas.EnrollBody)
    embeddings = media.floats(wanted.embeddings, what="embeddings")
    if len(embeddings) > schemas.MAX_ENROLL:
        raise InvalidParameter(
            f"embeddings: expected at most {schemas.MAX_ENROLL} in one request, got {len(embeddings)}"
        )

    async def perform(attempt: Attempt) -> dict[str, Any]:
        made_ids = attempt.made_ids
        is_repeatable = made_ids is not None and wanted.template_ids is None

        def write() -> dict[str, Any]:
            call.gateway.check_room(call.principal, len(embeddings), embeddings.nbytes)
            result = found.enroll(
                embeddings,
                identities=wanted.identities,
                template_ids=made_ids[: len(embeddings)] if is_repeatable and made_ids else wanted.template_ids,
                metadata=wanted.metadata,
                if_exists="skip" if is_repeatable else wanted.if_exists,
            )
            return {"template_ids": list(result.template_ids), "enrolled": result.enrolled, "skipped": result.skipped}

        if attempt.is_again and wanted.template_ids is not None and wanted.if_exists == "error":
            return await call.run(lambda: _enroll_again(call, found, embeddings, wanted), kind="write")
        return await call.run(write, kind="write")

    call.exchange.count = len(embeddings)
    # Ids that the caller chose are in the request that is repeated; the catalog need not keep people's labels.
    known = None if wanted.template_ids is None else {"template_ids": wanted.template_ids}
    return await once(call, len(embeddings), perform, known=known, is_repeatable=True)


def _enroll_again(call: Call, gallery: Gallery, embeddings: FloatArray, wanted: schemas.EnrollBody) -> dict[str, Any]:
    """What is stored under the given ids, exactly as asked, is this request's own, from an earlier attempt. Blocks."""
    asked = _checked(gallery, embeddings, wanted)

    def write(rows: list[int]) -> None:
        part = asked.take(rows)
        call.gateway.check_room(call.principal, len(part), part.embeddings.nbytes)
        gallery.enroll(
            part.embeddings,
            identities=part.identities,
            template_ids=part.template_ids,
            metadata=None if wanted.metadata is None else [wanted.metadata[row] for row in rows],
        )

    enroll_again(gallery, asked, settle=gallery.settle, write=write)
    return {"template_ids": list(asked.template_ids), "enrolled": len(asked), "skipped": 0}


def _checked(gallery: Gallery, embeddings: FloatArray, wanted: schemas.EnrollBody) -> EnrollBatch:
    """What is asked as the gallery stores it; InvalidEmbedding, InvalidParameter, DuplicateTemplate for twins in it."""
    rows = normalised(check_embeddings(embeddings, gallery.dim))
    nothing = (None,) * len(rows)
    batch = EnrollBatch(
        embeddings=rows,
        template_ids=tuple(wanted.template_ids or ()),
        identities=nothing if wanted.identities is None else tuple(wanted.identities),
        metadata=nothing if wanted.metadata is None else tuple(map(metadata_json, wanted.metadata)),
    )
    check_batch(batch, gallery.dim)
    return batch


@operation(router, "GET", "/faces", "faces.list", reply=schemas.TemplatesReply, tag="faces")
async def list_faces(
    call: Asked,
    tenant: str,
    gallery: str,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    identity: Annotated[str | None, Query(min_length=1, max_length=MAX_ID_BYTES)] = None,
) -> Response:
    """Templates page by page."""
    found = await call.gallery("read")
    page = await call.run(lambda: found.list(cursor=cursor, limit=limit, identity=identity))
    return call.reply({"templates": [template_values(t) for t in page.templates], "cursor": page.cursor})


@operation(router, "POST", "/faces/get", "faces.get", body=schemas.IdsBody, reply=schemas.TemplatesReply, tag="faces")
async def get_faces(call: Asked, tenant: str, gallery: str) -> Response:
    """Those of the templates that are there, in the order asked."""
    found = await call.gallery("read")
    wanted = call.read(schemas.IdsBody)
    records = await call.run(lambda: found.templates(wanted.template_ids))
    return call.reply({"templates": [template_values(t) for t in records], "cursor": None})


@operation(
    router, "POST", "/faces/delete", "faces.delete", body=schemas.DeleteBody, reply=schemas.DeletedReply, tag="faces"
)
async def delete_faces(call: Asked, tenant: str, gallery: str) -> Response:
    """Delete by id and by identity. Gone from every search when it answers; what is not there counts 0."""
    found = await call.gallery("write")
    wanted = call.read(schemas.DeleteBody)

    async def perform(_: Attempt) -> dict[str, Any]:
        deleted = await call.run(
            lambda: found.delete(template_ids=wanted.template_ids, identities=wanted.identities), kind="write"
        )
        await call.audit_now(deleted)
        return {"deleted": deleted}

    return await once(call, 0, perform, is_repeatable=True)


@operation(router, "GET", "/faces/{template_id:path}", "faces.show", reply=schemas.TemplateReply, tag="faces")
async def show_face(call: Asked, tenant: str, gallery: str, template_id: str) -> Response:
    """One template's labels."""
    found = await call.gallery("read")
    return call.reply(template_values(await call.run(lambda: found.get(template_id))))


@operation(
    router, "PATCH", "/faces/{template_id:path}", "faces.update",
    body=schemas.MetadataBody, reply=schemas.TemplateReply, tag="faces",
)  # fmt: skip
async def update_face(call: Asked, tenant: str, gallery: str, template_id: str) -> Response:
    """Other metadata in place of a template's. What is no part of it here, such as its thumbnail, stays."""
    found = await call.gallery("write")
    wanted = call.read(schemas.MetadataBody)

    written = await call.run(lambda: found.update(template_id, wanted.metadata), kind="write")
    return call.reply(template_values(written))


@operation(router, "DELETE", "/faces/{template_id:path}", "faces.drop", reply=schemas.DeletedReply, tag="faces")
async def drop_face(call: Asked, tenant: str, gallery: str, template_id: str) -> Response:
    """Delete one template; 404 if it is not there."""
    found = await call.gallery("write")
    deleted = await call.run(lambda: found.delete(template_ids=[template_id]), kind="write")
    if not deleted:
        raise UnknownTemplate(f"{found.name} has no template {template_id!r}")
    await call.audit_now(deleted)
    return call.reply({"deleted": deleted})


def template_values(template: Template) -> dict[str, Any]:
    """A template as a body."""
    return {
        "template_id": template.template_id,
        "identity": template.identity,
        "metadata": without_reserved(template.metadata),
    }
