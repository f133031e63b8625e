"""`facegrid list`, `facegrid update`, `facegrid delete`: templates that are there."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import invocation_of, read_json
from cluster.cli.output import Grid
from cluster.thumbnails import without_reserved

GalleryArgument = Annotated[
    str, typer.Argument(metavar="GALLERY", help="Gallery, as tenant/gallery.", show_default=False)
]


def list_templates(
    context: typer.Context,
    gallery: GalleryArgument,
    identity: Annotated[str | None, typer.Option(metavar="NAME", help="Templates of this identity only.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Templates of one page, 1 to 1,000.")] = 100,
    cursor: Annotated[str | None, typer.Option(metavar="TEXT", help="Where the page before ended.")] = None,
) -> None:
    """List a page of a gallery's templates, with their metadata."""
    invocation = invocation_of(context)
    with invocation.gallery(gallery) as found:
        page = found.list(cursor=cursor, limit=limit, identity=identity)
    templates = [replace(t, metadata=without_reserved(t.metadata)) for t in page]
    rows = [
        (t.template_id, t.identity, None if t.metadata is None else json.dumps(t.metadata, ensure_ascii=False))
        for t in templates
    ]
    shown: list[str | Grid] = [Grid(("template id", "identity", "metadata"), rows) if rows else "no template"]
    if page.cursor is not None:
        shown.append(f"there are more: --cursor {page.cursor}")
    document = {"gallery": gallery, "templates": [asdict(t) for t in templates], "cursor": page.cursor}
    invocation.output.result(document, *shown)


def update(
    context: typer.Context,
    gallery: GalleryArgument,
    template_id: Annotated[str, typer.Argument(metavar="ID", help="Template id.", show_default=False)],
    metadata: Annotated[
        str, typer.Option(metavar="JSON", help="The new metadata, an object; null for none.", show_default=False)
    ],
) -> None:
    """Replace a template's metadata."""
    invocation = invocation_of(context)
    given = read_json(metadata, option="--metadata")
    with invocation.gallery(gallery) as found:
        template = found.update(template_id, given)
    template = replace(template, metadata=without_reserved(template.metadata))
    invocation.output.result({"gallery": gallery, "template": asdict(template)}, f"updated {template_id}")


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
