"""`facegrid delete`: what changes a gallery beside enrolling."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import invocation_of

GalleryArgument = Annotated[
    str, typer.Argument(metavar="GALLERY", help="Gallery, as tenant/gallery.", show_default=False)
]


def delete(
    context: typer.Context,
    gallery: GalleryArgument,
    identity: Annotated[str | None, typer.Option(metavar="NAME", help="Delete all templates of this identity.")] = None,
    template_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Delete this template; may be repeated.")
    ] = None,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete templates by identity or id. Exits with 1 if nothing of that name was there."""
    invocation = invocation_of(context)
    named = ([f"identity {identity!r}"] if identity is not None else []) + [repr(i) for i in template_id or ()]
    with invocation.gallery(gallery) as found:
        if named:
            question = f"Delete {', '.join(named[:5])}{' …' if len(named) > 5 else ''} from {gallery}?"
            invocation.confirm(question, is_confirmed=is_confirmed)
        deleted = found.delete(identity=identity, template_ids=template_id or ())
    shown = f"deleted {deleted:,} templates" if deleted else "nothing of that name is there; nothing was deleted"
    invocation.output.result({"gallery": gallery, "deleted": deleted}, shown)
    raise typer.Exit(ExitCode.OK if deleted else ExitCode.NEGATIVE)
