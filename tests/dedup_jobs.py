"""A dedup job in the catalog that has succeeded, with a result that was made by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster import Cluster
from cluster.thumbnails import KEY
from coordinator.job_types import JobState
from tests.dedup_results import NAME, THRESHOLD, enroll, faces_of, make_job

PEOPLE = [["a1:ann", "a2:ann", "a3", "a4"], ["b1", "b2"], ["c1", "c2"], ["d1", "d2"]]
REASONS = {0: "split", 2: "too_large"}


def finished_dedup(
    grid: Cluster,
    people: Sequence[Sequence[str]] = PEOPLE,
    *,
    gallery: str = NAME,
    thumbnails: Sequence[str] | None = None,
) -> str:
    """Enroll the people, and have a job that found them; its id. Before jobs of the home are run.

    thumbnails: base64 JPEGs, one a face.
    """
    faces = faces_of(people)
    if thumbnails is not None:
        faces = [replace(face, metadata={KEY: jpeg}) for face, jpeg in zip(faces, thumbnails, strict=True)]
    enroll(grid.gallery(gallery, create=True, shards=2, dim=64), faces)
    job_id = finished_job(grid, gallery)
    groups = [[name.partition(":")[0] for name in names] for names in people]
    make_job(grid, groups, REASONS, job_id=job_id, names=(gallery,))
    return job_id


def finished_job(grid: Cluster, gallery: str, state: JobState = JobState.SUCCEEDED) -> str:
    """A record of a dedup job that has ended so."""
    catalog = grid.jobs.control
    job_id = catalog.submit("dedup", gallery, {"threshold": THRESHOLD, "mode": "exact", "other": None}).job_id
    record = catalog.claim("a test", job_id)
    assert record is not None
    grid.jobs.files(job_id).begin(record, "local")
    catalog.progress(job_id, "a test", 10, 10, "blocks", "writing")
    catalog.finish(job_id, "a test", state)
    return job_id
