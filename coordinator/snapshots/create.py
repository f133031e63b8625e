"""Making a snapshot: the rows of every shard, block by block, into the objects of a store; the manifest last.

Every shard's moment is taken first; then its rows up to that moment are read in blocks, several at a time, while writes
go on. A block of a sealed segment that has the fingerprint it had in the last snapshot is not read again. Objects that
are there are not written again, so a repeated or interrupted creation costs what it did not do yet.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from typing import TypeVar

from coordinator.messages import DataRequest, ExportRequest, PointReply, PointRequest, Reply
from coordinator.runtime import Runtime
from coordinator.snapshots.labels import encode_labels
from coordinator.snapshots.manifest import BlockEntry, Manifest, ModelEntry, ObjectRef, ShardEntry, format_time
from coordinator.snapshots.markers import Creating
from coordinator.snapshots.store import SnapshotStore
from coordinator.types import GalleryRoute, ModelData
from shard.errors import InvalidParameter, StaleRoute
from shard.export import MAX_EXPORT_FLOAT_BYTES, MAX_EXPORT_ROWS, ExportedRows, RowRange, SegmentPoint, ShardPoint

Tell = Callable[[int, int], None]
"""Gets rows done and rows in all."""
ATTEMPTS = 3
"""How often the rows of a shard are read whose segments are rewritten meanwhile."""
_READ_S = 60.0
_AT_ONCE = 4
"""Blocks under way at once: each is in memory about three times, 16 MiB of floats and its labels."""

ReplyT = TypeVar("ReplyT", bound=Reply)


@dataclass(frozen=True, slots=True)
class CreateReport:
    """A snapshot that was made, and what it took: objects and bytes written, and those that were there already."""

    manifest: Manifest
    written_objects: int
    written_bytes: int
    reused_objects: int
    reused_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Cell:
    """A range of rows of a shard that becomes one block, or several where labels are long."""

    shard: int
    rows: RowRange


class _Uploads:
    """Stores objects and counts them. Thread-safe."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}
        self._reused: dict[str, int] = {}

    def put(self, data: bytes) -> ObjectRef:
        ref, is_new = self._store.put(data)
        self._count(ref, is_new)
        return ref

    def has(self, block: BlockEntry) -> bool:
        return self._store.has(block.floats) and self._store.has(block.labels)

    def reuse(self, block: BlockEntry) -> None:
        for ref in (block.floats, block.labels):
            self._count(ref, is_new=False)

    def _count(self, ref: ObjectRef, is_new: bool) -> None:
        with self._lock:
            if is_new:
                self._written[ref.sha256] = ref.size
            else:
                self._reused.setdefault(ref.sha256, ref.size)

    def report(self, manifest: Manifest, seconds: float) -> CreateReport:
        reused = {sha: size for sha, size in self._reused.items() if sha not in self._written}
        return CreateReport(
            manifest, len(self._written), sum(self._written.values()), len(reused), sum(reused.values()), seconds
        )


def create_snapshot(
    store: SnapshotStore,
    runtime: Runtime,
    route: GalleryRoute,
    model: ModelData | None,
    *,
    expires_at: datetime | None = None,
    now: datetime | None = None,
    announce: Callable[[Manifest], None] | None = None,
    progress: Tell | None = None,
) -> CreateReport:
    """Make a snapshot of a gallery; it is complete and listed when this returns, and not listed before.

    expires_at: with a zone; None keeps it until it is deleted. announce: called with the manifest before it is written,
    so that whoever remembers snapshots misses none. Raises StoreBusy while a snapshot is deleted there,
    StoreUnavailable, StaleRoute if segments are rewritten again and again, and what shard hosts answer. After an error
    the store holds what it held, and objects that the next creation reuses or the next deletion removes.
    """
    started = time.monotonic()
    now = now or datetime.now(timezone.utc)
    if expires_at is not None and format_time(expires_at) <= format_time(now):
        raise InvalidParameter(f"expires_at: expected a time after {format_time(now)}, got {format_time(expires_at)}")
    snapshot_id = f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    marker = Creating(store.place, snapshot_id)
    with marker:
        uploads = _Uploads(store)
        reader = _Reader(runtime, route, _last_blocks(store, route), uploads, marker, progress)
        shards = reader.read_all()
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
    return uploads.report(manifest, time.monotonic() - started)


class _Reader:
    """Reads one gallery's rows into objects."""

    def __init__(
        self,
        runtime: Runtime,
        route: GalleryRoute,
        last: dict[tuple[int, int, int], BlockEntry],
        uploads: _Uploads,
        marker: Creating,
        progress: Tell | None,
    ) -> None:
        self._runtime, self._route, self._last = runtime, route, last
        self._uploads, self._marker, self._progress = uploads, marker, progress
        self._lock = threading.Lock()
        self._done = self._total = 0

    def read_all(self) -> tuple[ShardEntry, ...]:
        """Every shard at its moment; a shard whose rows were moved meanwhile is read again."""
        points = {point.shard: point for point in self._points(range(self._route.shards))}
        # Rows are read again by a new layout, but still as of the first moment: a template that moved from one shard
        # to another in between (deleted, and enrolled under another identity) must not be in the snapshot twice.
        moments = {shard: point.lsn for shard, point in points.items()}
        entries: dict[int, ShardEntry] = {}
        for _ in range(ATTEMPTS):
            blocks = self._read(points.values(), moments)
            after = {point.shard: point for point in self._points(sorted(points))}
            for shard, point in list(points.items()):
                if shard in blocks and _is_same_layout(point, after[shard]):
                    entries[shard] = ShardEntry(shard, moments[shard], tuple(blocks[shard]))
                    del points[shard]
                else:
                    points[shard] = after[shard]
            if not points:
                return tuple(entries[shard] for shard in sorted(entries))
        raise StaleRoute(
            f"{self._route.name}: the segments of shard {min(points)} were rewritten each of {ATTEMPTS} times"
        )

    def _points(self, shards: Iterable[int]) -> list[ShardPoint]:
        by_host: dict[str, list[int]] = {}
        for shard in shards:
            by_host.setdefault(self._route.hosts[shard], []).append(shard)
        deadline = time.monotonic() + _READ_S
        futures = [
            self._runtime.submit(host, PointRequest(self._route.gallery_id, tuple(numbers)), deadline=deadline)
            for host, numbers in by_host.items()
        ]
        return [point for future in futures for point in _expect(future.result(), PointReply).points]

    def _read(self, points: Iterable[ShardPoint], moments: dict[int, int]) -> dict[int, list[BlockEntry]]:
        """Blocks by shard, in order of rows; without the shards whose rows were moved."""
        cells = [cell for point in points for cell in _cells(point, moments[point.shard], self._route.dim)]
        blocks: dict[int, list[BlockEntry]] = {point.shard: [] for point in points}
        self._done, self._total = 0, sum(cell.rows.end - cell.rows.begin for cell in cells)
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="facegrid-snapshot")
        try:
            for cell, found in zip(cells, pool.map(self._read_cell, cells), strict=True):
                if found is None:
                    blocks.pop(cell.shard, None)
                elif cell.shard in blocks:
                    blocks[cell.shard] += found
        finally:
            pool.shutdown(cancel_futures=True)
        return blocks

    def _read_cell(self, cell: _Cell) -> list[BlockEntry] | None:
        """The cell's blocks; None if its rows were moved."""
        self._marker.renew()
        blocks: list[BlockEntry] = []
        rest = cell.rows
        try:
            while rest.begin < rest.end:
                end, block = self._read_block(cell.shard, rest)
                blocks += [] if block is None else [block]
                self._advance(end - rest.begin)
                rest = replace(rest, begin=end)
        except StaleRoute:
            return None
        return blocks

    def _read_block(self, shard: int, rows: RowRange) -> tuple[int, BlockEntry | None]:
        """Where the block ends, and its entry if it has live rows."""
        last = self._last.get((shard, rows.segment, rows.begin))
        if last is not None and not self._uploads.has(last):
            last = None
        exported = self._export(shard, rows, bytes.fromhex(last.fingerprint) if last is not None else b"")
        if exported.is_unchanged and last is not None:
            self._uploads.reuse(last)
            return exported.end, last
        if not len(exported.rows):
            return exported.end, None
        return exported.end, BlockEntry(
            segment=rows.segment,
            begin=rows.begin,
            end=exported.end,
            rows=len(exported.rows),
            fingerprint=exported.fingerprint.hex(),
            floats=self._uploads.put(exported.floats.astype("<f4", copy=False).tobytes()),
            labels=self._uploads.put(encode_labels(exported)),
        )

    def _export(self, shard: int, rows: RowRange, known: bytes) -> ExportedRows:
        request = ExportRequest(self._route.gallery_id, shard, rows, known)
        deadline = time.monotonic() + _READ_S
        return _expect(
            self._runtime.submit(self._route.hosts[shard], request, deadline=deadline).result(), ExportedRows
        )

    def _advance(self, rows: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += rows
                self._progress(self._done, self._total)


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


def _cells(point: ShardPoint, max_lsn: int, dim: int) -> list[_Cell]:
    step = max(1, min(MAX_EXPORT_ROWS, MAX_EXPORT_FLOAT_BYTES // (dim * 4)))
    return [
        _Cell(point.shard, RowRange(segment.segment, begin, min(begin + step, last), max_lsn))
        for segment in point.segments
        for last in [segment.first_row + segment.rows]
        for begin in range(segment.first_row, last, step)
    ]


def _is_same_layout(before: ShardPoint, after: ShardPoint) -> bool:
    """Whether every segment is where it was; the tail may have grown or have been sealed."""
    now = {segment.segment: segment for segment in after.segments}
    return all(_is_same_segment(segment, now.get(segment.segment)) for segment in before.segments)


def _is_same_segment(before: SegmentPoint, after: SegmentPoint | None) -> bool:
    if after is None or after.first_row != before.first_row or after.rows < before.rows:
        return False
    return before.floats_crc is None or after.floats_crc == before.floats_crc


def _expect(reply: DataRequest | Reply, kind: type[ReplyT]) -> ReplyT:
    if not isinstance(reply, kind):
        raise TypeError(f"expected a {kind.__name__}, got {type(reply).__name__}")
    return reply


def _version() -> str:
    try:
        return metadata.version("facegrid")
    except metadata.PackageNotFoundError:
        return "unknown"
