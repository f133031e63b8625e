"""Search by embedding: the k nearest, everything above a cosine, one identity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response

from cluster.gallery import Gallery
from cluster.results import SearchBatch, Template
from cluster.service import media, schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from cluster.service.routes.galleries import ONE
from cluster.service.searches import Options
from cluster.thumbnails import without_reserved
from shard.errors import InvalidParameter
from shard.types import FloatArray
from shard.validate import check_label, check_probes
from shard.where import canonical

router = APIRouter(prefix=f"/v1/galleries{ONE}")


@operation(
    router, "POST", "/search", "search", body=schemas.SearchBody, reply=schemas.SearchReply, is_hot=True, tag="search"
)
async def search(call: Asked, tenant: str, gallery: str) -> Response:
    """The k nearest templates of each probe."""
    found = await call.gallery("read")
    wanted = call.read(schemas.SearchBody)
    probes = media.floats(wanted.probes, what="probes")
    batch = await searched(call, found, probes, wanted)
    records = await metadata_of(call, found, batch) if wanted.include else None
    kind = media.accepted(call.request.headers.get("accept", "").encode("latin-1"))
    body = columns(batch, records) if kind == media.MSGPACK else rows(batch, records)
    return Response(media.encode(body, kind), media_type=kind)


async def searched(call: Call, gallery: Gallery, probes: FloatArray, wanted: schemas.SearchOptions) -> SearchBatch:
    """The candidates: checked, counted against the tenant's rate, and searched for when it is its turn."""
    probes = check_probes(probes, gallery.dim)
    options = _options(wanted)
    principal = call.principal
    count_queries(call, len(probes))
    deadline = time.monotonic() + wanted.deadline_ms / 1000
    return await call.gateway.searches.search(principal.flow, principal.weight, gallery, probes, options, deadline)


def count_queries(call: Call, probes: int) -> None:
    """Count probes against the tenant's rate; RateLimited."""
    tenant = call.principal.tenant
    if tenant is not None:
        call.gateway.rates.take(tenant.tenant_id, probes, tenant.quotas.queries_per_s, time.monotonic())
        call.gateway.metrics.probed(tenant.name, probes)
    call.exchange.count = probes


def _options(wanted: schemas.SearchOptions) -> Options:
    """What `Gallery.search` is called with; hashable, so that equal ones travel together."""
    if wanted.threshold is not None and wanted.target_fpir is not None:
        raise InvalidParameter("expected threshold or target_fpir, got both")
    found: list[tuple[str, Any]] = [("k", wanted.k), ("recall", wanted.recall)]
    if wanted.exact:
        found.append(("exact", True))
    if wanted.threshold is not None:
        found.append(("threshold", wanted.threshold))
    if wanted.target_fpir is not None:
        found.append(("target_fpir", wanted.target_fpir))
    if wanted.allow_partial:
        found.append(("allow_partial", True))
    if wanted.identities is not None:
        for identity in wanted.identities:
            check_label(identity, what="identities")
        found.append(("identities", tuple(wanted.identities)))
    if wanted.where is not None:
        found.append(("where", Frozen(wanted.where)))
    return tuple(found)


class Frozen(dict[str, Any]):
    """A filter as part of a key: compared by its canonical text. InvalidParameter for what is no filter."""

    def __init__(self, value: dict[str, Any]) -> None:
        super().__init__(value)
        self._text = canonical(value)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._text == other._text


async def metadata_of(call: Call, gallery: Gallery, batch: SearchBatch) -> dict[str, Template]:
    """The templates that were found, by id."""
    ids = sorted({template_id for row in batch.template_ids for template_id in row})
    if not ids:
        return {}
    found = await call.run(lambda: gallery.templates(ids), kind="read")
    return {template.template_id: template for template in found}


def candidates(
    ids: Sequence[str], identities: Sequence[str | None], scores: FloatArray, records: dict[str, Template] | None
) -> list[dict[str, Any]]:
    """One probe's candidates as a body. With records, those deleted since the search are left out."""
    values = scores[: len(ids)].tolist()
    if records is None:
        return [
            {"template_id": template_id, "identity": identity, "score": score}
            for template_id, identity, score in zip(ids, identities, values, strict=True)
        ]
    return [
        {
            "template_id": template_id,
            "identity": identity,
            "score": score,
            "metadata": without_reserved(records[template_id].metadata),
        }
        for template_id, identity, score in zip(ids, identities, values, strict=True)
        if template_id in records
    ]


def rows(batch: SearchBatch, records: dict[str, Template] | None) -> dict[str, Any]:
    """The answer as objects, one a candidate."""
    found = [
        {"candidates": candidates(ids, identities, scores, records)}
        for ids, identities, scores in zip(batch.template_ids, batch.identities, batch.scores, strict=True)
    ]
    return {"results": found, "coverage": coverage(batch), "threshold": threshold_of(batch)}


def columns(batch: SearchBatch, records: dict[str, Template] | None) -> dict[str, Any]:
    """The answer as columns: lists of ids and identities a probe, and one array of scores padded with NaN."""
    found: dict[str, Any] = {
        "template_ids": batch.template_ids,
        "identities": batch.identities,
        "scores": batch.scores,
        "coverage": coverage(batch),
        "threshold": threshold_of(batch),
    }
    if records is not None:
        found["metadata"] = {i: without_reserved(template.metadata) for i, template in records.items()}
    return found


def coverage(batch: SearchBatch) -> dict[str, int]:
    """Shards that answered, of those asked."""
    return {"answered": batch.coverage.answered, "asked": batch.coverage.asked}


def threshold_of(batch: SearchBatch) -> float | None:
    """The cosine below which candidates were left out."""
    return batch.threshold


@operation(router, "POST", "/range", "search.range", body=schemas.RangeBody, reply=schemas.SearchReply, tag="search")
async def search_range(call: Asked, tenant: str, gallery: str) -> Response:
    """Every template at or above a cosine, best first, up to a limit for each probe."""
    found = await call.gallery("read")
    wanted = call.read(schemas.RangeBody)
    probes = check_probes(media.floats(wanted.probes, what="probes"), found.dim)
    count_queries(call, len(probes))
    batch = await call.run(
        lambda: found.range_search(
            probes,
            wanted.threshold,
            limit=wanted.limit,
            recall=wanted.recall,
            exact=wanted.exact,
            identities=wanted.identities,
            where=wanted.where,
            allow_partial=wanted.allow_partial,
            deadline_ms=wanted.deadline_ms,
        ),
        kind="read",
    )
    results = [
        {"candidates": candidates(ids, identities, scores, None), "is_truncated": bool(is_truncated)}
        for ids, identities, scores, is_truncated in zip(
            batch.template_ids, batch.identities, batch.scores, batch.is_truncated, strict=True
        )
    ]
    body = {"results": results, "threshold": wanted.threshold}
    body["coverage"] = {"answered": batch.coverage.answered, "asked": batch.coverage.asked}
    return call.reply(body)
