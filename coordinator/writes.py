"""`Writes`: how a batch or a deletion reaches the primaries of its shards, through failures.

Each request has an id of its own, so it may be sent again when nobody knows what became of it: a primary that has done
it says so. What does not answer is named to the coordinator, which decides who is primary now. Knows no candidates.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, wait
from typing import NoReturn, Protocol, TypeVar

import numpy as np

from coordinator.claimed_ids import ClaimedIds
from coordinator.messages import (
    AmendReply,
    AmendRequest,
    DataRequest,
    DeleteReply,
    DeleteRequest,
    Done,
    EnrollRequest,
    FlushRequest,
    RecordsReply,
    RecordsRequest,
    Reply,
)
from coordinator.placement import shards_of
from coordinator.routes import RouteTable
from coordinator.runtime import Runtime
from coordinator.taken_ids import TakenIds
from coordinator.types import GalleryRoute
from shard.errors import (
    CorruptData,
    DeadlineExceeded,
    DuplicateTemplate,
    EnrollIncomplete,
    FacegridError,
    HostBusy,
    HostUnavailable,
    NotEnoughReplicas,
    NotReplicated,
    ShardClosed,
    StaleRoute,
    UnknownGallery,
)
from shard.types import EnrollBatch, EnrollReceipt, RowArray, TemplateRecord

WRITE_DEADLINE_MS = 120_000
"""Deadline of a write, repetitions included."""
ATTEMPT_S = 30.0
"""How long one request may take: a full piece on a slow disk, confirmed by its backups."""
WRITES_IN_FLIGHT = 16
"""Requests of one enrollment under way at once: with ARRAY_BYTES each, half of what a host's queue takes."""
ARRAY_BYTES = 16 << 20
"""Floats in one request: large enough to amortise a frame or a commit, far below the frame limit."""
LOOK_S = 1.0
"""A write that takes longer is looked after: whether its shard has another primary by now."""
PAUSE_S = 0.05, 1.0
"""First and longest pause before a write is repeated."""

PASSES = 3
"""How often a write that names templates goes to all shards while templates move from one to another."""
LOOKS = 3
"""How often a write whose claim was lost claims its ids again, to look whether they are its alone."""

REPEATABLE = (
    HostUnavailable,
    HostBusy,
    DeadlineExceeded,
    StaleRoute,
    NotReplicated,
    NotEnoughReplicas,
    ShardClosed,
)
"""Errors after which a write is sent again, as long as its deadline allows."""
MOVED = (CorruptData, UnknownGallery)
"""What a host says that has given the shard up: sent again if there is a newer route."""

ReplyT = TypeVar("ReplyT", bound=Reply)
_LOG = logging.getLogger(__name__)


class Reporter(Protocol):
    """What the coordinator is told; see `coordinator.coordinator.Coordinator.report`."""

    def __call__(self, gallery_id: str, shard: int, epoch: int, error: str) -> None:
        """A write to a shard was not confirmed under the epoch."""


class Writes:
    """Write requests of one process. Thread-safe; those of different callers run side by side."""

    def __init__(self, runtime: Runtime, routes: RouteTable, report: Reporter | None, *, is_alone: bool = True) -> None:
        """is_alone: no other process enrolls."""
        self._runtime, self._routes, self._report, self._is_alone = runtime, routes, report, is_alone
        self._taken = TakenIds()

    @contextlib.contextmanager
    def reserve(self, route: GalleryRoute, template_ids: Collection[str]) -> Iterator[ClaimedIds]:
        """Inside, nobody else writes one of these ids: an id is unique in its gallery. DeadlineExceeded.

        What was written counts once the claim was given back, or `look_again` has found nothing.
        """
        with self._taken.reserve(route.gallery_id, template_ids), self._claimed(route, template_ids) as claim:
            yield claim

    @contextlib.contextmanager
    def _claimed(self, route: GalleryRoute, template_ids: Collection[str]) -> Iterator[ClaimedIds]:
        claim = ClaimedIds(self._to_primary, route, () if self._is_alone else template_ids)
        claim.take()
        try:
            yield claim
        finally:
            claim.let_go()

    def existing(self, route: GalleryRoute, template_ids: tuple[str, ...]) -> set[str]:
        """Those of the ids that the gallery has, as the primaries of all its shards know."""
        return {record.template_id for record in self._records(route, template_ids)}

    def _records(self, route: GalleryRoute, template_ids: tuple[str, ...]) -> list[TemplateRecord]:
        found: list[TemplateRecord] = []
        for _ in range(PASSES):
            replies = self._everywhere(
                route,
                lambda shards, epochs: RecordsRequest(route.gallery_id, shards, template_ids, epochs),
                RecordsReply,
            )
            found += [record for reply in replies for record in reply.records]
            if not any(reply.has_departures for reply in replies):
                break
        return found

    def look_again(self, route: GalleryRoute, batch: EnrollBatch, shards: RowArray, written: int) -> None:
        """After the claim of a batch was lost: have it that no id was written by somebody else too, in another shard.

        batch, shards: as they went to `enroll`, which returned `written`. What is there twice is deleted where this
        write put it, and was confirmed to nobody; what may be somebody else's is left. Raises DuplicateTemplate if that
        was all of the batch, EnrollIncomplete if it was a part; DeadlineExceeded.
        """
        rows = np.flatnonzero(shards >= 0)
        own = {batch.template_ids[row]: int(shards[row]) for row in rows}
        for _ in range(LOOKS):
            with self._claimed(route, own) as claim:
                records = self._records(route, tuple(own))
                places = shards_of(
                    tuple(record.identity for record in records),
                    tuple(record.template_id for record in records),
                    route.shards,
                )
                doubles = {
                    record.template_id
                    for record, place in zip(records, places.tolist(), strict=True)
                    if own[record.template_id] != place
                }
                if doubles:
                    self._withdraw(route, {i: own[i] for i in doubles}, len(batch), written, is_own=written == len(own))
                if claim.give_back():
                    return
        raise DeadlineExceeded(
            f"{written} of {len(batch)} templates are durable in {route.name}; whether another process has enrolled one"
            f" of their ids too is not known: claims were lost {LOOKS + 1} times"
        )

    def _withdraw(
        self, route: GalleryRoute, doubles: Mapping[str, int], asked: int, written: int, *, is_own: bool
    ) -> NoReturn:
        said = (
            f"{len(doubles)} of {asked} template ids were enrolled by another process too, the first {min(doubles)!r}"
        )
        if not is_own:
            raise EnrollIncomplete(
                f"{said}; they are in {route.name} twice, under two identities, since which of them came with this"
                " write cannot be told. Delete one of each"
            )
        deadline = time.monotonic() + WRITE_DEADLINE_MS / 1000
        attempts = [
            self._attempt(
                route, (shard,), _delete(route, tuple(i for i in doubles if doubles[i] == shard), ()), deadline
            )
            for shard in sorted(set(doubles.values()))
        ]
        for attempt in attempts:
            attempt.result(DeleteReply)
        if len(doubles) == written:
            raise DuplicateTemplate(f"{said}; nothing of this write is left in {route.name}")
        raise EnrollIncomplete(f"{said}; {written - len(doubles)} are durable in {route.name}")

    def enroll(self, route: GalleryRoute, batch: EnrollBatch, shards: RowArray, skip_existing: bool) -> int:
        """Write rows to their shards; how many became durable. shards: (n,) int64, -1 for rows to leave out.

        Raises EnrollIncomplete if some pieces failed, and the error itself if there was but one piece.
        """
        deadline = time.monotonic() + WRITE_DEADLINE_MS / 1000
        requests = written = 0
        failures: list[FacegridError] = []
        under_way: deque[_Attempt] = deque()

        def settle_oldest() -> None:
            nonlocal written
            try:
                written += under_way.popleft().result(EnrollReceipt).enrolled
            except FacegridError as error:
                failures.append(error)

        for shard, piece in _pieces(batch, shards, route):
            # Few enough that the queues of one host hold them all, however large the batch.
            if len(under_way) == WRITES_IN_FLIGHT:
                settle_oldest()
            under_way.append(self._attempt(route, (shard,), _enroll(route, shard, piece, skip_existing), deadline))
            requests += 1
        while under_way:
            settle_oldest()
        if requests == len(failures) == 1:
            raise failures[0]
        if failures:
            raise EnrollIncomplete(
                f"{written} of {len(batch)} templates are durable in {route.name}; {len(failures)} of {requests}"
                f" requests failed, the first with {failures[0].code}: {failures[0]}. Repeat with the same template ids"
                " and if_exists='skip'"
            ) from failures[0]
        return written

    def delete(self, route: GalleryRoute, template_ids: tuple[str, ...], identities: tuple[str, ...]) -> int:
        """Delete by template id and identity on every shard; how many templates."""
        deleted = 0
        for _ in range(PASSES):
            replies = self._everywhere(route, _delete(route, template_ids, identities), DeleteReply)
            deleted += sum(reply.deleted for reply in replies)
            # A template that left one shard before this came to it, and came to another after: asked for once more.
            if not any(reply.has_departures for reply in replies):
                break
        return deleted

    def amend(self, route: GalleryRoute, template_ids: tuple[str, ...], metadata: tuple[bytes | None, ...]) -> int:
        """Change metadata by template id, wherever the templates are; how many are there."""
        amended = 0
        for _ in range(PASSES):
            replies = self._everywhere(route, _amend(route, template_ids, metadata), AmendReply)
            amended = max(amended, sum(reply.amended for reply in replies))
            if amended or not any(reply.has_departures for reply in replies):
                break
        return amended

    def settle(self, route: GalleryRoute) -> None:
        """Return when every replica in sync has what the primaries have now."""
        # A write that changes nothing makes no entry; it is confirmed as any other, and so is all that came before it.
        self._everywhere(route, _amend(route, (), ()), AmendReply)

    def ask(self, route: GalleryRoute, shard: int, request: Callable[[int], DataRequest], kind: type[ReplyT]) -> ReplyT:
        """Send one shard's primary a request, which is given the shard's epoch, until it is carried out."""
        deadline = time.monotonic() + WRITE_DEADLINE_MS / 1000
        return self._to_primary(route, shard, request, deadline).result(kind)

    def flush(self, route: GalleryRoute) -> None:
        """Seal the open tail of every shard."""
        self._everywhere(route, lambda shards, epochs: FlushRequest(route.gallery_id, shards, epochs), Done)

    def _everywhere(
        self,
        route: GalleryRoute,
        request: Callable[[tuple[int, ...], tuple[int, ...]], DataRequest],
        kind: type[ReplyT],
    ) -> list[ReplyT]:
        deadline = time.monotonic() + WRITE_DEADLINE_MS / 1000
        attempts = [
            self._attempt(route, shards, request, deadline)
            for shards in self._routes.current(route).shards_by_host().values()
        ]
        return [reply for attempt in attempts for reply in attempt.results(kind)]

    def _to_primary(
        self, route: GalleryRoute, shard: int, request: Callable[[int], DataRequest], deadline: float
    ) -> _Attempt:
        return self._attempt(route, (shard,), lambda _, epochs: request(epochs[0]), deadline)

    def _attempt(self, route: GalleryRoute, shards: tuple[int, ...], request: _Request, deadline: float) -> _Attempt:
        return _Attempt(self._runtime, self._routes, self._report, route, shards, request, deadline)


_Request = Callable[[tuple[int, ...], tuple[int, ...]], DataRequest]


def _enroll(route: GalleryRoute, shard: int, piece: EnrollBatch, skip_existing: bool) -> _Request:
    operation = secrets.token_bytes(16)
    return lambda _, epochs: EnrollRequest(route.gallery_id, shard, epochs[0], operation, piece, skip_existing)


def _delete(route: GalleryRoute, template_ids: tuple[str, ...], identities: tuple[str, ...]) -> _Request:
    operation = secrets.token_bytes(16)
    return lambda shards, epochs: DeleteRequest(route.gallery_id, shards, epochs, operation, template_ids, identities)


def _amend(route: GalleryRoute, template_ids: tuple[str, ...], metadata: tuple[bytes | None, ...]) -> _Request:
    operation = secrets.token_bytes(16)
    return lambda shards, epochs: AmendRequest(route.gallery_id, shards, epochs, operation, template_ids, metadata)


class _Attempt:
    """One request on its way; sent when made, and again by whoever waits for its result."""

    def __init__(
        self,
        runtime: Runtime,
        routes: RouteTable,
        report: Reporter | None,
        route: GalleryRoute,
        shards: tuple[int, ...],
        request: _Request,
        deadline: float,
    ) -> None:
        """shards: all on one host, as the newest known route says."""
        self._runtime, self._routes, self._report, self._request = runtime, routes, report, request
        self._route, self._shards, self._deadline = routes.current(route), shards, deadline
        self._future = self._send(self._route, shards)

    def _send(self, route: GalleryRoute, shards: tuple[int, ...]) -> Future[Reply]:
        epochs = tuple(route.epochs[shard] for shard in shards)
        until = min(self._deadline, time.monotonic() + ATTEMPT_S)
        return self._runtime.submit(route.hosts[shards[0]], self._request(shards, epochs), deadline=until)

    def result(self, kind: type[ReplyT]) -> ReplyT:
        """The reply, of a request to one shard."""
        (reply,) = self.results(kind)
        return reply

    def results(self, kind: type[ReplyT]) -> list[ReplyT]:
        """The replies: one, or several where the shards have gone different ways meanwhile."""
        pause = PAUSE_S[0]
        replies: list[ReplyT] = []
        waiting = [(self._route, self._shards, self._future)]
        while waiting:
            failed: list[tuple[GalleryRoute, tuple[int, ...]]] = []
            for route, shards, future in waiting:
                try:
                    reply = self._wait(route, shards, future)
                except REPEATABLE as error:
                    if time.monotonic() + pause >= self._deadline:
                        raise
                    # While a failover is under way nobody need be told; later, somebody may not know what is wrong.
                    if not isinstance(error, HostBusy | StaleRoute) or pause == PAUSE_S[1]:
                        self._tell(route, shards, error)
                    failed.append((route, shards))
                except MOVED:
                    if not self._has_moved(route, shards):
                        raise
                    failed.append((route, shards))
                else:
                    if not isinstance(reply, kind):
                        raise TypeError(f"expected a {kind.__name__}, got {type(reply).__name__}")
                    replies.append(reply)
            waiting = []
            for route, shards in failed:
                newer = self._routes.refresh(route)
                if newer.version == route.version:
                    _PAUSING.wait(pause)
                    pause = min(2 * pause, PAUSE_S[1])
                    newer = self._routes.refresh(route)
                for group in _by_host(newer, shards):
                    waiting.append((newer, group, self._send(newer, group)))
        return replies

    def _wait(self, route: GalleryRoute, shards: tuple[int, ...], future: Future[Reply]) -> Reply:
        """The reply. StaleRoute once the shards have another configuration: one that stopped answers no more."""
        while not wait((future,), LOOK_S).done:
            if self._has_moved(route, shards):
                raise StaleRoute(f"shards {shards} of {route.name} have a later configuration than the request")
        return future.result()

    def _has_moved(self, route: GalleryRoute, shards: tuple[int, ...]) -> bool:
        return self._routes.refresh(route).epochs_of(shards) != route.epochs_of(shards)

    def _tell(self, route: GalleryRoute, shards: tuple[int, ...], error: FacegridError) -> None:
        """Let the coordinator look at a shard whose primary failed or misses a backup."""
        if self._report is None:
            return
        for shard in shards:
            try:
                self._report(route.gallery_id, shard, route.epochs[shard], f"{error.code}: {error}")
            except FacegridError as failure:
                # It looks after its hosts by itself too, when it is back.
                _LOG.warning("the coordinator could not be told of a failed write: %s", failure)
                return


_PAUSING = threading.Event()


def _by_host(route: GalleryRoute, shards: tuple[int, ...]) -> list[tuple[int, ...]]:
    groups: dict[str, list[int]] = {}
    for shard in shards:
        groups.setdefault(route.hosts[shard], []).append(shard)
    return [tuple(group) for group in groups.values()]


def _pieces(batch: EnrollBatch, shards: RowArray, route: GalleryRoute) -> Iterator[tuple[int, EnrollBatch]]:
    """The batch in requests of bounded size, shards taking turns; rows marked -1 are left out."""
    step = max(1, ARRAY_BYTES // (route.dim * 4))
    rows = [np.flatnonzero(shards == shard) for shard in range(route.shards)]
    for begin in range(0, max(map(len, rows)), step):
        for shard, own in enumerate(rows):
            if begin < len(own):
                yield shard, batch.take(own[begin : begin + step])
