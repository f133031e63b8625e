"""`facegrid jobs list | status | logs | cancel | resume | result | delete`; `submit` is in `job_submit`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import job_submit
from cluster.cli.exits import ExitCode
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.job_progress import job_bar, progress_text
from cluster.cli.job_runs import POLL_S, run_here, tell_job, watched
from cluster.cli.output import Cell, Grid, size_text, time_text
from cluster.job_document import job_document
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.cli.invocation import AnyCluster
    from coordinator.job_types import JobRecord, JobState

app = typer.Typer(name="jobs", help="Submit, follow, cancel and resume batch jobs.", no_args_is_help=True)
app.add_typer(job_submit.app, name="submit")
PIECE_BYTES = 1 << 20

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id, as `facegrid jobs list` shows it.", show_default=False)]


@app.command("list")
def list_jobs(
    context: typer.Context,
    gallery: Annotated[str | None, typer.Option(metavar="NAME", help="Jobs of this gallery only.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Jobs of this kind only.")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Jobs in this state only.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Jobs, 1 to 1,000.")] = 100,
    before: Annotated[str | None, typer.Option(metavar="JOB", help="Only those submitted before this one.")] = None,
) -> None:
    """List jobs, the newest first."""
    invocation = invocation_of(context)
    if not 1 <= limit <= 1_000:
        raise InvalidParameter(f"--limit: expected 1 to 1,000 jobs, got {limit}")
    with invocation.cluster() as grid:
        found = grid.jobs.list(gallery=gallery, kind=kind, state=_state(state), limit=limit, before=before)
    columns = ("job", "kind", "gallery", "state", "phase", "progress", "created")
    rows: list[tuple[Cell, ...]] = [
        (r.job_id, r.kind, r.gallery, r.state.value, r.phase or None, progress_text(r) or None, time_text(r.created_at))
        for r in found
    ]
    invocation.output.result(
        {"jobs": [job_document(record) for record in found]}, Grid(columns, rows) if rows else "no jobs"
    )


def _state(text: str | None) -> JobState | None:
    from coordinator.job_types import JobState

    if text is None:
        return None
    try:
        return JobState(text)
    except ValueError:
        states = ", ".join(state.value for state in JobState)
        raise InvalidParameter(f"--state: expected one of {states}; got {text!r:.80}") from None


@app.command()
def status(
    context: typer.Context,
    job: JobId,
    is_watching: Annotated[bool, typer.Option("--watch", help="Until it has ended; exit code 1 if not well.")] = False,
) -> None:
    """Show a job: its state, how far it is, how fast, and what is left."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        record = grid.jobs.get(job)
        if is_watching and not record.state.has_ended:
            with job_bar(invocation.output.wants_progress) as tell:
                while not (record := grid.jobs.get(job)).state.has_ended:
                    tell(record)
                    time.sleep(POLL_S)
    tell_job(invocation, record)
    if is_watching and record.state.value != "succeeded":
        raise typer.Exit(ExitCode.NEGATIVE)


@app.command()
def logs(
    context: typer.Context,
    job: JobId,
    is_following: Annotated[bool, typer.Option("--follow", "-f", help="Until the job has ended.")] = False,
) -> None:
    """Show what a job says of itself."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        entries: list[dict[str, Any]] = []
        has_ended = grid.jobs.get(job).state.has_ended
        while True:
            fresh = list(grid.jobs.logs(job, skip=len(entries)))
            entries += fresh
            if not invocation.output.as_json:
                invocation.output.result({}, *map(_line, fresh))
            if has_ended or not is_following:
                break
            has_ended = grid.jobs.get(
                job
            ).state.has_ended  # asked before the log is read again, so that nothing is lost
            time.sleep(0 if has_ended else POLL_S)
    if invocation.output.as_json:
        invocation.output.result({"job_id": job, "entries": entries})


def _line(entry: dict[str, Any]) -> str:
    """Time, message, then the other fields."""
    rest = {name: value for name, value in entry.items() if name not in ("at", "message")}
    at = entry.get("at")
    when = time_text(at) if isinstance(at, (int, float)) else str(at)
    fields = "".join(f" {name}={json.dumps(value, ensure_ascii=False)}" for name, value in rest.items())
    return f"{when} {entry.get('message', '')}{fields}"


@app.command()
def cancel(context: typer.Context, job: JobId) -> None:
    """Stop a job after the blocks that are under way; what is done is kept, and it can be resumed."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        record = grid.jobs.cancel(job)
    tell_job(invocation, record)


@app.command()
def resume(
    context: typer.Context,
    job: JobId,
    is_detached: Annotated[bool, typer.Option("--detach", help="Do not wait for its end; with --url.")] = False,
) -> None:
    """Have a job that failed, was cancelled or was interrupted go on where it stopped."""
    invocation = invocation_of(context)
    with invocation.service() as service:
        if service is not None:
            record = service.jobs.resume(job)
            tell_job(invocation, record if is_detached else watched(invocation, service, record))
            return
    if is_detached:
        raise InvalidParameter("--detach: expected --url; a home's job runs in this process, and ends with it")
    with invocation.home("jobs resume") as grid:
        tell_job(invocation, run_here(invocation, grid, grid.jobs.resume(job)))


@app.command()
def result(
    context: typer.Context,
    job: JobId,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Copy the files there.")] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", metavar="NAME", help="Only this file; may be repeated.")
    ] = None,
) -> None:
    """Show what a job that succeeded made: its files and its summary."""
    invocation = invocation_of(context)
    if file and to is None:
        raise InvalidParameter("--file: expected --to with it")
    with invocation.cluster() as grid:
        document = _result(grid, job)
        if to is not None:
            written = _copied(invocation, grid, job, to, file or [one["name"] for one in document["files"]])
            document["written"] = [str(path) for path in written]
    rows = [(one["name"], size_text(one["size"])) for one in document["files"]]
    facts = [(name, str(value)) for name, value in document["summary"].items() if not isinstance(value, (dict, list))]
    shown: list[str | Grid] = [Grid(("file", "size"), rows), Grid(("", ""), facts), *_analysis(document["summary"])]
    invocation.output.result(document, *shown, *(f"written: {path}" for path in document.get("written", ())))


def _analysis(summary: dict[str, Any]) -> list[str | Grid]:
    """What each threshold would give, of a dedup job that was asked for that; nothing of another."""
    found = summary.get("analysis")
    if not isinstance(found, dict):
        return []
    columns = ("threshold", "pairs", "groups", "faces", "largest")
    rows = [tuple(one[name] for name in columns) for one in found["thresholds"]]
    suggestion = found["suggestion"]
    said = [] if suggestion is None else [f"suggested: {suggestion['threshold']} ({suggestion['because']})"]
    return [Grid(("threshold", "pairs", "groups", "faces in them", "largest group"), rows), *said]


def _result(grid: AnyCluster, job: str) -> dict[str, Any]:
    from cluster.client import RemoteCluster

    found: Any = grid.jobs.result(job)
    if isinstance(grid, RemoteCluster):
        files = [{"name": file.name, "size": file.size} for file in found.files]
    else:
        files = [{"name": name, "size": (found.directory / name).stat().st_size} for name in found.files]
    return {"job_id": job, "files": files, "summary": dict(found.summary)}


def _copied(invocation: Invocation, grid: AnyCluster, job: str, to: Path, names: list[str]) -> list[Path]:
    from cluster.client import RemoteCluster
    from cluster.progress import show_progress

    if not isinstance(grid, RemoteCluster):
        return _copies(grid, job, to, names)
    with show_progress(invocation.output.wants_progress, "downloading", unit="bytes") as tell:
        return list(grid.jobs.download(job, to, files=names, progress=tell))


def _copies(grid: Cluster, job: str, to: Path, names: list[str]) -> list[Path]:
    """Copies of a home's files, each there when it is whole."""
    from cluster.client.job_files import opened

    found = grid.jobs.result(job)
    for name in names:
        if name not in found.files:
            raise InvalidParameter(f"--file: the result has no {name!r:.80}; it has {', '.join(found.files)}")
    paths = []
    for name in names:
        with (found.directory / name).open("rb") as source, opened(to, name) as (path, take):
            while piece := source.read(PIECE_BYTES):
                take(piece)
        paths.append(path)
    return paths


@app.command()
def delete(
    context: typer.Context,
    job: JobId,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a job that has ended, with its files."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        record: JobRecord = grid.jobs.get(job)
        invocation.confirm(
            f"Delete job {job} ({record.kind} of {record.gallery}) with its files?", is_confirmed=is_confirmed
        )
        grid.jobs.delete(job)
    invocation.output.result({"deleted": job}, f"deleted {job}")
