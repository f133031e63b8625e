"""Turns requests that wait at a host into as few calls as possible, and runs them on one thread of their kind.

Searches for the same gallery, shards, epochs, parameters and dimension are stacked and executed once: the native scan
takes many probes for little more than one. Each request is still answered by itself: what fails in a stack is run
alone. Knows nothing of sockets; replies leave encoded, so that the loop's thread has nothing left to do but send.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from coordinator.frames import encode_error, encode_message
from coordinator.messages import DataRequest, Reply, SearchReply, SearchRequest
from shard.errors import DeadlineExceeded, FacegridError
from shard.types import CandidateBatch

log = logging.getLogger("facegrid.dataplane")

STACK_PROBES = 1_024
"""Probes of one stacked search, far below MAX_PROBES: a longer request runs alone; short ones do not wait in it."""
MAX_DRAIN = 1_024
"""Requests taken from the queue at a time."""

Origin = TypeVar("Origin")
Input = TypeVar("Input")
Execute = Callable[[DataRequest], Reply]


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[Origin]):
    """A request that waits. `expires` is a time.monotonic() value, `size` its share of the queue in bytes."""

    origin: Origin
    key: int
    request: DataRequest
    expires: float
    size: int


class Worker(Generic[Origin]):
    """Threads that execute jobs in the order of arrival; a single one stacks searches where it can.

    `deliver` gets (job, encoded reply) in a worker's thread, once for every job unless `stop` came first.
    """

    def __init__(
        self,
        name: str,
        execute: Execute,
        deliver: Callable[[list[tuple[Job[Origin], bytes]]], None],
        threads: int = 1,
    ) -> None:
        self._execute = execute
        self._deliver = deliver
        self._queue: queue.SimpleQueue[Job[Origin] | None] = queue.SimpleQueue()
        self._is_closing = False
        # Several threads take one job each, so that none waits behind another's.
        self._at_a_time = MAX_DRAIN if threads == 1 else 1
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job[Origin]) -> None:
        """Queue a job; the caller bounds how many."""
        self._queue.put(job)

    def stop(self) -> None:
        """Let the call in progress end and drop the rest; `join` waits for it. Idempotent."""
        self._is_closing = True
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait for the threads; after `stop`."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            jobs = self._drain()
            for group in plan(jobs):
                if self._is_closing:
                    return
                self._deliver(run_group(self._execute, group, time.monotonic()))
            if self._is_closing:
                return

    def _drain(self) -> list[Job[Origin]]:
        jobs: list[Job[Origin]] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) >= self._at_a_time or self._queue.empty():
                break
            job = self._queue.get()
        return jobs


def plan(jobs: Sequence[Job[Origin]]) -> list[list[Job[Origin]]]:
    """Jobs in groups to execute at once, in the order of each group's first job."""
    groups: list[list[Job[Origin]]] = []
    open_groups: dict[Hashable, tuple[int, list[Job[Origin]]]] = {}
    for job in jobs:
        key, probes = _stack_key(job.request)
        held, group = open_groups.get(key, (STACK_PROBES, []))
        if key is None or held + probes > STACK_PROBES:
            held, group = 0, []
            groups.append(group)
        group.append(job)
        if key is not None:
            open_groups[key] = (held + probes, group)
    return groups


def run_group(execute: Execute, group: list[Job[Origin]], now: float) -> list[tuple[Job[Origin], bytes]]:
    """Every job of a group with its encoded reply; a job whose caller has given up is not executed."""
    live = [job for job in group if job.expires > now]
    late = [job for job in group if job.expires <= now]
    expired = (
        encode_error(DeadlineExceeded("the deadline passed while the request waited at the host")) if late else b""
    )
    return [*_run_live(execute, live), *((job, expired) for job in late)]


def _run_live(execute: Execute, jobs: list[Job[Origin]]) -> list[tuple[Job[Origin], bytes]]:
    searches = [job.request for job in jobs if isinstance(job.request, SearchRequest)]
    if len(jobs) > 1 and len(searches) == len(jobs):
        parts = _stacked(execute, searches)
        if parts is not None:
            return [(job, _encoded(_same, part)) for job, part in zip(jobs, parts, strict=True)]
    return [(job, _encoded(execute, job.request)) for job in jobs]


def _stacked(execute: Execute, searches: list[SearchRequest]) -> list[SearchReply] | None:
    """The replies of searches executed as one; None if that failed, since one of them may be at fault for all."""
    try:
        reply = execute(stack(searches))
        if not isinstance(reply, SearchReply):
            raise TypeError(f"a search was answered by {type(reply).__name__}")
        return split(reply, [len(search.probes) for search in searches])
    except Exception as error:  # noqa: BLE001 - each is run alone next, where its own error is answered and logged
        log.debug("a stack of %d searches failed with %r; running each alone", len(searches), error)
        return None


def _same(reply: Reply) -> Reply:
    return reply


def _encoded(produce: Callable[[Input], Reply], given: Input) -> bytes:
    try:
        return encode_message(produce(given))
    except FacegridError as error:
        return encode_error(error)
    except Exception as error:  # the process boundary: the peer gets a named error, the log the traceback
        log.exception("unexpected failure of a request")
        return encode_error(FacegridError(f"internal error of the shard host: {type(error).__name__}; see its log"))


def stack(searches: Sequence[SearchRequest]) -> SearchRequest:
    """One search with the probes of all, in order; they agree in everything else."""
    return dataclasses.replace(searches[0], probes=np.concatenate([search.probes for search in searches]))


def split(reply: SearchReply, counts: Sequence[int]) -> list[SearchReply]:
    """The reply of a stacked search cut into replies of `counts` probes each."""
    parts, at, found = [], 0, reply.candidates
    for count in counts:
        rows = slice(at, at + count)
        part = CandidateBatch(found.scores[rows], found.keys[rows], found.template_ids[rows], found.identities[rows])
        parts.append(dataclasses.replace(reply, candidates=part))
        at += count
    return parts


def _stack_key(request: DataRequest) -> tuple[Hashable, int]:
    """What searches must share to be stacked, and how many probes this one has; None for what is never stacked."""
    if not isinstance(request, SearchRequest) or request.probes.ndim != 2:
        return None, 0
    if not 1 <= len(request.probes) < STACK_PROBES:
        return None, 0
    key = (request.gallery_id, request.shards, request.epochs, request.params, request.probes.shape[1])
    return key, len(request.probes)
