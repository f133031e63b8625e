"""`facegrid jobs submit dedup | enroll | reembed | calibrate`; what each can be asked for is in `job_options`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.job_options import ASKS, JobRequest, command_of
from cluster.cli.job_runs import submitted
from cluster.cli.remote import service_url

app = typer.Typer(name="submit", help="Submit a batch job, and see it to its end.", no_args_is_help=True)

Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for its end; with --url.")]


def _submit(context: typer.Context, request: JobRequest, *, is_detached: Detach = False) -> None:
    invocation = invocation_of(context)
    if service_url(invocation.given, invocation.settings()) is None:
        request = request.placed(_absolute)
    submitted(invocation, request.kind, request.gallery, request.parameters, is_detached=is_detached)


def _absolute(source: str) -> str:
    """A path of this machine made absolute, since a job may be resumed elsewhere; a URL as it is."""
    return source if "://" in source else os.path.abspath(Path(source).expanduser())


for _ask in ASKS:
    app.command()(command_of(_ask, _submit))
