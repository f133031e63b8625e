"""A kind of job for tests: sums of seeded numbers, block by block, with blocks that wait, kill or fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from cluster.jobs import JobContext
from cluster.jobs.kinds import register
from shard.errors import InvalidParameter

WAIT_S = 120.0


class SumParameters(BaseModel):
    """blocks: how many. size: numbers of each. ran: directory that gets a file for each time a block is begun.

    gates: a directory; a block waits until its name is there. killers: blocks that kill their process, so often.
    broken: a block that raises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int = 8
    size: int = 1_000
    ran: str
    gates: str | None = None
    killers: dict[str, int] = {}
    broken: str | None = None
    workers: int | None = None


def block_name(number: int) -> str:
    return f"block-{number:04d}"


def sum_block(argument: tuple[int, dict[str, Any]]) -> bytes:
    number, values = argument
    name = block_name(number)
    before = len(list(Path(values["ran"]).glob(f"{name}.*")))
    Path(values["ran"], f"{name}.{before}.{os.getpid()}").touch()
    if before < values["killers"].get(name, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if values["broken"] == name:
        raise InvalidParameter(f"{name} is broken")
    if values["gates"] is not None:
        until = time.monotonic() + WAIT_S
        while not Path(values["gates"], name).exists():  # nothing tells of a file that comes, over process borders
            assert time.monotonic() < until
            time.sleep(0.01)
    return np.random.default_rng(number).random(values["size"]).cumsum().tobytes()


class SumKind:
    name = "sum"
    parameters = SumParameters

    def run(self, job: JobContext) -> dict[str, Any]:
        values = job.parameters.model_dump()
        blocks = {block_name(number): (number, values) for number in range(values["blocks"])}
        job.map_blocks(sum_block, blocks, phase="summing")
        sums = []
        for done, name in enumerate(blocks):
            data = np.frombuffer(job.checkpoints.read(name))
            (job.result / f"{name}.f64").write_bytes(data.tobytes())
            sums.append(float(data[-1]))
            job.progress(done + 1, len(blocks), "blocks", "writing")
        return {"sums": sums, "gallery": job.record.gallery}


def register_kinds() -> None:
    """Make the kinds of this module known in this process."""
    register("sum", "tests.job_kinds:SumKind")
