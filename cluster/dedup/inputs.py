"""What a dedup job reads: whether it may be asked for, its snapshots, and its threshold. Settled once for each job."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.dedup.corpus import Corpus
from cluster.dedup.parameters import DEFAULT_FLOOR, DedupParameters
from cluster.dedup.retention import INPUT, copied_at, undo_seconds
from shard.errors import InputExpired, InvalidParameter, ModelMismatch, NotEnoughData, PermissionDenied, UnknownSnapshot
from shard.files import remove_tree

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.jobs.context import JobContext

PARTS = "parts"
"""Checkpoint of how many rows a part has at most."""
THRESHOLD = "threshold"
"""Checkpoint of a threshold that was taken from a calibration."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """least: score from which on pairs are looked for. chosen: the one asked for, which is the same but in an analysis;
    None where none was. calibration: what it was taken from, None if it was given.
    """

    least: float
    chosen: float | None
    calibration: dict[str, Any] | None


def check_inputs(cluster: Cluster, gallery: str, values: DedupParameters, key_id: str | None) -> None:
    """Refuse at once what cannot be done; key_id: of the API key that asks, None for whoever opened the home.

    Raises EncryptedGallery, UnknownGallery, ModelMismatch, InvalidParameter, UnknownSnapshot; NotEnoughData for a
    target FPIR of a gallery that was not calibrated, or not with enough of it; PermissionDenied.
    """
    if key_id is not None:
        _check_rights(gallery, values)
    if values.other == gallery:
        raise InvalidParameter(f"other: expected another gallery than {gallery}: every template would be a pair")
    names = [gallery] if values.other is None else [gallery, values.other]
    routes = [cluster.coordinator.gallery(name) for name in names]
    for name in names:
        cluster.coordinator.snapshots.active_model(name)  # EncryptedGallery
    if routes[0].dim != routes[-1].dim:
        raise ModelMismatch(f"{names[0]} has dimension {routes[0].dim}, {names[-1]} {routes[-1].dim}")
    if values.store is not None and values.snapshot is not None:
        _open_given(values.store, _given(values), names)
    if values.target_fpir is not None:
        _calibrated(cluster, gallery, values.target_fpir, None)


def _check_rights(gallery: str, values: DedupParameters) -> None:
    """A key is one tenant's, or an operator's who works over HTTP: neither reads files of the machine by their path."""
    if values.store is not None:
        raise PermissionDenied("store: stores are named on the machine that has the home, not over HTTP")
    tenant = gallery.partition("/")[0]
    if values.other is not None and values.other.partition("/")[0] != tenant:
        raise PermissionDenied(f"other: expected a gallery of {tenant}")


def take_inputs(job: JobContext, values: DedupParameters) -> Corpus:
    """The snapshots of the job: those given, or new ones, made once and for good."""
    names = [job.record.gallery] if values.other is None else [job.record.gallery, values.other]
    if values.snapshot is not None and values.store is not None:
        spec = _open_given(values.store, _given(values), names).spec
    else:
        store = _own_store(job) if values.store is None else values.store
        spec = Corpus.open([(store, _snapshot(job, store, number, name)) for number, name in enumerate(names)]).spec
    if not job.checkpoints.has(PARTS):
        job.checkpoints.write(PARTS, str(spec.part_rows).encode())
    # Another version may cut it otherwise, and names of blocks mean these parts.
    return Corpus(replace(spec, part_rows=int(job.checkpoints.read(PARTS))))


def _own_store(job: JobContext) -> str:
    """The directory of the job's own snapshots. The job ends before it has to be removed; InputExpired then."""
    store, hours = (job.directory / INPUT).absolute(), job.cluster.settings.erasure_hours
    expired = InputExpired(
        f"the snapshot of job {job.record.job_id} is removed {undo_seconds(hours) / 3_600:g} hours after it was made,"
        " by the deadline of erasure; submit the job again, with more workers if it takes so long"
    )
    is_taken = job.checkpoints.has(_snapshot_name(0))
    if is_taken and not store.is_dir():
        raise expired
    made_at = copied_at(store)
    if not is_taken and made_at is not None and made_at + undo_seconds(hours) <= time.time():
        remove_tree(store)  # what an attempt left that ended while it was reading
        made_at = None
    job.end_by((time.time() if made_at is None else made_at) + undo_seconds(hours), expired)
    job.check()
    job.stay_here()  # no other machine has the directory
    return str(store)


def _snapshot_name(number: int) -> str:
    """Checkpoint of the id of an input's snapshot."""
    return f"snapshot-{number}"


def _snapshot(job: JobContext, store: str, number: int, name: str) -> str:
    """The job's snapshot of an input, made if it is not there. Its id is a checkpoint: it is made once."""
    checkpoint = _snapshot_name(number)
    if not job.checkpoints.has(checkpoint):
        made = job.cluster.snapshots(store).create(
            name, progress=lambda done, total: job.progress(done, total, "templates", "reading")
        )
        job.checkpoints.write(checkpoint, made.manifest.snapshot_id.encode())
        job.log("snapshot", gallery=name, snapshot=made.manifest.snapshot_id, templates=made.manifest.templates)
    return job.checkpoints.read(checkpoint).decode()


def _given(values: DedupParameters) -> list[str]:
    return [found for found in (values.snapshot, values.other_snapshot) if found is not None]


def _open_given(store: str, ids: Sequence[str], names: Sequence[str]) -> Corpus:
    corpus = Corpus.open([(store, snapshot_id) for snapshot_id in ids])
    for manifest, name in zip(corpus.manifests, names, strict=True):
        if manifest.gallery != name:
            raise UnknownSnapshot(f"snapshot {manifest.snapshot_id} is of {manifest.gallery}, not of {name}")
    return corpus


def threshold_of(job: JobContext, values: DedupParameters, templates: int) -> Threshold:
    """The job's threshold, the same after it was interrupted, whatever became of the calibration.

    templates: of the first input, among which strangers are looked for.
    """
    chosen, calibration = values.threshold, None
    if values.target_fpir is not None:
        if not job.checkpoints.has(THRESHOLD):
            found = _calibrated(job.cluster, job.record.gallery, values.target_fpir, templates)
            job.checkpoints.write(THRESHOLD, json.dumps(found).encode())
        calibration = json.loads(job.checkpoints.read(THRESHOLD))
        chosen = calibration["threshold"]
    if not values.analyse and chosen is not None:
        return Threshold(chosen, chosen, calibration)
    floor = values.floor or min(DEFAULT_FLOOR, 1.0 if chosen is None else chosen)
    return Threshold(floor, chosen, calibration)


def _calibrated(cluster: Cluster, gallery: str, target_fpir: float, templates: int | None) -> dict[str, Any]:
    """The threshold and what it rests on, as JSON."""
    route = cluster.coordinator.gallery(gallery)
    calibration = cluster.coordinator.calibrations.of(route.gallery_id)
    if calibration is None:
        raise NotEnoughData(f"target_fpir: {gallery} has not been calibrated; `facegrid calibrate {gallery}` does")
    size = None if templates is None else max(templates, 1)
    return {
        "target_fpir": target_fpir,
        "threshold": calibration.threshold_for_fpir(target_fpir, size),
        "templates": size,
        "calibrated_at": calibration.created_at,
        "calibrated_templates": calibration.gallery_size,
        "embedder": calibration.embedder,
    }
