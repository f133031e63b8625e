"""A shard's way from one SearchModel to the next: prepared codes on disk, then an index beside the one in use.

    prepare    codes of every sealed segment go to files of their own, named in the manifest one by one
    stage      an index with the new codes is built beside the one that is searched
    complete   what was enrolled or deleted meanwhile is brought over, under the shard's write lock

Owns what is done to segments and indexes on the way. Locks, the commit that decides, and which index is searched are
the shard's (`shard.shard`); the order of shards and hosts is the coordinator's. Nothing here changes what a
search sees. Writes go on meanwhile, compaction among them: a segment may be dropped between any two steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from sqlite3 import Connection

import numpy as np

from shard.errors import CorruptData, StorageError
from shard.index import Index
from shard.model import SearchModel
from shard.rows import Rows
from shard.sealing import encode_rows
from shard.segments import SegmentFiles
from shard.store import SegmentRow, Store, delete_codes_except, put_codes, set_meta
from shard.types import CodeArray

_LOG = logging.getLogger(__name__)

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
    return set((store.meta("kept_models") or "").split())


def keep_models(db: Connection, model_ids: Collection[str]) -> None:
    """Keep codes of these models and forget those of all others, inside the caller's transaction.

    A model is entered before any codes of it are, so that whoever looks after model files knows that it is needed.
    """
    set_meta(db, "kept_models", " ".join(sorted(model_ids)))
    delete_codes_except(db, model_ids)


def prepare(rows: Rows, store: Store, model: SearchModel, transaction: Transaction) -> int:
    """Encode every sealed segment that has no sound codes of the model; returns how many were encoded.

    Each segment is durable on its own, so a call after a crash goes on where the one before it ended. A segment's codes
    are in memory while they are written, and no longer. A segment that is dropped meanwhile is passed over. Raises
    CorruptData for floats that are not what was sealed, WriteFailed.
    """
    encoded = 0
    for row in tuple(rows.segments):
        if row.is_sealed and not row.is_dropped and _stored_codes(store, rows.files(row), row, model) is None:
            encoded += _prepare_segment(rows, row, model, transaction)
    return encoded


def _prepare_segment(rows: Rows, row: SegmentRow, model: SearchModel, transaction: Transaction) -> bool:
    """Whether the segment has codes of the model now; it has not if it was dropped."""
    files = rows.files(row)
    try:
        files.check_floats(row)
        codes = encode_rows(model, files.floats(row.rows))
    except (CorruptData, FileNotFoundError):
        if _is_dropped(rows, row):
            return False
        raise
    with rows.code_files:
        # The directory of a dropped segment is being removed, or gone: a file in it would stay for ever.
        if _is_dropped(rows, row):
            return False
        crc = files.write_codes(model.model_id, codes)
    with transaction() as db:
        if _is_dropped(rows, row):
            return False
        put_codes(db, row.segment, model.model_id, crc)
    return True


def stage(rows: Rows, store: Store, model: SearchModel | None) -> StagedIndex:
    """Build an index of the sealed segments, and encode the rows that the open one has now.

    The model's codes must be prepared; those of a segment sealed since are left to `complete`. Raises CorruptData for
    a file that is not what was sealed, StorageError where memory or descriptors do not suffice.
    """
    while True:
        segments = tuple(rows.segments)
        try:
            return _staged(rows, segments, store, model)
        except (CorruptData, OSError, MemoryError) as error:
            # Files of a segment that was dropped under way are gone; each is dropped once, so this ends.
            if any(_is_dropped(rows, row) and not row.is_dropped for row in segments):
                continue
            if isinstance(error, CorruptData):
                raise
            raise StorageError(
                f"a second index of the shard could not be opened: {error or 'out of memory'}"
            ) from error


def _staged(rows: Rows, segments: Sequence[SegmentRow], store: Store, model: SearchModel | None) -> StagedIndex:
    sealed: list[SegmentRow] = []
    codes: list[CodeArray] = []
    for row in segments:
        stored = None
        if model is not None and row.is_dropped:
            stored = np.empty((0, model.code_bytes), np.uint8)
        elif model is not None and row.is_sealed:
            stored = _stored_codes(store, rows.files(row), row, model)
        if not row.is_sealed or (model is not None and stored is None):
            break
        sealed.append(row)
        codes += [stored] if stored is not None else []
    staged = StagedIndex(model, Index(rows.dim), sealed)
    for row in sealed:
        _add_segment(staged.index, rows.files(row), row, None)
    if model is not None:
        staged.index.set_codes(model.planes, model.lists, codes)
        # What follows is the open segment, or one that was sealed after it had been prepared.
        rest = segments[len(sealed) : len(sealed) + 1]
        if rest and not rest[0].is_dropped:
            staged.tail = rest[0]
            staged.tail_codes = encode_rows(model, rows.files(staged.tail).floats(staged.tail.rows))
    return staged


def _add_segment(index: Index, files: SegmentFiles, row: SegmentRow, codes: CodeArray | None) -> None:
    """A sealed segment, or the gap that a dropped one left."""
    if row.is_dropped:
        index.skip(row.rows)
        return
    index.open_segment(str(files.mapped_floats()), row.capacity)
    index.append(files.read_keys(row), codes)
    index.seal(row.segment - 1, str(files.mapped_keys()), row.floats_crc or b"")


def is_part_of(staged: StagedIndex, rows: Rows) -> bool:
    """Whether staged segments are still those of the shard, but for some that were dropped. In its turn to write."""
    own = rows.segments[: len(staged.segments)]
    return len(own) == len(staged.segments) and all(
        mine == row or (mine.is_dropped and (mine.first_row, mine.rows) == (row.first_row, row.rows))
        for mine, row in zip(own, staged.segments, strict=True)
    )


def complete(staged: StagedIndex, rows: Rows) -> None:
    """Bring a staged index, which is part of the shard, to all its segments. In the shard's turn to write.

    Afterwards it has every row of the shard; rows that were deleted in segments that are there are the caller's to
    hide. Writes nothing: codes of a segment that was sealed since staging are in memory only, until they are prepared.
    """
    for row in staged.segments:
        if not row.is_dropped and _is_dropped(rows, row):
            staged.index.delete(np.arange(row.first_row, row.first_row + row.rows))
            staged.index.drop(row.segment - 1)
    tail, tail_codes = None, None
    for row in rows.segments[len(staged.segments) :]:
        files = rows.files(row)
        codes = None if staged.model is None or row.is_dropped else _codes_of_rest(staged, files, row)
        if row.is_sealed:
            _add_segment(staged.index, files, row, codes)
        else:
            staged.index.open_segment(str(files.mapped_floats()), row.capacity)
            staged.index.append(rows.index.keys(row.segment - 1), codes)
            tail, tail_codes = row, codes
    staged.segments = list(rows.segments)
    staged.tail, staged.tail_codes = tail, tail_codes


def discard(rows: Rows, store: Store) -> None:
    """Remove every code file of sealed segments that the manifest does not name; the open one has files in use."""
    for row in tuple(rows.segments):
        if row.is_sealed:
            with rows.code_files:
                if not _is_dropped(rows, row):
                    rows.files(row).remove_codes_except(store.code_models(row.segment))


def _is_dropped(rows: Rows, row: SegmentRow) -> bool:
    """Whether the segment is dropped by now; it is marked before its files go."""
    return rows.segments[row.segment - 1].is_dropped


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
