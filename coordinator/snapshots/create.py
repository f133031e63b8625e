"""Making a snapshot: the rows of every shard, block by block, into the objects of a store; the manifest last.

A block of a sealed segment that has the fingerprint it had in the last snapshot is not read again. Objects that are
there are not written again, so a repeated or interrupted creation costs what it did not do yet. How rows are read while
the gallery is in use, and while hosts fail, is in `coordinator.snapshots.reader`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata

from coordinator.routes import Lookup, RouteTable
from coordinator.runtime import Runtime
from coordinator.snapshots.manifest import BlockEntry, Manifest, ModelEntry, ShardEntry, format_time
from coordinator.snapshots.markers import Creating
from coordinator.snapshots.reader import GalleryReader, Tell
from coordinator.snapshots.store import SnapshotStore
from coordinator.snapshots.uploads import Uploads
from coordinator.timed_ids import new_timed_id
from coordinator.types import GalleryRoute, ModelData
from coordinator.writes import Reporter
from shard.errors import ClusterNotReady, InvalidParameter

Mark = Callable[[], "int | None"]
READINGS, PAUSE_S = 600, 0.5
"""How often a gallery is read, or waited for, whose templates change their shards, and the pause in waiting."""
_PAUSING = threading.Event()


@dataclass(frozen=True, slots=True)
class CreateReport:
    """A snapshot that was made, and what it took: objects and bytes written, and those that were there already."""

    manifest: Manifest
    written_objects: int
    written_bytes: int
    reused_objects: int
    reused_bytes: int
    seconds: float


def create_snapshot(
    store: SnapshotStore,
    runtime: Runtime,
    route: GalleryRoute,
    model: ModelData | None,
    *,
    lookup: Lookup | None = None,
    report: Reporter | None = None,
    mark: Mark | None = None,
    expires_at: datetime | None = None,
    now: datetime | None = None,
    announce: Callable[[Manifest], None] | None = None,
    progress: Tell | None = None,
) -> CreateReport:
    """Make a snapshot of a gallery; it is complete and listed when this returns, and not listed before.

    lookup: the coordinator's newest route of a gallery by name; None: routes never change. report: whom to tell of
    hosts that do not answer. mark: a number that changes when templates have changed their shards, None while they do;
    a reading that it changed in is made again. expires_at: with a zone; None keeps it until it is deleted. announce:
    called with the manifest before it is written, so that whoever remembers snapshots misses none.
    Raises StoreBusy while a snapshot is deleted there, StoreUnavailable, ClusterNotReady if templates go on changing
    their shards, and what shard hosts answer, after reading a
    shard was tried in vain for about a minute. After an error the store holds what it held, and objects that the next
    creation reuses or the next deletion removes.
    """
    started = time.monotonic()
    now = now or datetime.now(timezone.utc)
    if expires_at is not None and format_time(expires_at) <= format_time(now):
        raise InvalidParameter(f"expires_at: expected a time after {format_time(now)}, got {format_time(expires_at)}")
    snapshot_id = new_timed_id(now)
    marker = Creating(store.place, snapshot_id)
    with marker:
        uploads = Uploads(store)
        last = _last_blocks(store, route)
        shards = _read_still(
            mark, marker, GalleryReader(runtime, RouteTable(lookup), route, last, uploads, marker, report, progress)
        )
        manifest = Manifest(
            snapshot_id=snapshot_id,
            gallery=route.name,
            gallery_id=route.gallery_id,
            created_at=format_time(now),
            expires_at=None if expires_at is None else format_time(expires_at),
            facegrid_version=_version(),
            dim=route.dim,
            code_bits=route.code_bits,
            embedder=route.embedder,
            replicas=route.replicas,
            min_in_sync=route.min_in_sync,
            templates=sum(block.rows for shard in shards for block in shard.blocks),
            model=None if model is None else ModelEntry(model.model_id, model.templates, uploads.put(model.data)),
            shards=shards,
        )
        if announce is not None:
            announce(manifest)
        marker.check()
        store.commit(manifest)
    return CreateReport(manifest, *uploads.counts(), time.monotonic() - started)


def _read_still(mark: Mark | None, marker: Creating, reader: GalleryReader) -> tuple[ShardEntry, ...]:
    """Every shard, read while no template changed its shard: one that did could be in both, or in neither."""
    if mark is None:
        return reader.read_all()
    for _ in range(READINGS):
        before = mark()
        if before is not None:
            shards = reader.read_all()
            if mark() == before:
                return shards
        else:
            marker.renew()
            _PAUSING.wait(PAUSE_S)
    raise ClusterNotReady("identities are being renamed all the time; make the snapshot when that is done")


def _last_blocks(store: SnapshotStore, route: GalleryRoute) -> dict[tuple[int, int, int], BlockEntry]:
    """(shard, segment, first row) to the block of the gallery's last snapshot, for blocks that have a fingerprint."""
    latest = store.latest(route.name, route.gallery_id)
    if latest is None:
        return {}
    return {
        (shard.shard, block.segment, block.begin): block
        for shard in latest.shards
        for block in shard.blocks
        if block.fingerprint
    }


def _version() -> str:
    try:
        return metadata.version("facegrid")
    except metadata.PackageNotFoundError:
        return "unknown"
