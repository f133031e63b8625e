"""The rows of one shard: files, manifest and index, and how each kind of entry changes all three.

Every change is durable before it is visible. Decides nothing and checks nothing: `shard.shard` calls it under its write
lock with entries that are right. What fails after the commit is kept in `failure`, since the entry is true by then.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shard import sealing
from shard.errors import CorruptData, StorageError
from shard.files import remove_tree
from shard.index import Index, blocks_named
from shard.keys import template_keys
from shard.log import AMEND, Changes, Entry, SegmentState, no_rows
from shard.model import SearchModel
from shard.seen import SeenKeys
from shard.segments import SegmentFiles, Segments, remove_unnamed_segments
from shard.store import (
    SegmentRow,
    Store,
    bury_templates,
    drop_segment,
    put_entry,
    put_history,
    put_labels,
    put_operations,
    put_segment,
    put_templates,
    put_tombstones,
    set_meta,
)
from shard.tail import StagedRows, Tail, put_staged
from shard.tail_codes import TailCodes
from shard.types import CodeArray, FloatArray, KeyArray, RowArray

ModelLoader = Callable[[str], SearchModel]
_LOG = logging.getLogger(__name__)


class Rows:
    """What a shard holds.

    view: the index that searches use, and the model of its codes, None while they scan floats. They belong together
    and are only replaced together, so whoever takes both at once needs no lock. code_files: held where code files are
    written or removed without the shard's write lock, and where a segment's directory is removed.
    """

    def __init__(self, directory: Path, store: Store, load_model: ModelLoader, segments: Segments) -> None:
        """Open the files that the manifest names; CorruptData for one that is not what it says."""
        self._directory, self._store, self._segment_files = directory, store, segments
        self.dim = segments.dim
        self._tail, self.tail_codes, self.seen = Tail(segments.files, self.dim), TailCodes(), SeenKeys()
        self.failure: StorageError | None = None
        self.moves = 0
        """Odd while templates change their rows: what names rows, as filters do, then says nothing of the index."""
        self._read_progress()
        self.code_files = threading.Lock()
        model_id = self._store.meta("model_id")
        model = load_model(model_id) if model_id else None
        self.view: tuple[Index, SearchModel | None] = (Index(self.dim), model)
        self.segments = self._store.segments()
        named = {self.files(row).directory.name for row in self.segments if not row.is_dropped}
        remove_unnamed_segments(self._directory, named)
        codes = [self._open_segment(row) for row in tuple(self.segments)]
        if model is not None:
            self.index.set_codes(model.planes, model.lists, codes)
        self.index.delete(self._tombstones())
        self._check_finders()
        self.templates = self._store.template_count()
        if self.templates != self.index.live_rows:
            raise CorruptData(
                f"{self._directory}: the manifest names {self.templates} templates, its segments hold"
                f" {self.index.live_rows} live rows"
            )
        self._seal_what_is_full()

    @property
    def index(self) -> Index:
        """The index that searches use."""
        return self.view[0]

    @property
    def model(self) -> SearchModel | None:
        """The model of its codes; None while searches scan floats."""
        return self.view[1]

    def _read_progress(self) -> None:
        self.lsn = int(self._store.meta("lsn") or 0)
        self.epoch = max((epoch for epoch, _ in self._store.epochs()), default=0)
        self.is_catching_up = self._store.meta("is_catching_up") == "1"

    def _seal_what_is_full(self) -> None:
        """A crash between the commit that filled a segment and its sealing leaves it open."""
        for row in [row for row in self.segments if not row.is_sealed and row.rows == row.capacity]:
            self.seal(row)

    def _check_finders(self) -> None:
        """The tables that find rows follow from the records: written again if they are damaged and the records are not.

        Raises CorruptData if there is no record, or a wrong one, of a live row.
        """
        try:
            self._store.check_sums()
        except CorruptData as error:
            _LOG.warning("writing the tables that find rows again from the records: %s", error)
            self._store.index_again(self.index.live_rows)

    def _tombstones(self) -> RowArray:
        dead = np.array(self._store.tombstones(), dtype=np.int64)
        if len(dead) and not 0 <= dead[0] <= dead[-1] < self.index.rows:
            raise CorruptData(
                f"{self._store.path}: expected deleted rows below {self.index.rows}, found {dead[0]} to {dead[-1]}"
            )
        return dead

    def _open_segment(self, row: SegmentRow) -> CodeArray:
        if row.first_row != self.index.rows:
            raise CorruptData(
                f"{self._store.path}: expected segment {row.segment} to begin at row {self.index.rows},"
                f" found {row.first_row}",
                path=str(self._store.path),
            )
        if row.is_dropped:
            self.index.skip(row.rows)
            return np.empty((0, 0 if self.model is None else self.model.code_bytes), np.uint8)
        files = self.files(row)
        files.check_size(row)
        files.load(row)
        if not row.is_sealed:
            if not files.is_tail(row.capacity):
                files.open_tail(row.capacity).close()
            files.check_appends(row, self._store.appends(row.first_row, row.first_row + row.rows))
        self.index.open_segment(str(files.mapped_floats()), row.capacity)
        if row.is_sealed:
            keys, self.segments[row.segment - 1] = sealing.load_keys(self._store, files, row)
            self.index.append(keys, None)
            self.index.seal(row.segment - 1, str(files.mapped_keys()), row.floats_crc or b"")
        else:
            self.index.append(sealing.keys_of(self._store, row), None)
        files.remove_codes_except(self._store.code_models(row.segment))
        return sealing.load_codes(self._store, files, row, self.model)

    def files(self, row: SegmentRow) -> SegmentFiles:
        """The files of one segment."""
        return self._segment_files.files(row.segment)

    def gather(self, rows: RowArray) -> FloatArray:
        """Embeddings of rows (n,) int64, (n, dim) float32; CorruptData if one is not what was sealed."""
        with blocks_named():
            return self.index.gather(rows)

    def append(self, entries: Sequence[Entry]) -> None:
        """Carry out APPEND entries, all in one transaction."""
        model = self.model
        batches = [entry.batch for entry in entries]
        embeddings = batches[0].embeddings if len(batches) == 1 else np.concatenate([b.embeddings for b in batches])
        keys = template_keys([template_id for batch in batches for template_id in batch.template_ids])
        codes = None if model is None else model.encode(embeddings)
        staged = self._staged(self._last_segment(), embeddings)
        with self._store.transaction() as db:
            begin = 0
            for entry in entries:
                put_entry(db, entry)
                put_templates(db, entry.first_row, entry.batch, keys[begin : begin + len(entry.batch)], entry.lsn)
                begin += len(entry.batch)
            put_staged(db, staged, embeddings)
        self._passed(entries[-1])
        self._publish(staged, keys, codes)

    def bury(self, entry: Entry) -> None:
        """Carry out a BURY entry."""
        with self._store.transaction() as db:
            put_entry(db, entry)
            bury_templates(db, entry.rows.tolist(), entry.lsn, entry.time)
        self._passed(entry)
        self.index.delete(entry.rows)
        self.templates -= len(entry.rows)

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        self.moves += 1
        try:
            yield
        finally:
            self.moves += 1

    def move(self, entry: Entry) -> None:
        """Carry out a MOVE or AMEND entry: its rows are live."""
        with self._moving():
            self._move(entry)

    def _move(self, entry: Entry) -> None:
        model = self.model
        embeddings = self.gather(entry.rows)
        before = self._store.templates_of(entry.rows)
        labels: list[tuple[str, str | None, bytes | None]] = [
            (stored.template_id, stored.identity, stored.metadata) for stored in before
        ]
        if entry.verb == AMEND:
            batch = entry.batch
            labels = list(zip(batch.template_ids, batch.identities, batch.metadata, strict=True))
        keys = template_keys([template_id for template_id, _, _ in labels])
        codes = None if model is None else model.encode(embeddings)
        staged = self._staged(self._last_segment(), embeddings)
        with self._store.transaction() as db:
            put_entry(db, entry)
            bury_templates(db, entry.rows.tolist(), entry.lsn, entry.time)
            rows = range(entry.first_row, entry.first_row + len(labels))
            # With the LSN that it was enrolled at: a snapshot of a moment before finds it by that in its new row.
            put_labels(db, rows, keys, labels, [stored.lsn for stored in before])
            put_staged(db, staged, embeddings)
        self._passed(entry)
        self._publish(staged, keys, codes)
        # A search in between finds a template twice, but only the new row has labels.
        self.index.delete(entry.rows)
        self.templates -= len(entry.rows)

    def close_tail(self, entry: Entry) -> None:
        """Carry out a SEAL entry: there is an open tail with rows."""
        # A tail without room is sealed on opening too, so the entry is true whatever becomes of the sealing.
        full = replace(self.segments[-1], capacity=self.segments[-1].rows)
        with self._store.transaction() as db:
            put_entry(db, entry)
            put_segment(db, full)
        self._passed(entry)
        self.segments[-1] = full
        self._seal_full(full)

    def drop(self, entry: Entry) -> None:
        """Carry out a DROP entry: no row of the segment is live."""
        row = self.segments[entry.segment - 1]
        with self._store.transaction() as db:
            put_entry(db, entry)
            drop_segment(db, row)
        self._passed(entry)
        self._forget(row)

    def absorb(self, changes: Changes) -> None:
        """Write a piece of what another replica has; until the last one was, the shard is `is_catching_up`.

        Raises CorruptData if what came together is not the segment that the source sealed.
        """
        with self._moving():
            self._absorb(changes)

    def _absorb(self, changes: Changes) -> None:
        states = {state.segment: state for state in changes.segments}
        self._end_tail_as(states)
        while (gap := states.get(len(self.segments) + 1)) is not None and gap.is_dropped and self._is_full():
            self._skip(gap)
        if self.index.rows != changes.first_row:
            raise CorruptData(
                f"{self._directory}: expected changes from row {self.index.rows} on, got row {changes.first_row}"
            )
        fresh = self._fresh_rows(changes, states) if len(changes.embeddings) else None
        gone = [
            row
            for row, state in zip(self.segments, changes.segments, strict=False)
            if changes.is_last and state.is_dropped and not row.is_dropped
        ]
        buried = self._still_live(changes, gone) if changes.is_last else no_rows()
        # One transaction, so that a replica in sync that lacks little never is in the middle of something.
        with self._store.transaction() as db:
            if fresh is not None:
                put_labels(db, fresh.rows.tolist(), fresh.keys, fresh.labels, fresh.lsns)
                put_staged(db, fresh.staged, changes.embeddings)
            bury_templates(db, buried.tolist(), changes.position.lsn, int(changes.dead_times.max(initial=0)))
            put_tombstones(db, _tombstones(changes))
            for row in gone:
                drop_segment(db, row)
            _put_progress(db, changes)
        if fresh is not None:
            self._publish_fresh(changes, fresh, states)
        self.index.delete(buried)
        self.templates -= len(buried)
        for row in gone:
            self._forget(row)
        self._read_progress()

    def _still_live(self, changes: Changes, gone: Sequence[SegmentRow]) -> RowArray:
        """Rows that are live here and dead at the source: those it tells, and those of segments that went."""
        dead = set(changes.dead.tolist())
        for row in gone:
            dead.update(self._store.keys_of_rows(row.first_row, row.first_row + row.rows)[0].tolist())
        return self._store.live_among(np.array(sorted(dead), dtype=np.int64))

    def _is_full(self) -> bool:
        return not self.segments or self.segments[-1].is_sealed or self.segments[-1].rows == self.segments[-1].capacity

    def _skip(self, gap: SegmentState) -> None:
        row = SegmentRow(gap.segment, gap.first_row, gap.rows, gap.capacity, True, None, None, is_dropped=True)
        with self._store.transaction() as db:
            put_segment(db, row)
        self.index.skip(row.rows)
        self.segments.append(row)

    def _fresh_rows(self, changes: Changes, states: dict[int, SegmentState]) -> _FreshRows:
        """The rows of a piece, written and synced, and the labels of those that are live."""
        last = self._last_segment()
        if self._is_full():
            state = states[len(self.segments) + 1]
            last = SegmentRow(state.segment, state.first_row, 0, state.capacity, False, None, None)
        labels = list(zip(changes.template_ids, changes.identities, changes.metadata, strict=True))
        is_live = ~np.isin(changes.live, changes.dead)
        named = [labels[i] for i in np.flatnonzero(is_live)]
        return _FreshRows(
            staged=[_ended_as(piece, states) for piece in self._staged(last, changes.embeddings)],
            rows=changes.live[is_live],
            keys=template_keys([template_id for template_id, _, _ in named]),
            labels=named,
            lsns=changes.lsns[is_live].tolist(),
            codes=None if self.model is None else self.model.encode(changes.embeddings),
        )

    def _publish_fresh(self, changes: Changes, fresh: _FreshRows, states: dict[int, SegmentState]) -> None:
        keys = np.zeros(len(changes.embeddings), np.uint64)
        keys[fresh.rows - changes.first_row] = fresh.keys
        self._publish(fresh.staged, keys, fresh.codes)
        last = changes.first_row + len(changes.embeddings)
        self.index.delete(np.setdiff1d(np.arange(changes.first_row, last), fresh.rows, assume_unique=True))
        self.templates -= len(changes.embeddings) - len(fresh.rows)
        sealed, state = self.segments[-1], states[self.segments[-1].segment]
        if sealed.is_sealed and state.is_sealed and state.floats_crc and sealed.floats_crc != state.floats_crc:
            path = self.files(sealed).floats_path
            raise CorruptData(f"{path}: the copy is not what the source sealed", path=str(path))

    def _end_tail_as(self, states: dict[int, SegmentState]) -> None:
        """Seal the open tail where the source sealed it, which may be before it was full."""
        tail = self._last_segment()
        if tail is None or tail.is_sealed or not (state := states[tail.segment]).is_sealed or state.rows != tail.rows:
            return
        full = replace(tail, capacity=tail.rows)
        with self._store.transaction() as db:
            put_segment(db, full)
        self.segments[-1] = full
        self._seal_full(full)

    def _forget(self, row: SegmentRow) -> None:
        self.segments[row.segment - 1] = replace(row, is_dropped=True, floats_crc=None, keys_crc=None)
        self.index.drop(row.segment - 1)
        with self.code_files:
            remove_tree(self.files(row).directory)
            self.files(row).forget()

    def _passed(self, entry: Entry) -> None:
        self.lsn, self.epoch = entry.lsn, entry.epoch

    def _last_segment(self) -> SegmentRow | None:
        return self.segments[-1] if self.segments else None

    def _staged(self, last: SegmentRow | None, embeddings: FloatArray) -> list[StagedRows]:
        """Rows written and synced after `last`; new segments were mapped on trial, all at once as they are going to be,
        so that it fails before the commit.

        Raises WriteFailed if the disk, memory or descriptors do not suffice.
        """
        staged = self._tail.stage(last, embeddings)
        known = len(self.segments)
        fresh = [piece.segment for piece in staged if piece.segment.segment > known]
        trial = [self.files(segment).try_map(segment.capacity) for segment in fresh]
        del trial
        return staged

    def hide_deleted(self) -> None:
        """Take out of sight what the manifest says is deleted, after a failure that may have come between the two."""
        dead = np.array(self._store.tombstones(), dtype=np.int64)
        self.index.delete(dead[dead < self.index.rows])

    def _publish(self, staged: Sequence[StagedRows], keys: KeyArray, codes: CodeArray | None) -> None:
        self.seen.add(keys)
        for piece in staged:
            rows = slice(piece.begin, piece.end)
            self._join(piece.segment, keys[rows], None if codes is None else codes[rows])

    def _join(self, segment: SegmentRow, keys: KeyArray, codes: CodeArray | None) -> None:
        """Make committed rows at the end of `segment` searchable, and seal it if it is full."""
        if segment.segment > len(self.segments):
            self.index.open_segment(str(self.files(segment).mapped_floats()), segment.capacity)
        self.segments[segment.segment - 1 :] = [segment]
        self.index.append(keys, codes)
        self.templates += len(keys)
        try:
            if self.model is not None and codes is not None:
                self.tail_codes.write(
                    self.files(segment), segment, self.model.model_id, segment.rows - len(keys), codes
                )
        except StorageError as error:
            self._fail_later(error)
        if segment.rows == segment.capacity:
            self._seal_full(segment)

    def _seal_full(self, segment: SegmentRow) -> None:
        try:
            self.seal(segment)
        except StorageError as error:
            self._fail_later(error)

    def _fail_later(self, error: StorageError) -> None:
        """What was asked is committed, so a failure after it must not say that it was not done."""
        self.failure = error
        _LOG.error("%s: a segment could not be sealed; writes are refused until reopened: %s", self._directory, error)

    def switch(self, index: Index, model: SearchModel | None, tail_codes: CodeArray | None) -> None:
        """Search with another index from now on, which has every row; the manifest names its model already.

        tail_codes: (rows, code_bytes) uint8 of the open segment, None if there is none or no model. WriteFailed if they
        could not be kept for its sealing.
        """
        self.view = (index, model)
        if model is None or tail_codes is None:
            self.tail_codes.drop()
        else:
            tail = self.segments[-1]
            self.tail_codes.write(self.files(tail), tail, model.model_id, 0, tail_codes)

    def seal(self, row: SegmentRow) -> None:
        """Give a full segment its checksums; nothing changes its files any more."""
        self._tail.close()
        model, keys = self.model, self.index.keys(row.segment - 1)
        codes = None if model is None else self.tail_codes.of(row, model.model_id, model.code_bytes)
        sealed = sealing.seal(self._store, self.files(row), row, keys, model, codes)
        self.tail_codes.drop()
        self.segments[row.segment - 1] = sealed
        self.index.seal(row.segment - 1, str(self.files(row).mapped_keys()), sealed.floats_crc or b"")

    def close(self) -> None:
        """Close the files that are open for writing; what was committed stays."""
        self._tail.close()
        self.tail_codes.drop()

    def take_over_commits(self) -> None:
        """Close what was being written, and make searchable what a failure after its commit kept from being so."""
        self.close()
        self.failure = None
        own = "" if self.model is None else self.model.model_id
        if (self._store.meta("model_id") or "") != own:
            # A switch failed at its commit, which was made after all; whoever asked for it was told that it was not.
            with self._store.transaction() as db:
                set_meta(db, "model_id", own)
        known = len(self.segments)
        for row in self._store.segments():
            is_new = row.segment > known
            if is_new:
                self.index.open_segment(str(self.files(row).mapped_floats()), row.capacity)
                self.segments.append(row)
            before = 0 if is_new else self.segments[row.segment - 1].rows
            if row.rows > before:
                keys = sealing.keys_of(self._store, row)[before:]
                model = self.model
                floats = self.files(row).floats(row.rows)[before:]
                self.index.append(keys, None if model is None else model.encode(np.ascontiguousarray(floats)))
                self.seen.add(keys)
            if row.is_sealed and not self.segments[row.segment - 1].is_sealed:
                self.index.seal(row.segment - 1, str(self.files(row).mapped_keys()), row.floats_crc or b"")
            self.segments[row.segment - 1] = row
        self.index.delete(np.array(self._store.tombstones(), dtype=np.int64))
        self.templates = self._store.template_count()
        for row in self.segments:
            if row.is_dropped:
                self.index.drop(row.segment - 1)
        self._read_progress()
        self._seal_what_is_full()


@dataclass(frozen=True, slots=True)
class _FreshRows:
    """Rows of a piece that are on the disk; `rows`, keys, labels and lsns are of those that are live."""

    staged: list[StagedRows]
    rows: RowArray
    keys: KeyArray
    labels: list[tuple[str, str | None, bytes | None]]
    lsns: list[int]
    codes: CodeArray | None


def _ended_as(piece: StagedRows, states: dict[int, SegmentState]) -> StagedRows:
    """Full where the source sealed it, which may be before its capacity: the commit of its rows ends it here too."""
    state = states[piece.segment.segment]
    if not state.is_sealed or state.rows != piece.segment.rows:
        return piece
    return replace(piece, segment=replace(piece.segment, capacity=state.rows))


def _put_progress(db: sqlite3.Connection, changes: Changes) -> None:
    """How far the replica is after a piece: with the last one where its source is, before in the middle."""
    if changes.is_last:
        history = zip(changes.epochs.tolist(), changes.epoch_starts.tolist(), strict=True)
        put_history(db, changes.position.lsn, history)
        outcomes = zip(changes.operations, changes.outcomes.tolist(), strict=True)
        put_operations(db, [(operation, *outcome) for operation, outcome in outcomes])
    else:
        set_meta(db, "absorbed_lsn", str(changes.position.lsn))
        set_meta(db, "absorbed_epoch", str(changes.position.epoch))
    set_meta(db, "is_catching_up", "0" if changes.is_last else "1")


def _tombstones(changes: Changes) -> list[tuple[int, int, int]]:
    return list(zip(changes.dead.tolist(), changes.dead_lsns.tolist(), changes.dead_times.tolist(), strict=True))
