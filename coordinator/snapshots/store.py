"""`SnapshotStore`: objects named by their SHA-256, and the manifests that make snapshots of them.

    objects/<first two digits>/<sha256>          immutable; floats, labels, models
    galleries/<tenant>/<name>/<snapshot id>.json a manifest: written last, and a snapshot is there when it is
    markers/<create or delete>-<id>.json         work in progress (`coordinator.snapshots.markers`)

Every object is verified when it is read. What no manifest names is left over from an interrupted creation, and the
next deletion removes it.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, TypeVar

from coordinator.names import check_gallery_name
from coordinator.snapshots.manifest import (
    Manifest,
    ObjectRef,
    check_snapshot_id,
    decode_manifest,
    encode_manifest,
    parse_time,
)
from coordinator.snapshots.markers import Deleting
from coordinator.snapshots.places import LocalPlace, Place, open_place, pyarrow
from shard.errors import CorruptData, UnknownSnapshot

_OBJECTS, _GALLERIES = "objects", "galleries"
_PIECE = 1 << 20
_LOG = logging.getLogger(__name__)

FoundT = TypeVar("FoundT")


@dataclass(frozen=True, slots=True)
class DeleteReport:
    """What a deletion removed: snapshots by id, and objects that no other snapshot names."""

    snapshot_ids: tuple[str, ...]
    objects: int
    size: int


class SnapshotStore:
    """The snapshots at one place. Thread-safe; several processes may use a store at once."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    def open(cls, url: str | Path) -> SnapshotStore:
        """The store at a path or URL, see `open_place`; it is made when the first snapshot is. MissingExtra."""
        pyarrow()
        return cls(open_place(url))

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self.place.url

    # Objects

    def put(self, data: bytes) -> tuple[ObjectRef, bool]:
        """Store an object that is not there yet; returns its name, and whether it was written."""
        ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
        if self.has(ref):
            return ref, False
        self.place.write(_object_path(ref.sha256), data)
        return ref, True

    def has(self, ref: ObjectRef) -> bool:
        """Whether an object of that name and size is there: an interrupted upload may leave one of too few bytes."""
        return self.place.size(_object_path(ref.sha256)) == ref.size

    def get(self, ref: ObjectRef) -> bytes:
        """The object's bytes; CorruptData, naming it, if it is missing or another."""
        path = _object_path(ref.sha256)
        data = self.place.read(path)
        if data is None:
            raise CorruptData(f"{self.url}: the object {path} is missing")
        if len(data) != ref.size:
            raise CorruptData(f"{self.url}: the object {path} has {len(data)} bytes, expected {ref.size}")
        if (found := hashlib.sha256(data).hexdigest()) != ref.sha256:
            raise CorruptData(f"{self.url}: the object {path} has the SHA-256 {found}")
        return data

    def local_file(self, ref: ObjectRef) -> Path | None:
        """The object's file, to be mapped; None in a store that is not a directory. Of the right size, not verified.

        CorruptData, naming it, if it is missing or of another size.
        """
        if not isinstance(self.place, LocalPlace):
            return None
        path = _object_path(ref.sha256)
        size = self.place.size(path)
        if size != ref.size:
            found = "is missing" if size is None else f"has {size} bytes, expected {ref.size}"
            raise CorruptData(f"{self.url}: the object {path} {found}")
        return self.place.file(path)

    def verify(self, ref: ObjectRef) -> None:
        """Read an object of a directory piece by piece, any other whole; CorruptData as of `get`."""
        file = self.local_file(ref)
        if file is None:
            self.get(ref)
            return
        with file.open("rb") as opened:
            found = _digest_of(opened)
        if found != ref.sha256:
            raise CorruptData(f"{self.url}: the object {_object_path(ref.sha256)} has the SHA-256 {found}")

    # Manifests

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest: from now on the snapshot is there."""
        self.place.write(_manifest_path(manifest), encode_manifest(manifest))

    def snapshots(self, gallery: str | None = None) -> list[Manifest]:
        """Every snapshot, or those of one gallery, oldest first. CorruptData names a manifest that is damaged."""
        found = [self._manifest(path) for path in self._paths(gallery).values()]
        return [manifest for manifest in found if manifest is not None]

    def snapshot(self, snapshot_id: str) -> Manifest:
        """One snapshot by id; UnknownSnapshot, CorruptData."""
        return self._there(self._manifest(self._path(snapshot_id)), snapshot_id)

    def latest(self, gallery: str, gallery_id: str) -> Manifest | None:
        """The last snapshot of a gallery; one whose manifest is damaged is passed over, with a warning."""
        for path in reversed(self._paths(gallery).values()):
            try:
                found = self._manifest(path)
            except CorruptData as error:
                _LOG.warning("a damaged snapshot: %s", error)
                continue
            if found is not None and found.gallery_id == gallery_id:
                return found
        return None

    def _path(self, snapshot_id: str) -> str:
        path = self._paths(None).get(check_snapshot_id(snapshot_id))
        return self._there(path, snapshot_id)

    def _there(self, found: FoundT | None, snapshot_id: str) -> FoundT:
        if found is None:
            raise UnknownSnapshot(f"{self.url} has no snapshot {snapshot_id}")
        return found

    def _paths(self, gallery: str | None) -> dict[str, str]:
        """Snapshot id to path of the manifest, oldest first."""
        below = _GALLERIES if gallery is None else f"{_GALLERIES}/{check_gallery_name(gallery)}"
        names = [file.path for file in self.place.files(below) if file.path.endswith(".json")]
        return dict(sorted((path.rpartition("/")[2].removesuffix(".json"), path) for path in names))

    def _manifest(self, path: str) -> Manifest | None:
        """None if it was deleted a moment ago."""
        data = self.place.read(path)
        if data is None:
            return None
        manifest = decode_manifest(data, f"{self.url}: {path}")
        if _manifest_path(manifest) != path:
            raise CorruptData(f"{self.url}: {path} is the manifest of {_manifest_path(manifest)}")
        return manifest

    # Deletion

    def delete(self, snapshot_id: str) -> DeleteReport:
        """Remove a snapshot, also one whose manifest is damaged, and the objects that no other one names.

        What interrupted creations and deletions left is removed too. Raises UnknownSnapshot; StoreBusy, with nothing
        removed, while a snapshot is made in this store; CorruptData if another one's manifest is damaged.
        """
        self._path(snapshot_id)  # before a marker makes a store of what is none
        with Deleting(self.place, secrets.token_hex(4)):
            return self._remove({snapshot_id: self._path(snapshot_id)})

    def delete_expired(self, now: datetime | None = None) -> DeleteReport:
        """Remove every snapshot that has expired, as `delete` does. Cleans up even if none has."""
        now = now or datetime.now(timezone.utc)
        if not self._paths(None) and not self.place.files(_OBJECTS):
            return DeleteReport((), 0, 0)
        with Deleting(self.place, secrets.token_hex(4)):
            expired = [m for m in self.snapshots() if m.expires_at and parse_time(m.expires_at) <= now]
            return self._remove({manifest.snapshot_id: _manifest_path(manifest) for manifest in expired})

    def _remove(self, paths: dict[str, str]) -> DeleteReport:
        # All others are read before anything is removed: nobody knows what one needs that cannot be read.
        others = [self._manifest(path) for path in self._paths(None).values() if path not in paths.values()]
        needed = {_object_path(ref.sha256) for manifest in others if manifest for ref in manifest.objects()}
        for path in paths.values():
            self.place.remove(path)
        unused = [file for file in self.place.files(_OBJECTS) if file.path not in needed]
        for file in unused:
            self.place.remove(file.path)
        return DeleteReport(tuple(sorted(paths)), len(unused), sum(file.size for file in unused))


def _digest_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _object_path(sha256: str) -> str:
    return f"{_OBJECTS}/{sha256[:2]}/{sha256}"


def _manifest_path(manifest: Manifest) -> str:
    return f"{_GALLERIES}/{manifest.gallery}/{manifest.snapshot_id}.json"
