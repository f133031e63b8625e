"""Photos: enroll them, search by them, see which faces are in them, compare two.

Bytes only: no URL is ever fetched. What a photo is refused for is a reason of `cluster.faces`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from cluster import images
from cluster.config import pipeline_options
from cluster.faces import Face, model_spec
from cluster.gallery import Gallery
from cluster.results import Box, EnrollResult
from cluster.service import media, schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from cluster.service.routes.galleries import ONE
from cluster.service.routes.search import candidates, count_queries, coverage, metadata_of, searched
from cluster.thumbnails import thumbnail_of
from shard.errors import InvalidImage, InvalidParameter, UnknownTemplate
from shard.types import MAX_ID_BYTES, FloatArray

router = APIRouter(prefix="/v1")
GALLERY = f"/galleries{ONE}"
_IDENTITY = Annotated[str | None, Query(min_length=1, max_length=MAX_ID_BYTES)]


@operation(
    router, "POST", f"{GALLERY}/images", "images.enroll",
    body=schemas.ImagesBody, reply=schemas.ImagesReply, images=True, tag="photos",
)  # fmt: skip
async def enroll(call: Asked, tenant: str, gallery: str, identity: _IDENTITY = None) -> Response:
    """Enroll the main face of each photo. A photo that is refused has its reason; the others are enrolled.

    A template's id is a hash of the photo's bytes, so that the same photo twice is one template.
    """
    found = await call.gallery("write")
    if call.body_type in media.IMAGES:
        items: list[tuple[bytes, str | None, dict[str, Any] | None]] = [(call.body, identity, None)]
    else:
        wanted = call.read(schemas.ImagesBody)
        if identity is not None:
            raise InvalidParameter("identity: expected with each image, not in the query, where the body is JSON")
        items = [
            (decoded(item.data, f"images.{i}.data"), item.identity, item.metadata)
            for i, item in enumerate(wanted.images)
        ]
    results = [_outcome_body(outcome) for outcome in await _enrolled(call, found, items)]
    added = sum(result.get("is_new") is True for result in results)
    refused = sum("reason" in result for result in results)
    call.exchange.count = added
    return call.reply(
        {"results": results, "enrolled": added, "skipped": len(results) - added - refused, "refused": refused}
    )


async def _enrolled(
    call: Call, gallery: Gallery, items: Sequence[tuple[bytes, str | None, dict[str, Any] | None]]
) -> list[EnrollResult | InvalidImage]:
    """What became of each photo: all are searched for faces at once, and those with a good one written at once."""
    grid, principal = call.gateway.cluster, call.principal
    found = await call.gateway.faces.faces_of_many(
        principal, [data for data, _, _ in items], embedder=grid.embedder_of(gallery)
    )
    outcomes = [_photo(faces, *item) for faces, item in zip(found, items, strict=True)]
    good = [one for one in outcomes if isinstance(one, images.FoundPhoto)]
    if not good:
        return [one for one in outcomes if isinstance(one, InvalidImage)]

    def write() -> list[EnrollResult | InvalidImage]:
        return images.enroll_found(
            gallery,
            good,
            keep_thumbnails=principal.tenant is not None and principal.tenant.keeps_thumbnails,
            limits=pipeline_options(grid.settings).limits,
            check_room=lambda templates: call.gateway.check_room(principal, templates, templates * gallery.dim * 4),
        )

    written = iter(await call.run(write, kind="write"))
    return [one if isinstance(one, InvalidImage) else next(written) for one in outcomes]


def _photo(
    faces: tuple[Face, ...] | InvalidImage, data: bytes, identity: str | None, metadata: dict[str, Any] | None
) -> images.FoundPhoto | InvalidImage:
    if isinstance(faces, InvalidImage):
        return faces
    try:
        return images.FoundPhoto(data, images.owner_face(faces), identity, metadata)
    except InvalidImage as error:
        return error


def _outcome_body(outcome: EnrollResult | InvalidImage) -> dict[str, Any]:
    if isinstance(outcome, InvalidImage):
        return {"reason": outcome.reason, "message": str(outcome)}
    return {"template_id": outcome.template_ids[0], "is_new": outcome.enrolled == 1}


@operation(
    router, "GET", f"{GALLERY}/thumbnail", "images.thumbnail", reply=None, produces=("image/jpeg",), tag="photos"
)
async def thumbnail(
    call: Asked, tenant: str, gallery: str, template_id: Annotated[str, Query(min_length=1, max_length=MAX_ID_BYTES)]
) -> Response:
    """A small picture of an enrolled face; 404 where the tenant keeps none."""
    found = await call.gallery("read")
    template = await call.run(lambda: found.get(template_id), kind="read")
    jpeg = thumbnail_of(template.metadata)
    if jpeg is None:
        raise UnknownTemplate(f"template {template_id!r} has no thumbnail")
    return Response(jpeg, media_type="image/jpeg")


@operation(
    router, "POST", f"{GALLERY}/search/image", "search.image",
    body=schemas.ImageSearchBody, reply=schemas.ImageSearchReply, images=True, tag="search",
)  # fmt: skip
async def search_image(
    call: Asked,
    tenant: str,
    gallery: str,
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
    threshold: Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False)] = None,
) -> Response:
    """The k nearest templates to a face of a photo. k and threshold in the query count where the body is the image."""
    found = await call.gallery("read")
    which: int | Literal["largest"] = "largest"
    if call.body_type in media.IMAGES:
        data, wanted = call.body, schemas.SearchOptions(k=k, threshold=threshold)
    else:
        body = call.read(schemas.ImageSearchBody)
        data, which, wanted = decoded(body.image, "image"), body.face, body
    face, embedding = await probe_of(call, found, data, which)
    batch = await searched(call, found, embedding[None, :], wanted)
    records = await metadata_of(call, found, batch) if wanted.include else None
    return call.reply(
        {
            "face": box_values(images.box_of(face)),
            "candidates": candidates(batch.template_ids[0], batch.identities[0], batch.scores[0], records),
            "coverage": coverage(batch),
            "threshold": batch.threshold,
        }
    )


@operation(
    router, "POST", "/detect", "detect", body=schemas.DetectBody, reply=schemas.DetectReply, images=True, tag="photos"
)
async def detect(call: Asked) -> Response:
    """The faces of a photo, largest first, and why one would not be enrolled. Nothing is kept."""
    data = call.body if call.body_type in media.IMAGES else decoded(call.read(schemas.DetectBody).image, "image")
    count_queries(call, 1)
    faces = await call.gateway.faces.faces(call.principal, data, embedder=call.gateway.cluster.settings.embedder)
    return call.reply(
        {
            "faces": [
                {
                    "box": box_values(images.box_of(face)),
                    "detector_score": face.detector_score,
                    "is_usable": face.refused is None,
                    "reason": face.refused,
                }
                for face in faces
            ]
        }
    )


@operation(router, "POST", "/verify", "verify", body=schemas.PairBody, reply=schemas.PairReply, tag="photos")
async def verify(call: Asked) -> Response:
    """Whether the main faces of two photos are the same person's. Nothing is kept."""
    wanted = call.read(schemas.PairBody)
    count_queries(call, 1)
    pair = [decoded(wanted.image_a, "image_a"), decoded(wanted.image_b, "image_b")]
    embedder = call.gateway.cluster.settings.embedder
    threshold = images.threshold_of(model_spec(embedder)) if wanted.threshold is None else wanted.threshold
    probes = []
    for faces in await call.gateway.faces.faces_of_many(call.principal, pair, embedder=embedder, embed_refused=True):
        if isinstance(faces, InvalidImage):
            raise faces
        probes.append(images.probe_face(faces))
    result = images.compare(*probes, threshold=threshold)
    return call.reply(
        {
            "score": result.score,
            "threshold": result.threshold,
            "is_match": result.is_match,
            "face_a": box_values(result.face_a),
            "face_b": box_values(result.face_b),
        }
    )


async def probe_of(
    call: Call, gallery: Gallery, data: bytes, which: int | Literal["largest"]
) -> tuple[Face, FloatArray]:
    """A face of a photo and its embedding (dim,): the main one, or one by number, largest first. InvalidImage."""

    faces = await call.gateway.faces.faces(
        call.principal, data, embedder=call.gateway.cluster.embedder_of(gallery), embed_refused=True
    )
    if which != "largest" and not 0 <= which < len(faces):
        raise InvalidParameter(f"face: the photo has {len(faces)} faces, got number {which}")
    face = images.probe_face(faces) if which == "largest" else faces[which]
    assert face.embedding is not None, "refused faces were asked for with their embeddings"
    return face, face.embedding


def decoded(text: str, what: str) -> bytes:
    """The bytes of a base64 text; InvalidParameter."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"{what}: expected base64, got {error}") from None


def box_values(box: Box) -> dict[str, float]:
    """A face's box as a body."""
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
