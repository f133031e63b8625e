"""What the catalog remembers of snapshots: those that were made here, and restores under way. SQL and nothing else.

The store is what decides whether a snapshot is there; this tells where to look for one, and for whose data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from coordinator.catalog import METADATA, READY, RESTORING, Catalog
from coordinator.types import GalleryRoute, ModelData

_SNAPSHOTS = sa.Table(
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
_RESTORES = sa.Table(
    "restores",
    METADATA,
    sa.Column("gallery", sa.String(130), primary_key=True),
    sa.Column("snapshot_id", sa.String(32), nullable=False),
    sa.Column("gallery_id", sa.String(32)),
)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot that was made of a gallery of this home. store: path or URL without secrets; times as in manifests."""

    snapshot_id: str
    gallery_id: str
    gallery: str
    store: str
    created_at: str
    expires_at: str | None
    templates: int


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """What a gallery was or is being restored from. gallery_id: of the complete gallery; None while it is not."""

    gallery: str
    snapshot_id: str
    gallery_id: str | None


class SnapshotCatalog:
    """The tables of snapshots in a home's catalog. Every method is one transaction."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def add(self, record: SnapshotRecord) -> None:
        """Remember a snapshot."""
        with self._catalog.writing() as db:
            db.execute(_SNAPSHOTS.insert(), asdict(record))

    def remove(self, snapshot_ids: tuple[str, ...]) -> None:
        """Forget snapshots; those that are not known are no error."""
        with self._catalog.writing() as db:
            for snapshot_id in snapshot_ids:
                db.execute(_SNAPSHOTS.delete().where(_SNAPSHOTS.c.snapshot_id == snapshot_id))

    def records(self) -> list[SnapshotRecord]:
        """Every snapshot that was made and not deleted from here, oldest first."""
        with self._catalog.reading() as db:
            rows = db.execute(_SNAPSHOTS.select().order_by(_SNAPSHOTS.c.snapshot_id)).mappings().all()
        return [SnapshotRecord(**row) for row in rows]

    def model_of(self, gallery: str) -> ModelData | None:
        """The model of a ready gallery; None if it has none. In one read: a model that is replaced is removed."""
        galleries, models = METADATA.tables["galleries"], METADATA.tables["models"]
        query = (
            sa.select(models.c.model_id, models.c.data, models.c.templates)
            .join(galleries, galleries.c.model_id == models.c.model_id)
            .where(galleries.c.name == gallery, galleries.c.state == READY)
        )
        with self._catalog.reading() as db:
            row = db.execute(query).first()
        return None if row is None else ModelData(str(row[0]), bytes(row[1]), int(row[2]))

    def put_restore(self, record: RestoreRecord) -> None:
        """Remember what a gallery is restored from, instead of what was known for its name."""
        with self._catalog.writing() as db:
            db.execute(_RESTORES.delete().where(_RESTORES.c.gallery == record.gallery))
            db.execute(_RESTORES.insert(), asdict(record))

    def restore(self, gallery: str) -> RestoreRecord | None:
        """What a gallery of that name was or is being restored from, if it was."""
        with self._catalog.reading() as db:
            row = db.execute(_RESTORES.select().where(_RESTORES.c.gallery == gallery)).mappings().first()
        return None if row is None else RestoreRecord(**row)

    def restoring(self, gallery: str) -> GalleryRoute | None:
        """The half restored gallery of that name, if there is one."""
        return next((route for route in self._catalog.galleries(RESTORING) if route.name == gallery), None)
