"""`RayTenants`: the methods of `coordinator.tenants.Tenants`, carried out by the coordinator's actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.actors import Actor
from coordinator.tenant_rows import DEFAULT_WEIGHT
from coordinator.tenant_types import AuditEntry, GoodKey, KeyRecord, Quotas, TenantRecord


class RayTenants:
    """Tenants of a home whose coordinator is an actor. Thread-safe."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def create(
        self,
        name: str,
        *,
        quotas: Quotas = Quotas(),  # noqa: B008 - frozen
        weight: int = DEFAULT_WEIGHT,
        keeps_thumbnails: bool = False,
        is_encrypted: bool = False,
    ) -> TenantRecord:
        """See Tenants.create."""
        options = {"quotas": quotas, "weight": weight, "keeps_thumbnails": keeps_thumbnails}
        tenant: TenantRecord = self._call("create", name, **options, is_encrypted=is_encrypted)
        return tenant

    def get(self, name: str) -> TenantRecord:
        """See Tenants.get."""
        tenant: TenantRecord = self._call("get", name)
        return tenant

    def all(self) -> list[TenantRecord]:
        """See Tenants.all."""
        tenants: list[TenantRecord] = self._call("all")
        return tenants

    def update(
        self,
        name: str,
        *,
        quotas: Quotas | None = None,
        weight: int | None = None,
        keeps_thumbnails: bool | None = None,
    ) -> TenantRecord:
        """See Tenants.update."""
        tenant: TenantRecord = self._call(
            "update", name, quotas=quotas, weight=weight, keeps_thumbnails=keeps_thumbnails
        )
        return tenant

    def drop(self, name: str) -> None:
        """See Tenants.drop."""
        self._call("drop", name)

    def create_key(
        self,
        tenant: str | None,
        name: str,
        *,
        scopes: Sequence[str],
        galleries: Sequence[str] = (),
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """See Tenants.create_key."""
        created: tuple[KeyRecord, str] = self._call(
            "create_key", tenant, name, scopes=scopes, galleries=galleries, expires_at=expires_at
        )
        return created

    def keys(self, tenant: str | None) -> list[KeyRecord]:
        """See Tenants.keys."""
        keys: list[KeyRecord] = self._call("keys", tenant)
        return keys

    def key(self, key_id: str) -> KeyRecord:
        """See Tenants.key."""
        key: KeyRecord = self._call("key", key_id)
        return key

    def rotate_key(self, key_id: str, *, overlap_s: float = 0.0) -> tuple[KeyRecord, str]:
        """See Tenants.rotate_key."""
        rotated: tuple[KeyRecord, str] = self._call("rotate_key", key_id, overlap_s=overlap_s)
        return rotated

    def revoke_key(self, key_id: str) -> KeyRecord:
        """See Tenants.revoke_key."""
        key: KeyRecord = self._call("revoke_key", key_id)
        return key

    def good_keys(self, limit: int) -> list[GoodKey]:
        """See Tenants.good_keys."""
        keys: list[GoodKey] = self._call("good_keys", limit)
        return keys

    def authenticate(self, text: str) -> KeyRecord:
        """See Tenants.authenticate."""
        key: KeyRecord = self._call("authenticate", text)
        return key

    def record(self, entries: Sequence[AuditEntry]) -> None:
        """See Tenants.record."""
        self._call("record", entries)

    def audit(self, tenant: str | None, *, before: float | None = None, limit: int = 100) -> list[AuditEntry]:
        """See Tenants.audit."""
        entries: list[AuditEntry] = self._call("audit", tenant, before=before, limit=limit)
        return entries

    def trim_audit(self, older_than: float | None = None) -> int:
        """See Tenants.trim_audit."""
        removed: int = self._call("trim_audit", older_than)
        return removed

    def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        return self._actor.call("call", f"tenants.{method}", args, kwargs)
