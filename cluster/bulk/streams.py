"""Where a job's units are worked on: in a thread, in processes of this machine, or by actors of Ray through Ray Data.

Whatever it is, units are begun in their order and taken in their order, and no more of them are under way than
there are workers: what is not written when all of it dies is what they had.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from cluster.bulk.batch import Batch
from cluster.bulk.listing import Listing
from cluster.bulk.parameters import Work
from cluster.bulk.stages import UnitWork, embed_faces, find_faces, prepare, read_rows
from cluster.faces import PipelineOptions
from cluster.jobs.context import JobContext
from cluster.jobs.local import run_in_processes
from coordinator.job_blocks import function_name

Keep = Callable[[int, Batch], None]
AHEAD = 1
"""Units for each worker that may be begun and not yet written."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a worker needs to work at a unit of a job by its number."""

    listing: Mapping[str, bytes]
    dim: int
    options: PipelineOptions | None
    max_ratio: float
    keep_thumbnails: bool
    _known: list[Listing] = field(default_factory=list, compare=False, repr=False)

    def work(self, number: int) -> UnitWork:
        """The unit of that number, and what is to be done with it."""
        if not self._known:
            self._known.append(Listing.from_bytes(dict(self.listing)))
        unit = self._known[0].unit(number)
        options = self.options if unit.has_photos else None
        return UnitWork(unit, self.dim, options, self.max_ratio, self.keep_thumbnails)

    def gpu_options(self) -> PipelineOptions:
        """Of the pipeline that embeds on a GPU."""
        assert self.options is not None
        return replace(self.options, device="cuda")


class _Units(Mapping[str, UnitWork]):
    """Units by name, each made when it is asked for: a list of all their items would not fit."""

    def __init__(self, plan: Plan, numbers: Sequence[int]) -> None:
        self._plan, self._numbers = plan, numbers

    def __getitem__(self, name: str) -> UnitWork:
        return self._plan.work(int(name))

    def __iter__(self) -> Iterator[str]:
        return map(str, self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class _InOrder:
    """Hands on results in the order of the units, whatever order they come in."""

    def __init__(self, numbers: Sequence[int], keep: Keep, ahead: int) -> None:
        self._numbers, self._keep, self._ahead = numbers, keep, ahead
        self._place = {number: place for place, number in enumerate(numbers)}
        self._waiting: dict[int, bytes] = {}
        self._next = 0

    def may_begin(self, name: str) -> bool:
        return self._place[int(name)] < self._next + self._ahead

    def take(self, name: str, data: bytes) -> None:
        self._waiting[int(name)] = data
        while self._next < len(self._numbers) and self._numbers[self._next] in self._waiting:
            number = self._numbers[self._next]
            self._keep(number, Batch.from_bytes(self._waiting.pop(number)))
            self._next += 1


def run_units(job: JobContext, work: Work, plan: Plan, numbers: Sequence[int], keep: Keep) -> None:
    """Have units worked on; keep(number, Batch) with each, in their order. Raises what stops the job."""
    if not numbers:
        return
    if not job.cluster.is_local:
        _by_ray(job, work, plan, numbers, keep)
    elif plan.options is None:
        _in_a_thread(job, plan, numbers, keep)
    else:
        workers = work.workers or len(os.sched_getaffinity(0))
        order = _InOrder(numbers, keep, AHEAD * workers)
        run_in_processes(
            function_name(prepare),
            _Units(plan, numbers),
            workers=workers,
            keep=order.take,
            check=job.check,
            log=job.log,
            may_begin=order.may_begin,
        )


def _in_a_thread(job: JobContext, plan: Plan, numbers: Sequence[int], keep: Keep) -> None:
    """Rows are read while those before them are written."""
    with ThreadPoolExecutor(1, thread_name_prefix="facegrid-bulk") as pool:
        ahead = pool.submit(read_rows, plan.work(numbers[0]))
        for place, number in enumerate(numbers):
            batch = ahead.result()
            if place + 1 < len(numbers):
                ahead = pool.submit(read_rows, plan.work(numbers[place + 1]))
            job.check()
            keep(number, batch)


def _by_ray(job: JobContext, work: Work, plan: Plan, numbers: Sequence[int], keep: Keep) -> None:
    from coordinator.ray_data import Stage, cores, sees_alone, stream

    is_here = sees_alone(any(source.has_paths for source in work.sources))
    workers = work.workers or cores(is_here=is_here)
    stages = [Stage(function_name(prepare_numbered), workers, is_here=is_here)]
    if work.gpus and plan.options is not None:
        finders = max(1, cores(is_here=is_here) - 1)
        stages = [
            Stage(function_name(find_numbered), finders, is_here=is_here),
            Stage(function_name(embed_found), work.workers or 1, cpus=0.0, gpus=work.gpus),
        ]
    for number, data in stream(stages, plan, numbers, job.check):
        keep(number, Batch.from_bytes(data))


def prepare_numbered(argument: tuple[Plan, int]) -> bytes:
    """All stages of a unit by its number."""
    plan, number = argument
    return prepare(plan.work(number))


def find_numbered(argument: tuple[Plan, int]) -> bytes:
    """The first stage of a unit by its number; all of them where the unit has no photos."""
    plan, number = argument
    work = plan.work(number)
    return find_faces(work) if work.options is not None else prepare(work)


def embed_found(argument: tuple[Plan, bytes]) -> bytes:
    """The second stage of a unit, on a GPU; none where its rows are embeddings already."""
    plan, data = argument
    return embed_faces((data, plan.gpu_options())) if Batch.from_bytes(data).has_crops else data
