"""Stages of a job as a Ray Data pipeline: pools of actors, each result fetched in order by the process that drives it.

Ray Data hands on what a stage has made to the next, starts no more than there is room for, and runs again what a
process had that died. Knows nothing of what the stages do: functions are named, as those of blocks are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.job_blocks import call_block, step_back
from coordinator.ray_tasks import has_control_node, here
from shard.errors import HostUnavailable, InvalidParameter, JobFailed, MissingExtra, WorkerLost, error_from_code

MAX_DEATHS = 3
"""Of processes over one value, which then counts as what kills them."""
WAVE = 4_096
"""Values of one pipeline; Ray Data keeps a little of each."""
BUSY = 2
"""Values that an actor has at once: the one it works at, and the next."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A function, `module:name`, that is called with (shared, value): the first stage with a number, later ones with
    what the stage before returned. In so many actors, each with cpus and gpus of Ray to itself."""

    function: str
    actors: int
    cpus: float = 1.0
    gpus: float = 0.0
    is_here: bool = False
    """On the node of this process alone."""


def stream(
    stages: Sequence[Stage], shared: object, numbers: Sequence[int], check: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
    """Each number with what the last stage returned for it, in their order.

    shared: goes to every actor once. check: raises to stop all of it, asked between results. The error that a function
    raised; WorkerLost after MAX_DEATHS over one value; HostUnavailable if Ray itself is gone; MissingExtra without Ray
    Data; InvalidParameter for more GPUs than the cluster has.
    """
    data, ray = _ray_data()
    _check_gpus(ray, stages)
    reference = ray.put(shared)
    for start in range(0, len(numbers), WAVE):
        yield from _wave(data, ray, stages, reference, numbers[start : start + WAVE], check)


def cores(*, is_here: bool = False) -> int:
    """CPUs of the cluster, or of the node of this process."""
    _, ray = _ray_data()
    return here().cpus if is_here else max(1, int(ray.cluster_resources().get("CPU", 1)))


def sees_alone(is_path: bool) -> bool:
    """Whether this node alone sees a source: a path, where a node is set apart for the home. Elsewhere nodes see the
    same paths, or the job says what is missing."""
    return is_path and has_control_node()


def _wave(
    data: Any, ray: Any, stages: Sequence[Stage], reference: Any, numbers: Sequence[int], check: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
    rows = _rows(_pipeline(data, stages, reference, numbers))
    errors = ray.exceptions
    try:
        for row in rows:
            check()
            if row["code"] is not None:
                raise error_from_code(row["code"], row["message"])
            yield row["number"], row["data"]
    except errors.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise JobFailed(f"Ray Data: {_reason(cause)}") from error
    except (errors.ActorDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
        raise WorkerLost(f"{MAX_DEATHS} processes have died over one unit: {_reason(error)}") from error
    except errors.RayError as error:
        raise HostUnavailable(f"Ray Data: {_reason(error)}") from error
    finally:
        rows.close()  # ends the pipeline and its actors, whoever stopped taking rows


def _rows(pipeline: Any) -> Generator[dict[str, Any], None, None]:
    yield from pipeline.iter_rows()


def _pipeline(data: Any, stages: Sequence[Stage], reference: Any, numbers: Sequence[int]) -> Any:
    import pyarrow

    # A block for each: what is lost with a process is one value.
    blocks = [
        pyarrow.table(
            {
                "number": pyarrow.array([number], pyarrow.int64()),
                "data": pyarrow.array([None], pyarrow.large_binary()),
                "code": pyarrow.array([None], pyarrow.string()),
                "message": pyarrow.array([None], pyarrow.string()),
            }
        )
        for number in numbers
    ]
    found = data.from_arrow(blocks)
    context = found.context
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    for number, stage in enumerate(stages):
        with warnings.catch_warnings():
            # Only so can a value that kills every process that has it be told from one that was unlucky; Ray 2.64 is to
            # have another way.
            warnings.simplefilter("ignore")
            found = found.map_batches(
                _StageActor,
                fn_constructor_args=(stage.function, [reference], number == 0),
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(
                    size=min(stage.actors, len(numbers)), max_tasks_in_flight_per_actor=BUSY
                ),
                num_cpus=stage.cpus,
                num_gpus=stage.gpus,
                **({"scheduling_strategy": here().strategy} if stage.is_here else {}),
                max_restarts=-1,
                max_task_retries=MAX_DEATHS - 1,
            )
    return found


class _StageActor:
    """What runs in an actor of a stage."""

    def __init__(self, function: str, shared: list[Any], is_first: bool) -> None:
        import ray

        step_back()
        self._function, self._is_first = function, is_first
        self._shared = ray.get(shared[0])

    def __call__(self, table: Any) -> Any:
        """Rows of number, data, code and message to such rows; an error of the stage before is handed on."""
        import pyarrow

        rows = [self._called(row) for row in table.to_pylist()]
        return pyarrow.Table.from_pylist(rows, schema=table.schema)

    def _called(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["code"] is not None:
            return row
        outcome = call_block(self._function, (self._shared, row["number"] if self._is_first else row["data"]))
        return {"number": row["number"], "data": outcome.value, "code": outcome.code, "message": outcome.message}


def _check_gpus(ray: Any, stages: Sequence[Stage]) -> None:
    wanted = sum(stage.actors * stage.gpus for stage in stages)
    offered = float(ray.cluster_resources().get("GPU", 0.0))
    if wanted > offered:
        raise InvalidParameter(f"gpus: the stages want {wanted:g} GPUs, the Ray cluster offers {offered:g}")


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[-1] if text else ''}"


def _ray_data() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.data
            import ray.exceptions
    except ImportError as error:
        raise MissingExtra(f"Ray Data cannot be imported ({error}); pip install 'facegrid[cluster]'") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray.data, ray
