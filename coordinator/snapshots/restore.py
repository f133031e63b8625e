"""Restoring a snapshot into a new gallery, of any number of shards, on any runtime.

Templates go the way of every enrollment, so that placement, replication and durability are those of the new gallery. It
is hidden until it is complete (`coordinator.snapshots.control`); the same call again goes on where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coordinator.router import Router
from coordinator.snapshots.manifest import Manifest
from coordinator.snapshots.read import Tell, read_blocks, read_model
from coordinator.snapshots.store import SnapshotStore
from coordinator.types import GalleryRoute, GallerySpec, ModelData
from shard.errors import CorruptData
from shard.types import EnrollBatch

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 32_768
"""Most floats and rows enrolled at once, but for a block that has more."""


class RestoreTarget(Protocol):
    """What a restore needs of the coordinator; see `coordinator.snapshots.control.SnapshotControl`."""

    def begin_restore(self, spec: GallerySpec, snapshot_id: str, model: ModelData | None) -> tuple[GalleryRoute, bool]:
        """A hidden gallery to restore into."""

    def finish_restore(self, gallery: str) -> GalleryRoute:
        """Show it."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """A gallery that was restored: its templates, those of them enrolled now (fewer where a restore was continued)."""

    gallery: str
    snapshot_id: str
    shards: int
    templates: int
    enrolled: int
    model_id: str | None
    seconds: float


def restore_snapshot(
    store: SnapshotStore,
    manifest: Manifest,
    target: RestoreTarget,
    router: Router,
    spec: GallerySpec,
    *,
    progress: Tell | None = None,
) -> RestoreReport:
    """Make the gallery of `spec` with every template of the snapshot: floats bit for bit, ids, identities, metadata.

    The snapshot's model is active, so that no training is needed. Raises AlreadyExists, CorruptData naming the object,
    UnknownSnapshot if it is deleted meanwhile, and what the new gallery's hosts answer; the gallery stays hidden then,
    and the same call continues.
    """
    started = time.monotonic()
    model = read_model(store, manifest)
    route, is_resumed = target.begin_restore(spec, manifest.snapshot_id, model)
    done = enrolled = 0
    for batch in _batches(read_blocks(store, manifest)):
        # Ids are asked for only where some may be there already.
        outcome = router.enroll(route, batch, skip_existing=True, new_ids=not is_resumed)
        enrolled += outcome.enrolled
        done += len(batch)
        if progress is not None:
            progress(done, manifest.templates)
    found = sum(stats.templates for stats in router.stats(route))
    if found != manifest.templates:
        raise CorruptData(
            f"{spec.name} has {found} templates after the restore, snapshot {manifest.snapshot_id} has"
            f" {manifest.templates}; the gallery stays hidden"
        )
    route = target.finish_restore(spec.name)
    seconds = time.monotonic() - started
    return RestoreReport(route.name, manifest.snapshot_id, route.shards, found, enrolled, route.model_id, seconds)


def _batches(blocks: Iterable[EnrollBatch]) -> Iterator[EnrollBatch]:
    """Blocks put together, as far as they fit: fewer, larger commits."""
    waiting: list[EnrollBatch] = []
    rows = size = 0
    for block in blocks:
        if waiting and (rows + len(block) > _BATCH_ROWS or size + block.embeddings.nbytes > _BATCH_BYTES):
            yield _joined(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(block)
        rows, size = rows + len(block), size + block.embeddings.nbytes
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[EnrollBatch]) -> EnrollBatch:
    return EnrollBatch(
        embeddings=np.concatenate([block.embeddings for block in blocks]),
        template_ids=tuple(t for block in blocks for t in block.template_ids),
        identities=tuple(i for block in blocks for i in block.identities),
        metadata=tuple(m for block in blocks for m in block.metadata),
    )
