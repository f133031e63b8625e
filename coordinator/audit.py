"""The audit log: who did what, when, and how many; never an image, an embedding, an identity or a template id.

An entry is of the tenant, not of its name: a tenant that is created again does not see what the one before it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.catalog import Catalog
from coordinator.catalog_tables import API_KEYS, AUDIT, TENANTS
from coordinator.tenant_types import AuditEntry, checked_entry
from shard.errors import InvalidParameter

MAX_ENTRIES = 1_000
"""Entries that may be asked for at a time."""
_AT_A_TIME = 10_000
"""Entries that one transaction removes: others write meanwhile."""
_FIELDS = [AUDIT.c[field.name] for field in fields(AuditEntry)]


class AuditLog:
    """The audit log of a home. Every method is one transaction, but `trim`. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def record(self, entries: Sequence[AuditEntry]) -> None:
        """See `Tenants.record`."""
        checked = [checked_entry(entry) for entry in entries]
        if not checked:
            return
        with self._catalog.writing() as db:
            owners = _owners(db, checked)
            rows = [{**asdict(e), "tenant_id": owner} for e, owner in zip(checked, owners, strict=True)]
            db.execute(AUDIT.insert(), rows)

    def entries(self, tenant_id: str | None, before: float | None, limit: int) -> list[AuditEntry]:
        """See `Tenants.audit`."""
        if type(limit) is not int or not 1 <= limit <= MAX_ENTRIES:
            raise InvalidParameter(f"limit: expected a whole number from 1 to {MAX_ENTRIES}, got {limit!r:.80}")
        own = () if tenant_id is None else (AUDIT.c.tenant_id == tenant_id,)
        query = sa.select(AUDIT.c.entry_id, *_FIELDS).where(*own).order_by(AUDIT.c.at.desc(), AUDIT.c.entry_id.desc())
        page = query.limit(limit) if before is None else query.where(AUDIT.c.at < before).limit(limit)
        with self._catalog.reading() as db:
            rows = list(db.execute(page).all())
            if len(rows) == limit:
                # The rest of the same moment too, or the next page, which begins before it, would miss it.
                last = rows[-1]
                rows += db.execute(query.where(AUDIT.c.at == last.at, AUDIT.c.entry_id < last.entry_id)).all()
        return [AuditEntry(*row[1:]) for row in rows]

    def trim(self, older_than: float) -> int:
        """Remove entries from before a time (unix seconds); how many they were."""
        oldest = sa.select(AUDIT.c.entry_id).where(AUDIT.c.at < older_than).limit(_AT_A_TIME)
        removed = 0
        while True:
            with self._catalog.writing() as db:
                found = db.execute(AUDIT.delete().where(AUDIT.c.entry_id.in_(oldest))).rowcount
            removed += found
            if found < _AT_A_TIME:
                return removed


def _owners(db: Connection, entries: Sequence[AuditEntry]) -> list[str | None]:
    """For each entry the id of the tenant that may see it.

    A tenant's key says whose it is; the name may be another tenant's by now. An operator's key acts for who is named.
    A key that is not there any more was of a tenant that was dropped, or of nobody.
    """
    key_ids = sorted({entry.key_id for entry in entries if entry.key_id is not None})
    names = sorted({entry.tenant for entry in entries if entry.tenant is not None})
    keys = sa.select(API_KEYS.c.key_id, API_KEYS.c.tenant_id).where(API_KEYS.c.key_id.in_(key_ids))
    tenants = sa.select(TENANTS.c.name, TENANTS.c.tenant_id).where(TENANTS.c.name.in_(names))
    of_keys: dict[str, str | None] = {row.key_id: row.tenant_id for row in db.execute(keys).all()}
    of_names: dict[str, str] = {row.name: row.tenant_id for row in db.execute(tenants).all()}

    def owner(entry: AuditEntry) -> str | None:
        if entry.key_id is not None and entry.key_id not in of_keys:
            return None
        return of_keys.get(entry.key_id or "") or of_names.get(entry.tenant or "")

    return [owner(entry) for entry in entries]
