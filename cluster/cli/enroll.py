"""`facegrid enroll`: a folder, single photos, or a file of embeddings into a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import Invocation, check_exists, invocation_of
from cluster.cli.output import Grid
from cluster.cli.templates import GalleryArgument
from shard.errors import InvalidImage, InvalidParameter

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyGallery
    from cluster.results import FolderReport


def enroll(
    context: typer.Context,
    gallery: GalleryArgument,
    photos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER | IMAGE...]", help="FOLDER/<identity>/<photo>, or photos of one person."),
    ] = None,
    identity: Annotated[str | None, typer.Option(metavar="NAME", help="Whose photos the IMAGEs are.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="(n, dim) float32 or float16 instead of photos.")
    ] = None,
    identities: Annotated[
        Path | None, typer.Option(metavar="FILE.txt", help="One identity a line, for --embeddings; empty for none.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE.txt", help="One template id a line, for --embeddings.")
    ] = None,
    if_exists: Annotated[
        str, typer.Option(metavar="error|skip", help="What to do with a template id of --ids that is there.")
    ] = "error",
) -> None:
    """Enroll photos or embeddings. Exits with 10 if a photo was refused; the others are enrolled."""
    invocation = invocation_of(context)
    paths = photos or []
    if bool(paths) == (embeddings is not None):
        raise InvalidParameter("enroll: expected either a FOLDER or IMAGEs, or --embeddings")
    if embeddings is not None:
        if identity is not None:
            raise InvalidParameter("--identity is for IMAGEs; use --identities FILE.txt with --embeddings")
        _enroll_file(invocation, gallery, embeddings, identities, ids, if_exists)
        return
    if identities is not None or ids is not None:
        raise InvalidParameter("--identities and --ids go with --embeddings")
    for path in paths:
        check_exists(path, what="enroll")
    if any(path.is_dir() for path in paths):
        if len(paths) != 1 or identity is not None:
            raise InvalidParameter(
                "enroll: expected one FOLDER and no --identity (its subfolders name them), or IMAGEs"
            )
        with invocation.gallery(gallery) as found:
            report = found.enroll_folder(paths[0], progress=invocation.output.wants_progress)
    else:
        with invocation.gallery(gallery) as found:
            report = _enroll_images(invocation, found, paths, identity)
    _show_report(invocation, gallery, report)


def _enroll_images(
    invocation: Invocation, gallery: AnyGallery, paths: list[Path], identity: str | None
) -> FolderReport:
    from cluster.images import source_text
    from cluster.progress import show_progress
    from cluster.results import FolderReport, Refusal

    enrolled = skipped = 0
    refused: list[Refusal] = []
    with show_progress(invocation.output.wants_progress, "enrolling") as tell:
        for done, path in enumerate(paths, start=1):
            try:
                metadata = {"source": source_text(path.name)}
                result = gallery.enroll_image(path, identity=identity, metadata=metadata)
                enrolled, skipped = enrolled + result.enrolled, skipped + result.skipped
            except InvalidImage as error:
                refused.append(Refusal(path, error.reason, str(error)))
            if tell is not None:
                tell(done, len(paths))
    return FolderReport(len(paths), enrolled, skipped, tuple(refused))


def _show_report(invocation: Invocation, gallery: str, report: FolderReport) -> None:
    document = {
        "gallery": gallery,
        "photos": report.photos,
        "enrolled": report.enrolled,
        "skipped": report.skipped,
        "refused": [{"path": r.path, "reason": r.reason, "message": r.message} for r in report.refused],
    }
    shown: list[str | Grid] = []
    if report.refused:
        shown.append(Grid(("refused", "reason", "found"), [(r.path, r.reason, r.message) for r in report.refused]))
    shown.append(
        f"{gallery}: {report.enrolled:,} of {report.photos:,} photos enrolled, {report.skipped:,} there already, "
        f"{len(report.refused):,} refused"
    )
    invocation.output.result(document, *shown)
    if report.refused:
        raise typer.Exit(ExitCode.PARTIAL)


def _enroll_file(
    invocation: Invocation, gallery: str, embeddings: Path, identities: Path | None, ids: Path | None, if_exists: str
) -> None:
    from cluster.cli.embedding_files import enroll_embeddings, read_labels
    from cluster.imports.arrays import read_embeddings
    from cluster.progress import show_progress

    rows = read_embeddings(embeddings)
    names = None if identities is None else [line or None for line in read_labels(identities, len(rows))]
    template_ids = None if ids is None else read_labels(ids, len(rows))
    policy = _policy(if_exists)
    with (
        invocation.gallery(gallery) as found,
        show_progress(invocation.output.wants_progress, "enrolling") as tell,
    ):
        enrolled, skipped = enroll_embeddings(
            found, rows, identities=names, template_ids=template_ids, if_exists=policy, progress=tell
        )
    document = {"gallery": gallery, "rows": len(rows), "enrolled": enrolled, "skipped": skipped}
    shown = f"{gallery}: {enrolled:,} of {len(rows):,} embeddings enrolled, {skipped:,} there already"
    invocation.output.result(document, shown)


def _policy(value: str) -> Literal["error", "skip"]:
    if value == "error":
        return "error"
    if value == "skip":
        return "skip"
    raise InvalidParameter(f"--if-exists: expected error or skip, got {value!r}")
