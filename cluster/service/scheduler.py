"""Whose turn it is: weighted fair queueing of work over a few threads.

Each flow (a tenant's single queries, its batches, its writes) has a queue. A piece of work is stamped with the virtual
time at which it would start if every flow had its share of the machine all the time; the earliest stamp goes first. A
flow that was idle starts at the present, so a tenant that asks rarely is served next, whatever others have queued, and
one that floods waits behind itself alone. What a piece costs is guessed when it is queued and set right when it is
done. Source: start-time fair queueing, Goyal, Vin and Cheng, SIGCOMM 1996.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shard.errors import RateLimited, ShardClosed

MAX_WAITING = 2_048
"""Pieces that one flow may have waiting; more are refused at once, with a time after which to try again."""


@dataclass(slots=True)
class Piece:
    """Work to be done once in a worker's thread. run must not raise. cost_s: seconds that it is expected to take."""

    run: Callable[[], None]
    cost_s: float
    start: float = 0.0


@dataclass(slots=True)
class _Flow:
    name: tuple[str, str]
    weight: float
    waiting: deque[Piece] = field(default_factory=deque)
    last_finish: float = 0.0


class FairScheduler:
    """Threads that take the next piece of the flow whose turn it is. Thread-safe."""

    def __init__(self, name: str, threads: int) -> None:
        self._lock = threading.Condition()
        self._flows: dict[tuple[str, str], _Flow] = {}
        self._turns: list[tuple[float, int, _Flow]] = []
        self._number = itertools.count()
        self._now = 0.0
        self._under_way = 0
        self._is_closed = False
        self._name, self._limit = name, 0
        self._threads: list[threading.Thread] = []
        self.resize(threads)

    def resize(self, threads: int) -> None:
        """Have at most so many pieces under way from now on; those that are beyond it come to their end."""
        if threads == self._limit:
            return
        with self._lock:
            self._limit = threads
            while len(self._threads) < threads and not self._is_closed:
                name = f"facegrid-{self._name}-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
            self._lock.notify_all()

    def submit(self, flow: tuple[str, str], weight: float, piece: Piece, *, is_background: bool = False) -> None:
        """Queue a piece of a flow: (tenant, kind). RateLimited if it has MAX_WAITING, ShardClosed at the end.

        is_background: it is stamped with when it would end, not start, so that it is not next just for coming rarely.
        """
        with self._lock:
            if self._is_closed:
                raise ShardClosed("the service is being stopped")
            found = self._flows.get(flow)
            if found is None:
                found = self._flows[flow] = _Flow(flow, weight)
            found.weight = weight
            if len(found.waiting) >= MAX_WAITING:
                raise RateLimited(f"{MAX_WAITING} requests of this tenant are waiting for their turn", retry_after_s=1)
            piece.start = max(self._now, found.last_finish)
            found.last_finish = piece.start + piece.cost_s / weight
            if is_background:
                piece.start = found.last_finish
            found.waiting.append(piece)
            if len(found.waiting) == 1:
                self._enter(found)
            self._lock.notify()

    def waiting(self) -> dict[str, int]:
        """Pieces that wait, by tenant."""
        with self._lock:
            found: dict[str, int] = {}
            for (tenant, _), flow in self._flows.items():
                found[tenant] = found.get(tenant, 0) + len(flow.waiting)
            return found

    def close(self) -> None:
        """Refuse new pieces, finish those that wait, end the threads."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def _enter(self, flow: _Flow) -> None:
        heapq.heappush(self._turns, (flow.waiting[0].start, next(self._number), flow))

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._turns or self._under_way >= self._limit:
                    if self._is_closed and not self._turns:
                        return
                    self._lock.wait()
                _, _, flow = heapq.heappop(self._turns)
                piece = flow.waiting.popleft()
                self._now = max(self._now, piece.start)
                self._under_way += 1
                if flow.waiting:
                    self._enter(flow)
            began = time.perf_counter()
            piece.run()
            self._settle(flow, piece, time.perf_counter() - began)

    def _settle(self, flow: _Flow, piece: Piece, took_s: float) -> None:
        """Charge what it took instead of what was guessed. When nothing is left to do, nobody owes anything."""
        with self._lock:
            self._under_way -= 1
            if self._is_closed:
                self._lock.notify_all()
            elif len(self._threads) > self._limit:
                self._lock.notify()  # one may wait for this piece's end
            flow.last_finish += (took_s - piece.cost_s) / flow.weight
            if not self._turns and not self._under_way:
                self._flows.clear()
                self._now = 0.0
