"""`facegrid models list | pull`: the networks of the registry and their files here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid
from shard.errors import ModelFileCorrupt, ModelFileMissing

if TYPE_CHECKING:
    from cluster.config import Settings
    from cluster.faces import ModelSpec

app = typer.Typer(name="models", help="List the networks that Facegrid knows, and fetch one.", no_args_is_help=True)


@app.command("list")
def list_models(context: typer.Context) -> None:
    """List detectors and embedders, their licences, and whether their files are here (checked by SHA-256)."""
    from cluster.faces import list_models as registry

    invocation = invocation_of(context)
    settings = invocation.settings()
    specs = registry()
    states = [_state(spec, settings) for spec in specs]
    documents: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "kind": spec.kind,
            "dim": spec.dim,
            "threshold": spec.threshold,
            "licence": spec.licence,
            "is_commercial_use_allowed": spec.is_commercial_use_allowed,
            "url": spec.url,
            "sha256": spec.file.sha256,
            "state": state,
            "path": path,
        }
        for spec, (state, path) in zip(specs, states, strict=True)
    ]
    columns = ("name", "kind", "dim", "threshold", "commercial use", "licence", "file")
    rows = [
        (spec.name, spec.kind, spec.dim, spec.threshold, spec.is_commercial_use_allowed, spec.licence, path or state)
        for spec, (state, path) in zip(specs, states, strict=True)
    ]
    invocation.output.result({"models": documents}, Grid(columns, rows))


def _state(spec: ModelSpec, settings: Settings) -> tuple[str, str | None]:
    """`here` and the path, `corrupt`, `can be pulled`, or `to be provided` where no address is known."""
    from cluster.faces import ModelPlaces, locate

    try:
        return "here", str(locate(spec, ModelPlaces(settings.models, settings.cache)))
    except ModelFileCorrupt:
        return "corrupt", None
    except ModelFileMissing:
        return ("can be pulled" if spec.url else "to be provided"), None


@app.command("pull")
def pull_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in `facegrid models list`.", show_default=False)],
) -> None:
    """Fetch a network's file from its published address into the cache; a wrong SHA-256 is refused."""
    from cluster.faces import model_spec, pull
    from cluster.progress import show_progress

    invocation = invocation_of(context)
    spec = model_spec(name)
    use = "commercial use allowed" if spec.is_commercial_use_allowed else "no commercial use"
    invocation.output.note(f"{spec.name}: licence {spec.licence} ({use})")
    with show_progress(invocation.output.wants_progress, "fetching", unit="bytes") as tell:
        fetched = None if tell is None else lambda done, total: tell(done, total or 0)
        path = pull(spec, invocation.settings().cache, progress=fetched)
    document = {
        "name": name,
        "path": path,
        "sha256": spec.file.sha256,
        "licence": spec.licence,
        "is_commercial_use_allowed": spec.is_commercial_use_allowed,
    }
    invocation.output.result(document, f"{name}: {path}")
