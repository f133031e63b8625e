"""The end of a peer's measurement that runs in the peer's own environment: standard library and NumPy only.

A peer gives `one(probe) -> rows` and `many(probes) -> a list of rows`; all peers are asked the same probes, in the same
order, for the same time. What a call is, is the peer's module's to say.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

CALLERS = 64
BATCH = 256
RECALL_PROBES = 200
SLOW_S = 60
"""Recall is measured on fewer probes where one takes so long that RECALL_PROBES would take more than this."""

One = Callable[[Any], Sequence[int]]
Many = Callable[[Any], Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Task:
    """rows (n, dim) and probes, float32 of unit norm; k candidates; seconds of each measurement; where to put files."""

    rows: Any
    people: Any
    probes: Any
    k: int
    seconds: float
    folder: Path


@dataclass(frozen=True, slots=True)
class Figures:
    """One caller: single_*; CALLERS at once: many_*; one caller with BATCH probes a call: batch_per_s probes a second.

    None where it was not measured. Latencies in ms.
    """

    single_p50_ms: float
    single_p99_ms: float
    single_per_s: float
    many_p50_ms: float | None
    many_p99_ms: float | None
    many_per_s: float | None
    many_errors: int | None
    batch_per_s: float | None


def task() -> tuple[Task, Path]:
    """The task on the command line, and where its result goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    rows, people, probes = (np.load(given.data / f"{name}.npy") for name in ("rows", "people", "probes"))
    return Task(rows, people, probes, given.k, given.seconds, given.result.parent), given.result


def measured(task: Task, one: One, many: Many | None, *, is_concurrent: bool = True) -> Figures:
    """All figures of a peer that is called in this process."""
    times = closed_loop(one, task.probes, task.seconds)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    crowd = _crowd(one, task) if is_concurrent else None
    return Figures(
        single_p50_ms=float(p50),
        single_p99_ms=float(p99),
        single_per_s=len(times) / sum(times),
        many_p50_ms=None if crowd is None else crowd[0],
        many_p99_ms=None if crowd is None else crowd[1],
        many_per_s=None if crowd is None else crowd[2],
        many_errors=None if crowd is None else 0,
        batch_per_s=None if many is None else _batch_rate(many, task),
    )


def closed_loop(one: One, probes: Any, seconds: float, start: int = 0) -> list[float]:
    """Seconds of each call, one after another: at least three, until the time is over, after two that do not count."""
    for i in range(2):
        one(probes[(start + i) % len(probes)])
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        since = time.perf_counter()
        one(probes[(start + len(times)) % len(probes)])
        times.append(time.perf_counter() - since)
    return times


def _batch_rate(many: Many, task: Task) -> float:
    many(task.probes[:8])
    calls, begin = 0, time.perf_counter()
    while not calls or time.perf_counter() - begin < task.seconds:
        first = calls * 37 % (len(task.probes) - BATCH)
        many(task.probes[first : first + BATCH])
        calls += 1
    return calls * BATCH / (time.perf_counter() - begin)


def _crowd(one: One, task: Task) -> tuple[float, float, float]:
    """CALLERS threads at once: p50 and p99 in ms, calls a second."""
    all_times: list[list[float]] = [[] for _ in range(CALLERS)]
    end = time.perf_counter() + task.seconds

    def caller(number: int) -> None:
        i = number * 16
        while time.perf_counter() < end or not all_times[number]:
            since = time.perf_counter()
            one(task.probes[i % len(task.probes)])
            all_times[number].append(time.perf_counter() - since)
            i += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    times = np.concatenate([np.array(part) for part in all_times])
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return float(p50), float(p99), len(times) / wall


def found_rows(one: One, task: Task) -> list[list[int]]:
    """Rows found for the first probes, fewer if the peer is slow."""
    found: list[list[int]] = []
    end = time.perf_counter() + SLOW_S
    for probe in task.probes[:RECALL_PROBES]:
        found.append([int(row) for row in one(probe)])
        if time.perf_counter() > end:
            break
    return found


def tell(result: Path, *, build_s: float, found: list[list[int]], figures: Figures, packages: Sequence[str]) -> None:
    """Write what was measured, for the parent."""
    document = {
        "build_s": build_s,
        "found": found,
        "figures": asdict(figures),
        "versions": {name: metadata.version(name) for name in packages},
    }
    result.write_text(json.dumps(document))
