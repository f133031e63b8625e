"""`facegrid import` and `facegrid export`: galleries from and to files of others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid, size_text
from cluster.cli.templates import GalleryArgument

if TYPE_CHECKING:
    from cluster.exports import ExportFormat
    from cluster.imports import Format

_SHOWN = 50


def import_file(
    context: typer.Context,
    gallery: GalleryArgument,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File or directory to import.", show_default=False)],
    kind: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="auto, faceflash, deepface, npy, parquet or folder."),
    ] = "auto",
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON lines or text, for npy; found beside it if not given.")
    ] = None,
) -> None:
    """Import templates made elsewhere. Exits with 10 if a record was refused; the others are imported."""
    from cluster.imports import import_into

    invocation = invocation_of(context)
    with invocation.gallery(gallery) as found:
        report = import_into(
            found, path, format=cast("Format", kind), labels=labels, progress=invocation.output.wants_progress
        )
    shown: list[str | Grid] = []
    if report.refused:
        rows = [(r.where, r.reason, r.message) for r in report.refused[:_SHOWN]]
        shown.append(Grid(("refused", "reason", "found"), rows))
        shown.append("refused: " + ", ".join(f"{count:,} {reason}" for reason, count in report.reasons.items()))
    refused = sum(report.reasons.values())
    shown.append(
        f"{gallery}: {report.enrolled:,} of {report.records:,} {report.format} records imported,"
        f" {report.skipped:,} there already, {refused:,} refused"
    )
    invocation.output.result({"gallery": gallery, **asdict(report)}, *shown)
    if refused:
        raise typer.Exit(ExitCode.PARTIAL)


def export_file(
    context: typer.Context,
    gallery: GalleryArgument,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File or directory to make.", show_default=False)],
    kind: Annotated[str, typer.Option("--format", metavar="FORMAT", help="parquet or npy.")] = "parquet",
) -> None:
    """Write a gallery's templates to a Parquet file, or to a directory of a .npy array and labels."""
    from cluster.exports import export_gallery

    invocation = invocation_of(context)
    with invocation.home("export") as grid:
        report = export_gallery(
            grid, gallery, path, format=cast("ExportFormat", kind), progress=invocation.output.wants_progress
        )
    shown = f"{report.path}: {report.templates:,} templates of {gallery}, {size_text(report.size)}"
    invocation.output.result(asdict(report), shown)
