"""Batch jobs: what runs for hours, in processes of its own, and goes on where it was after any of them died.

from cluster.jobs import JobContext
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.jobs.checkpoints import Checkpoints
    from cluster.jobs.context import JobContext
    from cluster.jobs.jobs import JobResult, Jobs
    from cluster.jobs.kinds import JobKind

__all__ = ["Checkpoints", "JobContext", "JobKind", "JobResult", "Jobs"]

_HOMES = {
    "Checkpoints": "cluster.jobs.checkpoints",
    "JobContext": "cluster.jobs.context",
    "JobKind": "cluster.jobs.kinds",
    "JobResult": "cluster.jobs.jobs",
    "Jobs": "cluster.jobs.jobs",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: worker processes need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
