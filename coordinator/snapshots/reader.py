"""Reading a gallery's rows into the objects of a snapshot, while it is written to and compacted and while hosts fail.

Every shard's moment is taken before any row is read; then its rows up to that moment are read in blocks, several at a
time, from its primary. What compaction moves meanwhile is read at the end (`shard.export`). A primary that fails, or
has another configuration than was thought, leaves the shard to the next round: the newest route is asked for, and the
shard begun again at whoever is primary then, still as of the first moment. Blocks that are known by then are not read
again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from coordinator.messages import DataRequest, ExportMovedRequest, ExportRequest, PointRequest
from coordinator.questions import ReplyT, expected
from coordinator.routes import RouteTable
from coordinator.runtime import Runtime
from coordinator.snapshots.labels import encode_labels
from coordinator.snapshots.manifest import BlockEntry, ShardEntry
from coordinator.snapshots.markers import Creating
from coordinator.snapshots.read import read_labels
from coordinator.snapshots.uploads import Uploads
from coordinator.types import GalleryRoute
from coordinator.writes import Reporter
from shard.errors import (
    CorruptData,
    DeadlineExceeded,
    FacegridError,
    HostBusy,
    HostUnavailable,
    ShardClosed,
    StaleRoute,
    UnknownGallery,
)
from shard.export import (
    FIRST_KEY,
    MAX_EXPORT_FLOAT_BYTES,
    MAX_EXPORT_ROWS,
    ExportedRows,
    MovedRange,
    RowRange,
    ShardPoint,
)

Tell = Callable[[int, int], None]
"""Gets rows done and rows in all."""
ATTEMPTS = 20
"""How often a shard is begun before its error is the caller's: with the pauses, about a minute."""
PAUSE_S = 0.05, 5.0
"""First and longest pause before it is begun again."""
READ_S = 60.0
AT_ONCE = 4
"""Blocks under way at once: each is in memory about three times, 16 MiB of floats and its labels."""

_AWAY = (HostUnavailable, HostBusy, DeadlineExceeded, StaleRoute, ShardClosed)
_GONE = (UnknownGallery, CorruptData)
"""What a host says that has given the shard up, or whose files are damaged."""
_MOVED = 0
"""Segment of blocks of rows that were moved, which are of any."""
_PAUSING = threading.Event()
_LOG = logging.getLogger(__name__)


class _Failed(Exception):
    """A host did not do for a shard what was asked."""

    def __init__(self, error: FacegridError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Cell:
    """A range of rows of a shard that becomes one block, or several where labels are long."""

    shard: int
    rows: RowRange


@dataclass(slots=True)
class _Shard:
    """How far a shard is. moment: its LSN, -1 before it was taken. point: what it is read by now, None if it has to be
    asked for; epoch: under which it was asked for. entry: None before everything was read.
    """

    number: int
    epoch: int = 0
    moment: int = -1
    point: ShardPoint | None = None
    entry: ShardEntry | None = None
    failures: int = 0
    error: FacegridError | None = None

    def begin(self, point: ShardPoint, epoch: int) -> None:
        """Go on from a point that was asked for under an epoch."""
        if self.moment < 0:
            self.moment = point.lsn
        else:
            # What a primary wrote and nobody confirmed is lost with it, and its LSNs are given again, after the moment.
            later = [start for at, start in zip(point.epochs, point.epoch_starts, strict=True) if at > self.epoch]
            self.moment = min([self.moment, *(start - 1 for start in later)])
        self.point, self.epoch = point, epoch

    def fail(self, error: FacegridError) -> None:
        """Not read; raises the error if that has been so too often."""
        self.point, self.error = None, error
        self.failures += 1
        if self.failures >= ATTEMPTS:
            raise error


class GalleryReader:
    """Reads one gallery's rows into objects."""

    def __init__(
        self,
        runtime: Runtime,
        routes: RouteTable,
        route: GalleryRoute,
        last: dict[tuple[int, int, int], BlockEntry],
        uploads: Uploads,
        marker: Creating,
        report: Reporter | None,
        progress: Tell | None,
    ) -> None:
        """last: (shard, segment, first row) to the known block that has a fingerprint. report: see `Writes`."""
        self._runtime, self._routes, self._route, self._last = runtime, routes, routes.current(route), last
        self._uploads, self._marker, self._report, self._progress = uploads, marker, report, progress
        self._lock = threading.Lock()
        self._done = self._total = 0

    def read_all(self) -> tuple[ShardEntry, ...]:
        """Every shard at its moment, by number."""
        shards = [_Shard(number) for number in range(self._route.shards)]
        pause = PAUSE_S[0]
        while True:
            self._take_points([shard for shard in shards if shard.point is None])
            # A template that moves from one shard to another (deleted, and enrolled under another identity) must not
            # be in the snapshot twice: so no row is read before every shard has its moment, and that one stays.
            if all(shard.moment >= 0 for shard in shards):
                self._read([shard for shard in shards if shard.point is not None and shard.entry is None])
            entries = [shard.entry for shard in shards if shard.entry is not None]
            if len(entries) == len(shards):
                return tuple(entries)
            failed = [shard for shard in shards if shard.error is not None and shard.point is None]
            if failed:
                self._tell(failed)
                self._find_again(failed, pause)
                pause = min(2 * pause, PAUSE_S[1])

    # Asking

    def _take_points(self, shards: Sequence[_Shard]) -> None:
        route = self._route
        for shard in shards:
            request = PointRequest(route.gallery_id, shard.number, route.epochs[shard.number])
            try:
                shard.begin(self._ask(shard.number, request, ShardPoint), request.epoch)
            except _Failed as failure:
                shard.fail(failure.error)

    def _ask(self, shard: int, request: DataRequest, kind: type[ReplyT]) -> ReplyT:
        """The primary's reply; _Failed if there may be another one."""
        try:
            sent = self._runtime.submit(self._route.hosts[shard], request, deadline=time.monotonic() + READ_S)
            return expected(sent.result(), kind)
        except (*_AWAY, *_GONE) as error:
            raise _Failed(error) from error

    def _tell(self, failed: Sequence[_Shard]) -> None:
        """Let the coordinator look at hosts in trouble, by one shard of each: it looks after all of them too."""
        route = self._route
        kinds = (HostUnavailable, DeadlineExceeded, CorruptData)
        silent = {route.hosts[s.number]: s for s in failed if isinstance(s.error, kinds)}
        for shard in silent.values() if self._report is not None else ():
            assert self._report is not None
            why = f"a snapshot could not read it: {shard.error}"
            try:
                self._report(route.gallery_id, shard.number, route.epochs[shard.number], why)
            except FacegridError as error:
                _LOG.warning("the coordinator could not be told of a host that does not answer: %s", error)

    def _find_again(self, failed: Sequence[_Shard], pause: float) -> None:
        """Go on with the newest route; raises what a shard failed with if it is for good."""
        before = self._route
        self._marker.renew()
        self._route = self._routes.refresh(before)
        if any(before.epochs[shard.number] == self._route.epochs[shard.number] for shard in failed):
            _PAUSING.wait(pause)
            self._route = self._routes.refresh(self._route)
        for shard in failed:
            is_same = before.epochs[shard.number] == self._route.epochs[shard.number]
            # Where there is another replica in sync, the coordinator goes on without a damaged one.
            others = len(self._route.in_sync[shard.number]) - 1 if isinstance(shard.error, CorruptData) else 0
            if is_same and isinstance(shard.error, _GONE) and not others:
                raise shard.error
            _LOG.info("shard %d of %s is read again: %s", shard.number, before.name, shard.error)

    # Reading

    def _read(self, shards: Sequence[_Shard]) -> None:
        """Read shards that have a point, each to its end or to its failure."""
        cells = [cell for shard in shards for cell in _cells(shard, self._route.dim)]
        blocks: dict[int, list[BlockEntry]] = {shard.number: [] for shard in shards}
        failures: dict[int, FacegridError] = {}
        self._done, self._total = 0, sum(cell.rows.end - cell.rows.begin for cell in cells)

        def read(cell: _Cell) -> list[BlockEntry]:
            if cell.shard not in failures:
                try:
                    return self._read_cell(cell)
                except _Failed as failure:
                    failures.setdefault(cell.shard, failure.error)
            return []

        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="facegrid-snapshot")
        try:
            for cell, found in zip(cells, pool.map(read, cells), strict=True):
                blocks[cell.shard] += found
        finally:
            pool.shutdown(cancel_futures=True)
        for shard in shards:
            try:
                if shard.number in failures:
                    raise _Failed(failures[shard.number])
                found = blocks[shard.number]
                moved = self._read_moved(shard, found)
                shard.entry = ShardEntry(shard.number, shard.moment, (*found, *moved))
            except _Failed as failure:
                shard.fail(failure.error)

    def _read_cell(self, cell: _Cell) -> list[BlockEntry]:
        self._marker.renew()
        blocks: list[BlockEntry] = []
        rest = cell.rows
        while rest.begin < rest.end:
            end, block = self._read_block(cell.shard, rest)
            blocks += [] if block is None else [block]
            self._advance(end - rest.begin)
            rest = replace(rest, begin=end)
        return blocks

    def _read_block(self, shard: int, rows: RowRange) -> tuple[int, BlockEntry | None]:
        """Where the block ends, and its entry if it has live rows."""
        place = (shard, rows.segment, rows.begin)
        last = self._last.get(place)
        if last is not None and not self._uploads.has(last):
            last = None
        known = b"" if last is None else bytes.fromhex(last.fingerprint)
        request = ExportRequest(self._route.gallery_id, shard, self._route.epochs[shard], rows, known)
        exported = self._ask(shard, request, ExportedRows)
        if exported.is_unchanged and last is not None:
            self._uploads.reuse(last)
            return exported.end, last
        if not len(exported.rows):
            return exported.end, None
        block = self._stored(exported, rows.segment, rows.begin, exported.end)
        if block.fingerprint:
            self._last[place] = block  # should the shard be begun again
        return exported.end, block

    def _read_moved(self, shard: _Shard, found: Sequence[BlockEntry]) -> list[BlockEntry]:
        """What was moved to rows after the point while `found` was read, less what was read before it was moved."""
        assert shard.point is not None
        moved: list[BlockEntry] = []
        seen: set[str] | None = None
        wanted = MovedRange(shard.point.rows, shard.moment, FIRST_KEY)
        while True:
            self._marker.renew()
            epoch = self._route.epochs[shard.number]
            request = ExportMovedRequest(self._route.gallery_id, shard.number, epoch, wanted)
            rows = self._ask(shard.number, request, ExportedRows)
            if len(rows.rows):
                if seen is None:
                    seen = {t for block in found for t in read_labels(self._uploads.store, block).template_ids}
                new = rows.take([i for i, template_id in enumerate(rows.template_ids) if template_id not in seen])
                if len(new.rows):
                    moved.append(self._stored(new, _MOVED, int(new.rows[0]), int(new.rows[-1]) + 1))
            if rows.end == FIRST_KEY:
                return moved
            wanted = replace(wanted, from_key=rows.end)

    def _stored(self, exported: ExportedRows, segment: int, begin: int, end: int) -> BlockEntry:
        return BlockEntry(
            segment=segment,
            begin=begin,
            end=end,
            rows=len(exported.rows),
            fingerprint=exported.fingerprint.hex(),
            floats=self._uploads.put(exported.floats.astype("<f4", copy=False).tobytes()),
            labels=self._uploads.put(encode_labels(exported)),
        )

    def _advance(self, rows: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += rows
                self._progress(self._done, self._total)


def _cells(shard: _Shard, dim: int) -> list[_Cell]:
    assert shard.point is not None
    step = max(1, min(MAX_EXPORT_ROWS, MAX_EXPORT_FLOAT_BYTES // (dim * 4)))
    return [
        _Cell(shard.number, RowRange(segment.segment, begin, min(begin + step, last), shard.moment))
        for segment in shard.point.segments
        for last in [segment.first_row + segment.rows]
        for begin in range(segment.first_row, last, step)
    ]
