"""`facegrid k8s render-job dedup | enroll | reembed | calibrate | resume`: a job as an object for kubectl."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from typing import Annotated

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.job_options import ASKS, JobRequest, command_of
from cluster.kubernetes import (
    Release,
    Schedule,
    job_name,
    ray_cron_job,
    ray_job,
    resumption,
    scheduled_name,
    submission,
)
from cluster.yaml_text import yaml_text
from shard.errors import InvalidParameter, UnknownJob

app = typer.Typer(name="k8s", help="What runs on Kubernetes beside the chart.", no_args_is_help=True)
_jobs = typer.Typer(name="render-job", help="Print a job as an object for `kubectl apply -f -`.", no_args_is_help=True)
app.add_typer(_jobs)

ReleaseName = Annotated[str, typer.Option("--release", metavar="NAME", help="Helm release.", show_default=False)]
Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="Namespace of the release.", show_default=False)
]
FullName = Annotated[
    str | None, typer.Option("--fullname", metavar="NAME", help="The chart's fullnameOverride, if the release has one.")
]
ObjectName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name of the object; one that no other has if not given, with --schedule the gallery's.",
    ),
]


def _render(
    context: typer.Context,
    request: JobRequest,
    *,
    release: ReleaseName,
    namespace: Namespace,
    fullname: FullName = None,
    name: ObjectName = None,
    cron: Annotated[
        str | None,
        typer.Option("--schedule", metavar="CRON", help="Again and again: a RayCronJob, such as '0 3 * * 0'."),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", metavar="ZONE", help="Of the schedule, such as Europe/Berlin.")
    ] = None,
) -> None:
    of = Release(release, namespace, fullname)
    checked = _checked(request)
    command = submission(of, checked.kind, checked.gallery, checked.parameters)
    about = {"kind": checked.kind, "gallery": checked.gallery}
    if cron is None:
        if time_zone is not None:
            raise InvalidParameter("--time-zone: expected --schedule with it")
        _tell(context, ray_job(of, name or _new_name(of, checked.kind), command, about))
        return
    schedule = Schedule(cron, time_zone)
    _tell(
        context, ray_cron_job(of, name or scheduled_name(of, checked.kind, checked.gallery), command, about, schedule)
    )


def _checked(request: JobRequest) -> JobRequest:
    """The request, refused by what the kind refuses when a job is submitted, as far as that needs no home."""
    from cluster.jobs.kinds import checked_parameters, kind_of
    from coordinator.names import check_gallery_name

    placed = request.placed(_in_pods)
    checked_parameters(kind_of(placed.kind), placed.parameters)
    store = placed.parameters.get("store")
    if store is not None and "://" not in store:
        raise InvalidParameter(
            f"--store: expected a URL that pods reach, such as s3://bucket/prefix, got the path {store!r:.160}"
        )
    return JobRequest(placed.kind, check_gallery_name(placed.gallery), placed.parameters)


def _in_pods(source: str) -> str:
    from coordinator.snapshots.places import public_url

    if "://" in source and public_url(source) != source:
        raise InvalidParameter(f"SOURCE: expected a URL without credentials, got one of {public_url(source)!r:.160}")
    if "://" not in source and not source.startswith("/"):
        raise InvalidParameter(f"SOURCE: expected a URL, or an absolute path in the control pod, got {source!r:.160}")
    return source


def _new_name(release: Release, kind: str) -> str:
    return job_name(release, kind, datetime.now(timezone.utc), secrets.token_hex(2))


def _tell(context: typer.Context, document: dict[str, object]) -> None:
    invocation_of(context).output.verbatim(document, yaml_text(document))


for _ask in ASKS:
    _jobs.command()(command_of(_ask, _render))


@_jobs.command()
def resume(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", show_default=False)],
    release: ReleaseName,
    namespace: Namespace,
    fullname: FullName = None,
    name: ObjectName = None,
) -> None:
    """Go on with a job that failed, was cancelled or lost its process, from its checkpoints."""
    from coordinator.jobs import JOB_ID

    if not JOB_ID.fullmatch(job):
        raise UnknownJob(f"no job {job!r:.80}; ids are such as 20260131T120000Z-0a1b2c3d")
    of = Release(release, namespace, fullname)
    _tell(context, ray_job(of, name or _new_name(of, "resume"), resumption(of, job), {"job_id": job}))
