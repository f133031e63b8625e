"""`AsyncRemoteTenants`: the twin of `RemoteTenants` for asyncio; the same verbs, as coroutines."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.client.call import Operation, T
from cluster.client.operations import tenants as _tenants
from cluster.client.transport import AsyncTransport
from coordinator.tenant_types import AuditEntry, KeyRecord, Quotas, TenantRecord


class AsyncRemoteTenants:
    """Verbs on tenants. Errors besides those of connections: UnknownTenant, UnknownKey, AlreadyExists, AccessError."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _run(self, operation: Operation[T]) -> T:
        return await self._transport.run(operation)

    async def create(
        self,
        name: str,
        *,
        quotas: Quotas | None = None,
        weight: int | None = None,
        keeps_thumbnails: bool = False,
        is_encrypted: bool = False,
    ) -> TenantRecord:
        """A new tenant; no quotas and the usual weight if none are given."""
        settings = {
            "quotas": quotas,
            "weight": weight,
            "keeps_thumbnails": keeps_thumbnails,
            "is_encrypted": is_encrypted,
        }
        return await self._run(_tenants.create(name, settings))

    async def get(self, name: str) -> TenantRecord:
        """A tenant by name."""
        return await self._run(_tenants.get_tenant(name))

    async def all(self) -> list[TenantRecord]:
        """Every tenant that the key may see, by name."""
        return await self._run(_tenants.all_tenants())

    async def update(
        self,
        name: str,
        *,
        quotas: Quotas | None = None,
        weight: int | None = None,
        keeps_thumbnails: bool | None = None,
    ) -> TenantRecord:
        """Change what is given; quotas are replaced as a whole."""
        settings = {"quotas": quotas, "weight": weight, "keeps_thumbnails": keeps_thumbnails}
        return await self._run(_tenants.update(name, settings))

    async def drop(self, name: str) -> None:
        """Remove a tenant, every gallery and every key of it."""
        await self._run(_tenants.drop(name))

    async def create_key(
        self,
        tenant: str | None,
        name: str,
        *,
        scopes: Sequence[str],
        galleries: Sequence[str] = (),
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its text, which is shown this once. expires_at: unix seconds."""
        body = {"name": name, "scopes": list(scopes), "galleries": list(galleries), "expires_at": expires_at}
        return await self._run(_tenants.create_key(tenant, body))

    async def keys(self, tenant: str | None) -> list[KeyRecord]:
        """Keys of a tenant, without their secrets."""
        return await self._run(_tenants.keys(tenant))

    async def rotate_key(
        self, key_id: str, *, overlap_s: float = 0.0, tenant: str | None = None
    ) -> tuple[KeyRecord, str]:
        """A new text for a key, whose old one is good for `overlap_s` seconds still. tenant: looked up if not given."""
        return await self._run(_tenants.rotate_key(tenant, key_id, overlap_s))

    async def revoke_key(self, key_id: str, *, tenant: str | None = None) -> KeyRecord:
        """Have a key good no more. tenant: looked up if not given."""
        return await self._run(_tenants.revoke_key(tenant, key_id))

    async def audit(self, tenant: str | None, *, before: float | None = None, limit: int = 100) -> list[AuditEntry]:
        """What was done and refused in a tenant, the newest first; before: unix seconds."""
        return await self._run(_tenants.audit(tenant, before, limit))
