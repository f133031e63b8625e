"""`facegrid calibrate` and `facegrid calibration`: error rates of a gallery, and thresholds for a target FPIR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.output import Cell, Grid, time_text
from cluster.cli.templates import GalleryArgument
from shard.errors import InvalidParameter, NotFound

if TYPE_CHECKING:
    from cluster.gallery import Gallery
    from coordinator.gallery_calibration import Calibration


def calibrate(
    context: typer.Context,
    gallery: GalleryArgument,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Identities to search with, 100 to 5,000.")
    ] = 2_000,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Which identities are drawn.")] = 0,
) -> None:
    """Measure a gallery's error rates on its labelled templates, and keep them with it."""
    invocation = invocation_of(context)
    with invocation.home_gallery("calibrate", gallery) as found:
        measured = found.calibrate(samples=samples, seed=seed)
        document, shown = _told(found, measured, measured.gallery_size, None)
    invocation.output.result(document, *shown)


def calibration(
    context: typer.Context,
    gallery: GalleryArgument,
    target_fpir: Annotated[
        list[float] | None,
        typer.Option("--target-fpir", metavar="P", help="FPIR to give the threshold for; may be repeated."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", metavar="N", help="Templates to give it at; as many as there are now if not given."),
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE.svg", help="Write a picture of it too.")] = None,
) -> None:
    """Show the error rates that `calibrate` measured, and thresholds for a target FPIR."""
    from cluster.error_rates_svg import error_rates_svg

    invocation = invocation_of(context)
    with invocation.home_gallery("calibration", gallery) as found:
        stored = found.calibration()
        if stored is None:
            raise NotFound(f"{gallery} has no calibration; `facegrid calibrate {gallery}` makes one")
        document, shown = _told(found, stored, max(len(found), 1) if n is None else n, target_fpir)
    if svg is not None:
        try:
            svg.write_text(error_rates_svg(stored, gallery=gallery, n=document["n"]), encoding="utf-8")
        except OSError as error:
            raise InvalidParameter(f"--svg: {svg} could not be written: {error.strerror}") from error
    invocation.output.result(document, *shown)


def _told(
    gallery: Gallery, found: Calibration, n: int, targets: list[float] | None
) -> tuple[dict[str, Any], list[str | Grid]]:
    """The document and what people see. A target that was asked for and is not supported raises NotEnoughData."""
    from cluster.calibration import calibration_document

    stale = found.stale_reason(gallery.embedder, max(len(gallery), 1))
    document = {"gallery": gallery.name, "stale": stale, **calibration_document(found, n=n, target_fpirs=targets)}
    fpir = document["fpir"]
    shown: list[str | Grid] = [
        f"calibration of {gallery.name}, {time_text(found.created_at)}: {found.probes:,} non-mated searches of"
        f" {found.gallery_size:,} templates, {found.impostors:,} impostor and {found.genuine:,} genuine pairs",
        f"EER {found.eer:.2%} at threshold {found.eer_threshold:.3f}",
        _points_grid(found),
        f"1:N, at {n:,} templates" + ("" if n == found.gallery_size else f", carried from {found.gallery_size:,}"),
        _fpir_grid(fpir),
    ]
    if found.check is not None:
        shown.append(_check_text(found))
    return document, shown if stale is None else [*shown, f"stale: {stale}; `facegrid calibrate {gallery.name}`"]


def _points_grid(found: Calibration) -> Grid:
    rows: list[tuple[Cell, ...]] = []
    for p in found.points:
        if p.threshold is None or p.fmr_interval is None or p.fnmr is None or p.fnmr_interval is None:
            said = f"too few comparisons: {p.comparisons:,}, {p.needed:,} needed"
            rows.append((f"{p.target_fmr:g}", None, None, said, None, None))
            continue
        fmr, fnmr = ("{:.2g} to {:.2g}".format(*interval) for interval in (p.fmr_interval, p.fnmr_interval))
        rows.append((f"{p.target_fmr:g}", p.threshold, f"{p.fmr:.2g}", fmr, f"{p.fnmr:.2%}", fnmr))
    return Grid(("target FMR", "threshold", "FMR", "95 %", "FNMR", "95 %"), rows)


def _fpir_grid(fpir: list[dict[str, Any]]) -> Grid:
    rows: list[tuple[Cell, ...]] = []
    for entry in fpir:
        target = f"{entry['target_fpir']:g}"
        if entry["threshold"] is None:
            rows.append((target, None, "too few searches", None))
        else:
            low, high = entry["interval"]
            rows.append((target, entry["threshold"], f"{low:.3f} to {high:.3f}", f"{entry['fnmr']:.2%}"))
    return Grid(("target FPIR", "threshold", "95 %", "FNMR there"), rows)


def _check_text(found: Calibration) -> str:
    check = found.check
    assert check is not None
    low, high = check.interval
    return (
        f"check: carried to {check.templates:,} templates of one identity each, FPIR is {check.carried:.1%} at"
        f" {check.threshold:.3f}; measured there {check.measured:.1%} ({low:.1%} to {high:.1%})"
    )
