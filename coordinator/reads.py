"""One fan-out for all reads: asks a replica of every shard, and others where one fails or is slow.

Shards that one host answers for travel in one request. A request that fails is made again at other replicas, for its
shards alone; one that takes longer than others did is hedged: another replica is asked too, and the first answer
counts. `coordinator.attempts` keeps which answers those are, so that none counts twice. The caller's thread does
everything and waits for whatever comes first: an answer, a hedge that is due, the deadline.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from coordinator.attempts import Attempt, Group, Progress
from coordinator.health import HealthTable, Purpose
from coordinator.messages import DataRequest, Reply
from coordinator.replicas import choose_hosts
from coordinator.routes import RouteTable
from coordinator.runtime import Runtime
from coordinator.types import Coverage, GalleryRoute
from shard.errors import (
    DeadlineExceeded,
    FacegridError,
    HostBusy,
    HostUnavailable,
    IncompleteCoverage,
    ShardClosed,
    StaleRoute,
    StorageError,
    UnknownGallery,
    UnknownModel,
)

HOST_FAULTS = (HostUnavailable, HostBusy, DeadlineExceeded)
"""What says nothing of a shard: all shards of the request are asked elsewhere."""
SHARD_FAULTS = (StaleRoute, StorageError, ShardClosed, UnknownModel)
"""What one of a request's shards can be at fault for: where there is no other replica, each is asked for alone."""
MAX_PLANS = 1_024
LONGEST_WAIT_S = 3_600.0
"""Deadlines may be later than what a queue can wait for at once."""

ReplyT = TypeVar("ReplyT", bound=Reply)


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """When to ask another replica. Times are in seconds and begin when a request is sent.

    A request is hedged after the p95 of its kind at its host, `hedge_floor_s` at least, while hedges are no more than
    `hedge_share` of the requests plus a burst. It is given up for late, which costs no hedge and counts against the
    host, `late_margin_s` after the p95; its answer still counts if it comes. unknown_p95_s: the p95 where too few were
    observed. refresh_s: the longest wait for a newer route. stale_pauses_s: pauses before a shard is asked again whose
    replicas all have another epoch than the newest route: hosts and catalog learn of a failover one after another.
    """

    hedge_floor_s: float = 0.005
    hedge_share: float = 0.05
    hedge_burst: float = 10.0
    late_margin_s: float = 0.3
    unknown_p95_s: float = 1.0
    refresh_s: float = 0.5
    stale_pauses_s: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Question(Generic[ReplyT]):
    """What is asked of every shard. `kind` and `probes` say whose latency it is like; `request` makes the request to
    one host from (shards, epochs); primaries_only: other replicas are not asked."""

    kind: str
    probes: int
    request: Callable[[tuple[int, ...], tuple[int, ...]], DataRequest]
    reply: type[ReplyT]
    primaries_only: bool = False


@dataclass(frozen=True, slots=True)
class Answers(Generic[ReplyT]):
    """replies: each with the shards it answers for, no shard twice. failures: the last error of every other shard."""

    route: GalleryRoute
    replies: list[tuple[tuple[int, ...], ReplyT]]
    failures: dict[int, FacegridError]

    @property
    def coverage(self) -> Coverage:
        """How many shards answered."""
        return Coverage(sum(len(shards) for shards, _ in self.replies), self.route.shards)

    def check_complete(self) -> None:
        """Raise unless every shard answered: the error itself where repeating the call will not help or the deadline
        passed, else IncompleteCoverage."""
        if not self.failures:
            return
        shard, failure = min(self.failures.items())
        if isinstance(failure, DeadlineExceeded) or not failure.is_retryable:
            raise failure
        raise IncompleteCoverage(
            f"{self.coverage.answered} of {self.coverage.asked} shards answered for {self.route.name}; shard {shard}"
            f" did not: {failure}"
        ) from failure


class HedgeBudget:
    """Allows hedges up to a share of all requests, and a burst. Thread-safe."""

    def __init__(self, share: float, burst: float) -> None:
        self._share, self._burst, self._left = share, burst, burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A first request was sent."""
        if self._left < self._burst:
            with self._lock:
                self._left = min(self._burst, self._left + self._share)

    def spend(self, count: int) -> bool:
        """Whether `count` hedges may be sent now."""
        with self._lock:
            is_enough = self._left >= count
            self._left -= count * is_enough
            return is_enough


class Reads:
    """Reads of one process from the replicas of a runtime. Thread-safe."""

    def __init__(
        self, runtime: Runtime, routes: RouteTable, health: HealthTable, policy: ReadPolicy | None = None
    ) -> None:
        self.runtime, self.routes, self.health = runtime, routes, health
        self.policy = policy or ReadPolicy()
        self.budget = HedgeBudget(self.policy.hedge_share, self.policy.hedge_burst)
        self.turns = itertools.count()
        self._plans: OrderedDict[str, tuple[GalleryRoute, dict[str, tuple[int, ...]] | None]] = OrderedDict()

    def ask(self, route: GalleryRoute, question: Question[ReplyT], deadline: float) -> Answers[ReplyT]:
        """Ask every shard of the gallery; `deadline` is a time.monotonic() value.

        Returns when each has answered, or has failed on every replica, or the deadline has passed. Raises at once what
        no other replica would answer otherwise: UnknownGallery, InvalidParameter and all that is not in HOST_FAULTS or
        SHARD_FAULTS.
        """
        read = _Read(self, self.routes.current(route), question, deadline)
        try:
            read.run()
        finally:
            read.leave()
        return Answers(read.route, read.progress.replies(), read.progress.failures)

    def only_plan(self, route: GalleryRoute) -> dict[str, tuple[int, ...]] | None:
        """Host to shards where every shard has one replica, so that there is nothing to choose; None otherwise."""
        known = self._plans.get(route.gallery_id)
        if known is None or (known[0] is not route and known[0] != route):
            is_single = all(len(hosts) == 1 for hosts in route.in_sync)
            known = self._plans[route.gallery_id] = (route, route.shards_by_host() if is_single else None)
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        return known[1]


class _Read:
    """One call of `Reads.ask`, in its caller's thread; only `_arrive` runs in others."""

    __slots__ = (
        "_alone", "_arrivals", "_at_once", "_deadline", "_health", "_live", "_paused", "_pauses", "_policy",
        "_question", "_reads", "_resume_at", "_spent", "_stale", "progress", "route",
    )  # fmt: skip

    def __init__(self, reads: Reads, route: GalleryRoute, question: Question[Any], deadline: float) -> None:
        self.route = route
        self.progress = Progress(route.shards)
        self._reads, self._health, self._policy = reads, reads.health, reads.policy
        self._question, self._deadline = question, deadline
        # Made when first needed: a runtime that answers in this thread needs none of it.
        self._arrivals: SimpleQueue[tuple[Attempt, Future[Reply]]] | None = None
        self._at_once: deque[tuple[Attempt, Future[Reply]]] = deque()
        self._live: set[Attempt] = set()
        self._spent: dict[int, set[str]] = {}
        self._alone: dict[int, set[str]] = {}
        self._stale: set[int] = set()
        self._pauses = iter(self._policy.stale_pauses_s)
        self._paused: list[Group] = []
        self._resume_at = math.inf

    def run(self) -> None:
        """Ask, and wait until nothing more can come."""
        progress = self.progress
        plan = self._reads.only_plan(self.route)
        is_only = plan is not None
        if plan is None:
            plan = self._choose({shard: self._options(shard) for shard in range(self.route.shards)})
        for host, shards in plan.items():
            self._reads.budget.earn()
            self._send(progress.add(shards), host, "first")
        if not (is_only or self._health.all_closed or self._question.primaries_only):
            self._try_opened(plan)
        while progress.open:
            if self._at_once:
                self._settle(*self._at_once.popleft())
            elif not self._wait():
                break

    def leave(self) -> None:
        """Let go of what is still under way: its answers will be noted by `_arrive` and dropped."""
        for attempt in self._live:
            attempt.group = None
        for attempt, _ in self._at_once:
            attempt.group = None

    # Sending

    def _send(self, group: Group, host: str, purpose: Purpose) -> None:
        reads, question, shards = self._reads, self._question, group.shards
        request = question.request(shards, self.route.epochs_of(shards))
        self._health.started(host, purpose)
        attempt = Attempt(group, host, time.monotonic())
        try:
            future = reads.runtime.submit(host, request, deadline=self._deadline)
        except BaseException:
            self._health.abandoned(host)
            raise
        self.progress.sent(group)
        if future.done():
            _note(self._health, question.kind, question.probes, attempt, future)
            self._at_once.append((attempt, future))
            return
        self._time(attempt)
        self._live.add(attempt)
        if self._arrivals is None:
            self._arrivals = SimpleQueue()
        # It refers to nothing that is large: the host may take until the deadline and longer.
        arrive = partial(_arrive, self._arrivals, self._health, question.kind, question.probes, attempt)
        future.add_done_callback(arrive)

    def _time(self, attempt: Attempt) -> None:
        """Set when the attempt is to be hedged and when it is late; never where there is nobody else to ask."""
        question, policy = self._question, self._policy
        p95 = self._health.p95_s(attempt.host, question.kind, question.probes)
        if p95 is None:
            p95 = policy.unknown_p95_s
        attempt.patience_s = p95 + policy.late_margin_s
        assert attempt.group is not None
        if not question.primaries_only and any(len(self.route.in_sync[shard]) > 1 for shard in attempt.group.shards):
            attempt.hedge_at = attempt.began + max(p95, policy.hedge_floor_s)
            attempt.late_at = attempt.began + attempt.patience_s

    def _try_opened(self, asked: Container[str]) -> None:
        """Ask hosts whose back-off is over for one shard each, besides those that were chosen for it: nobody waits
        for a host that is still ill."""
        for shard, hosts in enumerate(self.route.in_sync):
            for host in hosts:
                if host not in asked and not self._health.is_closed(host) and self._health.begin_trial(host):
                    group = self.progress.split(self.progress.leaf_of(shard), [(shard,)])[0]
                    self._spent.setdefault(shard, set()).add(host)
                    self._send(group, host, "trial")

    # Choosing

    def _choose(self, options: Mapping[int, Sequence[str]]) -> dict[str, tuple[int, ...]]:
        """Hosts to ask, of the options of each shard. They are no options for the same shard again."""
        chosen = choose_hosts(options, self._health.outstanding, next(self._reads.turns))
        for host, taken in chosen.items():
            for shard in taken:
                self._spent.setdefault(shard, set()).add(host)
        return chosen

    def _options(self, shard: int, *, closed_only: bool = False) -> Sequence[str]:
        """The replicas that were not asked for the shard; those with a closed breaker if there are any."""
        hosts = self.route.in_sync[shard]
        if self._question.primaries_only:
            hosts = hosts[:1]
        spent = self._spent.get(shard)
        if spent:
            hosts = tuple([host for host in hosts if host not in spent])
        if self._health.all_closed:
            return hosts
        # A breaker says whom to ask last. Nobody is not asked at all: no answer is worse than a slow one.
        return [host for host in hosts if self._health.is_closed(host)] or ([] if closed_only else hosts)

    def _ask_others(self, group: Group, purpose: Purpose) -> None:
        """Ask other replicas for those of the group's shards that have no answer and no request that may bring it."""
        if time.monotonic() >= self._deadline:
            for leaf in self.progress.leaves(group):
                if not self.progress.is_under_way(leaf):
                    self.progress.fail(leaf)
            return
        for leaf in self.progress.leaves(group):
            if self.progress.is_settled(leaf) or self.progress.is_hopeful(leaf):
                continue
            chosen = self._choose({shard: self._options(shard) for shard in leaf.shards})
            self._send_pieces(leaf, list(chosen.items()) or self._last_resort(leaf), purpose)
            for part in list(self.progress.leaves(leaf)):
                if not self.progress.is_under_way(part):
                    self._exhausted(part)

    def _last_resort(self, leaf: Group) -> list[tuple[str, tuple[int, ...]]]:
        """Hosts that could not answer for a shard and its neighbours together, each for one of them alone."""
        pieces: list[tuple[str, tuple[int, ...]]] = []
        for shard in leaf.shards:
            hosts = self._alone.get(shard)
            if hosts:
                pieces.append((hosts.pop(), (shard,)))
        return pieces

    def _send_pieces(self, leaf: Group, pieces: Sequence[tuple[str, tuple[int, ...]]], purpose: Purpose) -> None:
        parts = self.progress.split(leaf, [shards for _, shards in pieces])
        for part, (host, _) in zip(parts, pieces, strict=True):
            self._send(part, host, purpose)

    def _exhausted(self, leaf: Group) -> None:
        """No replica is left. The shards have failed, unless their hosts may only not have heard of a new epoch yet."""
        if any(self._alone.get(shard) for shard in leaf.shards):
            self._ask_others(leaf, "retry")
            return
        if not self._stale.isdisjoint(leaf.shards) and self._pause():
            self._paused.append(leaf)
        else:
            self.progress.fail(leaf)

    def _pause(self) -> bool:
        """Whether there is a pause, begun now or before, after which all replicas are asked again."""
        if self._resume_at == math.inf:
            self._resume_at = time.monotonic() + next(self._pauses, math.inf)
        return self._resume_at < math.inf

    # What happens

    def _wait(self) -> bool:
        """Wait for the next answer or the next thing that is due; False once the deadline has passed."""
        wake = min([self._deadline, self._resume_at, *(min(a.hedge_at, a.late_at) for a in self._live)])
        left = wake - time.monotonic()
        if self._arrivals is None:
            self._arrivals = SimpleQueue()
        try:
            attempt, future = (
                self._arrivals.get(timeout=min(left, LONGEST_WAIT_S)) if left > 0 else self._arrivals.get_nowait()
            )
        except Empty:
            return self._due(time.monotonic())
        self._live.discard(attempt)
        self._settle(attempt, future)
        return True

    def _due(self, now: float) -> bool:
        if now >= self._deadline:
            self.progress.expire({a.group: a.host for a in self._live if a.group is not None})
            return False
        if now >= self._resume_at:
            self._resume()
        for attempt in [a for a in self._live if a.late_at <= now or a.hedge_at <= now]:
            group = attempt.group
            assert group is not None
            if attempt.late_at <= now:
                attempt.late_at = attempt.hedge_at = math.inf
                self._health.timed_out(attempt.host)
                attempt.is_late = True
                self.progress.late(group)
                self._ask_others(group, "retry")
            else:
                attempt.hedge_at = math.inf
                self._hedge(group)
        return True

    def _hedge(self, group: Group) -> None:
        for leaf in self.progress.leaves(group):
            if self.progress.is_settled(leaf) or self.progress.is_hedged(leaf):
                continue
            options = {shard: self._options(shard, closed_only=True) for shard in leaf.shards}
            if any(options.values()) and self._reads.budget.spend(1):
                self._send_pieces(leaf, list(self._choose(options).items()), "hedge")

    def _settle(self, attempt: Attempt, future: Future[Reply]) -> None:
        """Take an answer, or ask others after a failure."""
        group = attempt.group
        assert group is not None
        self.progress.ended(group, was_late=attempt.is_late)
        error = _error_of(future)
        if error is None:
            reply = future.result()
            if not isinstance(reply, self._question.reply):
                raise TypeError(f"expected a {self._question.reply.__name__}, got {type(reply).__name__}")
            self.progress.answer(group, reply)
            return
        for shard in group.shards:
            self._spent.setdefault(shard, set()).add(attempt.host)
        if isinstance(error, UnknownGallery):
            self._moved(group, attempt.host, error)
        elif isinstance(error, SHARD_FAULTS):
            self._blame(group, attempt.host)
            if isinstance(error, StaleRoute):
                self._stale.update(group.shards)
                self._refresh()
        elif not isinstance(error, HOST_FAULTS):
            raise error
        self.progress.note(group, error)
        self._ask_others(group, "retry")

    def _blame(self, group: Group, host: str) -> None:
        """One of the shards is at fault and nobody knows which: the host may be asked for each alone."""
        if len(group.shards) > 1:
            for shard in group.shards:
                self._alone.setdefault(shard, set()).add(host)

    def _moved(self, group: Group, host: str, error: FacegridError) -> None:
        """A host that has nothing of the gallery: dropped, unless a newer route says that the host has left it."""
        before = self.route
        self._refresh()
        if all(before.in_sync[shard] == self.route.in_sync[shard] for shard in group.shards):
            raise error

    def _refresh(self) -> None:
        """Go on with the newest route; where it differs, every replica of the shard may be asked again."""
        left_s = self._deadline - time.monotonic()
        before, self.route = self.route, self._reads.routes.refresh(
            self.route, max(0.0, min(self._policy.refresh_s, left_s))
        )  # fmt: skip
        if self.route is before:
            return
        for shard in range(before.shards):
            if (before.epochs[shard], before.in_sync[shard]) != (self.route.epochs[shard], self.route.in_sync[shard]):
                self._spent.pop(shard, None)
                self._alone.pop(shard, None)

    def _resume(self) -> None:
        """After a pause: ask for the route again, and all replicas of the shards that were stale everywhere."""
        paused, self._paused, self._resume_at = self._paused, [], math.inf
        self._stale.clear()
        self._refresh()
        for leaf in paused:
            for shard in leaf.shards:
                self._spent.pop(shard, None)
            self._ask_others(leaf, "retry")


def _arrive(
    arrivals: SimpleQueue[tuple[Attempt, Future[Reply]]],
    health: HealthTable,
    kind: str,
    probes: int,
    attempt: Attempt,
    future: Future[Reply],
) -> None:
    """An attempt ended, in whatever thread. Nobody takes it from the queue if the read is over by then."""
    _note(health, kind, probes, attempt, future)
    if attempt.group is not None:
        arrivals.put((attempt, future))


def _note(health: HealthTable, kind: str, probes: int, attempt: Attempt, future: Future[Reply]) -> None:
    """What the end of an attempt says of its host."""
    error = _error_of(future)
    seconds = time.monotonic() - attempt.began
    if error is None:
        health.answered(attempt.host, kind, probes, seconds)
    elif isinstance(error, HostUnavailable):
        health.failed(attempt.host)
    elif not isinstance(error, DeadlineExceeded):
        health.answered(attempt.host)
    elif seconds < attempt.patience_s or attempt.is_late:
        health.abandoned(attempt.host)
    else:
        health.failed(attempt.host)


def _error_of(future: Future[Reply]) -> BaseException | None:
    if future.cancelled():
        return HostUnavailable("the request was cancelled")
    return future.exception()
