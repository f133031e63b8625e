"""Floats of some templates of a gallery, by id, out of a snapshot: the job's own, or one that is made for it.

The journal of an apply needs them to bring templates back to the bit. A shard gives nobody the floats of one template,
so they are read where the job read them; that snapshot may have expired by now.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.dedup.result_files import DedupResult
from coordinator.snapshots.manifest import BlockEntry, Manifest
from coordinator.snapshots.places import pyarrow
from coordinator.snapshots.store import SnapshotStore
from shard.errors import CorruptData, UnknownSnapshot
from shard.files import remove_tree
from shard.keys import template_keys
from shard.types import FloatArray

if TYPE_CHECKING:
    from cluster.api import Cluster


@dataclass(frozen=True, slots=True)
class FoundFloats:
    """A template in a snapshot: its LSN there and its floats (dim,) float32."""

    template_id: str
    lsn: int
    floats: FloatArray


@dataclass(frozen=True, slots=True)
class FloatSource:
    """A snapshot to read from. is_fresh: it was made just now, and not the one that the job read."""

    store: SnapshotStore
    manifest: Manifest
    is_fresh: bool

    def read(self, template_ids: Collection[str]) -> Iterator[list[FoundFloats]]:
        """Those of the templates that the snapshot has, block by block. CorruptData."""
        wanted = set(template_ids)
        keys = np.sort(template_keys(list(wanted)))
        for block in self.manifest.blocks():
            found = self._read_block(block, wanted, keys)
            if found:
                yield found

    def _read_block(self, block: BlockEntry, wanted: set[str], keys: Any) -> list[FoundFloats]:
        arrow = pyarrow()
        try:
            data = io.BytesIO(self.store.get(block.labels))
            labels = arrow.parquet.read_table(data, columns=["template_id", "lsn"])
        except (ValueError, OSError, KeyError) as error:  # pyarrow's own errors are of these
            where = f"{self.store.url}: object {block.labels.sha256}"
            raise CorruptData(f"{where} is not a file of labels: {error}") from error
        ids: list[str] = labels.column("template_id").to_pylist()
        maybe = np.flatnonzero(np.isin(template_keys(ids), keys)).tolist()
        at = [row for row in maybe if ids[row] in wanted]
        if not at:
            return []
        floats: FloatArray = np.frombuffer(self.store.get(block.floats), "<f4").reshape(block.rows, self.manifest.dim)
        lsns = labels.column("lsn").to_pylist()
        return [FoundFloats(ids[row], lsns[row], floats[row]) for row in at]


@contextlib.contextmanager
def float_sources(
    cluster: Cluster, result: DedupResult, galleries: Collection[str], scratch: Path
) -> Iterator[Mapping[str, FloatSource]]:
    """For each gallery the snapshot that the job read, or one that is made in `scratch` and removed with the block."""
    found: dict[str, FloatSource] = {}
    remove_tree(scratch)  # of a process that died
    try:
        for entry in result.summary["inputs"]:
            if entry["gallery"] in galleries:
                found[entry["gallery"]] = _own(result, entry) or _fresh(cluster, entry["gallery"], scratch)
        yield found
    finally:
        if scratch.is_dir():
            remove_tree(scratch)
            cluster.coordinator.jobs.sweep()  # the snapshot is forgotten


def _own(result: DedupResult, entry: Mapping[str, Any]) -> FloatSource | None:
    """The snapshot that the job read; None if it is not there any more."""
    place = entry["store"] or result.directory / "input"
    if entry["store"] is None and not place.is_dir():
        return None
    store = SnapshotStore.open(place)
    try:
        return FloatSource(store, store.snapshot(entry["snapshot_id"]), is_fresh=False)
    except UnknownSnapshot:
        return None


def _fresh(cluster: Cluster, gallery: str, scratch: Path) -> FloatSource:
    soon = datetime.now(timezone.utc) + timedelta(hours=cluster.settings.erasure_hours)
    snapshots = cluster.snapshots(scratch)
    made = snapshots.create(gallery, expires_at=soon, progress=False)
    return FloatSource(snapshots.store, made.manifest, is_fresh=True)
