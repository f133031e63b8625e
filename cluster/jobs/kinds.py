"""Which kinds of jobs there are. Each is imported when one of it is submitted or run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

from shard.errors import InvalidParameter, MissingExtra

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.jobs.context import JobContext


class JobKind(Protocol):
    """What a job does. `parameters`: the model of its parameters, which are stored as JSON."""

    name: str
    parameters: type[BaseModel]

    def run(self, job: JobContext) -> dict[str, Any]:
        """Do it, from the checkpoints on that are there; the summary, for `summary.json`.

        Called again, by another process, if this one dies. Files go to `job.result` and depend on nothing but input and
        parameters: no times, no hosts, no order in which blocks were done.
        """


@runtime_checkable
class ChecksFirst(Protocol):
    """A kind that refuses, when a job is submitted, what could only fail later."""

    def check(self, cluster: Cluster, gallery: str, parameters: BaseModel, key_id: str | None) -> None:
        """Raises the error that says why not. key_id: of the API key that asks; None for whoever opened the home."""


@runtime_checkable
class SettlesFirst(Protocol):
    """A kind whose result may be acted on, which must not be half done when a job is deleted."""

    def deleting(self, cluster: Cluster, directory: Path) -> AbstractContextManager[None]:
        """Entered before the directory of a job that has ended is removed: completes what was begun, and lets nobody
        begin anything until it is left. Raises the error that says why the job cannot be deleted now.
        """


KINDS: dict[str, str] = {
    "dedup": "cluster.dedup.job:DedupJob",
    "enroll": "cluster.bulk.job:EnrollJob",
    "reembed": "cluster.bulk.reembed:ReembedJob",
    "calibrate": "cluster.jobs.calibrate:CalibrateJob",
}
"""Name to `module:class`."""


def register(name: str, where: str) -> None:
    """Add a kind, `module:class`, in this process; whoever runs its jobs has to know it too."""
    KINDS[name] = where


def kind_of(name: str) -> JobKind:
    """The kind of that name. InvalidParameter if there is none, MissingExtra if it needs what is not installed."""
    where = KINDS.get(name)
    if where is None:
        raise InvalidParameter(f"kind of job: expected one of {', '.join(sorted(KINDS))}; got {name!r:.80}")
    module, _, attribute = where.partition(":")
    try:
        kind: JobKind = getattr(import_module(module), attribute)()
    except ImportError as error:
        raise MissingExtra(f"jobs of kind {name!r} need {error.name}, which cannot be imported: {error}") from error
    return kind


def checked_parameters(kind: JobKind, parameters: Mapping[str, Any] | BaseModel) -> BaseModel:
    """The kind's model of the parameters; InvalidParameter, which names the first that is wrong."""
    values = parameters.model_dump(mode="json") if isinstance(parameters, BaseModel) else dict(parameters)
    try:
        return kind.parameters.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "parameters"
        raise InvalidParameter(f"{kind.name}: {where}: {first['msg']}; got {first.get('input')!r:.160}") from None
