"""A gallery's templates as of one moment of each shard, read while it is in use, in batches of bounded size.

By way of a snapshot in a private directory: how rows are read while they are written, moved and their hosts fail has
one implementation (`coordinator.snapshots.reader`), and this is it. It takes the room of the floats once more, for as
long as the export takes.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.progress import Tell, show_progress
from coordinator.names import check_gallery_name
from coordinator.snapshots.create import create_snapshot
from coordinator.snapshots.manifest import Manifest
from coordinator.snapshots.read import read_blocks
from coordinator.snapshots.store import SnapshotStore
from shard.files import remove_tree
from shard.types import EnrollBatch

if TYPE_CHECKING:
    from cluster.api import Cluster


@contextlib.contextmanager
def consistent_batches(
    cluster: Cluster, name: str, beside: Path, *, progress: Tell | bool = False
) -> Iterator[tuple[Manifest, Iterator[EnrollBatch]]]:
    """What the state is of, and its templates: each once, floats bit for bit as they are stored.

    beside: a path on a file system with room for the floats; a directory next to it is used and removed. progress: of
    rows read from the shards, before the first batch. Raises UnknownGallery, MissingExtra, WriteFailed, and what hosts
    answer.
    """
    cluster.check_open()
    place = beside.absolute().with_name(f".{beside.name}.{secrets.token_hex(8)}.reading")
    store = SnapshotStore.open(place)
    coordinator = cluster.coordinator
    route = coordinator.gallery(check_gallery_name(name))
    try:
        with show_progress(progress, "reading rows") as tell:
            manifest = create_snapshot(
                store,
                cluster.runtime,
                route,
                None,
                lookup=coordinator.gallery,
                report=coordinator.report,
                progress=tell,
            ).manifest
        with contextlib.closing(_blocks(store, manifest)) as batches:
            yield manifest, batches
    finally:
        remove_tree(place)


def _blocks(store: SnapshotStore, manifest: Manifest) -> Generator[EnrollBatch, None, None]:
    yield from read_blocks(store, manifest)
