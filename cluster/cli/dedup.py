"""`facegrid dedup apply | undo`; `review` is in `review`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import review
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.jobs import JobId
from cluster.cli.output import Cell, Grid, time_text
from cluster.cli.reviews import reviewer
from cluster.dedup_document import SHOWN_CHANGES, apply_document, change_document
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyCluster

app = typer.Typer(name="dedup", help="Review the groups of a dedup job, and act on them.", no_args_is_help=True)
app.add_typer(review.app, name="review")

DO = "Do it; without this option it is only said what would be done."


@app.command()
def apply(
    context: typer.Context,
    job: JobId,
    is_delete: Annotated[bool, typer.Option("--delete", help="Delete the duplicates of each group.")] = False,
    is_merge: Annotated[bool, typer.Option("--merge", help="Give each group one identity.")] = False,
    is_tag: Annotated[bool, typer.Option("--tag", help="Put each group's name into its templates' metadata.")] = False,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help=DO)] = False,
    gallery: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a job of two galleries, the one to change.")
    ] = None,
    tag_key: Annotated[str | None, typer.Option("--tag-key", metavar="KEY", help="Metadata key of the tag.")] = None,
    accepts_all: Annotated[
        bool, typer.Option("--accept-all", help="Groups that need review too, and those of several identities.")
    ] = False,
) -> None:
    """Act on the groups of a dedup job, as they were reviewed; a dry run unless --yes is given."""
    invocation = invocation_of(context)
    named = {"delete": is_delete, "merge": is_merge, "tag": is_tag}
    actions = [name for name, is_given in named.items() if is_given]
    if len(actions) != 1:
        raise InvalidParameter(f"expected one of --delete, --merge and --tag, got {len(actions)} of them")
    if tag_key is not None and not is_tag:
        raise InvalidParameter("--tag-key: expected with --tag")
    options = {"dry_run": not is_confirmed, "gallery": gallery, "key": tag_key, "accept_all": accepts_all}
    with invocation.cluster() as grid:
        report = _applied(invocation, grid, job, actions[0], options)
    _tell(invocation, job, report)


def _applied(invocation: Invocation, grid: AnyCluster, job: str, action: str, options: dict[str, Any]) -> Any:
    from cluster.client import RemoteCluster
    from cluster.progress import show_progress

    if isinstance(grid, RemoteCluster):
        return grid.jobs.apply(job, action, **options)
    from cluster.dedup.apply import apply as perform
    from cluster.dedup.result_files import DedupResult

    given = {name: value for name, value in options.items() if value is not None}
    result = DedupResult.open(grid.jobs.result(job).directory.parent)
    with show_progress(invocation.output.wants_progress, "applying") as tell:
        return perform(grid, result, action, by=reviewer(), progress=tell, **given)  # type: ignore[arg-type]


@app.command()
def undo(
    context: typer.Context,
    job: JobId,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help=DO)] = False,
) -> None:
    """Take the last apply of a dedup job back, while that can be done; a dry run unless --yes is given."""
    from cluster.client import RemoteCluster
    from cluster.progress import show_progress

    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        if isinstance(grid, RemoteCluster):
            report: Any = grid.jobs.undo(job, dry_run=not is_confirmed)
        else:
            from cluster.dedup.apply import undo as perform
            from cluster.dedup.result_files import DedupResult

            result = DedupResult.open(grid.jobs.result(job).directory.parent)
            with show_progress(invocation.output.wants_progress, "taking back") as tell:
                report = perform(grid, result, dry_run=not is_confirmed, progress=tell)
    _tell(invocation, job, report)


def _tell(invocation: Invocation, job: str, report: Any) -> None:
    document = apply_document(report)
    facts: list[tuple[Cell, ...]] = [
        ("action", report.action),
        ("state", report.state),
        ("templates", report.templates),
        ("groups", report.groups),
        *((f"skipped, {reason}", count) for reason, count in report.skipped.items()),
        *((f"left out, {reason}", count) for reason, count in report.left_out.items()),
        ("can be undone until", None if report.undo_until is None else time_text(report.undo_until)),
    ]
    rows = [tuple(_shown(change_document(change))) for change in report.changes[:SHOWN_CHANGES]]
    shown: list[str | Grid] = [Grid(("", ""), facts)]
    if rows:
        shown.append(Grid(("gallery", "template id", "group", "identity", "becomes", "stays"), rows))
        more = report.templates - len(rows)
        shown += [f"and {more:,} more"] if more > 0 else []
    if report.dry_run:
        shown.append("a dry run: nothing was changed; --yes does it")
    invocation.output.result({"job_id": job, **document}, *shown)


def _shown(change: dict[str, Any]) -> list[Cell]:
    keep = change["keep"]
    becomes = change["identity_after"] if keep is None else "deleted"
    stays = None if keep is None else keep["template_id"]
    return [change["gallery"], change["template_id"], change["group"], change["identity"], becomes, stays]
