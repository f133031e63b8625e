"""`facegrid gallery create | list | show | drop`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid, size_text
from cluster.cli.training import drift_document, drift_text
from shard.errors import AlreadyExists, UnknownGallery

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyCluster
    from cluster.results import GalleryStats

app = typer.Typer(name="gallery", help="Create, list, show and drop galleries.", no_args_is_help=True)

GalleryName = Annotated[str, typer.Argument(metavar="NAME", help="Gallery, as tenant/gallery.", show_default=False)]


@app.command()
def create(
    context: typer.Context,
    name: GalleryName,
    shards: Annotated[int | None, typer.Option(metavar="N", help="Shards; 4 if not given.")] = None,
    dim: Annotated[
        int | None, typer.Option(metavar="D", help="Dimension, for embeddings made elsewhere; no photos then.")
    ] = None,
    code_bits: Annotated[
        int | None, typer.Option(metavar="BITS", help="128, 256, 512 or 1024; 512 if not given.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(metavar="N", help="Copies of each shard, on hosts of their own; 1 if not given.")
    ] = None,
    min_in_sync: Annotated[
        int | None, typer.Option(metavar="M", help="Copies without which writes are refused; 1 if not given.")
    ] = None,
    is_exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="No error if it is there with what is given here.")
    ] = False,
) -> None:
    """Create a gallery, and the home if there is none."""
    from cluster.client import RemoteCluster

    invocation = invocation_of(context)
    with invocation.cluster(create=True) as grid:
        is_there = _is_there(grid, name)
        if is_there and not is_exist_ok:
            raise AlreadyExists(f"gallery {name!r} exists; --exist-ok makes that no error")
        embedder = invocation.given.get("embedder")
        if isinstance(grid, RemoteCluster) and dim is None and embedder is None:
            embedder = invocation.settings().embedder  # a service has to be told which
        gallery = grid.gallery(
            name,
            create=True,
            shards=shards,
            dim=dim,
            code_bits=code_bits,
            embedder=embedder,
            replicas=replicas,
            min_in_sync=min_in_sync,
        )
        stats = gallery.stats()
        document = {"gallery": asdict(stats), "is_new": not is_there}
        made_for = f"embedder {stats.embedder}" if stats.embedder else "embeddings made elsewhere"
        invocation.output.result(
            document,
            f"{'exists' if is_there else 'created'}: {name}, {stats.shards} shards with {stats.replicas} replicas, "
            f"dimension {stats.dim}, {stats.code_bits} bits, {made_for}",
        )


@app.command("list")
def list_galleries(context: typer.Context) -> None:
    """List the galleries of the home."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        found = [gallery.stats() for gallery in grid.galleries()]
    shown = gallery_grid(found) if found else "no galleries; `facegrid gallery create TENANT/NAME` makes one"
    invocation.output.result({"galleries": [asdict(stats) for stats in found]}, shown)


@app.command()
def show(
    context: typer.Context,
    name: GalleryName,
    with_identities: Annotated[
        bool, typer.Option("--identities", help="List every identity and its templates too.")
    ] = False,
) -> None:
    """Show a gallery's size and settings."""
    from cluster.client import RemoteGallery

    invocation = invocation_of(context)
    with invocation.gallery(name) as gallery:
        stats = gallery.stats()
        drift = None if isinstance(gallery, RemoteGallery) else gallery.drift()  # a service does not tell of it
        identities = list(gallery.identities()) if with_identities else None
    document = asdict(stats)
    facts = [(key, _text(key, value)) for key, value in document.items()][1:]
    shown: list[Grid] = [Grid(("", name), [*facts, ("drift", drift_text(drift))])]
    document["drift"] = drift_document(drift)
    if identities is not None:
        document["identities"] = [asdict(entry) for entry in identities]
        shown.append(Grid(("identity", "templates"), [(entry.identity, entry.templates) for entry in identities]))
    invocation.output.result({"gallery": document}, *shown)


@app.command()
def drop(
    context: typer.Context,
    name: GalleryName,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a gallery with its templates and files."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        templates = len(grid.gallery(name))
        invocation.confirm(f"Drop {name} with its {templates:,} templates?", is_confirmed=is_confirmed)
        grid.drop(name)
    invocation.output.result({"dropped": name, "templates": templates}, f"dropped {name} ({templates:,} templates)")


def gallery_grid(found: list[GalleryStats]) -> Grid:
    """The galleries as a table."""
    columns = ("gallery", "templates", "shards", "in sync", "dim", "embedder", "bits", "codes", "disk", "model")
    rows = [
        (
            stats.name,
            stats.templates,
            stats.shards,
            f"{stats.in_sync} of {stats.replicas}",
            stats.dim,
            stats.embedder,
            stats.code_bits,
            size_text(stats.code_bytes),
            size_text(stats.disk_bytes),
            "exact" if stats.model_id is None else stats.model_id[:8],
        )
        for stats in found
    ]
    return Grid(columns, rows)


def _is_there(grid: AnyCluster, name: str) -> bool:
    try:
        grid.gallery(name)
    except UnknownGallery:
        return False
    return True


def _text(key: str, value: object) -> str | None:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{size_text(value)}" if key.endswith("_bytes") else f"{value:,}"
    return None if value is None else str(value)
