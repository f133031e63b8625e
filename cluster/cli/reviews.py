"""Who reviews on the command line, and the queue of a home or of a service."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyCluster


def reviewer() -> str:
    """The user of this machine; a service knows reviewers by their keys."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, in a container
        return "the command line"


def page_of(grid: AnyCluster, job: str, state: str, after: int, limit: int) -> Any:
    """A page of the review queue of a job."""
    from cluster.client import RemoteCluster

    if isinstance(grid, RemoteCluster):
        return grid.jobs.review(job, state=state, after=after, limit=limit)
    return _queue(grid, job).page(state=state, after=after, limit=limit)


def decide(
    grid: AnyCluster, job: str, action: str, groups: Sequence[int], parts: Sequence[Sequence[str]], **about: Any
) -> int:
    """Decide about groups; the version of the review then. about: version and note."""
    from cluster.client import RemoteCluster

    if isinstance(grid, RemoteCluster):
        return grid.jobs.decide(job, action, groups, parts=parts, **about)
    queue = _queue(grid, job)
    if action == "merge":
        return int(queue.merge(groups, by=reviewer(), **about).version)
    given = (groups[0], parts) if action == "split" else (groups[0],)
    return int(getattr(queue, action)(*given, by=reviewer(), **about).version)


def _queue(grid: Any, job: str) -> Any:
    from cluster.dedup.result_files import DedupResult
    from cluster.dedup.review import ReviewQueue

    return ReviewQueue(DedupResult.open(grid.jobs.result(job).directory.parent))
