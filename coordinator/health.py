"""What one process has observed of each shard host: how fast it answers, and whether it is worth asking.

Pure bookkeeping: no I/O, no thread, and time is a callable. `coordinator.reads` reports what became of its requests and
asks for estimates. It decides nothing about routes: a host whose breaker is open is asked last, not never.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Breaker: TypeAlias = Literal["closed", "open", "half_open"]
Purpose: TypeAlias = Literal["first", "retry", "hedge", "trial"]

WINDOW = 128
"""Latest latencies kept for each host, kind and size."""
MIN_SAMPLES = 16
"""With fewer there is no estimate. Up to 19 samples the p95 is their maximum."""
_REFRESH = 8
"""Samples after which an estimate is computed anew."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a breaker opens and for how long. A trial that is not heard of for `trial_s` no longer blocks the next."""

    failures_to_open: int = 3
    first_back_off_s: float = 0.5
    max_back_off_s: float = 30.0
    trial_s: float = 30.0


@dataclass(frozen=True, slots=True)
class HostHealth:
    """One host as this process sees it.

    p95_ms: of the latest requests of all kinds, None before there are MIN_SAMPLES. requests: sent, in all; `failures`:
    connections refused or broken and attempts that took too long; hedges, retries: how many of the requests were sent
    because another was slow, or had failed. outstanding: unanswered now. answers: (kind, answers, their seconds
    together) of each kind of request.
    """

    host: str
    breaker: Breaker
    p95_ms: float | None
    requests: int
    failures: int
    hedges: int
    retries: int
    outstanding: int
    answers: tuple[tuple[str, int, float], ...] = ()


class LatencyWindow:
    """The latest WINDOW latencies of one kind of request. Not thread-safe."""

    __slots__ = ("_new", "_p95", "samples")

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=WINDOW)
        self._p95 = 0.0
        self._new = _REFRESH

    def add(self, seconds: float) -> None:
        """Note one latency; the oldest of a full window is forgotten."""
        self.samples.append(seconds)
        self._new += 1

    def p95_s(self) -> float | None:
        """The 95th percentile (nearest rank) in seconds, at most _REFRESH samples old; None below MIN_SAMPLES."""
        if len(self.samples) < MIN_SAMPLES:
            return None
        if self._new >= _REFRESH:
            self._p95, self._new = nearest_rank(self.samples, 0.95), 0
        return self._p95


def nearest_rank(samples: deque[float] | list[float], share: float) -> float:
    """The smallest sample that is not below `share` of all. At least one sample."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


@dataclass(slots=True)
class _Host:
    """The state of one host. `failed_in_row` counts while the breaker is closed; `until` and `back_off_s` are the
    open breaker's; `trial_since` is when the trial under way began, None if there is none."""

    failed_in_row: int = 0
    is_open: bool = False
    until: float = 0.0
    back_off_s: float = 0.0
    trial_since: float | None = None
    requests: int = 0
    failures: int = 0
    hedges: int = 0
    retries: int = 0
    outstanding: int = 0
    windows: dict[tuple[str, int], LatencyWindow] = field(default_factory=dict)
    """By kind and by the power of two of the number of probes."""
    answers: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By kind: how many, and their seconds."""


class HealthTable:
    """Health of every host that was asked. Thread-safe.

    A request is reported once by `started` and once by `answered`, `failed` or `abandoned`; `timed_out` comes between.
    """

    def __init__(self, policy: HealthPolicy | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy or HealthPolicy()
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}
        self._open = 0

    @property
    def all_closed(self) -> bool:
        """No breaker is open or half-open."""
        return self._open == 0

    def started(self, host: str, purpose: Purpose = "first") -> None:
        """A request is about to be sent."""
        with self._lock:
            state = self._host(host)
            state.requests += 1
            state.outstanding += 1
            if purpose == "hedge":
                state.hedges += 1
            elif purpose == "retry":
                state.retries += 1

    def answered(self, host: str, kind: str = "", probes: int = 0, seconds: float | None = None) -> None:
        """The host answered; closes its breaker. seconds: None for an answer that says nothing of the time it takes
        (an error)."""
        with self._lock:
            state = self._host(host)
            state.outstanding -= 1
            state.failed_in_row = 0
            if state.is_open:
                state.is_open, state.trial_since, state.back_off_s = False, None, 0.0
                self._open -= 1
            if seconds is not None:
                key = (kind, probes.bit_length())
                window = state.windows.get(key)
                if window is None:
                    window = state.windows[key] = LatencyWindow()
                window.add(seconds)
                count, total = state.answers.get(kind, (0, 0.0))
                state.answers[kind] = count + 1, total + seconds

    def failed(self, host: str) -> None:
        """The connection was refused or broke."""
        with self._lock:
            state = self._host(host)
            state.outstanding -= 1
            self._count_failure(state)

    def timed_out(self, host: str) -> None:
        """A request takes longer than it should; it is still under way, and may be answered."""
        with self._lock:
            self._count_failure(self._host(host))

    def abandoned(self, host: str) -> None:
        """A request ended and says nothing of the host: its caller's deadline was too short, or it was not sent."""
        with self._lock:
            state = self._host(host)
            state.outstanding -= 1
            state.trial_since = None

    def is_closed(self, host: str) -> bool:
        """Whether the host's breaker is closed; that of a host never asked is."""
        state = self._hosts.get(host)
        return state is None or not state.is_open

    def begin_trial(self, host: str) -> bool:
        """Whether a trial request may be sent now: the back-off is over and no other trial is under way."""
        with self._lock:
            state = self._host(host)
            now = self._clock()
            if not state.is_open or now < state.until:
                return False
            if state.trial_since is not None and now < state.trial_since + self._policy.trial_s:
                return False
            state.trial_since = now
            return True

    def outstanding(self, host: str) -> int:
        """Requests of this process to the host that are unanswered."""
        state = self._hosts.get(host)
        return 0 if state is None else state.outstanding

    def p95_s(self, host: str, kind: str, probes: int) -> float | None:
        """95th percentile in seconds of requests of this kind and about as many probes (the same power of two).

        Where there are too few: that of the next larger size known, else of the next smaller in proportion to the
        size, both of which are rather too long than too short. None if no size is known.
        """
        with self._lock:
            state = self._hosts.get(host)
            if state is None:
                return None
            own = probes.bit_length()
            window = state.windows.get((kind, own))
            if window is not None and (estimate := window.p95_s()) is not None:
                return estimate
            known = {
                size: p95
                for (its_kind, size), window in state.windows.items()
                if its_kind == kind and (p95 := window.p95_s()) is not None
            }
        larger = [size for size in known if size > own]
        if larger:
            return known[min(larger)]
        return known[max(known)] * 2.0 ** (own - max(known)) if known else None

    def snapshot(self) -> tuple[HostHealth, ...]:
        """Every host that was asked, by name."""
        with self._lock:
            now = self._clock()
            return tuple(self._told(name, state, now) for name, state in sorted(self._hosts.items()))

    def _told(self, name: str, state: _Host, now: float) -> HostHealth:
        samples = [seconds for window in state.windows.values() for seconds in window.samples]
        return HostHealth(
            host=name,
            breaker="closed" if not state.is_open else "open" if now < state.until else "half_open",
            p95_ms=nearest_rank(samples, 0.95) * 1_000 if len(samples) >= MIN_SAMPLES else None,
            requests=state.requests,
            failures=state.failures,
            hedges=state.hedges,
            retries=state.retries,
            outstanding=state.outstanding,
            answers=tuple((kind, *told) for kind, told in sorted(state.answers.items())),
        )

    def _host(self, name: str) -> _Host:
        state = self._hosts.get(name)
        if state is None:
            state = self._hosts[name] = _Host()
        return state

    def _count_failure(self, state: _Host) -> None:
        state.failures += 1
        now, policy = self._clock(), self._policy
        if not state.is_open:
            state.failed_in_row += 1
            if state.failed_in_row >= policy.failures_to_open:
                state.is_open, state.back_off_s = True, policy.first_back_off_s
                state.until = now + state.back_off_s
                self._open += 1
        elif now >= state.until:
            # A trial, or a request that had no other host to go to. What fails within the back-off proves nothing new.
            state.back_off_s = min(2 * state.back_off_s, policy.max_back_off_s)
            state.until, state.trial_since = now + state.back_off_s, None
