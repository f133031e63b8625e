"""The coordinator's part in snapshots: models, galleries that are being restored, and what the catalog remembers.

A gallery that is being restored is in the catalog in a state of its own: it holds its name, and nobody can search it,
enroll into it or delete from it before it is complete. So a half restored gallery never answers, and a restore that
is continued cannot bring back what was deleted in between.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.catalog import READY, RESTORING, Catalog
from coordinator.snapshot_catalog import RestoreRecord, SnapshotCatalog, SnapshotRecord
from coordinator.types import GalleryRoute, GallerySpec, ModelData
from shard.errors import AlreadyExists, EncryptedGallery, UnknownGallery

if TYPE_CHECKING:
    from coordinator.coordinator import Coordinator


class SnapshotControl:
    """Snapshots, as far as they are the coordinator's. Thread-safe."""

    def __init__(self, coordinator: Coordinator, catalog: Catalog) -> None:
        self._coordinator, self._catalog = coordinator, catalog
        self._snapshots = SnapshotCatalog(catalog)
        self._lock = threading.Lock()

    def active_model(self, gallery: str) -> ModelData | None:
        """The model that a gallery searches with, for a snapshot of it; None while it searches exactly.

        Raises UnknownGallery, and EncryptedGallery for one that snapshots cannot be made of.
        """
        self._check_in_clear(self._catalog.gallery(gallery).gallery_id, gallery)
        return self._snapshots.model_of(gallery)

    def _check_in_clear(self, gallery_id: str, name: str) -> None:
        if self._catalog.keys.is_encrypted(gallery_id):
            raise EncryptedGallery(f"{name} is encrypted; a snapshot would keep its templates in the clear")

    def begin_restore(self, spec: GallerySpec, snapshot_id: str, model: ModelData | None) -> tuple[GalleryRoute, bool]:
        """An empty gallery to restore into, hidden, with the model active; and whether it was begun before.

        Raises AlreadyExists if a gallery of that name is there, or is half restored from another snapshot or with
        another number of shards.
        """
        with self._lock:
            half = self._snapshots.restoring(spec.name)
            if half is None:
                if self._catalog.find(spec.name) is not None:
                    raise AlreadyExists(f"gallery {spec.name!r} exists")
                self._snapshots.put_restore(RestoreRecord(spec.name, snapshot_id, None))
                route = self._coordinator.create_gallery(spec, state=RESTORING)
            else:
                self._check_same(half, spec, snapshot_id)
                route = half
            # On empty shards: rows are encoded once, as they come.
            if model is not None and route.model_id != model.model_id:
                self._coordinator.activate(route, model)
            return route, half is not None

    def _check_same(self, half: GalleryRoute, spec: GallerySpec, snapshot_id: str) -> None:
        begun = self._snapshots.restore(spec.name)
        source = begun.snapshot_id if begun else "an unknown snapshot"
        if source != snapshot_id or half.shards != spec.shards:
            raise AlreadyExists(
                f"gallery {spec.name!r} is half restored from {source} with {half.shards} shards; restore the same to"
                " complete it, or abandon it first"
            )

    def check_not_restoring(self, gallery: str) -> None:
        """AlreadyExists if a gallery of that name is half restored, which nobody can see."""
        if self._snapshots.restoring(gallery) is not None:
            raise AlreadyExists(f"gallery {gallery!r} is half restored; complete the restore, or abandon it first")

    def finish_restore(self, gallery: str) -> GalleryRoute:
        """Show a restored gallery to everybody; UnknownGallery if none of that name is being restored."""
        with self._lock:
            route, begun = self._restoring(gallery), self._snapshots.restore(gallery)
            if begun is not None:
                self._snapshots.put_restore(replace(begun, gallery_id=route.gallery_id))
            self._catalog.set_state(route.gallery_id, READY)
        return self._catalog.gallery(gallery)

    def abandon_restore(self, gallery: str) -> None:
        """Remove a half restored gallery; UnknownGallery if there is none of that name."""
        with self._lock:
            self._restoring(gallery)
            self._coordinator.drop_gallery(gallery, state=RESTORING)

    def restoring(self, gallery: str) -> GalleryRoute:
        """The newest route of a gallery that is being restored; UnknownGallery if none of that name is.

        Once the restore is finished it is the route of the complete gallery.
        """
        try:
            return self._restoring(gallery)
        except UnknownGallery:
            return self._catalog.gallery(gallery)

    def _restoring(self, gallery: str) -> GalleryRoute:
        route = self._snapshots.restoring(gallery)
        if route is None:
            raise UnknownGallery(f"no gallery {gallery!r} is being restored")
        return route

    def was_restored_from(self, gallery: str, snapshot_id: str) -> bool:
        """Whether the gallery of that name is there and was restored, completely, from that snapshot."""
        record, route = self._snapshots.restore(gallery), self._catalog.find(gallery)
        return (
            record is not None
            and route is not None
            and record.snapshot_id == snapshot_id
            and record.gallery_id == route.gallery_id
        )

    def remember(self, record: SnapshotRecord) -> None:
        """Enter a snapshot that was made."""
        self._snapshots.add(record)

    def forget(self, snapshot_ids: tuple[str, ...]) -> None:
        """Remove entries of snapshots that were deleted."""
        self._snapshots.remove(snapshot_ids)

    def made(self) -> list[SnapshotRecord]:
        """Every snapshot that was made of galleries of this home and not deleted by it, oldest first."""
        return self._snapshots.records()
