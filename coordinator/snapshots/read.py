"""Reading a snapshot: blocks of rows in order, its model, who is in it, and whether all of it is sound.

Every object is verified by its SHA-256 on the way. Several are fetched ahead of the one that is used.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from coordinator.snapshots.labels import BlockLabels, decode_labels
from coordinator.snapshots.manifest import BlockEntry, Manifest
from coordinator.snapshots.store import SnapshotStore
from coordinator.types import ModelData
from shard.errors import CorruptData, FacegridError, UnknownSnapshot
from shard.keys import template_keys
from shard.model import SearchModel
from shard.types import EnrollBatch, FloatArray, KeyArray

AHEAD = 3
"""Blocks fetched ahead: each is 16 MiB of floats, and its labels."""

Tell = Callable[[int, int], None]
"""Gets templates done and templates in all."""

InT = TypeVar("InT")
OutT = TypeVar("OutT")


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was read of a snapshot, and a message for each object that is missing or damaged."""

    snapshot_id: str
    objects: int
    size: int
    templates: int
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """A snapshot that holds some of the templates asked for, by id, sorted. Times as in manifests."""

    snapshot_id: str
    gallery: str
    created_at: str
    expires_at: str | None
    template_ids: tuple[str, ...]


def read_blocks(store: SnapshotStore, manifest: Manifest) -> Iterator[EnrollBatch]:
    """Every block of a snapshot as a batch, shard by shard; CorruptData names what is missing or damaged.

    UnknownSnapshot if the snapshot is deleted meanwhile.
    """
    try:
        yield from _ahead(lambda block: read_block(store, manifest, block), manifest.blocks())
    except CorruptData as error:
        raise _explained(store, manifest, error) from error


def read_block(store: SnapshotStore, manifest: Manifest, block: BlockEntry) -> EnrollBatch:
    """The templates of one block; CorruptData."""
    labels = read_labels(store, block)
    floats: FloatArray = np.frombuffer(store.get(block.floats), "<f4").reshape(block.rows, manifest.dim)
    return EnrollBatch(floats, labels.template_ids, labels.identities, labels.metadata)


def read_model(store: SnapshotStore, manifest: Manifest) -> ModelData | None:
    """The snapshot's model, None if it has none; CorruptData."""
    if manifest.model is None:
        return None
    data = store.get(manifest.model.data)
    if SearchModel.from_bytes(data).model_id != manifest.model.model_id:
        raise CorruptData(f"{store.url}: object {manifest.model.data.sha256} is not model {manifest.model.model_id}")
    return ModelData(manifest.model.model_id, data, manifest.model.templates)


def verify_snapshot(store: SnapshotStore, manifest: Manifest, *, progress: Tell | None = None) -> VerifyReport:
    """Read every object of a snapshot; all damage is in the report. UnknownSnapshot if it is deleted meanwhile."""
    damage: list[str] = []
    keys: list[KeyArray] = []
    templates = 0

    def check(block: BlockEntry) -> tuple[BlockEntry, BlockLabels | None, list[str]]:
        found, labels = [], None
        try:
            labels = read_labels(store, block)
        except CorruptData as error:
            found.append(str(error))
        try:
            store.get(block.floats)
        except CorruptData as error:
            found.append(str(error))
        return block, labels, found

    try:
        read_model(store, manifest)
    except FacegridError as error:
        if not isinstance(error, CorruptData):
            raise
        damage.append(str(error))
    for block, labels, found in _ahead(check, manifest.blocks()):
        damage += found
        templates += block.rows
        if labels is not None:
            keys.append(template_keys(labels.template_ids))
        if progress is not None:
            progress(templates, manifest.templates)
    if not damage:
        damage += _twice(store, manifest, keys)
    if damage:
        store.snapshot(manifest.snapshot_id)  # UnknownSnapshot: it was deleted while it was read
    unique = tuple(dict.fromkeys(damage))
    return VerifyReport(manifest.snapshot_id, len(manifest.objects()), manifest.size, templates, unique)


def _twice(store: SnapshotStore, manifest: Manifest, keys: list[KeyArray]) -> list[str]:
    """A message if ids are in the snapshot more than once. keys: of all ids, which take less memory than they do."""
    ordered = np.sort(np.concatenate(keys)) if keys else np.empty(0, np.uint64)
    doubtful = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(doubtful):
        return []
    # Two ids may share a key; only those that do are compared.
    counts: Counter[str] = Counter()
    for labels in _ahead(lambda block: read_labels(store, block), manifest.blocks()):
        hits = np.flatnonzero(np.isin(template_keys(labels.template_ids), doubtful))
        counts.update(labels.template_ids[i] for i in hits.tolist())
    twice = [template_id for template_id, count in counts.items() if count > 1]
    if not twice:
        return []
    return [
        f"{store.url}: {len(twice)} templates are in snapshot {manifest.snapshot_id} more than once, the first"
        f" {min(twice)!r}"
    ]


def find_templates(
    store: SnapshotStore,
    *,
    gallery: str | None = None,
    template_ids: Collection[str] = (),
    identities: Collection[str] = (),
) -> list[Holding]:
    """Which snapshots hold templates of these ids or identities, oldest first; of one gallery by name, or of all.

    Reads the labels of every snapshot, those that several share once. CorruptData if they cannot be read: what is
    held is not known then.
    """
    wanted, persons = frozenset(template_ids), frozenset(identities)
    by_object: dict[str, tuple[str, ...]] = {}

    def search(block: BlockEntry) -> tuple[str, tuple[str, ...]]:
        labels = read_labels(store, block)
        pairs = zip(labels.template_ids, labels.identities, strict=True)
        return block.labels.sha256, tuple(t for t, identity in pairs if t in wanted or identity in persons)

    holdings: list[Holding] = []
    for manifest in store.snapshots(gallery):
        blocks = list(manifest.blocks())
        try:
            by_object.update(_ahead(search, [b for b in blocks if b.labels.sha256 not in by_object]))
        except CorruptData as error:
            raise _explained(store, manifest, error) from error
        found = sorted(t for block in blocks for t in by_object[block.labels.sha256])
        if found:
            holdings.append(
                Holding(manifest.snapshot_id, manifest.gallery, manifest.created_at, manifest.expires_at, tuple(found))
            )
    return holdings


def read_labels(store: SnapshotStore, block: BlockEntry) -> BlockLabels:
    """The labels of one block; CorruptData."""
    where = f"{store.url}: object {block.labels.sha256}"
    labels = decode_labels(store.get(block.labels), where)
    if len(labels) != block.rows:
        raise CorruptData(f"{where}: expected {block.rows} rows of labels, found {len(labels)}")
    return labels


def _explained(store: SnapshotStore, manifest: Manifest, error: CorruptData) -> FacegridError:
    """An object is missing because it is damaged, or because somebody deleted the snapshot while it was read."""
    try:
        store.snapshot(manifest.snapshot_id)
    except UnknownSnapshot:
        return UnknownSnapshot(f"{store.url}: snapshot {manifest.snapshot_id} was deleted while it was read")
    return error


def _ahead(work: Callable[[InT], OutT], items: Iterable[InT]) -> Iterator[OutT]:
    """Results of the work in order, AHEAD of them under way or waiting at a time."""
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="facegrid-snapshot")
    under_way: deque[Future[OutT]] = deque()
    try:
        for item in items:
            if len(under_way) == AHEAD:
                yield under_way.popleft().result()
            under_way.append(pool.submit(work, item))
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
