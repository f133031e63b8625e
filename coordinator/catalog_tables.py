"""The catalog's tables, the version of their schema, and how a database is brought to it.

Other modules may hang tables of their own on METADATA; those that were imported are created when a catalog is opened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shard.errors import CorruptData, FormatTooNew

SCHEMA_VERSION = 2
"""1: one host for each shard, no `meta`. 2: epochs, replicas, hosts, rollouts."""

IN_SYNC, JOINING = "in_sync", "joining"

METADATA = sa.MetaData()
GALLERIES = sa.Table(
    "galleries",
    METADATA,
    sa.Column("gallery_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(130), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("dim", sa.Integer, nullable=False),
    sa.Column("code_bits", sa.Integer, nullable=False),
    sa.Column("embedder", sa.String(64)),
    sa.Column("model_id", sa.String(64), sa.ForeignKey("models.model_id")),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("replicas", sa.Integer, nullable=False, server_default="1"),
    sa.Column("min_in_sync", sa.Integer, nullable=False, server_default="1"),
)
SHARDS = sa.Table(
    "shards",
    METADATA,
    sa.Column("gallery_id", sa.String(32), sa.ForeignKey("galleries.gallery_id"), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True),
    sa.Column("primary", sa.String(64), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
)
REPLICAS = sa.Table(
    "replicas",
    METADATA,
    sa.Column("gallery_id", sa.String(32), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True),
    sa.Column("host", sa.String(64), primary_key=True, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.ForeignKeyConstraint(["gallery_id", "shard"], ["shards.gallery_id", "shards.shard"]),
)
HOSTS = sa.Table(
    "hosts",
    METADATA,
    sa.Column("host", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("since", sa.Double, nullable=False),
)
MODELS = sa.Table(
    "models",
    METADATA,
    sa.Column("model_id", sa.String(64), primary_key=True),
    sa.Column("templates", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
META = sa.Table(
    "meta",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(64), nullable=False),
)
ROLLOUTS = sa.Table(
    "rollouts",
    METADATA,
    sa.Column("gallery_id", sa.String(32), sa.ForeignKey("galleries.gallery_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_id", sa.String(64), sa.ForeignKey("models.model_id")),
    sa.Column("previous_model_id", sa.String(64), sa.ForeignKey("models.model_id")),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("was_activating", sa.Boolean, nullable=False),
    sa.Column("replicas", sa.Integer, nullable=False),
    sa.Column("prepared", sa.Integer, nullable=False),
    sa.Column("activated", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)
BASELINES = sa.Table(
    "model_baselines",
    METADATA,
    sa.Column("model_id", sa.String(64), sa.ForeignKey("models.model_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("balance", sa.LargeBinary, nullable=False),
    sa.Column("captured", sa.Double, nullable=False),
    sa.Column("lsns", sa.LargeBinary, nullable=False),
)
SNAPSHOTS = sa.Table(
    "snapshots",
    METADATA,
    sa.Column("snapshot_id", sa.String(32), primary_key=True),
    sa.Column("gallery_id", sa.String(32), nullable=False),
    sa.Column("gallery", sa.String(130), nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.String(32)),
    sa.Column("templates", sa.BigInteger, nullable=False),
)
RESTORES = sa.Table(
    "restores",
    METADATA,
    sa.Column("gallery", sa.String(130), primary_key=True),
    sa.Column("snapshot_id", sa.String(32), nullable=False),
    sa.Column("gallery_id", sa.String(32)),
)
IDENTITY_CHANGES = sa.Table(
    "identity_changes",
    METADATA,
    sa.Column("gallery_id", sa.String(32), sa.ForeignKey("galleries.gallery_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("changes", sa.Integer, nullable=False),
    sa.Column("is_under_way", sa.Boolean, nullable=False),
    sa.Column("sources", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("moved", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
)
_TABLES = (GALLERIES, SHARDS, REPLICAS, HOSTS, MODELS, META)
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
        _check_version(db, where)
        _check_complete(present, [table.name for table in _TABLES], where)
    elif GALLERIES.name in present:
        _check_complete(present, _FIRST_TABLES, where)
        _upgrade_from_1(db)
    else:
        METADATA.create_all(db)
        db.execute(META.insert(), {"name": "schema", "value": str(SCHEMA_VERSION)})
    METADATA.create_all(db)


def _check_version(db: Connection, where: str) -> None:
    found = db.execute(sa.select(META.c.value).where(META.c.name == "schema")).scalar_one_or_none()
    version = int(found) if found is not None and re.fullmatch("[0-9]{1,9}", found) else 0
    if version > SCHEMA_VERSION:
        raise FormatTooNew(f"{where} has schema {version}; this Facegrid reads up to {SCHEMA_VERSION}")
    # The first version has no table meta and was told from it.
    if version != SCHEMA_VERSION:
        raise CorruptData(f"{where}: schema: expected {SCHEMA_VERSION} in the table meta, got {found!r}")


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
    db.execute(META.insert(), {"name": "schema", "value": str(SCHEMA_VERSION)})
