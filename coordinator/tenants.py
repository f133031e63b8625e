"""`Tenants`: who shares a home, with which limits and keys, and what was done with them.

The whole of tenancy that is kept in the catalog, for callers: tenants here, keys in `coordinator.api_keys`, the log in
`coordinator.audit`. Limits on galleries are held when one is created (`Catalog.add_gallery`); those on templates, bytes
and requests by whoever takes requests from outside. Off the data path: a search never comes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from coordinator.api_keys import ApiKeys
from coordinator.audit import AuditLog
from coordinator.catalog import DROPPING, Catalog
from coordinator.catalog_tables import API_KEYS, GALLERIES, JOBS, RESTORES, TENANTS
from coordinator.names import check_tenant_name
from coordinator.tenant_rows import (
    DEFAULT_WEIGHT,
    add_tenant,
    ensure_tenant,
    find_tenant,
    locked_tenant,
    quota_values,
    tenant_record,
)
from coordinator.tenant_types import (
    AuditEntry,
    GoodKey,
    KeyRecord,
    Quotas,
    TenantRecord,
    checked_quotas,
    checked_weight,
)
from shard.errors import UnknownTenant

AUDIT_S = 400 * 86_400.0
"""How long the audit log is kept where nothing else is asked for."""


class Tenants:
    """Tenants, keys and the audit log of one home. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        finish_drops: Callable[[], None],
        *,
        audit_s: float = AUDIT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """finish_drops: has what the catalog says is being dropped, or knows no more, removed. clock: unix s."""
        self._catalog, self._finish_drops, self._clock = catalog, finish_drops, clock
        self._keys, self._audit, self._audit_s = ApiKeys(catalog, clock), AuditLog(catalog), audit_s

    # Tenants

    def create(
        self,
        name: str,
        *,
        quotas: Quotas = Quotas(),  # noqa: B008 - frozen
        weight: int = DEFAULT_WEIGHT,
        keeps_thumbnails: bool = False,
        is_encrypted: bool = False,
    ) -> TenantRecord:
        """A new tenant; AlreadyExists, InvalidParameter.

        weight: 1 to 100, its share of the service beside others. keeps_thumbnails, is_encrypted: see `TenantRecord`;
        encryption is decided here, once, and needs a master key or service that is set.
        """
        values = {
            **quota_values(checked_quotas(quotas)), "weight": checked_weight(weight),
            "keeps_thumbnails": bool(keeps_thumbnails), "is_encrypted": bool(is_encrypted),
        }  # fmt: skip
        with self._catalog.writing() as db:
            add_tenant(db, check_tenant_name(name), self._clock(), values)
            tenant = locked_tenant(db, name)
            if tenant.is_encrypted:
                self._catalog.keys.create(db, tenant.tenant_id)
            return tenant

    def ensure(self, name: str) -> TenantRecord:
        """The tenant of that name, made without limits where there is none."""
        with self._catalog.reading() as db:
            found = find_tenant(db, check_tenant_name(name))
        if found is None:
            with self._catalog.writing() as db:
                found = ensure_tenant(db, name, self._clock())
        return found

    def get(self, name: str) -> TenantRecord:
        """The tenant of that name; UnknownTenant."""
        with self._catalog.reading() as db:
            found = find_tenant(db, check_tenant_name(name))
        if found is None:
            raise UnknownTenant(f"no tenant {name!r}")
        return found

    def all(self) -> list[TenantRecord]:
        """Every tenant, by name."""
        with self._catalog.reading() as db:
            rows = db.execute(TENANTS.select().where(TENANTS.c.dropped_at.is_(None))).all()
        return sorted((tenant_record(row) for row in rows), key=lambda tenant: tenant.name)

    def update(
        self,
        name: str,
        *,
        quotas: Quotas | None = None,
        weight: int | None = None,
        keeps_thumbnails: bool | None = None,
    ) -> TenantRecord:
        """Change what is given; the quotas as a whole. UnknownTenant, InvalidParameter.

        What is over a new quota stays.
        """
        values: dict[str, object] = {} if quotas is None else quota_values(checked_quotas(quotas))
        if weight is not None:
            values["weight"] = checked_weight(weight)
        if keeps_thumbnails is not None:
            values["keeps_thumbnails"] = bool(keeps_thumbnails)
        with self._catalog.writing() as db:
            tenant = locked_tenant(db, check_tenant_name(name))
            if values:
                db.execute(TENANTS.update().where(TENANTS.c.tenant_id == tenant.tenant_id).values(**values))
            return locked_tenant(db, name)

    def drop(self, name: str) -> None:
        """Remove a tenant with every gallery, key and job of it; UnknownTenant.

        In the catalog all of it is gone at once, its data key too if it is encrypted: nothing that was written with
        it can be read from then on, wherever it is. Its files are gone when this returns from every host that is there,
        from others when they return. The audit log, which holds no person's data, keeps its entries for operators.
        """
        with self._catalog.writing() as db:
            tenant_id = locked_tenant(db, check_tenant_name(name)).tenant_id
            own = GALLERIES.c.tenant_id == tenant_id
            db.execute(RESTORES.delete().where(RESTORES.c.gallery.in_(sa.select(GALLERIES.c.name).where(own))))
            db.execute(
                GALLERIES.update()
                .where(own, GALLERIES.c.state != DROPPING)
                .values(state=DROPPING, name="#" + GALLERIES.c.gallery_id, version=GALLERIES.c.version + 1)
            )
            db.execute(API_KEYS.delete().where(API_KEYS.c.tenant_id == tenant_id))
            db.execute(JOBS.delete().where(JOBS.c.tenant_id == tenant_id))
            self._catalog.keys.destroy(db, tenant_id)
            gone = {"name": f"#{tenant_id}", "dropped_at": self._clock()}
            db.execute(TENANTS.update().where(TENANTS.c.tenant_id == tenant_id).values(**gone))
        self._finish_drops()
        self._catalog.forget()

    # Keys

    def create_key(
        self,
        tenant: str | None,
        name: str,
        *,
        scopes: Sequence[str],
        galleries: Sequence[str] = (),
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key, and its text, which cannot be had again. tenant: None makes an operator's key.

        scopes: of "admin", "write", "read"; each implies those after it; an operator's has "admin", or "metrics", which
        opens the service's metrics and nothing else. galleries: names inside the tenant that the
        key is bound to, which need not exist yet; all if none. expires_at: unix seconds.
        Raises UnknownTenant, InvalidParameter.
        """
        return self._keys.create(tenant, name, scopes, galleries, expires_at)

    def keys(self, tenant: str | None) -> list[KeyRecord]:
        """A tenant's keys, or the operator's for None, oldest first; UnknownTenant.

        Those that were revoked or have expired are among them.
        """
        return self._keys.of(None if tenant is None else self.get(tenant).tenant_id)

    def key(self, key_id: str) -> KeyRecord:
        """A key by its id; UnknownKey."""
        return self._keys.get(key_id)

    def rotate_key(self, key_id: str, *, overlap_s: float = 0.0) -> tuple[KeyRecord, str]:
        """A new secret for a key; the text before is good for `overlap_s` more seconds, and one before that no more.

        UnknownKey, also for one that was revoked or has expired; InvalidParameter.
        """
        return self._keys.rotate(key_id, overlap_s)

    def revoke_key(self, key_id: str) -> KeyRecord:
        """Make a key useless from now on, every text of it. Idempotent. UnknownKey."""
        return self._keys.revoke(key_id)

    def good_keys(self, limit: int) -> list[GoodKey]:
        """Every key that is of use, or so many of the newest, as of one moment."""
        return self._keys.good(limit)

    def authenticate(self, text: str) -> KeyRecord:
        """The key that the text is of, by one indexed read.

        Unauthenticated if it is malformed, unknown, revoked, expired, or has another secret; which of these is said to
        nobody but who has the right secret.
        """
        return self._keys.authenticate(text)

    # The audit log

    def record(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries, durably, all or none. InvalidParameter for text that is no action, gallery or request id."""
        self._audit.record(entries)

    def audit(self, tenant: str | None, *, before: float | None = None, limit: int = 100) -> list[AuditEntry]:
        """Entries of a tenant, or of all and of nobody for None, the newest first; UnknownTenant, InvalidParameter.

        before: only entries older than that (unix seconds): `at` of the last one gives the next page. limit: 1 to
        1,000; there are more where several are of the moment at which the page ends.
        """
        return self._audit.entries(None if tenant is None else self.get(tenant).tenant_id, before, limit)

    def trim_audit(self, older_than: float | None = None) -> int:
        """Remove entries from before a time (unix seconds; what is kept by default if None); how many they were."""
        return self._audit.trim(self._clock() - self._audit_s if older_than is None else older_than)
