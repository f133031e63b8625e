"""The kind of job `enroll`: photos and embeddings of sources into a gallery, each once, whatever dies on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.bulk.allowed import check_allowed
from cluster.bulk.listing import Listing, listed
from cluster.bulk.parameters import EnrollParameters, Work
from cluster.bulk.results import write_tables
from cluster.bulk.streams import Plan, run_units
from cluster.bulk.writer import Change, Writer
from cluster.config import pipeline_options
from cluster.faces import PipelineOptions, locate, model_spec
from cluster.gallery import Gallery
from cluster.jobs.context import JobContext
from coordinator.names import tenant_name

_LISTING = ("listing-files", "listing-items", "listing")
"""Checkpoints; the last is there when all are."""
BATCH_FACES = 16
"""Faces of one call of the embedder, as in `cluster.faces.batches`."""


class EnrollJob:
    """Lists the sources, works at their units, writes them in order."""

    name = "enroll"
    parameters = EnrollParameters

    def run(self, job: JobContext) -> dict[str, Any]:
        """Enroll; the summary. What of the job is enrolled already is not looked at again, but for the last unit."""
        values = job.parameters
        assert isinstance(values, EnrollParameters)
        gallery = job.cluster.gallery(job.record.gallery)
        listing = listing_of(job, values, gallery.dim)
        writer = enroll(job, values, listing, gallery, keep_thumbnails=values.keep_thumbnails)
        write_tables(job, listing)
        return summary(gallery, listing, writer)


def listing_of(job: JobContext, work: Work, dim: int) -> Listing:
    """What the sources hold, as it was when the job began."""
    if job.record.key_id is not None:
        check_allowed(work, tenant_name(job.record.gallery), job.cluster.settings.bulk_sources)
    if not job.checkpoints.has(_LISTING[-1]):
        job.progress(0, 0, "items", "listing")
        found = listed(work, dim, pipeline_options(job.cluster.settings).limits)
        for name, data in found.to_bytes().items():
            job.checkpoints.write(name, data)
        job.log("listed", items=found.items, units=found.units)
    return Listing.from_bytes({name: job.checkpoints.read(name) for name in _LISTING})


def enroll(
    job: JobContext,
    work: Work,
    listing: Listing,
    gallery: Gallery,
    *,
    embedder: str | None = None,
    keep_thumbnails: bool = False,
    change: Change | None = None,
) -> Writer:
    """Have all units of a listing worked on and written; the writer, with its counts.

    embedder: what makes the embeddings of photos; by the gallery and the settings if None (ModelMismatch).
    """
    options = None
    if listing.has_photos:
        options = _options(job, embedder or job.cluster.embedder_of(gallery))
    plan = Plan(listing.to_bytes(), gallery.dim, options, work.max_ratio, keep_thumbnails)
    writer = Writer(job, gallery, listing.units, listing.items, change)
    writer.tell()

    def keep(number: int, batch: Any) -> None:
        writer.write(number, batch)
        writer.tell()

    run_units(job, work, plan, writer.todo, keep)
    return writer


def _options(job: JobContext, embedder: str) -> PipelineOptions:
    """The pipeline with an embedder, for a process with one thread. Its networks are fetched now."""
    options = pipeline_options(job.cluster.settings)
    for spec in (model_spec(options.detector, "detector"), model_spec(embedder, "embedder")):
        locate(spec, options.places, allow_download=options.allow_download)
    return replace(options, embedder=embedder, threads=1, batch_size=BATCH_FACES)


def summary(gallery: Gallery, listing: Listing, writer: Writer) -> dict[str, Any]:
    """What summary.json says of an enrollment."""
    return {
        "gallery": gallery.name,
        "embedder": gallery.embedder,
        "inputs": listing.inputs(),
        "items": listing.items,
        "enrolled": writer.enrolled,
        "there": writer.there,
        "refused": writer.reasons.total(),
        "reasons": dict(sorted(writer.reasons.items())),
    }
