"""Identities: list, rename, merge, verify."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cluster import images
from cluster.faces import model_spec
from cluster.gallery import Gallery
from cluster.service import media, schemas
from cluster.service.calls import Asked, Call
from cluster.service.once import Attempt, once
from cluster.service.operations import operation
from cluster.service.routes.galleries import ONE
from cluster.service.routes.photos import decoded, probe_of
from cluster.service.routes.search import count_queries
from shard.errors import InvalidParameter
from shard.types import MAX_ID_BYTES

router = APIRouter(prefix=f"/v1/galleries{ONE}")


@operation(router, "GET", "/identities", "identities.list", reply=schemas.IdentitiesReply, tag="identities")
async def list_identities(
    call: Asked,
    tenant: str,
    gallery: str,
    start: Annotated[str, Query(max_length=MAX_ID_BYTES + 1)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Identities and how many templates each has, in byte order of UTF-8."""
    found = await call.gallery("read")
    page = await call.run(lambda: list(islice(found.identities(start=start), limit + 1)), kind="read")
    return call.reply(
        {
            "identities": [{"identity": one.identity, "templates": one.templates} for one in page[:limit]],
            "next": page[limit].identity if len(page) > limit else None,
        }
    )


def _default_threshold(call: Call, gallery: Gallery) -> float:
    """The embedder's own; InvalidParameter where there is none."""
    if gallery.embedder is None:
        raise InvalidParameter("threshold: expected one, since this gallery's embeddings are made elsewhere")
    return images.threshold_of(model_spec(call.gateway.cluster.embedder_of(gallery)))


@operation(
    router, "POST", "/identities/rename", "identities.rename",
    body=schemas.RenameBody, reply=schemas.ChangedReply, tag="identities",
)  # fmt: skip
async def rename(call: Asked, tenant: str, gallery: str) -> Response:
    """Another name for an identity; 409 if the new one has templates already."""
    found = await call.gallery("write")
    wanted = call.read(schemas.RenameBody)

    async def perform(_: Attempt) -> dict[str, Any]:
        changed = await call.run(lambda: found.rename_identity(wanted.old, wanted.new), kind="write")
        await call.audit_now(changed)
        return {"templates": changed}

    return await once(call, 0, perform)


@operation(
    router, "POST", "/identities/merge", "identities.merge",
    body=schemas.MergeBody, reply=schemas.ChangedReply, tag="identities",
)  # fmt: skip
async def merge(call: Asked, tenant: str, gallery: str) -> Response:
    """Several identities become one."""
    found = await call.gallery("write")
    wanted = call.read(schemas.MergeBody)

    async def perform(_: Attempt) -> dict[str, Any]:
        changed = await call.run(lambda: found.merge_identities(wanted.identities, wanted.into), kind="write")
        await call.audit_now(changed)
        return {"templates": changed}

    return await once(call, 0, perform)


@operation(
    router, "POST", "/verify", "identities.verify",
    body=schemas.VerifyBody, reply=schemas.VerifyReply, tag="identities",
)  # fmt: skip
async def verify(call: Asked, tenant: str, gallery: str) -> Response:
    """Whether a probe or a photo is this identity. Without a threshold, the embedder's own is taken."""
    found = await call.gallery("read")
    wanted = call.read(schemas.VerifyBody)
    if (wanted.probe is None) == (wanted.image is None):
        raise InvalidParameter("expected either probe or image, got both or neither")
    if wanted.image is not None:
        _, embedding = await probe_of(call, found, decoded(wanted.image, "image"), "largest")
    else:
        rows = media.floats(wanted.probe, what="probe")
        if len(rows) != 1:
            raise InvalidParameter(f"probe: expected one, got {len(rows)}")
        embedding = rows[0]
    count_queries(call, 1)
    threshold = wanted.threshold if wanted.threshold is not None else _default_threshold(call, found)
    result = await call.run(lambda: found.verify(embedding, wanted.identity, threshold=threshold), kind="read")
    return call.reply(
        {
            "score": result.score,
            "threshold": result.threshold,
            "is_match": result.is_match,
            "template_id": result.template_id,
        }
    )
