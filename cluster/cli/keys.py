"""`facegrid key create | list | rotate | revoke`: the API keys of the HTTP service."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Grid, time_text
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from coordinator.tenant_types import KeyRecord

app = typer.Typer(name="key", help="Create, list, rotate and revoke API keys.", no_args_is_help=True)

TenantOfKey = Annotated[
    str | None, typer.Argument(metavar="[TENANT]", help="Tenant whose keys they are.", show_default=False)
]
IsOperator = Annotated[bool, typer.Option("--operator", help="The operator's, who may do all, instead of a tenant's.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Id, as `facegrid key list` shows it.", show_default=False)]


@app.command()
def create(
    context: typer.Context,
    tenant: TenantOfKey = None,
    is_operator: IsOperator = False,
    name: Annotated[str, typer.Option(metavar="NAME", help="What it is for; shown in lists.")] = "unnamed",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", metavar="SCOPE", help="admin, write or read; may be repeated. Of the operator: admin or metrics."
        ),
    ] = None,
    gallery: Annotated[
        list[str] | None,
        typer.Option("--gallery", metavar="NAME", help="Bind it to this gallery of the tenant; may be repeated."),
    ] = None,
    expires_days: Annotated[float | None, typer.Option(metavar="DAYS", help="Days that it is good for.")] = None,
) -> None:
    """Create an API key and print its text, which cannot be shown again; the home too if there is none."""
    invocation = invocation_of(context)
    _check_owner(tenant, is_operator)
    if not is_operator and not scope:
        raise InvalidParameter("--scope: expected admin, write or read")
    expires_at = None if expires_days is None else time.time() + expires_days * 86_400
    with invocation.cluster(create=is_operator) as grid:
        key, text = grid.tenants.create_key(
            tenant, name, scopes=scope or ("admin",), galleries=gallery or (), expires_at=expires_at
        )
    _tell_once(invocation, key, text)


@app.command("list")
def list_keys(context: typer.Context, tenant: TenantOfKey = None, is_operator: IsOperator = False) -> None:
    """List a tenant's keys, or the operator's; never their texts."""
    invocation = invocation_of(context)
    _check_owner(tenant, is_operator)
    with invocation.cluster() as grid:
        keys = grid.tenants.keys(tenant)
    columns = ("key", "name", "scopes", "galleries", "created", "expires", "revoked")
    rows = [
        (
            key.key_id,
            key.name,
            ", ".join(key.scopes),
            ", ".join(key.galleries) or "all",
            *(None if at is None else time_text(at) for at in (key.created_at, key.expires_at, key.revoked_at)),
        )
        for key in keys
    ]
    invocation.output.result({"keys": [asdict(key) for key in keys]}, Grid(columns, rows) if rows else "no keys")


@app.command()
def rotate(
    context: typer.Context,
    key_id: KeyId,
    overlap_hours: Annotated[
        float, typer.Option(metavar="HOURS", help="How long the text before is good still.")
    ] = 0.0,
) -> None:
    """Give a key a new text and print it; the one before ends now, or after the overlap."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        key, text = grid.tenants.rotate_key(key_id, overlap_s=overlap_hours * 3_600)
    _tell_once(invocation, key, text)


@app.command()
def revoke(context: typer.Context, key_id: KeyId) -> None:
    """Make a key useless from now on."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        key = grid.tenants.revoke_key(key_id)
    invocation.output.result({"key": asdict(key)}, f"revoked: {key.key_id} ({key.name})")


def _check_owner(tenant: str | None, is_operator: bool) -> None:
    if (tenant is None) != is_operator:
        raise InvalidParameter("expected either a TENANT or --operator")


def _tell_once(invocation: Invocation, key: KeyRecord, text: str) -> None:
    invocation.output.result({"key": asdict(key), "secret": text}, text)
    invocation.output.note(f"key {key.key_id}; this is the only time that its text is shown")
