"""`facegrid train` and `facegrid rollout status | rollback`: models of galleries and how they come into use."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Grid
from shard.errors import FacegridError, InvalidParameter, NotEnoughData

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyGallery
    from coordinator.types import RolloutStatus, TrainReport
    from shard.drift import Drift

app = typer.Typer(name="rollout", help="How new search models come into use.", no_args_is_help=True)

GalleryArgument = Annotated[
    str, typer.Argument(metavar="GALLERY", help="Gallery, as tenant/gallery.", show_default=False)
]
OptionalGallery = Annotated[
    str | None, typer.Argument(metavar="[GALLERY]", help="Gallery, as tenant/gallery.", show_default=False)
]


def train(
    context: typer.Context,
    gallery: OptionalGallery = None,
    is_all: Annotated[bool, typer.Option("--all", help="Train every gallery that has enough templates.")] = False,
) -> None:
    """Train a gallery's search model now, instead of when it has grown enough, or those of all galleries."""
    invocation = invocation_of(context)
    if (gallery is None) != is_all:
        raise InvalidParameter("train: expected a GALLERY or --all, and not both")
    if gallery is None:
        _train_all(invocation)
        return
    with invocation.gallery(gallery) as found:
        report = found.train(progress=invocation.output.wants_progress)
    invocation.output.result({"gallery": gallery, **_report(report)}, _said(report))


def _train_all(invocation: Invocation) -> None:
    documents: list[dict[str, Any]] = []
    rows: list[tuple[str, str]] = []
    with invocation.cluster() as grid:
        for gallery in grid.galleries():
            document, said = _train_one(gallery, with_progress=invocation.output.wants_progress)
            documents.append({"gallery": gallery.name, **document})
            rows.append((gallery.name, said))
    shown = Grid(("gallery", "training"), rows) if rows else "no galleries"
    invocation.output.result({"galleries": documents}, shown)
    if any("error" in document for document in documents):
        raise typer.Exit(ExitCode.PARTIAL)


def _train_one(gallery: AnyGallery, *, with_progress: bool) -> tuple[dict[str, Any], str]:
    try:
        report = gallery.train(progress=with_progress)
    except NotEnoughData as error:
        return {"skipped": str(error)}, f"left out: {error}"
    except FacegridError as error:
        return {"error": {"code": error.code, "message": str(error)}}, f"failed [{error.code}]: {error}"
    return _report(report), _said(report)


def _report(report: TrainReport) -> dict[str, Any]:
    return {**asdict(report), "drift": drift_document(report.drift)}


def _said(report: TrainReport) -> str:
    return (
        f"trained model {report.model_id} on {report.sample:,} of {report.templates:,} templates "
        f"in {report.seconds:.1f} s"
    )


def drift_document(drift: Drift | None) -> dict[str, Any] | None:
    """A drift as JSON, null where there is none."""
    return None if drift is None else {"score": drift.score, **asdict(drift)}


def drift_text(drift: Drift | None) -> str | None:
    """A drift for people."""
    return None if drift is None else f"{drift.score:.2f} of 1 ({drift.rows:,} templates since the last training)"


@app.command()
def status(context: typer.Context, gallery: OptionalGallery = None) -> None:
    """Show the last rollout of each gallery, or of one."""
    invocation = invocation_of(context)
    with invocation.home("rollout status") as grid:
        if gallery is not None:
            grid.gallery(gallery)  # NotFound for a name that is misspelt
        found = [rollout for rollout in grid.coordinator.rollouts() if gallery in (None, rollout.gallery)]
    shown = _grid(found) if found else "no rollouts; `facegrid train` makes one"
    invocation.output.result({"rollouts": [asdict(rollout) for rollout in found]}, shown)


@app.command()
def rollback(context: typer.Context, gallery: GalleryArgument) -> None:
    """Search a gallery by the model before its last training again."""
    invocation = invocation_of(context)
    with invocation.home_gallery("rollout rollback", gallery) as found:
        rollout = found.roll_back()
    model = rollout.previous_model_id
    invocation.output.result(
        {"rollout": asdict(rollout)},
        f"rolled back: {gallery} is searched {f'by model {model}' if model else 'exactly, as before its first model'}",
    )


def _grid(found: list[RolloutStatus]) -> Grid:
    columns = ("gallery", "state", "model", "before", "prepared", "activated", "updated", "error")
    rows = [
        (
            rollout.gallery,
            rollout.state,
            _short(rollout.model_id),
            _short(rollout.previous_model_id),
            f"{rollout.prepared} of {rollout.replicas}",
            f"{rollout.activated} of {rollout.replicas}",
            datetime.fromtimestamp(rollout.updated_at, timezone.utc).isoformat(timespec="seconds"),
            rollout.error,
        )
        for rollout in found
    ]
    return Grid(columns, rows)


def _short(model_id: str | None) -> str:
    return "exact" if model_id is None else model_id[:8]
