"""One read of a gallery: asks a replica of every shard, and others where one fails or is slow.

Shards that one host answers for travel in one request. A request that fails is made again at other replicas, for its
shards alone; one that takes longer than others did is hedged: another replica is asked too, and the first answer
counts. `coordinator.attempts` keeps which answers those are, so that none counts twice. The caller's thread does
everything and waits for whatever comes first: an answer, a hedge that is due, the deadline.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from coordinator.attempts import Attempt, Group, Progress
from coordinator.health import HealthTable, Purpose
from coordinator.hedging import HedgeBudget, ReadPolicy
from coordinator.messages import DataRequest, Reply
from coordinator.questions import Question, expected
from coordinator.replicas import choose_hosts
from coordinator.routes import RouteTable
from coordinator.runtime import Runtime
from coordinator.types import GalleryRoute
from shard.errors import (
    DeadlineExceeded,
    FacegridError,
    HostBusy,
    HostUnavailable,
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
LONGEST_WAIT_S = 3_600.0
"""Deadlines may be later than what a queue can wait for at once."""

Sent: TypeAlias = tuple[str, tuple[int, ...], float, float, "Future[Reply]"]
"""Host, shards, when sent, when the runtime returned, future."""


class ReadDesk:
    """What all reads of a process share. Thread-safe."""

    def __init__(
        self,
        runtime: Runtime,
        routes: RouteTable,
        health: HealthTable,
        policy: ReadPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds, by which deadlines are meant; that of time.monotonic() but in simulations."""
        self.runtime, self.routes, self.health, self.policy = runtime, routes, health, policy
        self.clock = clock
        self.budget = HedgeBudget(policy.hedge_share, policy.hedge_burst)
        self.turns = itertools.count()

    def submit(self, host: str, request: DataRequest, deadline: float, purpose: Purpose = "first") -> Future[Reply]:
        """Send a request and note it; what the runtime raises is the future's."""
        self.health.started(host, purpose)
        try:
            return self.runtime.submit(host, request, deadline=deadline)
        except Exception as error:  # noqa: BLE001 - handed on by the future, like what a host raises
            failed: Future[Reply] = Future()
            failed.set_exception(error)
            return failed


class FanOut:
    """One read, in its caller's thread; only `_arrive` runs in others."""

    def __init__(
        self,
        desk: ReadDesk,
        route: GalleryRoute,
        question: Question[Any],
        deadline: float,
        shards: Sequence[int] | None = None,
    ) -> None:
        """shards: those to ask, all of the gallery if None."""
        self.route = route
        self.progress = Progress(route.shards, shards)
        self._desk, self._health, self._policy = desk, desk.health, desk.policy
        self._question, self._deadline = question, deadline
        # Made when first needed: a runtime that answers in this thread needs none of it.
        self._arrivals: SimpleQueue[tuple[Attempt, Future[Reply]]] | None = None
        self._at_once: deque[tuple[Attempt, Future[Reply]]] = deque()
        self._live: set[Attempt] = set()
        # Of every attempt when it is to be hedged and when it is late, the next first: (time, number, attempt).
        self._timers: list[tuple[float, int, Attempt]] = []
        self._numbers = itertools.count()
        self._spent: dict[int, set[str]] = {}
        self._alone: dict[int, set[str]] = {}
        self._stale: set[int] = set()
        self._pauses = iter(self._policy.stale_pauses_s)
        self._paused: list[Group] = []
        self._resume_at = math.inf

    def run(self, sent: list[Sent]) -> None:
        """Ask, unless the requests were sent already, and wait until nothing more can come."""
        self.begin(sent)
        while self.advance():
            pass

    def begin(self, sent: list[Sent]) -> None:
        """Ask, unless the requests were sent already; waits for nothing."""
        for host, shards, began, _, future in sent:
            self._track(Attempt(self.progress.add(shards), host, began), future)
        if not sent:
            self._ask_all()

    def advance(self, longest_s: float = LONGEST_WAIT_S) -> bool:
        """Take the next answer or, if none comes in time, do what is due, after `longest_s` at most; False if that was
        all. Who knows that something has come, or that it is `wake_at`, need not wait at all."""
        if self.progress.open:
            if self._at_once:
                self._settle(*self._at_once.popleft())
            else:
                return self._wait(longest_s)
        return self.progress.open > 0

    @property
    def wake_at(self) -> float:
        """When something is due if no answer comes."""
        timers = self._timers
        while timers and not self._is_set(timers[0]):
            heappop(timers)
        return min(self._deadline, self._resume_at, timers[0][0] if timers else math.inf)

    def leave(self) -> None:
        """Let go of what is still under way: its answers will be noted by `_arrive` and dropped."""
        for attempt in self._live:
            attempt.group = None
        # What came in between is held by the callbacks of what has not come yet.
        while self._arrivals is not None and not self._arrivals.empty():
            self._arrivals.get()

    # Sending

    def _ask_all(self) -> None:
        plan = self._choose({shard: self._options(shard) for shard in self.progress.asked})
        for host, shards in plan.items():
            self._desk.budget.earn()
            self._send(self.progress.add(shards), host, "first")
        if not self._health.all_closed:
            self._try_opened(plan)

    def _send(self, group: Group, host: str, purpose: Purpose) -> None:
        request = self._question.request(group.shards, self.route.epochs_of(group.shards))
        attempt = Attempt(group, host, self._desk.clock())
        self._track(attempt, self._desk.submit(host, request, self._deadline, purpose))

    def _track(self, attempt: Attempt, future: Future[Reply]) -> None:
        assert attempt.group is not None
        self.progress.sent(attempt.group)
        question = self._question
        if future.done():
            _note(self._desk, question.kind, question.probes, attempt, future)
            self._at_once.append((attempt, future))
            return
        self._time(attempt)
        self._live.add(attempt)
        if self._arrivals is None:
            self._arrivals = SimpleQueue()
        # It refers to nothing that is large: the host may take until the deadline and longer.
        arrive = partial(_arrive, self._arrivals, self._desk, question.kind, question.probes, attempt)
        future.add_done_callback(arrive)

    def _time(self, attempt: Attempt) -> None:
        """Set when the attempt is to be hedged and when it is late; never where there is nobody else to ask."""
        question, policy = self._question, self._policy
        p95 = self._health.p95_s(attempt.host, question.kind, question.probes)
        if p95 is None:
            p95 = policy.unknown_p95_s
        attempt.patience_s = p95 + policy.late_margin_s
        assert attempt.group is not None
        if any(len(self.route.in_sync[shard]) > 1 for shard in attempt.group.shards):
            attempt.hedge_at = attempt.began + max(p95, policy.hedge_floor_s)
            attempt.late_at = attempt.began + attempt.patience_s
            heappush(self._timers, (attempt.hedge_at, next(self._numbers), attempt))
            heappush(self._timers, (attempt.late_at, next(self._numbers), attempt))

    def _is_set(self, timer: tuple[float, int, Attempt]) -> bool:
        """Whether something is to be done then: the attempt is under way, and was not hedged or late before."""
        when, _, attempt = timer
        return attempt in self._live and when in (attempt.hedge_at, attempt.late_at)

    def _try_opened(self, asked: Container[str]) -> None:
        """Ask hosts whose back-off is over for one shard each, besides those that were chosen for it: nobody waits
        for a host that is still ill."""
        for shard in self.progress.asked:
            for host in self.route.in_sync[shard]:
                if host not in asked and not self._health.is_closed(host) and self._health.begin_trial(host):
                    group = self.progress.split(self.progress.leaf_of(shard), [(shard,)])[0]
                    self._spent.setdefault(shard, set()).add(host)
                    self._send(group, host, "trial")

    # Choosing

    def _choose(self, options: Mapping[int, Sequence[str]]) -> dict[str, tuple[int, ...]]:
        """Hosts to ask, of the options of each shard. They are no options for the same shard again."""
        chosen = choose_hosts(options, self._health.outstanding, next(self._desk.turns))
        for host, taken in chosen.items():
            for shard in taken:
                self._spent.setdefault(shard, set()).add(host)
        return chosen

    def _options(self, shard: int, *, closed_only: bool = False) -> Sequence[str]:
        """The replicas that were not asked for the shard; those with a closed breaker if there are any."""
        hosts = self.route.in_sync[shard]
        spent = self._spent.get(shard)
        if spent:
            hosts = tuple([host for host in hosts if host not in spent])
        if self._health.all_closed:
            return hosts
        # A breaker says whom to ask last. Nobody is not asked at all: no answer is worse than a slow one.
        return [host for host in hosts if self._health.is_closed(host)] or ([] if closed_only else hosts)

    def _ask_others(self, group: Group, purpose: Purpose) -> None:
        """Ask other replicas for those of the group's shards that have no answer and no request that may bring it."""
        if self._desk.clock() >= self._deadline:
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
                if not self.progress.is_settled(part) and not self.progress.is_hopeful(part):
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
        """No replica is left that is not late at least. The shards have failed where nothing is under way either,
        unless their hosts may only not have heard of a new epoch yet: those are asked again, whoever is late."""
        if any(self._alone.get(shard) for shard in leaf.shards):
            self._ask_others(leaf, "retry")
            return
        if not self._stale.isdisjoint(leaf.shards) and self._pause():
            self._paused.append(leaf)
        elif not self.progress.is_under_way(leaf):
            self.progress.fail(leaf)

    def _pause(self) -> bool:
        """Whether there is a pause, begun now or before, after which all replicas are asked again."""
        if self._resume_at == math.inf:
            self._resume_at = self._desk.clock() + next(self._pauses, math.inf)
        return self._resume_at < math.inf

    # What happens

    def _wait(self, longest_s: float) -> bool:
        """Wait for the next answer or the next thing that is due; False once the deadline or the last shard is over."""
        left = self.wake_at - self._desk.clock()
        if self._arrivals is None:
            self._arrivals = SimpleQueue()
        try:
            # Of what is due now and what has come, what has come is taken first.
            attempt, future = self._arrivals.get(timeout=min(max(left, 0.0), longest_s))
        except Empty:
            return self._due(self._desk.clock())
        self._live.discard(attempt)
        self._settle(attempt, future)
        return self.progress.open > 0

    def _due(self, now: float) -> bool:
        if now >= self._deadline:
            self.progress.expire([(a.group, a.host) for a in self._live if a.group is not None])
            return False
        if now >= self._resume_at:
            self._resume()
        due: list[Attempt] = []
        while self._timers and self._timers[0][0] <= now:
            timer = heappop(self._timers)
            if self._is_set(timer):
                due.append(timer[2])
        for attempt in due:
            group = attempt.group
            assert group is not None
            if attempt.late_at <= now:
                attempt.late_at = attempt.hedge_at = math.inf
                self._health.timed_out(attempt.host)
                attempt.is_late = True
                self.progress.late(group)
                self._ask_others(group, "retry")
            elif attempt.hedge_at <= now:
                attempt.hedge_at = math.inf
                self._hedge(group)
        return self.progress.open > 0

    def _hedge(self, group: Group) -> None:
        for leaf in self.progress.leaves(group):
            if self.progress.is_settled(leaf) or self.progress.is_hedged(leaf):
                continue
            options = {shard: self._options(shard, closed_only=True) for shard in leaf.shards}
            if any(options.values()) and self._desk.budget.spend():
                chosen = self._choose(options)
                self._desk.budget.charge(len(chosen) - 1)
                self._send_pieces(leaf, list(chosen.items()), "hedge")

    def _settle(self, attempt: Attempt, future: Future[Reply]) -> None:
        """Take an answer, or ask others after a failure."""
        group = attempt.group
        assert group is not None
        self.progress.ended(group, was_late=attempt.is_late)
        error = error_of(future)
        if error is None:
            self.progress.answer(group, expected(future.result(), self._question.reply))
            return
        if self.progress.is_answered(group):
            return
        for shard in group.shards:
            self._spent.setdefault(shard, set()).add(attempt.host)
        if isinstance(error, UnknownGallery):
            self._moved(group, error)
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

    def _moved(self, group: Group, error: FacegridError) -> None:
        """A host that has nothing of the gallery: dropped, unless a newer route says that the host has left it."""
        before = self.route
        self._refresh()
        if all(before.in_sync[shard] == self.route.in_sync[shard] for shard in group.shards):
            raise error

    def _refresh(self) -> None:
        """Go on with the newest route; where it differs, every replica of the shard may be asked again."""
        left_s = self._deadline - self._desk.clock()
        before = self.route
        self.route = self._desk.routes.refresh(before, max(0.0, min(self._policy.refresh_s, left_s)))
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
    desk: ReadDesk,
    kind: str,
    probes: int,
    attempt: Attempt,
    future: Future[Reply],
) -> None:
    """An attempt ended, in whatever thread. Nobody takes it from the queue if the read is over by then."""
    _note(desk, kind, probes, attempt, future)
    if attempt.group is not None:
        arrivals.put((attempt, future))


def _note(desk: ReadDesk, kind: str, probes: int, attempt: Attempt, future: Future[Reply]) -> None:
    """What the end of an attempt says of its host."""
    health, error = desk.health, error_of(future)
    seconds = desk.clock() - attempt.began
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


def error_of(future: Future[Reply]) -> BaseException | None:
    """What a future that is done raises."""
    if future.cancelled():
        return HostUnavailable("the request was cancelled")
    return future.exception()
