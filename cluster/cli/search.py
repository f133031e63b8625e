"""`facegrid search` (1:N) and `facegrid verify` (1:1)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import check_cosine, check_exists, invocation_of, read_json
from cluster.cli.output import Grid
from cluster.cli.templates import GalleryArgument
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyGallery
    from cluster.results import Candidate
    from coordinator.types import Coverage


def search(
    context: typer.Context,
    gallery: GalleryArgument,
    image: Annotated[
        Path | None, typer.Argument(metavar="[IMAGE]", help="Photo whose main face is searched for.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Probes, (n, dim) float32 or float16, instead of a photo.")
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="Candidates for each probe.")] = 5,
    threshold: Annotated[
        float | None, typer.Option(metavar="T", help="Leave out candidates of a lower cosine.")
    ] = None,
    target_fpir: Annotated[
        float | None,
        typer.Option("--target-fpir", metavar="P", help="Threshold from the gallery's calibration, instead."),
    ] = None,
    recall: Annotated[
        float | None, typer.Option(metavar="R", help="Recall to aim at, in (0, 1); 0.999 if not given.")
    ] = None,
    is_exact: Annotated[bool, typer.Option("--exact", help="Scan every embedding instead of codes.")] = False,
    identities: Annotated[
        list[str] | None, typer.Option("--identity", metavar="NAME", help="Search among these only; may be repeated.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help="Search among templates whose metadata meets this filter.")
    ] = None,
) -> None:
    """Search a gallery. Exits with 1 if no candidate was found."""
    from shard.types import DEFAULT_RECALL

    invocation = invocation_of(context)
    if (image is None) == (embeddings is None):
        raise InvalidParameter("search: expected an IMAGE or --embeddings FILE.npy")
    if recall is not None and is_exact:
        raise InvalidParameter("search: expected --recall or --exact, got both")
    if threshold is not None and target_fpir is not None:
        raise InvalidParameter("search: expected --threshold or --target-fpir, got both")
    check_cosine(threshold, option="--threshold")
    options = {
        "threshold": threshold,
        "target_fpir": target_fpir,
        "recall": DEFAULT_RECALL if recall is None else recall,
        "exact": is_exact,
        "identities": identities or None,
        "where": None if where is None else read_json(where, option="--where"),
    }
    with invocation.gallery(gallery) as found:
        if image is not None:
            check_exists(image, what="search")
            document, rows = _search_image(found, image, k, options)
        else:
            assert embeddings is not None
            document, rows = _search_file(found, embeddings, k, options)
    columns = ("rank", "score", "identity", "template id", "source")
    if embeddings is not None:
        columns = ("probe", *columns[:-1])
    document = {"gallery": gallery, "k": k, **document}
    invocation.output.result(document, Grid(columns, rows) if rows else f"no candidate in {gallery}")
    raise typer.Exit(ExitCode.OK if rows else ExitCode.NEGATIVE)


_Rows = list[tuple[str | int | float | None, ...]]


def _search_image(gallery: AnyGallery, image: Path, k: int, options: dict[str, Any]) -> tuple[dict[str, Any], _Rows]:
    found = gallery.search_image(image, k, **options)
    rows: _Rows = [
        (rank, c.score, c.identity, c.template_id, _source(c)) for rank, c in enumerate(found.candidates, start=1)
    ]
    document = {
        "face": asdict(found.face),
        "candidates": [asdict(candidate) for candidate in found.candidates],
        "coverage": _coverage(found.coverage),
        "threshold": found.threshold,
    }
    return document, rows


def _search_file(gallery: AnyGallery, path: Path, k: int, options: dict[str, Any]) -> tuple[dict[str, Any], _Rows]:
    from cluster.imports.arrays import read_embeddings, widened

    batch = gallery.search(widened(read_embeddings(path)), k, **options)
    lists = [
        [
            {"score": float(score), "template_id": template_id, "identity": identity}
            for score, template_id, identity in zip(scores, ids, identities, strict=False)  # scores are padded
        ]
        for scores, ids, identities in zip(batch.scores, batch.template_ids, batch.identities, strict=True)
    ]
    rows: _Rows = [
        (probe, rank, c["score"], c["identity"], c["template_id"])
        for probe, candidates in enumerate(lists)
        for rank, c in enumerate(candidates, start=1)
    ]
    document = {
        "probes": [{"candidates": c} for c in lists],
        "coverage": _coverage(batch.coverage),
        "threshold": batch.threshold,
    }
    return document, rows


def _source(candidate: Candidate) -> str | None:
    source = (candidate.metadata or {}).get("source")
    return None if source is None else str(source)


def _coverage(coverage: Coverage) -> dict[str, int]:
    return {"answered": coverage.answered, "asked": coverage.asked}


def verify(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="One photo.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other photo.", show_default=False)],
    threshold: Annotated[
        float | None, typer.Option(metavar="T", help="Least cosine of the same person; the embedder's if not given.")
    ] = None,
) -> None:
    """Say whether two photos show the same person. Exits with 0 if they do, with 1 if not. Needs no home."""
    invocation = invocation_of(context)
    check_cosine(threshold, option="--threshold")
    for path in (a, b):
        check_exists(path, what="verify")
    with invocation.service() as service:
        if service is not None:
            found = service.verify(a, b, threshold=threshold)
        else:
            from cluster import images

            found = images.verify(invocation.faces(), a, b, threshold=threshold)
    verdict, relation = ("the same person", ">=") if found.is_match else ("different persons", "<")
    invocation.output.result(asdict(found), f"{verdict}: score {found.score:.3f} {relation} {found.threshold:.3f}")
    raise typer.Exit(ExitCode.OK if found.is_match else ExitCode.NEGATIVE)
