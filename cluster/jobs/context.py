"""`JobContext`: what a kind of job has while one runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cluster.jobs.checkpoints import Checkpoints
from cluster.jobs.files import JobFiles
from cluster.jobs.local import run_in_processes
from cluster.jobs.signs import Progress, Signs
from coordinator.job_blocks import function_name
from coordinator.job_types import JobRecord
from shard.errors import FacegridError, InvalidParameter

if TYPE_CHECKING:
    from cluster.api import Cluster


class JobContext:
    """One attempt at a job."""

    def __init__(
        self, cluster: Cluster, record: JobRecord, parameters: BaseModel, files: JobFiles, result: Path, signs: Signs
    ) -> None:
        """result: a directory to write the result's files to, which has its name when the job has succeeded."""
        self.cluster, self.record, self.parameters, self.result = cluster, record, parameters, result
        self.directory = files.directory
        self.checkpoints = Checkpoints(files.checkpoints)
        self._files, self._signs = files, signs
        self._is_here = False

    @property
    def workers(self) -> int | None:
        """How many processes the parameters ask for, by a field `workers`; None if they leave it open."""
        wanted = getattr(self.parameters, "workers", None)
        if wanted is not None and (type(wanted) is not int or wanted < 1):
            raise InvalidParameter(f"workers: expected an integer of at least 1, got {wanted!r}")
        return wanted

    def stay_here(self) -> None:
        """Have blocks run on this machine alone from now on: what they read is on no other. Of use on Ray."""
        self._is_here = True

    def map_blocks(
        self,
        function: Callable[[Any], bytes],
        blocks: Mapping[str, Any],
        *,
        unit: str = "blocks",
        phase: str = "joining",
        kept: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """Have a function called with each block's value in processes of their own; what it returns is a checkpoint.

        function: at the top level of a module; its result depends on its argument alone. blocks: name of the
        checkpoint to argument, which can be pickled. Those whose checkpoint is there are not run. At most one result
        for each process is in memory. A process that dies costs the block that it had, which is run again. On one
        machine they are `workers` processes, or as many as cores, at low priority and with one native thread each; on
        Ray they are tasks.

        kept: called with each new checkpoint's name and bytes when it is there; what it raises ends the job.

        Raises JobCancelled and whatever else stops the job; WorkerLost if three processes have died over one block; the
        FacegridError that the function raised, JobFailed if it raised another; InvalidParameter if they have to stay
        here and no task may run here.
        """
        name = function_name(function)
        there = self.checkpoints.names()
        todo = {block: argument for block, argument in blocks.items() if block not in there}
        done = len(blocks) - len(todo)
        self.progress(done, len(blocks), unit, phase)
        if not todo:
            return
        self.log("blocks", phase=phase, total=len(blocks), todo=len(todo))

        def keep(block: str, data: bytes) -> None:
            nonlocal done
            self.checkpoints.write(block, data)
            done += 1
            if kept is not None:
                kept(block, data)
            self.progress(done, len(blocks), unit, phase)

        if self.cluster.is_local:
            workers = self.workers or len(os.sched_getaffinity(0))
            run_in_processes(name, todo, workers=workers, keep=keep, check=self.check, log=self.log)
        else:
            from coordinator.ray_tasks import run_as_tasks

            run_as_tasks(
                name, todo, at_once=self.workers, keep=keep, check=self.check, log=self.log, is_here=self._is_here
            )

    def progress(self, done: int, total: int, unit: str, phase: str) -> None:
        """Say how far the job is; cheap, and told at most once a second. total: 0 where it is not known.

        Raises JobCancelled if the job was cancelled, and whatever else stops it.
        """
        self._signs.tell(Progress(done, total, unit, phase))

    def check(self) -> None:
        """Raise JobCancelled if the job was cancelled, and whatever else stops it. Cheap."""
        self._signs.check()

    def end_by(self, at: float, error: FacegridError) -> None:
        """Have `check` and `progress` raise this error from then on, in unix seconds; the last call counts."""
        self._signs.end_by(at, error)

    def log(self, message: str, **fields: Any) -> None:
        """Add a line to the job's log. fields: JSON; never of a person."""
        self._files.log(message, **fields)
