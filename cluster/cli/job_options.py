"""What each kind of job can be asked for on the command line: the options of `jobs submit` and of `k8s render-job`.

Each function here has a kind's options as its parameters and says what they ask for; `command_of` makes a command of
it, with options of its own that say what is done with that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from cluster.cli.invocation import check_cosine
from cluster.cli.templates import GalleryArgument
from shard.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A kind, a gallery and parameters as `Jobs.submit` takes them, not checked yet; none of them is None.

    Paths of sources are as they were given: `placed` changes them.
    """

    kind: str
    gallery: str
    parameters: dict[str, Any]

    def placed(self, place: Callable[[str], str]) -> JobRequest:
        """The same with every path or URL of a source as `place` says."""
        if "sources" not in self.parameters:
            return self
        sources = [
            {name: place(value) if name in _PATHS else value for name, value in source.items()}
            for source in self.parameters["sources"]
        ]
        return JobRequest(self.kind, self.gallery, {**self.parameters, "sources": sources})


_PATHS = {"url", "manifest", "identities", "template_ids", "labels"}
"""Fields of a source that are a path or a URL."""


def command_of(ask: Callable[..., JobRequest], finish: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `ask` and then those of `finish`, which is called with the Typer context, what was
    asked for, and its own options by name.
    """
    asked, own = _parameters(ask), _parameters(finish)[2:]

    def command(**given: Any) -> None:
        context = given.pop("context")
        wanted = {parameter.name: given.pop(parameter.name) for parameter in asked}
        finish(context, ask(**wanted), **given)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    every = [context, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*asked, *own))]
    described: Any = command  # Typer reads what a function takes from these
    described.__signature__ = inspect.Signature(every)
    described.__annotations__ = {one.name: one.annotation for one in every}
    described.__name__, described.__doc__ = ask.__name__, ask.__doc__
    return command


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [one.replace(annotation=hints[one.name]) for one in inspect.signature(function).parameters.values()]


Workers = Annotated[
    int | None, typer.Option(metavar="N", help="Processes, or Ray tasks, at a time; as many as cores if not given.")
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="[SOURCE...]",
        help="Folder, .tar, .parquet, .arrow or .npy file, or URL such as s3://bucket/prefix.",
        show_default=False,
    ),
]


def dedup(
    gallery: GalleryArgument,
    threshold: Annotated[float | None, typer.Option(metavar="S", help="Cosine from which on faces are a pair.")] = None,
    target_fpir: Annotated[
        float | None, typer.Option(metavar="P", help="The threshold of the gallery's calibration for it, instead.")
    ] = None,
    mode: Annotated[str, typer.Option(metavar="exact|fast", help="All pairs, or faster and fewer of them.")] = "exact",
    recall: Annotated[float | None, typer.Option(metavar="R", help="Share of the true pairs to find.")] = None,
    other: Annotated[
        str | None, typer.Option(metavar="GALLERY", help="Second gallery: pairs have one face of each.")
    ] = None,
    is_analysis: Annotated[
        bool, typer.Option("--analyse", help="Only what each threshold would give, to choose one by.")
    ] = False,
    floor: Annotated[float | None, typer.Option(metavar="S", help="Least score that an analysis looks at.")] = None,
    min_group: Annotated[int | None, typer.Option(metavar="N", help="Leave out groups of fewer faces; 2.")] = None,
    max_group: Annotated[int | None, typer.Option(metavar="N", help="Review groups of more faces; 1,000.")] = None,
    cohesion: Annotated[
        float | None, typer.Option(metavar="S", help="Least cosine to the group's medoid; half of the threshold.")
    ] = None,
    merge_same_photo: Annotated[
        bool, typer.Option("--merge-same-photo", help="Two faces of one photo may be in one group.")
    ] = False,
    same_photo_bits: Annotated[
        int | None, typer.Option(metavar="N", help="Bits in which hashes of one photo may differ; 4.")
    ] = None,
    keep: Annotated[str, typer.Option(metavar="quality|first", help="Which face of a group is kept.")] = "quality",
    max_pairs: Annotated[int | None, typer.Option(metavar="N", help="More pairs are an error; 50,000,000.")] = None,
    workers: Workers = None,
    store: Annotated[str | None, typer.Option(metavar="STORE", help="Snapshot store to read instead.")] = None,
    snapshot: Annotated[str | None, typer.Option(metavar="ID", help="The gallery's snapshot there.")] = None,
    other_snapshot: Annotated[str | None, typer.Option(metavar="ID", help="The second gallery's.")] = None,
) -> JobRequest:
    """Find every group of faces that are one person's, in a gallery or between two; changes nothing in them."""
    check_cosine(threshold, option="--threshold")
    parameters = {
        "threshold": threshold,
        "target_fpir": target_fpir,
        "mode": mode,
        "recall": recall,
        "other": other,
        "analyse": is_analysis or None,
        "floor": floor,
        "min_group": min_group,
        "max_group": max_group,
        "cohesion": cohesion,
        "merge_same_photo": merge_same_photo or None,
        "same_photo_bits": same_photo_bits,
        "keep": keep,
        "max_pairs": max_pairs,
        "workers": workers,
        "store": store,
        "snapshot": snapshot,
        "other_snapshot": other_snapshot,
    }
    return _request("dedup", gallery, parameters)


def enroll(
    gallery: GalleryArgument,
    sources: Sources,
    kind: Annotated[str, typer.Option(metavar="KIND", help="auto, folder, tar, parquet, arrow or npy.")] = "auto",
    manifest: Annotated[
        str | None, typer.Option(metavar="FILE", help="Items of a folder: JSON lines, or CSV with a header.")
    ] = None,
    identities: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of a .npy array: identities, a line each.")
    ] = None,
    template_ids: Annotated[
        str | None, typer.Option("--ids", metavar="FILE", help="Of a .npy array: template ids, a line each.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of a .npy array: labels, a JSON object each line.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="WHAT=NAME",
            help="Column of image, embedding, identity, template_id or metadata; may be repeated.",
        ),
    ] = None,
    keeps_thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Keep a picture of each face.")] = False,
    workers: Workers = None,
    gpus: Annotated[float | None, typer.Option(metavar="N", help="GPUs of each embedder; on Ray.")] = None,
) -> JobRequest:
    """Enroll photos or embeddings of folders, archives, tables or buckets; each exactly once, however often resumed."""
    files = {"manifest": manifest, "identities": identities, "template_ids": template_ids, "labels": labels}
    parameters = {
        "sources": _sources(sources, kind, files, column or []),
        "keep_thumbnails": keeps_thumbnails or None,
        "workers": workers,
        "gpus": gpus,
    }
    return _request("enroll", gallery, parameters)


def reembed(
    gallery: GalleryArgument,
    sources: Sources,
    into: Annotated[str, typer.Option(metavar="NAME", help="The new gallery.", show_default=False)],
    network: Annotated[str, typer.Option("--network", metavar="NAME", help="The new embedder.", show_default=False)],
    kind: Annotated[str, typer.Option(metavar="KIND", help="auto, folder, tar, parquet or arrow.")] = "auto",
    manifest: Annotated[
        str | None, typer.Option(metavar="FILE", help="Items of a folder: JSON lines, or CSV with a header.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="WHAT=NAME", help="Column of image or template_id; may be repeated."),
    ] = None,
    shards: Annotated[int | None, typer.Option(metavar="N", help="Its shards; as the old one's.")] = None,
    code_bits: Annotated[int | None, typer.Option(metavar="BITS", help="Its codes; as the old one's.")] = None,
    workers: Workers = None,
    gpus: Annotated[float | None, typer.Option(metavar="N", help="GPUs of each embedder; on Ray.")] = None,
) -> JobRequest:
    """Make a gallery again by another network, from its photos: the same ids, identities and metadata."""
    parameters = {
        "sources": _sources(sources, kind, {"manifest": manifest}, column or []),
        "into": into,
        "embedder": network,
        "shards": shards,
        "code_bits": code_bits,
        "workers": workers,
        "gpus": gpus,
    }
    return _request("reembed", gallery, parameters)


def calibrate(
    gallery: GalleryArgument,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Identities to search with, 100 to 5,000; 2,000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Which identities are drawn; 0.")] = None,
) -> JobRequest:
    """Measure a gallery's error rates on its labelled templates, and keep them with it."""
    parameters = {"samples": samples, "seed": seed}
    return _request("calibrate", gallery, parameters)


COLUMNS = ("image", "embedding", "identity", "template_id", "metadata")


def _request(kind: str, gallery: str, parameters: dict[str, Any]) -> JobRequest:
    return JobRequest(kind, gallery, {name: value for name, value in parameters.items() if value is not None})


def _sources(sources: list[str], kind: str, files: dict[str, str | None], columns: list[str]) -> list[dict[str, Any]]:
    """Sources as parameters have them."""
    if not sources:
        raise InvalidParameter("SOURCE: expected at least one folder, file or URL, got none")
    common: dict[str, Any] = {"kind": kind, **_columns(columns)}
    common |= {name: path for name, path in files.items() if path is not None}
    return [{"url": source, **common} for source in sources]


def _columns(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        what, _, name = text.partition("=")
        if what not in COLUMNS or not name:
            raise InvalidParameter(f"--column: expected WHAT=NAME, WHAT one of {', '.join(COLUMNS)}; got {text!r:.80}")
        found[f"{what}_column"] = name
    return found


ASKS: tuple[Callable[..., JobRequest], ...] = (dedup, enroll, reembed, calibrate)
"""Each kind's options."""
