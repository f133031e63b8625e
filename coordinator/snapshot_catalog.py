"""What the catalog remembers of snapshots: those that were made here, and restores under way. SQL and nothing else.

The store is what decides whether a snapshot is there; this tells where to look for one, and for whose data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from coordinator.catalog import READY, RESTORING, Catalog
from coordinator.catalog_tables import GALLERIES, MODELS, RESTORES, SNAPSHOTS
from coordinator.types import GalleryRoute, ModelData


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
            db.execute(SNAPSHOTS.insert(), asdict(record))

    def remove(self, snapshot_ids: tuple[str, ...]) -> None:
        """Forget snapshots; those that are not known are no error."""
        with self._catalog.writing() as db:
            for snapshot_id in snapshot_ids:
                db.execute(SNAPSHOTS.delete().where(SNAPSHOTS.c.snapshot_id == snapshot_id))

    def records(self) -> list[SnapshotRecord]:
        """Every snapshot that was made and not deleted from here, oldest first."""
        with self._catalog.reading() as db:
            rows = db.execute(SNAPSHOTS.select().order_by(SNAPSHOTS.c.snapshot_id)).mappings().all()
        return [SnapshotRecord(**row) for row in rows]

    def model_of(self, gallery: str) -> ModelData | None:
        """The model of a ready gallery; None if it has none. In one read: a model that is replaced is removed."""
        query = (
            sa.select(MODELS.c.model_id, MODELS.c.data, MODELS.c.templates)
            .join(GALLERIES, GALLERIES.c.model_id == MODELS.c.model_id)
            .where(GALLERIES.c.name == gallery, GALLERIES.c.state == READY)
        )
        with self._catalog.reading() as db:
            row = db.execute(query).first()
        return None if row is None else ModelData(str(row[0]), bytes(row[1]), int(row[2]))

    def put_restore(self, record: RestoreRecord) -> None:
        """Remember what a gallery is restored from, instead of what was known for its name."""
        with self._catalog.writing() as db:
            db.execute(RESTORES.delete().where(RESTORES.c.gallery == record.gallery))
            db.execute(RESTORES.insert(), asdict(record))

    def restore(self, gallery: str) -> RestoreRecord | None:
        """What a gallery of that name was or is being restored from, if it was."""
        with self._catalog.reading() as db:
            row = db.execute(RESTORES.select().where(RESTORES.c.gallery == gallery)).mappings().first()
        return None if row is None else RestoreRecord(**row)

    def restoring(self, gallery: str) -> GalleryRoute | None:
        """The half restored gallery of that name, if there is one."""
        return self._catalog.find(gallery, RESTORING)
