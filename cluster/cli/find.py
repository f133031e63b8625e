"""`facegrid find`: the person of one photo in a folder of photos, without a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import check_cosine, check_exists, invocation_of
from cluster.cli.output import Grid


def find(
    context: typer.Context,
    query_image: Annotated[
        Path, typer.Argument(metavar="QUERY_IMAGE", help="Photo of the person.", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Photos to look through.", show_default=False)],
    min_score: Annotated[
        float | None, typer.Option(metavar="T", help="Least cosine; the embedder's threshold if not given.")
    ] = None,
    min_face: Annotated[float, typer.Option(metavar="PIXELS", help="Pass over narrower faces.")] = 0.0,
) -> None:
    """Find every face of a person in a folder, best first. Needs no home. Exits with 1 if there is none."""
    from cluster.find import find_faces
    from cluster.progress import show_progress

    invocation = invocation_of(context)
    check_cosine(min_score, option="--min-score")
    check_exists(query_image, what="find")
    pipeline = invocation.faces()
    with show_progress(invocation.output.wants_progress, "looking") as tell:
        found = find_faces(
            query_image, folder, pipeline=pipeline, min_score=min_score, min_face_px=min_face, progress=tell
        )
    document = {
        "matches": [{"path": m.path, "score": m.score, "box": _box(m.box)} for m in found.matches],
        "refused": [{"path": r.path, "reason": r.reason, "message": r.message} for r in found.refused],
        "photos": found.photos,
        "faces": found.faces,
        "min_score": found.min_score,
    }
    shown: list[str | Grid] = []
    if found.matches:
        rows = [(m.score, " ".join(f"{value:.0f}" for value in m.box), m.path) for m in found.matches]
        shown.append(Grid(("score", "box (x y w h)", "path"), rows))
    shown.append(
        f"{len(found.matches):,} faces of at least {found.min_score:.3f} among {found.faces:,} faces in "
        f"{found.photos:,} files"
    )
    for refused in found.refused:
        invocation.output.note(refused.message, level="warning")
    invocation.output.result(document, *shown)
    raise typer.Exit(ExitCode.OK if found.matches else ExitCode.NEGATIVE)


def _box(box: tuple[float, float, float, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in zip(("x", "y", "width", "height"), box, strict=True)}
