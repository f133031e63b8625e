"""What the table `tenants` holds, as `TenantRecord`, and back; in the caller's transaction. Decides nothing else.

A row stays when its tenant is dropped, under a name that nobody can give, so that its id is never given again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from coordinator.catalog_rows import insert_new
from coordinator.catalog_tables import DROPPING, GALLERIES, TENANTS
from coordinator.tenant_types import Quotas, TenantRecord, Usage
from shard.errors import AlreadyExists, UnknownTenant

DEFAULT_WEIGHT = 10
_ATTEMPTS = 16
"""Of 2**32 ids that many in a row are not all taken."""


def tenant_record(row: Row[Any]) -> TenantRecord:
    """A row of TENANTS."""
    return TenantRecord(
        tenant_id=row.tenant_id,
        name=row.name,
        created_at=row.created_at,
        quotas=Quotas(row.max_galleries, row.max_templates, row.max_queries_per_s, row.max_bytes, row.max_jobs),
        weight=row.weight,
        keeps_thumbnails=bool(row.keeps_thumbnails),
        is_encrypted=bool(row.is_encrypted),
    )


def quota_values(quotas: Quotas) -> dict[str, object]:
    """Quotas as columns of TENANTS."""
    return {
        "max_galleries": quotas.galleries,
        "max_templates": quotas.templates,
        "max_queries_per_s": quotas.queries_per_s,
        "max_bytes": quotas.bytes,
        "max_jobs": quotas.jobs,
    }


def find_tenant(db: Connection, name: str) -> TenantRecord | None:
    """The tenant of that name, by an index; None if there is none."""
    row = db.execute(TENANTS.select().where(TENANTS.c.name == name)).first()
    return None if row is None else tenant_record(row)


def locked_tenant(db: Connection, name: str) -> TenantRecord:
    """The tenant of that name, ours until the end of the transaction; UnknownTenant."""
    row = db.execute(TENANTS.select().where(TENANTS.c.name == name).with_for_update()).first()
    if row is None:
        raise UnknownTenant(f"no tenant {name!r}")
    return tenant_record(row)


def add_tenant(db: Connection, name: str, now: float, values: Mapping[str, object] | None = None) -> None:
    """A row for a new tenant, with an id that none ever had; AlreadyExists if the name is taken."""
    row = {
        "name": name, "created_at": now, "weight": DEFAULT_WEIGHT, "keeps_thumbnails": False, "is_encrypted": False,
        **(values or {}),
    }  # fmt: skip
    for _ in range(_ATTEMPTS):
        tenant_id = secrets.token_hex(4)
        is_taken = db.execute(sa.select(TENANTS.c.tenant_id).where(TENANTS.c.tenant_id == tenant_id)).first()
        if is_taken is not None:
            continue
        if not insert_new(db, TENANTS, [{**row, "tenant_id": tenant_id}], key="name"):
            raise AlreadyExists(f"tenant {name!r} exists")
        return
    raise AlreadyExists(f"no tenant id is free for {name!r}")


def ensure_tenant(db: Connection, name: str, now: float) -> TenantRecord:
    """The tenant of that name, made without limits where there is none."""
    found = find_tenant(db, name)
    if found is None:
        with contextlib.suppress(AlreadyExists):  # somebody was quicker
            add_tenant(db, name, now)
        found = locked_tenant(db, name)
    return found


def tenant_with_room(db: Connection, name: str, gallery_id: str, now: float) -> str:
    """The id of the tenant that a new gallery is of, made where there is none, its row locked.

    QuotaExceeded if it has as many galleries as it may have; UnknownTenant if the gallery's id is of another tenant.
    """
    ensure_tenant(db, name, now)
    tenant = locked_tenant(db, name)
    own = gallery_id.rpartition("-")[0]
    if own and own != tenant.tenant_id:
        raise UnknownTenant(f"tenant {name!r} with the id {own} was dropped meanwhile")
    held = (GALLERIES.c.tenant_id == tenant.tenant_id, GALLERIES.c.state != DROPPING)
    galleries = int(db.execute(sa.select(sa.func.count()).select_from(GALLERIES).where(*held)).scalar_one())
    tenant.quotas.check(name, Usage(galleries, templates=0, bytes=0), galleries=1)
    return tenant.tenant_id
