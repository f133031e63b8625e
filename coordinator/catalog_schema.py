"""The version of the catalog's schema, and how a database is brought to it; see `coordinator.catalog_tables`."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.catalog_tables import (
    API_KEYS,
    AUDIT,
    GALLERIES,
    HOSTS,
    IN_SYNC,
    META,
    METADATA,
    MODELS,
    REPLICAS,
    SHARDS,
    TENANTS,
)
from coordinator.names import tenant_name
from coordinator.tenant_rows import ensure_tenant
from coordinator.tenant_types import DEFAULT_JOBS
from shard.errors import CorruptData, FormatTooNew

SCHEMA_VERSION = 3
"""1: one host for each shard, no `meta`. 2: epochs, replicas, hosts, rollouts. 3: tenants, keys, audit log."""
_SECOND_TABLES = (GALLERIES, SHARDS, REPLICAS, HOSTS, MODELS, META)
_TABLES = (*_SECOND_TABLES, TENANTS, API_KEYS, AUDIT)
"""Those that a catalog cannot do without. One that has lost its rollouts goes on from the models of its galleries; what
it says of snapshots can be read from their stores."""
_FIRST_TABLES = ("galleries", "shards", "models")


def prepare(db: Connection, where: str) -> None:
    """Create the tables, or bring those of an older version to this one; in the caller's transaction.

    where: the database, for messages. Raises FormatTooNew for a newer version, CorruptData for tables that are of no
    version.
    """
    present = set(sa.inspect(db).get_table_names())
    if META.name in present:
        version = _version(db, where)
        _check_complete(present, [table.name for table in (_SECOND_TABLES if version == 2 else _TABLES)], where)
        if version == 2:
            _upgrade_from_2(db)
        _add_job_quota(db)
    elif GALLERIES.name in present:
        _check_complete(present, _FIRST_TABLES, where)
        _upgrade_from_1(db)
        _upgrade_from_2(db)
    else:
        METADATA.create_all(db)
        db.execute(META.insert(), {"name": "schema", "value": str(SCHEMA_VERSION)})
    METADATA.create_all(db)


def _add_job_quota(db: Connection) -> None:
    """The column max_jobs, where the tenants are from before there were jobs.

    No version of its own: an earlier Facegrid passes over the column, and its new tenants have the usual quota.
    """
    columns = {column["name"] for column in sa.inspect(db).get_columns(TENANTS.name)}
    if "max_jobs" not in columns:
        db.exec_driver_sql(f"ALTER TABLE tenants ADD COLUMN max_jobs BIGINT DEFAULT {DEFAULT_JOBS}")


def _version(db: Connection, where: str) -> int:
    found = db.execute(sa.select(META.c.value).where(META.c.name == "schema")).scalar_one_or_none()
    version = int(found) if found is not None and re.fullmatch("[0-9]{1,9}", found) else 0
    if version > SCHEMA_VERSION:
        raise FormatTooNew(f"{where} has schema {version}; this Facegrid reads up to {SCHEMA_VERSION}")
    # The first version has no table meta and was told from it.
    if version < 2:
        raise CorruptData(f"{where}: schema: expected 2 or {SCHEMA_VERSION} in the table meta, got {found!r}")
    return version


def _check_complete(present: set[str], expected: Sequence[str], where: str) -> None:
    missing = sorted(set(expected) - present)
    if missing:
        raise CorruptData(f"{where} has lost its tables {', '.join(missing)}")


def _upgrade_from_1(db: Connection) -> None:
    """Every shard gets epoch 1 and, in sync, the one replica it has."""
    db.exec_driver_sql("ALTER TABLE galleries ADD COLUMN replicas INTEGER NOT NULL DEFAULT 1")
    db.exec_driver_sql("ALTER TABLE galleries ADD COLUMN min_in_sync INTEGER NOT NULL DEFAULT 1")
    db.exec_driver_sql('ALTER TABLE shards RENAME COLUMN host TO "primary"')
    db.exec_driver_sql("ALTER TABLE shards ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1")
    METADATA.create_all(db, tables=[REPLICAS, HOSTS, META])
    placed = sa.select(SHARDS.c.gallery_id, SHARDS.c.shard, SHARDS.c.primary, sa.literal(IN_SYNC))
    db.execute(REPLICAS.insert().from_select(["gallery_id", "shard", "host", "state"], placed))
    db.execute(META.insert(), {"name": "schema", "value": "2"})


def _upgrade_from_2(db: Connection) -> None:
    """Every name before the '/' of a gallery becomes a tenant. One that is being dropped has lost its name."""
    METADATA.create_all(db, tables=[TENANTS, API_KEYS, AUDIT])
    db.exec_driver_sql("ALTER TABLE galleries ADD COLUMN tenant_id VARCHAR(8) REFERENCES tenants (tenant_id)")
    for index in sorted(GALLERIES.indexes, key=lambda index: str(index.name)):
        index.create(db)
    galleries = db.execute(sa.select(GALLERIES.c.gallery_id, GALLERIES.c.name)).all()
    for gallery_id, name in sorted((row.gallery_id, row.name) for row in galleries if "/" in row.name):
        tenant_id = ensure_tenant(db, tenant_name(name), time.time()).tenant_id
        db.execute(GALLERIES.update().where(GALLERIES.c.gallery_id == gallery_id).values(tenant_id=tenant_id))
    db.execute(META.update().where(META.c.name == "schema").values(value="3"))
