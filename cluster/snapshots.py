"""`Snapshots`: the verbs of one snapshot store, for the galleries of an open cluster.

    with Cluster.open("home/") as grid:
        grid.snapshots("s3://backups/faces").create("acme/staff")

`SnapshotStore` itself (coordinator/snapshots/store.py) lists and deletes without a home.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.progress import Tell, show_progress
from cluster.results import SnapshotInfo
from coordinator.names import check_gallery_name
from coordinator.router import Router
from coordinator.snapshot_catalog import SnapshotRecord
from coordinator.snapshots.create import CreateReport, create_snapshot
from coordinator.snapshots.manifest import Manifest
from coordinator.snapshots.read import Holding, VerifyReport, find_templates, verify_snapshot
from coordinator.snapshots.restore import RestoreReport, restore_snapshot
from coordinator.snapshots.store import DeleteReport, SnapshotStore
from coordinator.types import GallerySpec
from shard.errors import InvalidParameter, UnknownSnapshot

if TYPE_CHECKING:
    from cluster.api import Cluster


def snapshot_info(manifest: Manifest) -> SnapshotInfo:
    """The manifest in a few words."""
    return SnapshotInfo(
        snapshot_id=manifest.snapshot_id,
        gallery=manifest.gallery,
        created_at=manifest.created_at,
        expires_at=manifest.expires_at,
        templates=manifest.templates,
        shards=len(manifest.shards),
        dim=manifest.dim,
        embedder=manifest.embedder,
        model_id=manifest.model.model_id if manifest.model else None,
        size=manifest.size,
    )


class Snapshots:
    """One snapshot store, found by `Cluster.snapshots`. Thread-safe.

    Every verb may raise StoreUnavailable, and MissingExtra where pyarrow is not installed. progress: a bar on a
    terminal (True), nothing (False), or a callable that gets what is done and what there is in all.
    """

    def __init__(self, cluster: Cluster, url: str | Path) -> None:
        self._cluster = cluster
        self.store = SnapshotStore.open(url)

    def create(self, gallery: str, *, expires_at: datetime | None = None, progress: Tell | bool = True) -> CreateReport:
        """Make a snapshot of a gallery while it is in use: of one moment of each shard, complete when this returns.

        Only what the store does not hold is written. expires_at: when `delete_expired` may remove it, with a zone; None
        keeps it. Raises UnknownGallery, StoreBusy while snapshots are deleted there, and what shard hosts answer;
        nothing is listed then, and a repeated call uses what was written.
        """
        self._cluster.check_open()
        coordinator = self._cluster.coordinator
        route = coordinator.gallery(check_gallery_name(gallery))
        model = coordinator.snapshots.active_model(gallery)
        with show_progress(progress, "reading rows") as tell:
            return create_snapshot(
                self.store,
                self._cluster.runtime,
                route,
                model,
                lookup=coordinator.gallery,
                report=coordinator.report,
                mark=lambda: coordinator.identities.mark(gallery),
                expires_at=expires_at,
                announce=lambda manifest: coordinator.snapshots.remember(self._record(manifest)),
                progress=tell,
            )

    def _record(self, manifest: Manifest) -> SnapshotRecord:
        return SnapshotRecord(
            snapshot_id=manifest.snapshot_id,
            gallery_id=manifest.gallery_id,
            gallery=manifest.gallery,
            store=self.store.url,
            created_at=manifest.created_at,
            expires_at=manifest.expires_at,
            templates=manifest.templates,
        )

    def list(self, gallery: str | None = None) -> list[SnapshotInfo]:
        """The snapshots in the store, or those of one gallery, oldest first; CorruptData names a damaged manifest."""
        return [snapshot_info(manifest) for manifest in self.store.snapshots(gallery)]

    def restore(
        self,
        snapshot_id: str,
        *,
        into: str | None = None,
        shards: int | None = None,
        replicas: int | None = None,
        if_exists: Literal["error", "skip"] = "error",
        progress: Tell | bool = True,
    ) -> RestoreReport:
        """Make a new gallery of a snapshot: exact floats, ids, identities, metadata, and the model in use then.

        into: the gallery's name, shards, replicas: as they were if not given. The gallery is not to be seen before it
        is complete; after an interruption the same call continues. if_exists="skip": a gallery that was restored
        from this snapshot before is left as it is, whatever became of it since.
        Raises UnknownSnapshot, AlreadyExists, CorruptData naming the object that is damaged.
        """
        if if_exists not in ("error", "skip"):
            raise InvalidParameter(f"if_exists: expected 'error' or 'skip', got {if_exists!r}")
        self._cluster.check_open()
        manifest = self.store.snapshot(snapshot_id)
        name = check_gallery_name(manifest.gallery if into is None else into)
        copies = manifest.replicas if replicas is None else replicas
        spec = GallerySpec(
            name=name,
            dim=manifest.dim,
            shards=len(manifest.shards) if shards is None else shards,
            code_bits=manifest.code_bits,
            embedder=manifest.embedder,
            replicas=copies,
            min_in_sync=min(manifest.min_in_sync, copies),
        )
        control = self._cluster.coordinator.snapshots
        if if_exists == "skip" and control.was_restored_from(name, snapshot_id):
            route = self._cluster.coordinator.gallery(name)
            templates = sum(stats.templates for stats in self._cluster.router.stats(route))
            return RestoreReport(name, snapshot_id, route.shards, templates, 0, route.model_id, 0.0)
        # A router of its own: the gallery is hidden, and where its shards are now only the restore may ask.
        router = Router(self._cluster.runtime, control.restoring, self._cluster.coordinator.report)
        with show_progress(progress, "restoring templates") as tell:
            return restore_snapshot(self.store, manifest, control, router, spec, progress=tell)

    def verify(self, snapshot_id: str, *, progress: Tell | bool = True) -> VerifyReport:
        """Read every object of a snapshot and compare digests and counts; all damage is in the report."""
        with show_progress(progress, "verifying templates") as tell:
            return verify_snapshot(self.store, self.store.snapshot(snapshot_id), progress=tell)

    def delete(self, snapshot_id: str) -> DeleteReport:
        """Remove a snapshot, and the objects that no other one names; UnknownSnapshot, StoreBusy."""
        try:
            report = self.store.delete(snapshot_id)
        except UnknownSnapshot:
            self._forget_here((snapshot_id,))
            raise
        self._forget_here(report.snapshot_ids)
        return report

    def delete_expired(self, now: datetime | None = None) -> DeleteReport:
        """Remove every snapshot that has expired, and what interrupted creations left; StoreBusy."""
        report = self.store.delete_expired(now)
        self._forget_here(report.snapshot_ids)
        return report

    def _forget_here(self, snapshot_ids: tuple[str, ...]) -> None:
        """Those of this store: the same id in another one is a copy, and is there still."""
        here = {record.snapshot_id for record in self.made()}
        self._cluster.coordinator.snapshots.forget(tuple(i for i in snapshot_ids if i in here))

    def find(
        self,
        *,
        gallery: str | None = None,
        template_ids: Collection[str] = (),
        identities: Collection[str] = (),
    ) -> Sequence[Holding]:
        """Which snapshots hold templates of these ids or identities, and until when. Reads all labels in the store."""
        if isinstance(template_ids, str) or isinstance(identities, str):
            raise InvalidParameter("template_ids and identities: expected a list of texts, got one text")
        return find_templates(self.store, gallery=gallery, template_ids=template_ids, identities=identities)

    def made(self) -> Sequence[SnapshotRecord]:
        """Snapshots of this home's galleries that its catalog remembers in this store, oldest first.

        A creation that was killed just before its end may be among them; `delete` makes it forgotten.
        """
        return [r for r in self._cluster.coordinator.snapshots.made() if r.store == self.store.url]
