"""Paced load: requests at fixed times, whatever became of those before them (open loop).

Latency counts from the moment at which a request was meant to be sent, so that a service that stalls cannot hide it by
being asked less. Bounded in count, time and connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.service.wrk import Target

CONNECTIONS = 64
"""The most that are open at once; a request that finds none free waits, and its latency counts on."""
PATIENCE_S = 10.0
"""How long after the last request answers are waited for."""


@dataclass(frozen=True, slots=True)
class Paced:
    """What a paced client saw. errors: statuses other than 200, broken connections, and no answer in time."""

    requests: int
    errors: int
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def paced(target: Target, bodies: Sequence[bytes], *, per_s: float, seconds: float) -> list[float]:
    """Latencies in ms of per_s * seconds requests, in the order they were sent; NaN for one that failed."""
    requests = [target.request(body) for body in bodies]
    return asyncio.run(_Client(target, requests).run(round(per_s * seconds), per_s))


def summary(latencies: Sequence[float], per_s: float) -> Paced:
    """Percentiles of the latencies that `paced` returned, of several calls or one."""
    taken = np.array(latencies)
    good = taken[~np.isnan(taken)]
    p50, p90, p99, worst = np.percentile(good, [50, 90, 99, 100]) if len(good) else [np.nan] * 4
    return Paced(len(taken), len(taken) - len(good), per_s, float(p50), float(p90), float(p99), float(worst))


class _Client:
    """A pool of connections that speak as much HTTP/1.1 as the service does."""

    def __init__(self, target: Target, requests: Sequence[bytes]) -> None:
        self._target, self._requests = target, requests
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(CONNECTIONS)

    async def run(self, count: int, per_s: float) -> list[float]:
        """Send `count` requests at the pace; close all connections."""
        begin = time.perf_counter() + 0.1
        tasks = [asyncio.create_task(self._one(i, begin + i / per_s)) for i in range(count)]
        await asyncio.wait(tasks, timeout=count / per_s + PATIENCE_S)
        late = [task for task in tasks if not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for _, writer in self._idle:
            writer.close()
        return [float("nan") if task in late else task.result() for task in tasks]

    async def _one(self, number: int, due: float) -> float:
        await asyncio.sleep(due - time.perf_counter())
        async with self._room:
            try:
                status = await self._exchange(self._requests[number % len(self._requests)])
            except (OSError, asyncio.IncompleteReadError, ValueError):
                return float("nan")
        return (time.perf_counter() - due) * 1e3 if status == 200 else float("nan")

    async def _exchange(self, request: bytes) -> int:
        """Send a request on a connection that is free, or a new one; the status. One that is well is kept."""
        connection = self._idle.pop() if self._idle else None
        reader, writer = connection or await asyncio.open_connection(self._target.host, self._target.port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status, size = _parsed(head)
            await reader.readexactly(size)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return status


def _parsed(head: bytes) -> tuple[int, int]:
    """Status and length of the body; ValueError if it has none."""
    lines = head.split(b"\r\n")
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(lines[0].split(b" ", 2)[1]), int(value)
    raise ValueError("an answer without Content-Length")
