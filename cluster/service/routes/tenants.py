"""Tenants, their keys, their audit log; who asks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cluster import tenancy
from cluster.service import schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from coordinator.tenant_types import KeyRecord, Quotas, TenantRecord
from shard.errors import UnknownKey

router = APIRouter(prefix="/v1")


@operation(router, "GET", "/whoami", "whoami", reply=schemas.WhoReply, tag="keys")
async def whoami(call: Asked) -> Response:
    """Whose key this is, and what it may do."""
    key = call.principal.key
    return call.reply(
        {
            "key_id": key.key_id,
            "tenant": key.tenant,
            "name": key.name,
            "scopes": list(key.scopes),
            "galleries": list(key.galleries),
            "expires_at": key.expires_at,
        }
    )


@operation(
    router, "POST", "/tenants", "tenants.create",
    body=schemas.TenantBody, reply=schemas.TenantReply, status=201, tag="tenants",
)  # fmt: skip
async def create_tenant(call: Asked) -> Response:
    """Make a tenant. Operator only."""
    call.operator()
    wanted = call.read(schemas.TenantBody)
    call.exchange.tenant = wanted.name
    made = await call.run(
        lambda: call.gateway.cluster.tenants.create(
            wanted.name,
            quotas=_quotas(wanted.quotas),
            weight=wanted.weight,
            keeps_thumbnails=wanted.keeps_thumbnails,
            is_encrypted=wanted.is_encrypted,
        )
    )
    await call.audit_now()
    return call.reply(tenant_values(made), 201)


@operation(router, "GET", "/tenants", "tenants.list", reply=schemas.TenantsReply, tag="tenants")
async def list_tenants(call: Asked) -> Response:
    """Every tenant. Operator only."""
    call.operator()
    found = await call.run(call.gateway.cluster.tenants.all)
    return call.reply({"tenants": [tenant_values(tenant) for tenant in found]})


@operation(router, "GET", "/tenants/{tenant}", "tenants.show", reply=schemas.TenantReply, tag="tenants")
async def show_tenant(call: Asked, tenant: str) -> Response:
    """A tenant. Operator, or the tenant's own scope admin."""
    name = await call.tenant(tenant)
    return call.reply(tenant_values(await call.run(lambda: call.gateway.cluster.tenants.get(name))))


@operation(router, "GET", "/tenants/{tenant}/usage", "tenants.usage", reply=schemas.UsageReply, tag="tenants")
async def usage(call: Asked, tenant: str) -> Response:
    """How many galleries, templates and bytes a tenant has."""
    name = await call.tenant(tenant)
    return call.reply(asdict(await call.run(lambda: tenancy.usage(call.gateway.cluster, name))))


@operation(
    router, "PATCH", "/tenants/{tenant}", "tenants.update",
    body=schemas.TenantChange, reply=schemas.TenantReply, tag="tenants",
)  # fmt: skip
async def update_tenant(call: Asked, tenant: str) -> Response:
    """Change a tenant's quotas, weight or keeping of thumbnails. Operator only."""
    call.operator()
    wanted = call.read(schemas.TenantChange)
    call.exchange.tenant = tenant
    changed = await call.run(
        lambda: call.gateway.cluster.tenants.update(
            tenant,
            quotas=None if wanted.quotas is None else _quotas(wanted.quotas),
            weight=wanted.weight,
            keeps_thumbnails=wanted.keeps_thumbnails,
        )
    )
    call.gateway.keys.forget()
    await call.audit_now()
    return call.reply(tenant_values(changed))


@operation(router, "DELETE", "/tenants/{tenant}", "tenants.drop", reply=None, status=204, tag="tenants")
async def drop_tenant(call: Asked, tenant: str) -> Response:
    """Remove a tenant: every gallery, every face, every key of it. Operator only."""
    call.operator()
    call.exchange.tenant = tenant
    await call.run(lambda: call.gateway.cluster.tenants.drop(tenant))
    call.gateway.keys.forget()
    await call.audit_now()
    return Response(status_code=204)


@operation(
    router, "POST", "/tenants/{tenant}/keys", "keys.create",
    body=schemas.KeyBody, reply=schemas.NewKeyReply, status=201, tag="keys",
)  # fmt: skip
async def create_key(call: Asked, tenant: str) -> Response:
    """Make a key. Its secret is in this answer and nowhere else."""
    name = await call.tenant(tenant)
    wanted = call.read(schemas.KeyBody)
    key, secret = await call.run(
        lambda: call.gateway.cluster.tenants.create_key(
            name,
            wanted.name,
            scopes=tuple(wanted.scopes),
            galleries=tuple(wanted.galleries),
            expires_at=wanted.expires_at,
        )
    )
    await call.audit_now()
    return call.reply({"key": key_values(key), "secret": secret}, 201)


@operation(router, "GET", "/tenants/{tenant}/keys", "keys.list", reply=schemas.KeysReply, tag="keys")
async def list_keys(call: Asked, tenant: str) -> Response:
    """A tenant's keys, without their secrets."""
    name = await call.tenant(tenant)
    found = await call.run(lambda: call.gateway.cluster.tenants.keys(name))
    return call.reply({"keys": [key_values(key) for key in found]})


@operation(
    router, "POST", "/tenants/{tenant}/keys/{key_id}/rotate", "keys.rotate",
    body=schemas.RotateBody, reply=schemas.NewKeyReply, status=201, tag="keys",
)  # fmt: skip
async def rotate_key(call: Asked, tenant: str, key_id: str) -> Response:
    """A new secret in place of the old one, which goes on for overlap_s seconds."""
    await _check_key(call, await call.tenant(tenant), key_id)
    wanted = call.read(schemas.RotateBody)
    key, secret = await call.run(lambda: call.gateway.cluster.tenants.rotate_key(key_id, overlap_s=wanted.overlap_s))
    call.gateway.keys.forget()
    await call.audit_now()
    return call.reply({"key": key_values(key), "secret": secret}, 201)


@operation(router, "DELETE", "/tenants/{tenant}/keys/{key_id}", "keys.revoke", reply=schemas.KeyReply, tag="keys")
async def revoke_key(call: Asked, tenant: str, key_id: str) -> Response:
    """Refuse a key from now on; other gateways do within seconds."""
    await _check_key(call, await call.tenant(tenant), key_id)
    key = await call.run(lambda: call.gateway.cluster.tenants.revoke_key(key_id))
    call.gateway.keys.forget()
    await call.audit_now()
    return call.reply(key_values(key))


@operation(router, "GET", "/tenants/{tenant}/audit", "tenants.audit", reply=schemas.AuditReply, tag="tenants")
async def audit(
    call: Asked,
    tenant: str,
    before: Annotated[float | None, Query(gt=0, le=1e11, allow_inf_nan=False)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """What was done with the tenant's galleries and keys, latest first."""
    name = await call.tenant(tenant)
    found = await call.run(lambda: call.gateway.cluster.tenants.audit(name, before=before, limit=limit))
    return call.reply({"entries": [asdict(entry) for entry in found]})


async def _check_key(call: Call, tenant: str, key_id: str) -> None:
    """UnknownKey unless the key is of this tenant: nobody learns of others' keys."""
    found = await call.run(lambda: call.gateway.cluster.tenants.keys(tenant))
    if not any(key.key_id == key_id for key in found):
        raise UnknownKey(f"tenant {tenant} has no key {key_id!r:.40}")


def _quotas(body: schemas.QuotasBody) -> Quotas:
    return Quotas(body.galleries, body.templates, body.queries_per_s, body.bytes, body.jobs)


def tenant_values(tenant: TenantRecord) -> dict[str, Any]:
    """A tenant as a body."""
    return asdict(tenant)


def key_values(key: KeyRecord) -> dict[str, Any]:
    """A key as a body, without its secret."""
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": list(key.scopes),
        "galleries": list(key.galleries),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
