"""A dedup job in virtual time: blocks of pairs of parts, handed by one driver to the cores of many hosts.

A worker (one core) joins two parts at a time. It needs the sketch of either, which it makes from the floats unless it
is among those that it keeps; every result is written by the driver as a checkpoint before it hands out the next block.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from benchmarks.simulation.costs import Costs
from cluster.dedup.plan import TILE

PART_ROWS = 131_072
KEPT = 9
"""Sketches that a worker keeps: 256 MiB at 26 MiB each."""


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """Seconds of one core: join_s for a whole block of two different parts, sketch_s for one part of whole size,
    checkpoint_s of the driver for each block."""

    join_s: float
    sketch_s: float
    checkpoint_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """n rows on hosts of so many cores. group: blocks that are handed out as one, so many parts a side (1: each block
    by itself). spread: sigma of a block's log-normal time, mean 1. slow_share of the workers take slow_factor as long,
    always. deaths: workers that die once, somewhere on the way, with the block they had."""

    rows: int
    hosts: int
    cores: int = 16
    part_rows: int = PART_ROWS
    group: int = 1
    spread: float = 0.1
    slow_share: float = 0.0
    slow_factor: float = 1.0
    deaths: int = 0
    seed: int = 0

    @property
    def parts(self) -> int:
        """How many parts the rows make."""
        return math.ceil(self.rows / self.part_rows)

    @property
    def blocks(self) -> int:
        """Pairs of parts, i <= j."""
        return self.parts * (self.parts + 1) // 2


Task: TypeAlias = tuple[range, range]
"""Parts on the left and parts on the right, equal or apart: all blocks (i, j), i <= j, of the two."""


def tasks(plan: Plan) -> Iterator[Task]:
    """What is handed out at once, every block in one of them: a block, tile by tile, or a square of blocks."""
    side = math.ceil(plan.parts / plan.group)
    tile = TILE if plan.group == 1 else 1
    for first_i in range(0, side, tile):
        for first_j in range(first_i, side, tile):
            for i in range(first_i, min(side, first_i + tile)):
                for j in range(max(i, first_j), min(side, first_j + tile)):
                    yield _parts(plan, i), _parts(plan, j)


def _parts(plan: Plan, number: int) -> range:
    return range(number * plan.group, min(plan.parts, (number + 1) * plan.group))


def blocks_in(task: Task) -> int:
    """How many blocks a task has."""
    lefts, rights = task
    return len(lefts) * (len(lefts) + 1) // 2 if lefts == rights else len(lefts) * len(rights)


class _Worker:
    """One core: what it keeps, how fast it is."""

    __slots__ = ("factor", "kept")

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.kept: OrderedDict[int, None] = OrderedDict()

    def misses(self, parts: Iterable[int]) -> int:
        """How many of these sketches have to be made; they are kept then, those used last."""
        missed = 0
        for part in parts:
            if part not in self.kept:
                missed += 1
                self.kept[part] = None
            self.kept.move_to_end(part)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return missed


class _Job:
    """The driver, and the workers with what they have in hand."""

    def __init__(self, plan: Plan, costs: BlockCosts) -> None:
        self.plan, self.costs = plan, costs
        self._rng = random.Random(plan.seed)
        self.workers = plan.hosts * plan.cores
        slow = set(self._rng.sample(range(self.workers), round(plan.slow_share * self.workers)))
        self._crew = [_Worker(plan.slow_factor if number in slow else 1.0) for number in range(self.workers)]
        about_s = expected_s(plan, costs) / self.workers
        dying = self._rng.sample(range(self.workers), min(plan.deaths, self.workers))
        self._deaths = {number: self._rng.uniform(0, about_s) for number in dying}
        self._last = plan.rows / plan.part_rows - (plan.parts - 1)
        self.made = self.lost = self.done = 0
        self.busy_s = self.wasted_s = 0.0

    def run(self) -> float:
        """Seconds until the last task is safe."""
        queue = tasks(self.plan)
        first = zip(range(self.workers), queue, strict=False)
        in_hand = [(self._take(task, 0.0, number), number, task) for number, task in first]
        heapq.heapify(in_hand)
        driver_s = 0.0
        while in_hand:
            ready, number, task = in_hand[0]
            # The driver takes one result at a time; the worker goes on when its own is safe.
            driver_s = max(driver_s, ready) + self.costs.checkpoint_s
            self.done += blocks_in(task)
            following = next(queue, None)
            if following is None:
                heapq.heappop(in_hand)
            else:
                heapq.heapreplace(in_hand, (self._take(following, driver_s, number), number, following))
        return driver_s

    def _take(self, task: Task, began: float, number: int) -> float:
        """When a worker has carried a task out, be it the second time."""
        seconds = self._seconds(task, number)
        died = self._deaths.get(number)
        if died is not None and began + seconds >= died:
            # Its process is gone with what it had in hand and kept; another begins in its place.
            del self._deaths[number]
            self._crew[number].kept.clear()
            self.lost += 1
            self.wasted_s += max(0.0, died - began)
            began = max(began, died)
            seconds = self._seconds(task, number)
        self.busy_s += seconds
        return began + seconds

    def _seconds(self, task: Task, number: int) -> float:
        worker, costs, plan = self._crew[number], self.costs, self.plan
        lefts, rights = task
        missed = worker.misses(lefts if lefts == rights else (*lefts, *rights))
        self.made += missed
        size = self._size(lefts) * self._size(rights) / (2 if lefts == rights else 1)
        luck = 1.0
        if plan.spread:
            # Many blocks are together nearer to their mean.
            sigma = plan.spread / math.sqrt(blocks_in(task))
            luck = math.exp(self._rng.gauss(-(sigma**2) / 2, sigma))
        return (missed * costs.sketch_s + size * costs.join_s * luck) * worker.factor

    def _size(self, parts: range) -> float:
        """Of all the rows, in whole parts."""
        return len(parts) - 1 + self._last if parts[-1] == self.plan.parts - 1 else float(len(parts))


def simulate(plan: Plan, costs: BlockCosts) -> dict[str, Any]:
    """Hours until the last block is done, and what they were spent on.

    done: blocks completed (each once, or the simulation is wrong). driver_share: of the time that the driver wrote
    checkpoints. read_parts: sketches made, each from a part's floats. lost: tasks that were begun again.
    """
    job = _Job(plan, costs)
    end = job.run()
    return {
        "plan": asdict(plan),
        "parts": plan.parts,
        "blocks": plan.blocks,
        "done": job.done,
        "hours": end / 3600,
        "busy_share": job.busy_s / (end * job.workers),
        "driver_share": checkpoints(plan) * costs.checkpoint_s / end,
        "checkpoints": checkpoints(plan),
        "read_parts": job.made,
        "read_bytes": job.made * plan.part_rows * 512 * 4,
        "read_gbit_s_per_host": job.made * plan.part_rows * 512 * 4 * 8 / end / plan.hosts / 1e9,
        "lost": job.lost,
        "wasted_s": job.wasted_s,
    }


def checkpoints(plan: Plan) -> int:
    """One for each task."""
    return _squares(plan.parts, plan.group)


def expected_s(plan: Plan, costs: BlockCosts) -> float:
    """Seconds of one core that keeps every sketch, without luck."""
    return plan.rows**2 / 2 / plan.part_rows**2 * costs.join_s + plan.parts * costs.sketch_s


def group_for(parts: int, workers: int) -> int:
    """Parts a side of a task: the largest of 1, 2, 4 and 8 (a worker keeps few) that leaves each worker 50 tasks, so
    that the last ones are short beside the whole."""
    return max([group for group in (2, 4, 8) if _squares(parts, group) >= 50 * workers], default=1)


def _squares(parts: int, group: int) -> int:
    side = math.ceil(parts / group)
    return side * (side + 1) // 2


def block_costs(costs: Costs) -> BlockCosts:
    """Of blocks of PART_ROWS, from what was measured in smaller ones."""
    join = costs.measured["join"]
    sketch_s = PART_ROWS / join["sketch_rows_per_core_s"] if join["sketch_rows_per_core_s"] else 0.0
    return BlockCosts(PART_ROWS**2 / join["pairs_per_core_s"], sketch_s, costs.measured["checkpoint"]["median_s"])
