"""`facegrid tenant create | list | show | update | drop`, and `facegrid audit`."""

from __future__ import annotations

from dataclasses import asdict, astuple, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid, size_text, time_text
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyCluster
    from coordinator.tenant_types import Quotas, TenantRecord, Usage

app = typer.Typer(name="tenant", help="Create, list, show, change and drop tenants.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Tenant.", show_default=False)]
MaxGalleries = Annotated[str | None, typer.Option(metavar="N", help="Most galleries; `none` for no limit.")]
MaxTemplates = Annotated[str | None, typer.Option(metavar="N", help="Most templates; `none` for no limit.")]
MaxRate = Annotated[str | None, typer.Option(metavar="N", help="Most requests a second; `none` for no limit.")]
MaxBytes = Annotated[str | None, typer.Option(metavar="N", help="Most bytes of files; `none` for no limit.")]
MaxJobs = Annotated[str | None, typer.Option(metavar="N", help="Most jobs that wait or run; `none` for no limit.")]
Weight = Annotated[int | None, typer.Option(metavar="W", help="Share of the service beside others, 1 to 100.")]


@app.command()
def create(
    context: typer.Context,
    name: TenantName,
    max_galleries: MaxGalleries = None,
    max_templates: MaxTemplates = None,
    max_queries_per_s: MaxRate = None,
    max_bytes: MaxBytes = None,
    max_jobs: MaxJobs = None,
    weight: Weight = None,
    keeps_thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Keep a picture of each face.")] = False,
    is_encrypted: Annotated[bool, typer.Option("--encrypted", help="Encrypt its files.")] = False,
) -> None:
    """Create a tenant, and the home if there is none."""
    from coordinator.tenant_rows import DEFAULT_WEIGHT
    from coordinator.tenant_types import Quotas

    invocation = invocation_of(context)
    quotas = _changed(Quotas(), max_galleries, max_templates, max_queries_per_s, max_bytes, max_jobs)
    with invocation.cluster(create=True) as grid:
        tenant = grid.tenants.create(
            name,
            quotas=quotas,
            weight=DEFAULT_WEIGHT if weight is None else weight,
            keeps_thumbnails=keeps_thumbnails,
            is_encrypted=is_encrypted,
        )
    invocation.output.result({"tenant": asdict(tenant)}, f"created: {name}", _facts(tenant))


@app.command("list")
def list_tenants(context: typer.Context) -> None:
    """List the tenants of the home."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        tenants = grid.tenants.all()
    columns = ("tenant", "id", "created", "galleries", "templates", "queries/s", "bytes", "jobs", "weight")
    rows = [
        (t.name, t.tenant_id, time_text(t.created_at), *map(_limit, astuple(t.quotas)), str(t.weight)) for t in tenants
    ]
    shown = Grid(columns, rows) if rows else "no tenants; a gallery makes its own"
    invocation.output.result({"tenants": [asdict(tenant) for tenant in tenants]}, shown)


@app.command()
def show(context: typer.Context, name: TenantName) -> None:
    """Show a tenant's settings, and how much it has."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        tenant, has = grid.tenants.get(name), _usage(grid, name)
    used = f"{has.galleries:,} galleries, {has.templates:,} templates, {size_text(has.bytes)}"
    invocation.output.result({"tenant": asdict(tenant), "usage": asdict(has)}, _facts(tenant), f"in use: {used}")


@app.command()
def update(
    context: typer.Context,
    name: TenantName,
    max_galleries: MaxGalleries = None,
    max_templates: MaxTemplates = None,
    max_queries_per_s: MaxRate = None,
    max_bytes: MaxBytes = None,
    max_jobs: MaxJobs = None,
    weight: Weight = None,
    thumbnails: Annotated[
        str | None, typer.Option(metavar="yes|no", help="Keep a picture of each face, from now on.")
    ] = None,
) -> None:
    """Change the limits and settings that are given; the others stay."""
    invocation = invocation_of(context)
    if thumbnails not in (None, "yes", "no"):
        raise InvalidParameter(f"--thumbnails: expected 'yes' or 'no', got {thumbnails!r:.80}")
    keeps_thumbnails = None if thumbnails is None else thumbnails == "yes"
    with invocation.cluster() as grid:
        before = grid.tenants.get(name).quotas
        quotas = _changed(before, max_galleries, max_templates, max_queries_per_s, max_bytes, max_jobs)
        tenant = grid.tenants.update(name, quotas=quotas, weight=weight, keeps_thumbnails=keeps_thumbnails)
    invocation.output.result({"tenant": asdict(tenant)}, _facts(tenant))


@app.command()
def drop(
    context: typer.Context,
    name: TenantName,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a tenant with every gallery and key of it."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        has = _usage(grid, name)
        what = f"{has.galleries:,} galleries and {has.templates:,} templates"
        invocation.confirm(f"Drop tenant {name} with its {what}?", is_confirmed=is_confirmed)
        grid.tenants.drop(name)
    invocation.output.result({"dropped": name, "usage": asdict(has)}, f"dropped {name} ({what})")


def audit(
    context: typer.Context,
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", help="Entries of this tenant only.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Entries, 1 to 1,000.")] = 100,
    before: Annotated[float | None, typer.Option(metavar="UNIX_S", help="Only what is older than this time.")] = None,
) -> None:
    """Show who did what through the service, the newest first."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        entries = grid.tenants.audit(tenant, before=before, limit=limit)
    columns = ("at", "tenant", "key", "action", "gallery", "count", "outcome", "request")
    rows = [
        (time_text(e.at), e.tenant, e.key_id, e.action, e.gallery, e.count, e.outcome, e.request_id) for e in entries
    ]
    shown = Grid(columns, rows) if rows else "no entries"
    invocation.output.result({"entries": [asdict(entry) for entry in entries]}, shown)


def _usage(grid: AnyCluster, name: str) -> Usage:
    from cluster.client import RemoteCluster
    from cluster.tenancy import usage

    return grid.usage(name) if isinstance(grid, RemoteCluster) else usage(grid, name)


def _changed(
    quotas: Quotas, galleries: str | None, templates: str | None, rate: str | None, size: str | None, jobs: str | None
) -> Quotas:
    """The quotas with those that an option names."""
    values: dict[str, Any] = {
        "galleries": _whole("--max-galleries", galleries),
        "templates": _whole("--max-templates", templates),
        "queries_per_s": _number("--max-queries-per-s", rate),
        "bytes": _whole("--max-bytes", size),
        "jobs": _whole("--max-jobs", jobs),
    }
    given = {"galleries": galleries, "templates": templates, "queries_per_s": rate, "bytes": size, "jobs": jobs}
    return replace(quotas, **{name: values[name] for name, text in given.items() if text is not None})


def _whole(option: str, text: str | None) -> int | None:
    if text is None or text == "none":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidParameter(f"{option}: expected a whole number of at least 0, or 'none'; got {text!r:.80}")
    return int(text)


def _number(option: str, text: str | None) -> float | None:
    if text is None or text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidParameter(f"{option}: expected a number above 0, or 'none'; got {text!r:.80}") from None


def _facts(tenant: TenantRecord) -> Grid:
    quotas = asdict(tenant.quotas)
    rows = [
        ("tenant", tenant.name),
        ("id", tenant.tenant_id),
        ("created", time_text(tenant.created_at)),
        *((f"most {name}", _limit(value)) for name, value in quotas.items()),
        ("weight", str(tenant.weight)),
        ("keeps thumbnails", "yes" if tenant.keeps_thumbnails else "no"),
        ("is encrypted", "yes" if tenant.is_encrypted else "no"),
    ]
    return Grid(("", ""), rows)


def _limit(value: float | None) -> str:
    return "no limit" if value is None else f"{value:,}"
