"""`facegrid identities`, `facegrid identity rename | merge`: the names that templates bear."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid
from cluster.cli.templates import GalleryArgument

app = typer.Typer(name="identity", help="Rename and merge identities.", no_args_is_help=True)


def identities(context: typer.Context, gallery: GalleryArgument) -> None:
    """List every identity with its number of templates."""
    invocation = invocation_of(context)
    with invocation.gallery(gallery) as found:
        entries = list(found.identities())
    shown = Grid(("identity", "templates"), [(entry.identity, entry.templates) for entry in entries])
    document = {"gallery": gallery, "identities": [asdict(entry) for entry in entries]}
    invocation.output.result(document, shown if entries else f"no identity in {gallery}")


@app.command()
def rename(
    context: typer.Context,
    gallery: GalleryArgument,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The identity's name.", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name, which nobody has.", show_default=False)],
) -> None:
    """Give every template of an identity another name."""
    invocation = invocation_of(context)
    with invocation.gallery(gallery) as found:
        renamed = found.rename_identity(old, new)
    document = {"gallery": gallery, "old": old, "new": new, "templates": renamed}
    invocation.output.result(document, f"renamed {old} to {new}: {renamed:,} templates")


@app.command()
def merge(
    context: typer.Context,
    gallery: GalleryArgument,
    into: Annotated[str, typer.Option(metavar="NAME", help="The name that all of them get.", show_default=False)],
    identity: Annotated[
        list[str], typer.Option(metavar="NAME", help="An identity to merge; may be repeated.", show_default=False)
    ],
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Give the templates of several identities one name. Which were whose is not known afterwards."""
    invocation = invocation_of(context)
    with invocation.gallery(gallery) as found:
        named = f"{', '.join(map(repr, identity[:5]))}{' …' if len(identity) > 5 else ''}"
        invocation.confirm(f"Merge {named} into {into!r} in {gallery}?", is_confirmed=is_confirmed)
        merged = found.merge_identities(identity, into)
    document = {"gallery": gallery, "identities": identity, "into": into, "templates": merged}
    invocation.output.result(document, f"merged into {into}: {merged:,} templates have another name")
