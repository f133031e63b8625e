"""The catalog's tables; `coordinator.catalog_schema` brings a database to them.

Other modules may hang tables of their own on METADATA; those that were imported are created when a catalog is opened.
"""

from __future__ import annotations

import sqlalchemy as sa

from coordinator.tenant_types import DEFAULT_JOBS

IN_SYNC, JOINING = "in_sync", "joining"
DROPPING = "dropping"
"""State of a gallery that is being removed; the others: `coordinator.catalog`."""

METADATA = sa.MetaData()
TENANTS = sa.Table(
    "tenants",
    METADATA,
    sa.Column("tenant_id", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("dropped_at", sa.Double),
    sa.Column("max_galleries", sa.BigInteger),
    sa.Column("max_templates", sa.BigInteger),
    sa.Column("max_queries_per_s", sa.Double),
    sa.Column("max_bytes", sa.BigInteger),
    sa.Column("weight", sa.Integer, nullable=False),
    sa.Column("keeps_thumbnails", sa.Boolean, nullable=False),
    sa.Column("is_encrypted", sa.Boolean, nullable=False),
    # Added to catalogs of this schema that were made before there were jobs.
    sa.Column("max_jobs", sa.BigInteger, server_default=str(DEFAULT_JOBS)),
)
GALLERIES = sa.Table(
    "galleries",
    METADATA,
    sa.Column("gallery_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(130), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("dim", sa.Integer, nullable=False),
    sa.Column("code_bits", sa.Integer, nullable=False),
    sa.Column("embedder", sa.String(64)),
    sa.Column("model_id", sa.String(64), sa.ForeignKey("models.model_id")),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("replicas", sa.Integer, nullable=False, server_default="1"),
    sa.Column("min_in_sync", sa.Integer, nullable=False, server_default="1"),
    sa.Column("tenant_id", sa.String(8), sa.ForeignKey("tenants.tenant_id"), index=True),
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
CALIBRATIONS = sa.Table(
    "calibrations",
    METADATA,
    sa.Column("gallery_id", sa.String(32), sa.ForeignKey("galleries.gallery_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("calibration", sa.Text, nullable=False),
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
API_KEYS = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("key_id", sa.String(12), primary_key=True),
    sa.Column("tenant_id", sa.String(8), sa.ForeignKey("tenants.tenant_id"), index=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("scopes", sa.String(32), nullable=False),
    sa.Column("galleries", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("previous_digest", sa.LargeBinary),
    sa.Column("previous_until", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("entry_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("tenant", sa.String(64)),
    sa.Column("tenant_id", sa.String(8)),
    sa.Column("key_id", sa.String(12)),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("gallery", sa.String(130)),
    sa.Column("count", sa.BigInteger),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Index("ix_audit_at", "at", "entry_id"),
    sa.Index("ix_audit_tenant_at", "tenant_id", "at", "entry_id"),
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
JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(64), nullable=False),
    # No foreign keys: a job outlives its gallery, and says so.
    sa.Column("gallery_id", sa.String(32), nullable=False),
    sa.Column("gallery", sa.String(130), nullable=False),
    sa.Column("tenant_id", sa.String(8), index=True),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("unit", sa.String(32), nullable=False),
    sa.Column("phase", sa.String(64), nullable=False),
    sa.Column("phase_at", sa.Double),
    sa.Column("phase_done", sa.BigInteger, nullable=False),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", sa.Text),
    sa.Column("key_id", sa.String(12)),
    sa.Column("owner", sa.String(128)),
    sa.Column("heartbeat_at", sa.Double),
)
