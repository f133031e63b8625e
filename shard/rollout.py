"""A shard's way from one SearchModel to the next: prepared codes on disk, then an index beside the one in use.

    prepare    codes of every sealed segment go to files of their own, named in the manifest one by one
    stage      an index with the new codes is built beside the one that is searched
    complete   what was enrolled or deleted meanwhile is brought over, under the shard's write lock

Owns what is done to segments and indexes on the way. Locks, the commit that decides, and which index is searched are
the shard's (`shard.shard`); the order of shards and hosts is the coordinator's. Nothing here changes what a
search sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from sqlite3 import Connection

import numpy as np

from shard.errors import CorruptData
from shard.index import Index
from shard.model import SearchModel
from shard.sealing import encode_rows
from shard.segments import SegmentFiles
from shard.store import SegmentRow, Store, delete_codes_except, put_codes, set_meta
from shard.types import CodeArray

KEPT_MODELS = "kept_models"
"""Key of the meta table: ids of models whose codes are kept beside those of the active one, separated by spaces."""
_LOG = logging.getLogger(__name__)

FilesOf = Callable[[SegmentRow], SegmentFiles]
Transaction = Callable[[], AbstractContextManager[Connection]]
"""Opens a durable transaction in the shard's turn to write."""


@dataclass(slots=True)
class StagedIndex:
    """An index that holds a model's codes of `segments`, which are sealed, and is searched by nobody yet.

    model: None for an index without codes, whose searches scan floats. tail: the open segment as it was at staging,
    None if there was none; tail_codes: (tail.rows, code_bytes) uint8, None without a model.
    """

    model: SearchModel | None
    index: Index
    segments: list[SegmentRow]
    tail: SegmentRow | None = None
    tail_codes: CodeArray | None = None


def kept_models(store: Store) -> set[str]:
    """Ids of the models that the shard keeps codes of, or began to; the active one is among them or not."""
    return set((store.meta(KEPT_MODELS) or "").split())


def keep_models(db: Connection, model_ids: Collection[str]) -> None:
    """Keep codes of these models and forget those of all others, inside the caller's transaction.

    A model is entered before any codes of it are, so that whoever looks after model files knows that it is needed.
    """
    set_meta(db, KEPT_MODELS, " ".join(sorted(model_ids)))
    delete_codes_except(db, model_ids)


def prepare(store: Store, files_of: FilesOf, model: SearchModel, transaction: Transaction) -> int:
    """Encode every sealed segment that has no sound codes of the model; returns how many were encoded.

    Each segment is durable on its own, so a call after a crash goes on where the one before it ended. A segment's codes
    are in memory while they are written, and no longer. Raises CorruptData for floats that are not there, WriteFailed.
    """
    encoded = 0
    for row in store.segments():
        if row.is_sealed and _stored_codes(store, files_of(row), row, model) is None:
            crc = files_of(row).write_codes(model.model_id, encode_rows(model, files_of(row).floats(row.rows)))
            with transaction() as db:
                put_codes(db, row.segment, model.model_id, crc)
            encoded += 1
    return encoded


def stage(dim: int, store: Store, files_of: FilesOf, model: SearchModel | None) -> StagedIndex:
    """Build an index of the sealed segments, and encode the rows that the open one has now.

    The model's codes must be prepared; those of a segment sealed since are left to `complete`.
    """
    segments = store.segments()
    sealed: list[SegmentRow] = []
    codes: list[CodeArray] = []
    for row in segments:
        stored = _stored_codes(store, files_of(row), row, model) if model is not None and row.is_sealed else None
        if not row.is_sealed or (model is not None and stored is None):
            break
        sealed.append(row)
        codes += [stored] if stored is not None else []
    staged = StagedIndex(model, Index(dim), sealed)
    for row in sealed:
        files = files_of(row)
        staged.index.open_segment(str(files.floats_path), row.capacity)
        staged.index.append(files.read_keys(row), None)
        staged.index.seal(row.segment - 1, str(files.keys_path))
    if model is not None:
        staged.index.set_codes(model.planes, model.lists, codes)
        if len(sealed) < len(segments):
            staged.tail = segments[len(sealed)]
            staged.tail_codes = encode_rows(model, files_of(staged.tail).floats(staged.tail.rows))
    return staged


def complete(staged: StagedIndex, current: Index, segments: Sequence[SegmentRow], files_of: FilesOf) -> None:
    """Add the segments that the staged index lacks, with the keys of the index in use. In the shard's turn to write.

    Afterwards it has every row of the shard; rows that were deleted are the caller's to hide. Writes nothing: codes of
    a segment that was sealed since staging are in memory only, until they are prepared.
    """
    tail, tail_codes = None, None
    for row in segments[len(staged.segments) :]:
        codes = None if staged.model is None else _codes_of_rest(staged, files_of(row), row)
        staged.index.open_segment(str(files_of(row).floats_path), row.capacity)
        staged.index.append(current.keys(row.segment - 1), codes)
        if row.is_sealed:
            staged.index.seal(row.segment - 1, str(files_of(row).keys_path))
        else:
            tail, tail_codes = row, codes
    staged.tail, staged.tail_codes = tail, tail_codes


def discard(store: Store, segments: Sequence[SegmentRow], files_of: FilesOf) -> None:
    """Remove every code file of sealed segments that the manifest does not name; the open one has files in use."""
    for row in segments:
        if row.is_sealed:
            files_of(row).remove_codes_except(store.code_models(row.segment))


def _stored_codes(store: Store, files: SegmentFiles, row: SegmentRow, model: SearchModel) -> CodeArray | None:
    """The segment's codes as they are stored, mapped; None if there are none or they are damaged."""
    crc = store.codes_crc(row.segment, model.model_id)
    if crc is None:
        return None
    try:
        return files.read_codes(model.model_id, row.rows, model.code_bytes, crc)
    except CorruptData as error:
        # Derived from the floats, so a damaged file costs time and nothing else.
        _LOG.warning("encoding a segment again from its floats: %s", error)
        return None


def _codes_of_rest(staged: StagedIndex, files: SegmentFiles, row: SegmentRow) -> CodeArray:
    """Codes of all rows of a segment, of which only those that came after staging are encoded now."""
    assert staged.model is not None
    ready = staged.tail_codes if staged.tail is not None and staged.tail.segment == row.segment else None
    known = 0 if ready is None else min(len(ready), row.rows)
    rest = encode_rows(staged.model, files.floats(row.rows)[known:])
    return rest if ready is None else np.concatenate([ready[:known], rest])
