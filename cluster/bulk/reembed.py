"""The kind of job `reembed`: a gallery again by another network, from the photos that it was enrolled from.

A photo is known by its content: its template has the same id in both galleries, and identity and metadata are taken
along. Templates whose photo is in no source are listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cluster.bulk.batch import Batch, BatchBuilder
from cluster.bulk.job import enroll, listing_of, summary
from cluster.bulk.parameters import ReembedParameters
from cluster.bulk.results import MISSING, write_parquet, write_tables
from cluster.gallery import MAX_LISTED, Gallery
from cluster.jobs.context import JobContext
from coordinator.names import check_gallery_name, tenant_name
from coordinator.snapshots.places import pyarrow
from shard.errors import InvalidParameter


class ReembedJob:
    """Enrolls into the new gallery what the old one has."""

    name = "reembed"
    parameters = ReembedParameters

    def run(self, job: JobContext) -> dict[str, Any]:
        """Make the new gallery and fill it; the summary."""
        values = job.parameters
        assert isinstance(values, ReembedParameters)
        old = job.cluster.gallery(job.record.gallery)
        new = _new_gallery(job, values, old)
        listing = listing_of(job, values, new.dim)
        if listing.has_rows:
            raise InvalidParameter("reembed: expected sources of photos, found one of embeddings")
        writer = enroll(job, values, listing, new, embedder=new.embedder, change=lambda batch: _labelled(batch, old))
        write_tables(job, listing)
        text = pyarrow().string()
        rows = list(_missing(job, old, new))
        write_parquet(job.result / MISSING, {"template_id": text, "identity": text}, rows)
        return {**summary(new, listing, writer), "of": old.name, "of_embedder": old.embedder, "missing": len(rows)}


def _new_gallery(job: JobContext, values: ReembedParameters, old: Gallery) -> Gallery:
    check_gallery_name(values.into)
    if tenant_name(values.into) != tenant_name(old.name):
        raise InvalidParameter(f"into: expected a gallery of {tenant_name(old.name)!r}, got {values.into!r}")
    if values.into == old.name:
        raise InvalidParameter(f"into: expected another gallery than {old.name!r}")
    return job.cluster.gallery(
        values.into,
        create=True,
        embedder=values.embedder,
        shards=values.shards or old.shards,
        code_bits=values.code_bits or old.code_bits,
        replicas=old.replicas,
        min_in_sync=old.min_in_sync,
    )


def _labelled(batch: Batch, old: Gallery) -> Batch:
    """A batch with the labels that its templates have in the old gallery; those it has not are refused."""
    accepted = batch.accepted
    ids = sorted({i for i in (batch.template_ids[item] for item in accepted) if i is not None})
    known = {template.template_id: template for template in old.templates(ids)}
    builder = BatchBuilder(batch.vectors[:0])
    vectors = dict(zip(accepted, batch.vectors, strict=True))
    for item, name in enumerate(batch.items):
        template_id = batch.template_ids[item]
        template = None if template_id is None else known.get(template_id)
        if item not in vectors:
            reason, message = batch.reasons[item] or "", batch.messages[item] or ""
            builder.refuse(name, reason, message, template_id=template_id, identity=batch.identities[item])
        elif template is None:
            message = f"{old.name} has no template of this photo"
            builder.refuse(name, "not_enrolled", message, template_id=template_id)
        else:
            metadata = None if template.metadata is None else json.dumps(template.metadata, ensure_ascii=False)
            builder.accept(name, template.template_id, template.identity, metadata, vectors[item])
    return builder.done()


def _missing(job: JobContext, old: Gallery, new: Gallery) -> Iterator[tuple[str, str | None]]:
    """Templates of the old gallery that the new one has not, by id."""
    found: list[tuple[str, str | None]] = []
    cursor = None
    while True:
        job.check()
        page = old.list(cursor=cursor, limit=MAX_LISTED)
        there = {template.template_id for template in new.templates([t.template_id for t in page.templates])}
        found += [(t.template_id, t.identity) for t in page.templates if t.template_id not in there]
        cursor = page.cursor
        if cursor is None:
            return iter(sorted(found, key=lambda row: row[0].encode()))
