"""`facegrid dedup review list | accept | reject | split | merge | reopen`."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.jobs import JobId
from cluster.cli.output import Cell, Grid
from cluster.cli.reviews import decide, page_of
from cluster.dedup_document import page_document
from shard.errors import InvalidParameter

app = typer.Typer(name="review", help="Groups that a person has to look at.", no_args_is_help=True)

GroupNumber = Annotated[int, typer.Argument(metavar="GROUP", help="Number of the group.", show_default=False)]
Version = Annotated[
    int | None, typer.Option(metavar="N", help="Only if this is the review's version, as `list` shows it.")
]
Note = Annotated[str, typer.Option(metavar="TEXT", help="Why.")]


@app.command("list")
def list_groups(
    context: typer.Context,
    job: JobId,
    state: Annotated[str, typer.Option(metavar="open|decided|all", help="Which groups.")] = "open",
    after: Annotated[int, typer.Option(metavar="GROUP", help="Only groups of higher numbers.")] = -1,
    limit: Annotated[int, typer.Option(metavar="N", help="Groups, 1 to 500.")] = 50,
) -> None:
    """List groups that need review, with their templates; or those that were decided."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        page = page_of(grid, job, state, after, limit)
    rows: list[tuple[Cell, ...]] = []
    for item in page.items:
        decided = None if item.decision is None else str(getattr(item.decision.action, "value", item.decision.action))
        for number, m in enumerate(item.members):
            about = (str(item.group), item.reason, decided) if number == 0 else (None, None, None)
            rows.append((*about, m.gallery, m.template_id, m.identity, m.role, m.quality, m.medoid_score))
    columns = ("group", "reason", "decided", "gallery", "template id", "identity", "role", "quality", "medoid score")
    shown: list[str | Grid] = [Grid(columns, rows) if rows else "no groups"]
    shown.append(f"version {page.version}: {page.open:,} open, {page.decided:,} decided")
    if page.after is not None:
        shown.append(f"there are more: --after {page.after}")
    invocation.output.result({"job_id": job, **page_document(page)}, *shown)


@app.command()
def accept(context: typer.Context, job: JobId, group: GroupNumber, version: Version = None, note: Note = "") -> None:
    """Say that a group is one person's, as it is."""
    _decide(context, job, "accept", [group], version=version, note=note)


@app.command()
def reject(context: typer.Context, job: JobId, group: GroupNumber, version: Version = None, note: Note = "") -> None:
    """Say that a group is none: nothing is done to its templates."""
    _decide(context, job, "reject", [group], version=version, note=note)


@app.command()
def reopen(context: typer.Context, job: JobId, group: GroupNumber, version: Version = None, note: Note = "") -> None:
    """Take back whatever was decided about a group."""
    _decide(context, job, "reopen", [group], version=version, note=note)


@app.command()
def split(
    context: typer.Context,
    job: JobId,
    group: GroupNumber,
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="ID,ID…", help="Templates that are one person's; repeat it for each part."),
    ] = None,
    version: Version = None,
    note: Note = "",
) -> None:
    """Make groups of their own of parts of a group; templates in no part are left alone."""
    found = [[name.strip() for name in part.split(",") if name.strip()] for part in parts or []]
    if not found or not all(found):
        raise InvalidParameter("--part: expected template ids with commas between them, at least one part")
    _decide(context, job, "split", [group], found, version=version, note=note)


@app.command()
def merge(
    context: typer.Context,
    job: JobId,
    groups: Annotated[
        list[int] | None,
        typer.Option("--group", metavar="GROUP", help="One of the groups; two at least."),
    ] = None,
    version: Version = None,
    note: Note = "",
) -> None:
    """Say that several groups are one person's."""
    _decide(context, job, "merge", groups or [], version=version, note=note)


def _decide(
    context: typer.Context,
    job: str,
    action: str,
    groups: list[int],
    parts: list[list[str]] | None = None,
    *,
    version: int | None,
    note: str,
) -> None:
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        now = decide(grid, job, action, groups, parts or [], version=version, note=note)
    named = ", ".join(map(str, groups))
    invocation.output.result(
        {"job_id": job, "action": action, "groups": groups, "version": now}, f"{action} {named}; version {now}"
    )
