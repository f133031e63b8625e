"""Tenants, their keys and their audit log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.client.call import Call, Operation
from cluster.client.operations.fleet import whoami
from cluster.client.operations.requests import get, patch, quoted, remove, write
from cluster.client.wire import document_of, entry, record, records
from coordinator.tenant_types import AuditEntry, KeyRecord, Quotas, TenantRecord
from shard.errors import InvalidParameter, UnknownKey

_BASE = "/v1/tenants"


def _path(name: str, *parts: str) -> str:
    return "/".join((_BASE, quoted(name), *parts))


def _tenant(document: Any) -> TenantRecord:
    quotas = document.get("quotas") if isinstance(document, dict) else None
    return record(TenantRecord, document, quotas=record(Quotas, quotas))


def create(name: str, settings: Mapping[str, Any]) -> Operation[TenantRecord]:
    """A new tenant; settings: quotas, weight, keeps_thumbnails, is_encrypted."""
    return _tenant((yield from write(_BASE, {"name": name, **plain(settings)}, is_idempotent=False)))


def get_tenant(name: str) -> Operation[TenantRecord]:
    """A tenant by name."""
    return _tenant((yield from get(_path(name))))


def all_tenants() -> Operation[list[TenantRecord]]:
    """Every tenant that the key may see."""
    return [_tenant(one) for one in entry((yield from get(_BASE)), "tenants", list)]


def update(name: str, settings: Mapping[str, Any]) -> Operation[TenantRecord]:
    """Change what is not None."""
    return _tenant((yield from patch(_path(name), plain(settings))))


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a body has them."""
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(given.get("quotas"), Quotas):
        given["quotas"] = asdict(given["quotas"])
    return given


def drop(name: str) -> Operation[None]:
    """Remove a tenant with all that it has."""
    yield from remove(_path(name))


def _own(tenant: str | None, what: str) -> str:
    """The tenant; InvalidParameter for the operator, whose keys no service manages."""
    if tenant is None:
        raise InvalidParameter(
            f"{what}: expected a tenant; those of the operator are kept where the home is, not over HTTP"
        )
    return tenant


def create_key(tenant: str | None, body: Mapping[str, Any]) -> Operation[tuple[KeyRecord, str]]:
    """(key, its text, which is shown this once)."""
    tenant = _own(tenant, "keys")
    return _with_secret((yield from write(_path(tenant, "keys"), body, is_idempotent=False)))


def _with_secret(document: dict[str, Any]) -> tuple[KeyRecord, str]:
    return _key(document.get("key")), entry(document, "secret", str)


def _key(document: Any) -> KeyRecord:
    tenant_id = document.get("tenant_id") if isinstance(document, dict) else None
    return record(KeyRecord, document, tenant_id=tenant_id)


def keys(tenant: str | None) -> Operation[list[KeyRecord]]:
    """Keys of a tenant, without their secrets."""
    tenant = _own(tenant, "keys")
    return [_key(one) for one in entry((yield from get(_path(tenant, "keys"))), "keys", list)]


def _tenant_of(key_id: str) -> Operation[str]:
    """Whose key it is: the tenant's that asks, or for the operator the one that has it. UnknownKey."""
    own = (yield from whoami()).get("tenant")
    if isinstance(own, str):
        return own
    for tenant in (yield from all_tenants()):
        if any(key.key_id == key_id for key in (yield from keys(tenant.name))):
            return tenant.name
    raise UnknownKey(f"no tenant has a key {key_id!r:.40}")


def rotate_key(tenant: str | None, key_id: str, overlap_s: float) -> Operation[tuple[KeyRecord, str]]:
    """A new text for a key, whose old one is good for `overlap_s` still."""
    tenant = tenant or (yield from _tenant_of(key_id))
    path = _path(tenant, "keys", quoted(key_id), "rotate")
    return _with_secret((yield from write(path, {"overlap_s": overlap_s}, is_idempotent=False)))


def revoke_key(tenant: str | None, key_id: str) -> Operation[KeyRecord]:
    """A key is good no more."""
    tenant = tenant or (yield from _tenant_of(key_id))
    reply = yield Call("DELETE", _path(tenant, "keys", quoted(key_id)), headers={"Accept": "application/json"})
    return _key(document_of(reply))


def audit(tenant: str | None, before: float | None, limit: int) -> Operation[list[AuditEntry]]:
    """What was done, the newest first."""
    tenant = _own(tenant, "audit")
    document = yield from get(_path(tenant, "audit"), {"before": before, "limit": limit})
    return records(AuditEntry, entry(document, "entries", list), "entries")
