"""Blocks of a job as Ray tasks: each on one core of any node, its result fetched by the process that drives the job."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.actor_names import CONTROL_RESOURCE
from coordinator.job_blocks import call_block, step_back
from coordinator.outcome import Outcome
from shard.errors import HostUnavailable, InvalidParameter, MissingExtra, WorkerLost

MAX_DEATHS = 3
"""Of processes over one block, which then counts as what kills them."""
LOOK_S = 0.2
"""Pause between two looks whether the job shall stop."""
CORES_S = 5.0
"""How old the number of cores may be by which the tasks under way are counted; nodes come and go."""
ONE_THREAD = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run_as_tasks(
    function: str,
    blocks: Mapping[str, Any],
    *,
    at_once: int | None,
    keep: Callable[[str, bytes], None],
    check: Callable[[], None],
    log: Callable[..., None],
    is_here: bool = False,
) -> None:
    """Call a function, `module:name`, with each block's argument in tasks; keep(block, bytes) with each result.

    at_once: tasks under way; as many as the cluster has cores if None. check: raises to stop all of it. is_here: on the
    node of this process alone. Ray runs a task again whose process or node died; WorkerLost after MAX_DEATHS,
    HostUnavailable if Ray itself is gone, InvalidParameter if no task may run here. And what the function raised.
    """
    tasks = _Tasks(function, blocks, at_once, is_here)
    try:
        while not tasks.is_done:
            check()
            tasks.hand_out()
            for block, data in tasks.take_in():
                keep(block, data)
    except BaseException:
        tasks.cancel()
        raise
    log("tasks have ended", blocks=len(blocks))


class _Tasks:
    def __init__(self, function: str, blocks: Mapping[str, Any], at_once: int | None, is_here: bool) -> None:
        self._ray = _ray()
        self._function, self._blocks, self._at_once = function, blocks, at_once
        self._here = here() if is_here else None
        self._waiting = deque(blocks)
        self._running: dict[Any, str] = {}
        self._cores, self._counted = 0, -CORES_S
        # An environment of its own keeps these processes, which have stepped back, from becoming somebody's actors.
        self._call = self._ray.remote(_block).options(
            num_cpus=1,
            max_retries=MAX_DEATHS - 1,
            runtime_env={"env_vars": ONE_THREAD},
            scheduling_strategy="SPREAD" if self._here is None else self._here.strategy,
        )

    @property
    def is_done(self) -> bool:
        return not self._waiting and not self._running

    def hand_out(self) -> None:
        """Begin as many tasks as there is room for."""
        while self._waiting and len(self._running) < self._room():
            block = self._waiting.popleft()
            self._running[self._call.remote(self._function, self._blocks[block])] = block

    def _room(self) -> int:
        if self._at_once is not None:
            return self._at_once
        if self._here is not None:
            return self._here.cpus
        if time.monotonic() - self._counted > CORES_S:
            self._cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
            self._counted = time.monotonic()
        return self._cores

    def take_in(self) -> list[tuple[str, bytes]]:
        """At most one block that has ended, waiting a moment for it."""
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=LOOK_S)
        return [(block, self._result(ref, block)) for ref in ended for block in [self._running.pop(ref)]]

    def _result(self, ref: Any, block: str) -> bytes:
        errors = self._ray.exceptions
        try:
            outcome = self._ray.get(ref)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            raise WorkerLost(f"{MAX_DEATHS} processes have died over block {block!r}: {_reason(error)}") from error
        except errors.RayError as error:
            raise HostUnavailable(f"block {block!r} could not be run: {_reason(error)}") from error
        assert isinstance(outcome, Outcome)
        data: bytes = outcome.unwrap()
        return data

    def cancel(self) -> None:
        """Have no task run on; what Ray answers to that does not matter any more."""
        for ref in self._running:
            try:
                self._ray.cancel(ref, force=True)
            except self._ray.exceptions.RayError:
                continue


@dataclass(frozen=True, slots=True)
class Here:
    """The node of this process. cpus: for tasks. strategy: what places tasks and actors there and nowhere else."""

    cpus: int
    strategy: Any


def here() -> Here:
    """The node of this process; InvalidParameter if it offers no CPU to tasks, which would wait for ever."""
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node_id = ray.get_runtime_context().get_node_id()
    offered: dict[str, float] = next((node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id), {})
    cpus = int(offered.get("CPU", 0))
    if not cpus:
        raise InvalidParameter(
            "the job reads what is on this node of the Ray cluster alone, which offers no CPU to tasks: name a store"
            " that all nodes reach (dedup) or sources by URL (enroll, reembed), or start this node with --num-cpus"
        )
    return Here(cpus, NodeAffinitySchedulingStrategy(node_id, soft=False))


def has_control_node() -> bool:
    """Whether a node of the cluster is set apart for the home, as in the chart: others do not see its directories."""
    return bool(_ray().cluster_resources().get(CONTROL_RESOURCE, 0))


def _block(function: str, argument: Any) -> Outcome:
    step_back()
    return call_block(function, argument)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtra("ray is not installed; pip install 'facegrid[cluster]'") from error
    return ray
