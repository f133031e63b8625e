"""What the benchmark asks of a search library: `Peer`, one adapter class for each, in `benchmarks.engine.peers`.

An adapter runs in a worker process of its own. It builds once and saves everything that searching needs; another
process opens what was saved, so that resident bytes and disk bytes are those of an index reopened. It imports its
library at the top of its module, so a library that is not installed shows as the ImportError of that module.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from shard.types import FloatArray, RowArray

Setting = dict[str, float]
"""Values of a peer's search knobs by name; {} where it has none."""
Curve = list[Setting]
"""Settings of rising effort, whose recall rises with it (but for noise)."""


class TooSlow(Exception):
    """A build that will not end within its budget: what was built so far, and how long all of it would take."""

    def __init__(self, rows: int, seconds: float, would_take: float) -> None:
        super().__init__(f"{rows} rows took {seconds:.0f} s; all would take about {would_take:.0f} s")
        self.rows, self.seconds, self.would_take = rows, seconds, would_take


@dataclass(frozen=True, slots=True)
class Source:
    """What to build from: rows (n, dim) float32 of unit norm, mapped; identity number of each (n,) int64.

    threads: cores the build may use.
    """

    rows: FloatArray
    identities: RowArray
    threads: int


@dataclass(slots=True)
class Budget:
    """Seconds that a build may take. Time starts when it is made."""

    seconds: float
    started: float = field(default_factory=time.perf_counter)

    def check(self, done: int, total: int) -> None:
        """Raise TooSlow if `done` of `total` rows, added to a graph one after another, show that it takes too long.

        A graph's insertions slow down as log(rows), and more where it outgrows the caches, which is not counted: the
        estimate is a lower one. A build is given up early only where it misses the budget by far.
        """
        elapsed = time.perf_counter() - self.started
        estimate = elapsed * (total * math.log2(total)) / (done * math.log2(max(done, 2)))
        is_hopeless = elapsed > 0.1 * self.seconds and estimate > 1.5 * self.seconds
        if done < total and (is_hopeless or elapsed > self.seconds):
            raise TooSlow(done, elapsed, estimate)


class Peer(ABC):
    """One search library, configured one way.

    distribution: what pip installs it as. how: its configuration, in a phrase. is_incremental: it heeds the budget
    while it builds; another is stopped when the budget is spent.
    """

    distribution: ClassVar[str]
    how: ClassVar[str]
    is_incremental: ClassVar[bool] = False

    @abstractmethod
    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Build and save into the empty `folder` all that `open` needs, the floats to rerank included. TooSlow."""

    @abstractmethod
    def open(self, folder: Path, threads: int) -> None:
        """Open what `build` saved; searches use `threads` threads."""

    def fixed(self) -> dict[str, Setting]:
        """Settings measured as they are, by label: the library's default, exact search."""
        return {}

    def curves(self) -> list[Curve]:
        """Settings to tune over: on each curve the first that reaches a recall is taken, and of those the fastest."""
        return []

    @abstractmethod
    def use(self, setting: Setting, k: int) -> None:
        """Search with this setting, and for k candidates, from now on."""

    @abstractmethod
    def one(self, probe: FloatArray) -> object:
        """Search for one probe (dim,), by the library's fastest call for one. Timed."""

    @abstractmethod
    def many(self, probes: FloatArray) -> object:
        """Search for probes (n, dim), by the library's fastest call for a batch. Timed."""

    @abstractmethod
    def rows(self, answer: object) -> RowArray:
        """Row numbers (n, k) int64 of what `one` or `many` returned, best first, -1 for none. Not timed."""


def blocks(total: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover range(total)."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def doublings(first: int, last: int) -> list[int]:
    """Whole numbers from first to last that rise by about the square root of 2, last included."""
    steps = [round(first * 2 ** (i / 2)) for i in range(2 * max(1, math.ceil(math.log2(max(last / first, 1)))) + 1)]
    return sorted({min(step, last) for step in steps} | {last})


def padded(lists: list[list[int]], k: int) -> RowArray:
    """Lists of up to k rows as an array (n, k), -1 where a list is shorter."""
    rows = np.full((len(lists), k), -1, dtype=np.int64)
    for i, found in enumerate(lists):
        rows[i, : len(found)] = found
    return rows


def efforts(rows: int, most: int = 4_000) -> list[int]:
    """Rising breadths of a graph search or of a shortlist, from 10: up to a twentieth of the rows, at most `most`.

    Beyond that an exact scan is as good.
    """
    return doublings(10, min(most, max(100, rows // 20)))
