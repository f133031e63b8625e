"""`Router`: the data path. Fans a request out to the hosts that hold a gallery's shards and merges what comes back.

It holds no state of a gallery but the lock that orders enrollments into it; routes come from the coordinator. A shard
that does not answer is an error unless the caller allows a partial answer, and every answer says what it covers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from coordinator import merge
from coordinator.health import HealthTable, HostHealth
from coordinator.messages import (
    DataRequest,
    IdentitiesReply,
    IdentitiesRequest,
    ListReply,
    ListRequest,
    RecordsReply,
    RecordsRequest,
    Reply,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from coordinator.placement import shards_of
from coordinator.questions import Answers, Question
from coordinator.reads import Reads
from coordinator.routes import Lookup, RouteTable
from coordinator.runtime import Runtime
from coordinator.types import Coverage, EnrollOutcome, GalleryRoute, SearchOutcome
from coordinator.writes import ARRAY_BYTES, Reporter, Writes
from shard.errors import (
    DuplicateTemplate,
    InvalidParameter,
    ProtocolError,
)
from shard.keys import in_listing_order
from shard.types import (
    MAX_PROBES,
    EnrollBatch,
    FloatArray,
    IdentityCount,
    SearchParams,
    ShardStats,
    TemplateRecord,
)
from shard.validate import check_batch, check_label, check_metadata, check_params

DEFAULT_DEADLINE_MS = 10_000
"""Deadline of a read when the caller gives none."""

ReplyT = TypeVar("ReplyT", bound=Reply)


class Router:
    """Data requests of one process to the hosts of a runtime. Thread-safe."""

    def __init__(
        self,
        runtime: Runtime,
        lookup: Lookup | None = None,
        report: Reporter | None = None,
        *,
        is_alone: bool = True,
    ) -> None:
        """lookup: the coordinator's newest route of a gallery by name; None: routes never change.

        report: whom to tell of writes that were not confirmed. is_alone: no other process enrolls; where some do, they
        take turns at the shards' primaries.
        """
        self._runtime = runtime
        self._routes = RouteTable(lookup)
        self._health = HealthTable()
        self._reads = Reads(runtime, self._routes, self._health)
        self._writes = Writes(runtime, self._routes, report, is_alone=is_alone)

    def search(
        self,
        route: GalleryRoute,
        probes: FloatArray,
        params: SearchParams,
        *,
        allow_partial: bool = False,
        deadline_ms: int = DEFAULT_DEADLINE_MS,
    ) -> SearchOutcome:
        """The k best templates of the gallery for each probe, by (score descending, template key ascending).

        probes: (n, dim) float32, unit norm, n >= 1; a long batch is cut into several requests. Raises
        InvalidParameter, and IncompleteCoverage or DeadlineExceeded if a shard does not answer and `allow_partial` is
        false.
        """
        check_params(params)
        _check_deadline(deadline_ms)
        # NumPy's numbers are fine here, but do not travel.
        threshold = None if params.threshold is None else float(params.threshold)
        params = replace(
            params, k=int(params.k), recall=float(params.recall), exact=bool(params.exact), threshold=threshold
        )
        deadline = time.monotonic() + deadline_ms / 1000
        step = max(1, min(MAX_PROBES, ARRAY_BYTES // (route.dim * 4)))
        outcomes = [
            self._search(route, probes[i : i + step], params, allow_partial, deadline)
            for i in range(0, len(probes), step)
        ]
        candidates = merge.bounded(merge.stack([outcome.candidates for outcome in outcomes]))
        answered = min(outcome.coverage.answered for outcome in outcomes)
        return SearchOutcome(candidates, Coverage(answered, route.shards))

    def _search(
        self, route: GalleryRoute, probes: FloatArray, params: SearchParams, allow_partial: bool, deadline: float
    ) -> SearchOutcome:
        first, has_departures = self._search_once(route, probes, params, allow_partial, deadline)
        if not has_departures:
            return first
        # A template that changed its shard meanwhile was in neither when it was asked; now it is in the other.
        second, _ = self._search_once(route, probes, params, allow_partial, deadline)
        covered = min(first.coverage, second.coverage, key=lambda coverage: coverage.answered)
        return SearchOutcome(merge.merge([second.candidates, first.candidates], params.k), covered)

    def _search_once(
        self, route: GalleryRoute, probes: FloatArray, params: SearchParams, allow_partial: bool, deadline: float
    ) -> tuple[SearchOutcome, bool]:
        question = Question(
            "exact" if params.exact else "search",
            len(probes),
            lambda shards, epochs: SearchRequest(route.gallery_id, shards, probes, params, epochs),
            SearchReply,
        )
        answers = self._reads.ask(route, question, deadline)
        odd = merge.odd_ones_out([reply.model_id for _, reply in answers.replies])
        if odd:
            answers = self._repeat_exactly(answers, odd, probes, params, deadline)
        if not allow_partial:
            answers.check_complete()
        for shards, reply in answers.replies:
            if reply.shards != shards:
                raise ProtocolError(f"asked for shards {shards} of {route.name}, got an answer for {reply.shards}")
        found = [reply.candidates for _, reply in answers.replies]
        merged = merge.merge(found, params.k) if found else merge.empty(len(probes), params.k)
        return SearchOutcome(merged, answers.coverage), any(reply.has_departures for _, reply in answers.replies)

    def _repeat_exactly(
        self,
        answers: Answers[SearchReply],
        odd: Sequence[int],
        probes: FloatArray,
        params: SearchParams,
        deadline: float,
    ) -> Answers[SearchReply]:
        """Answers of one model: hosts switch a moment apart in a rollout, and exact scans go with any model.

        Only the shards of the odd replies are asked again. One that does not answer has failed, whatever it answered
        before: the recall of a mixture is nobody's promise.
        """
        exact = replace(params, exact=True)
        question = Question(
            "exact",
            len(probes),
            lambda shards, epochs: SearchRequest(answers.route.gallery_id, shards, probes, exact, epochs),
            SearchReply,
        )
        wanted = sorted(shard for i in odd for shard in answers.replies[i][0])
        again = self._reads.ask(answers.route, question, deadline, wanted)
        kept = [answer for i, answer in enumerate(answers.replies) if i not in odd]
        return Answers(again.route, kept + again.replies, answers.failures | again.failures)

    def enroll(self, route: GalleryRoute, batch: EnrollBatch, *, skip_existing: bool, new_ids: bool) -> EnrollOutcome:
        """Write a batch; durable on every shard when it returns.

        Everything is checked before anything is written. `new_ids`: the ids were just made, so none can be there.
        Raises InvalidEmbedding, InvalidParameter, DuplicateTemplate with nothing written; EnrollIncomplete if a shard
        failed on the way, naming how many templates are durable.
        """
        check_batch(batch, route.dim)
        ids = () if new_ids else batch.template_ids
        with self._writes.reserve(route, ids) as claim:
            # An id is unique in the gallery, but its shard follows from the identity: ask all of them.
            existing = self._writes.existing(route, ids) if ids else set()
            if existing and not skip_existing:
                raise DuplicateTemplate(
                    f"{len(existing)} of {len(batch)} template ids are in {route.name} already, the first"
                    f" {min(existing)!r}"
                )
            shards = shards_of(batch.identities, batch.template_ids, route.shards)
            if existing:
                shards[[template_id in existing for template_id in batch.template_ids]] = -1
            written = self._writes.enroll(route, batch, shards, skip_existing)
            if not claim.give_back() and written:
                self._writes.look_again(route, batch, shards, written)
            return EnrollOutcome(enrolled=written, skipped=len(batch) - written)

    def delete(self, route: GalleryRoute, *, template_ids: tuple[str, ...], identities: tuple[str, ...]) -> int:
        """Delete by template id and identity; returns how many templates. Repeatable after an error."""
        return self._writes.delete(route, template_ids, identities)

    def amend(self, route: GalleryRoute, template_id: str, metadata: bytes | None) -> bool:
        """Give a template other metadata; whether it is there. Repeatable after an error."""
        check_label(template_id, what="template_id")
        check_metadata((metadata,), 1)
        return self._writes.amend(route, (template_id,), (metadata,)) > 0

    def amend_many(self, route: GalleryRoute, template_ids: tuple[str, ...], metadata: tuple[bytes | None, ...]) -> int:
        """Give templates other metadata in one write a shard; how many are there. Repeatable after an error."""
        for template_id in template_ids:
            check_label(template_id, what="template_ids")
        check_metadata(metadata, len(template_ids))
        return self._writes.amend(route, template_ids, metadata)

    def records(self, route: GalleryRoute, template_ids: tuple[str, ...]) -> list[TemplateRecord]:
        """Labels and metadata of the templates that are there, each once, in no particular order."""

        def read() -> tuple[dict[str, TemplateRecord], bool]:
            replies = self._read(
                route,
                "records",
                len(template_ids),
                lambda shards, epochs: RecordsRequest(route.gallery_id, shards, template_ids, epochs),
                RecordsReply,
            )
            found = {record.template_id: record for _, reply in replies for record in reply.records}
            return found, any(reply.has_departures for _, reply in replies)

        found, has_departures = read()
        if has_departures and len(found) < len(set(template_ids)):
            found = read()[0] | found
        return list(found.values())

    def identities(self, route: GalleryRoute, *, start: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities from `start` on, in byte order of their UTF-8."""
        replies = self._read(
            route,
            "identities",
            limit,
            lambda shards, epochs: IdentitiesRequest(route.gallery_id, shards, start, limit, epochs),
            IdentitiesReply,
        )
        found = [entry for _, reply in replies for entry in reply.identities]
        return sorted(found, key=lambda entry: entry.identity.encode())[:limit]

    def template_ids(self, route: GalleryRoute, *, after: str, limit: int, identity: str | None) -> list[str]:
        """Up to `limit` template ids after one ("" for the first) in listing order, see `shard.keys`.

        identity: of this one only. A template that is there all the time is in exactly one of the pages.
        """
        shards = None if identity is None else shards_of((identity,), ("",), route.shards).tolist()

        def read() -> tuple[list[str], bool]:
            replies = self._read(
                route,
                "list",
                limit,
                lambda shards, epochs: ListRequest(route.gallery_id, shards, after, limit, identity, epochs),
                ListReply,
                shards,
            )
            found = [i for _, reply in replies for i in reply.template_ids]
            return found, any(reply.has_departures for _, reply in replies)

        found, has_departures = read()
        if has_departures:
            found += read()[0]
        return in_listing_order(found)[:limit]

    def newest(self, route: GalleryRoute) -> GalleryRoute:
        """The gallery's route as the coordinator tells it now; the newest known one while it is away.

        Waits half a second for it at most. Raises UnknownGallery if the gallery was dropped.
        """
        return self._routes.refresh(route, is_pressing=True)

    def stats(self, route: GalleryRoute) -> list[ShardStats]:
        """Sizes of every shard, by shard number."""
        replies = self._read(
            route, "stats", 1, lambda shards, epochs: StatsRequest(route.gallery_id, shards, epochs), StatsReply
        )
        by_shard = {shard: stats for shards, reply in replies for shard, stats in zip(shards, reply.stats, strict=True)}
        return [by_shard[shard] for shard in sorted(by_shard)]

    def health(self) -> tuple[HostHealth, ...]:
        """What this process has observed of each host that it asked, by name."""
        return self._health.snapshot()

    def _read(
        self,
        route: GalleryRoute,
        kind: str,
        size: int,
        request: Callable[[tuple[int, ...], tuple[int, ...]], DataRequest],
        reply: type[ReplyT],
        shards: Sequence[int] | None = None,
    ) -> list[tuple[tuple[int, ...], ReplyT]]:
        """Replies for every shard, or those named, each with its shards; IncompleteCoverage or DeadlineExceeded if one
        is missing."""
        question = Question(kind, size, request, reply)
        answers = self._reads.ask(route, question, time.monotonic() + DEFAULT_DEADLINE_MS / 1000, shards)
        answers.check_complete()
        return answers.replies

    def settle(self, route: GalleryRoute) -> None:
        """Return when every replica in sync has what the primaries have now: nothing of that is lost with a host."""
        self._writes.settle(route)

    def flush(self, route: GalleryRoute) -> None:
        """Seal the open tail of every shard."""
        self._writes.flush(route)


def _check_deadline(deadline_ms: int) -> None:
    if not isinstance(deadline_ms, (int, float, np.number)) or not 0 < deadline_ms < math.inf:
        raise InvalidParameter(f"deadline_ms: expected a number above 0, got {deadline_ms!r}")
