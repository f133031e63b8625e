"""A peer's own process: builds, or opens and searches, as the parent asks line by line.

    python -m benchmarks.engine.worker MODULE:CLASS DATASET_FOLDER INDEX_FOLDER THREADS

A request is a JSON object on stdin and its reply one on stdout; `process.py` is the other end. Nothing else reaches
stdout: libraries that print, print to stderr. The environment variables that set thread counts are there before any
library is imported. Resident bytes are those of this process, above what it had before it opened the index.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.engine.datasets import read_probes
from benchmarks.engine.peer import Budget, Peer, Source, TooSlow
from benchmarks.resident import resident
from shard.types import FloatArray

BATCH = 1_024
"""Probes of one timed batch: the mated ones and as many strangers as are missing."""
_LEAST_WARM, _WARM_UP_SHARE = 3, 0.1
_LEAST_TIMED = 20

Reply = dict[str, Any]


class Worker:
    """One peer, one dataset. Each public method is a request."""

    def __init__(self, peer: Peer, dataset: Path, folder: Path, threads: int) -> None:
        self._peer, self._dataset, self._folder, self._threads = peer, dataset, folder, threads
        probes = read_probes(dataset)
        self._probes = {"mated": probes.mated, "strangers": probes.strangers, "batch": probes.both()[:BATCH]}

    def build(self, max_seconds: float, rows: int | None = None) -> Reply:
        """Build and save, from the first `rows` only if given; or how far it came and how long it would take."""
        mapped: FloatArray = np.load(self._dataset / "rows.npy", mmap_mode="r")[:rows]
        source = Source(mapped, np.load(self._dataset / "identities.npy")[:rows], self._threads)
        budget = Budget(max_seconds)
        try:
            self._peer.build(source, self._folder, budget)
        except TooSlow as slow:
            return {"too_slow": {"rows": slow.rows, "seconds": slow.seconds, "would_take": slow.would_take}}
        seconds = time.perf_counter() - budget.started
        files = [path.stat() for path in self._folder.rglob("*") if path.is_file()]
        return {"seconds": seconds, "disk_bytes": sum(stat.st_blocks * 512 for stat in files)}

    def open(self) -> Reply:
        """Open what was built; resident bytes before and after."""
        empty = resident()
        started = time.perf_counter()
        self._peer.open(self._folder, self._threads)
        return {
            "seconds": time.perf_counter() - started,
            "empty": asdict(empty),
            "resident": asdict(resident()),
            "fixed": self._peer.fixed(),
            "curves": self._peer.curves(),
        }

    def answers(self, probes: str, setting: dict[str, float], k: int) -> Reply:
        """Rows found for `mated` or `strangers`."""
        self._peer.use(setting, k)
        return {"rows": self._peer.rows(self._peer.many(self._probes[probes])).tolist()}

    def latency(self, setting: dict[str, float], k: int, seconds: float) -> Reply:
        """Milliseconds of one mated probe after another, for about `seconds`; and cores busy meanwhile."""
        self._peer.use(setting, k)
        probes = self._probes["mated"]
        warm = time.perf_counter() + _WARM_UP_SHARE * seconds
        for number, probe in enumerate(probes[::-1]):
            if number >= _LEAST_WARM and time.perf_counter() > warm:
                break
            self._peer.one(probe)
        timed: list[int] = []
        cpu, started = time.process_time(), time.perf_counter()
        for probe in probes:
            before = time.perf_counter_ns()
            self._peer.one(probe)
            timed.append(time.perf_counter_ns() - before)
            if time.perf_counter() - started > seconds and len(timed) >= _LEAST_TIMED:
                break
        busy = (time.process_time() - cpu) / (time.perf_counter() - started)
        p50, p99 = np.percentile(np.array(timed) / 1e6, [50, 99]).tolist()
        return {"p50_ms": p50, "p99_ms": p99, "queries": len(timed), "busy_cores": busy}

    def batch(self, setting: dict[str, float], k: int, seconds: float) -> Reply:
        """Probes a second in batches of 1,024: the fastest of those that fit `seconds`, at least one."""
        self._peer.use(setting, k)
        timed: list[float] = []
        while not timed or sum(timed) < seconds:
            before = time.perf_counter()
            self._peer.many(self._probes["batch"])
            timed.append(time.perf_counter() - before)
        return {"per_second": BATCH / min(timed), "batches": len(timed)}

    def resident(self) -> Reply:
        """Resident bytes now."""
        return asdict(resident())


def load_peer(target: str) -> type[Peer]:
    """The adapter class of `module:class`; imports its library."""
    module, _, name = target.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type), target
    assert issubclass(found, Peer), target
    return found


def serve(make: Callable[[], tuple[Worker, Reply]], requests: TextIO, replies: TextIO) -> None:
    """Say hello, then answer requests until there are no more. A failure is a reply, with its traceback on stderr."""

    def send(reply: Reply) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        worker, hello = make()
    except ImportError as error:
        send({"missing": f"{type(error).__name__}: {error}"})
        return
    send(hello)
    for line in requests:
        request = json.loads(line)
        try:
            send(getattr(worker, request.pop("do"))(**request))
        except Exception as error:  # noqa: BLE001 - the boundary of the process: the parent reports it, the run goes on
            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Serve one peer over stdin and stdout."""
    target, dataset, folder, threads = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def make() -> tuple[Worker, Reply]:
        peer = load_peer(target)
        hello = {
            "version": metadata.version(peer.distribution),
            "distribution": peer.distribution,
            "how": peer.how,
            "is_incremental": peer.is_incremental,
        }
        return Worker(peer(), Path(dataset), Path(folder), int(threads)), hello

    serve(make, sys.stdin, replies)


if __name__ == "__main__":
    main()
