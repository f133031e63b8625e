"""`Shard`: a durable set of templates and the index that searches them.

The way of an enrollment: check everything, write floats to the open tail and sync them, commit the SQLite transaction
that names them, make the rows searchable, return. What is true after a crash is what the database names. Searching is
in `shard.search`, which reads `index`, `model` and `labels` only; sealing and re-encoding in `shard.sealing`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from shard import rollout, sealing
from shard.errors import (
    CorruptData,
    DuplicateTemplate,
    InvalidInput,
    ModelMismatch,
    ShardClosed,
    StorageError,
    WriteFailed,
)
from shard.files import DirectoryLock, blocks_bytes, make_directory
from shard.index import Index
from shard.keys import template_keys
from shard.model import SearchModel
from shard.seen import SeenKeys
from shard.segments import SegmentFiles, remove_unnamed_segments
from shard.store import (
    SegmentRow,
    Store,
    bury_templates,
    next_lsn,
    put_segment,
    put_templates,
    set_meta,
)
from shard.tail import Tail
from shard.tail_codes import TailCodes
from shard.types import (
    CodeArray,
    EnrollBatch,
    EnrollReceipt,
    FloatArray,
    IdentityCount,
    KeyArray,
    ShardStats,
    TemplateRecord,
)
from shard.validate import check_batch, check_dim

ModelLoader = Callable[[str], SearchModel]
_LOG = logging.getLogger(__name__)


class Shard:
    """One shard of a gallery. Thread-safe; one process at a time (HomeLocked for the second).

    Searches run beside writes; writes run one after another.
    """

    def __init__(self, directory: Path, load_model: ModelLoader) -> None:
        """Open a shard that `create` made; `load_model` gives the model of an id that `activate` was given before.

        Raises CorruptData for a file that is not what the manifest says, FormatTooNew, HomeLocked.
        """
        if not (directory / "shard.db").is_file():
            raise CorruptData(f"{directory} is not a shard: it has no shard.db")
        self.directory = directory
        self._write_lock = threading.RLock()
        self._rollout_lock = threading.RLock()  # taken before the write lock
        self._view_lock = threading.Lock()
        self._write_error: BaseException | None = None
        self._is_closed = self._is_closing = False
        self._seen, self._tail_codes = SeenKeys(), TailCodes()
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(DirectoryLock(directory))
            self._store = Store(directory / "shard.db")
            undo.callback(self._store.close)
            self.dim = int(self._store.meta("dim") or 0)
            self._tail = Tail(directory, self.dim)
            self._open(load_model)
            self._lock = lock
            undo.pop_all()

    @classmethod
    def create(cls, directory: Path, *, dim: int, load_model: ModelLoader) -> Shard:
        """Create an empty shard, or open the one that is there; ModelMismatch if that has another dimension."""
        make_directory(directory)
        Store.create(directory / "shard.db", {"dim": str(check_dim(dim))}).close()
        shard = cls(directory, load_model)
        if shard.dim != dim:
            shard.close()
            raise ModelMismatch(f"{directory}: the shard has dimension {shard.dim}, expected {dim}")
        return shard

    def _open(self, load_model: ModelLoader) -> None:
        model_id = self._store.meta("model_id")
        self._model = load_model(model_id) if model_id else None
        self._segments = self._store.segments()
        remove_unnamed_segments(self.directory, {self.files(row).directory.name for row in self._segments})
        self.index = Index(self.dim)
        codes = [self._open_segment(row) for row in self._segments]
        if self._model is not None:
            self.index.set_codes(self._model.planes, self._model.lists, codes)
        self.index.delete(np.array(self._store.tombstones(), dtype=np.int64))
        self._templates = self._store.template_count()
        if self._templates != self.index.live_rows:
            raise CorruptData(
                f"{self.directory}: the manifest names {self._templates} templates, its segments hold"
                f" {self.index.live_rows} live rows"
            )
        # A crash between the commit that filled a segment and its sealing leaves it open.
        for row in [row for row in self._segments if not row.is_sealed and row.rows == row.capacity]:
            self._seal(row)

    def _open_segment(self, row: SegmentRow) -> CodeArray:
        files = self.files(row)
        files.check_size(row)
        if not row.is_sealed:
            files.open_tail(row.capacity).close()
        self.index.open_segment(str(files.floats_path), row.capacity)
        if row.is_sealed:
            self.index.append(files.read_keys(row), None)
            self.index.seal(row.segment - 1, str(files.keys_path))
        else:
            self.index.append(sealing.keys_of(self._store, row), None)
        files.remove_codes_except(self._store.code_models(row.segment))
        return sealing.load_codes(self._store, files, row, self._model)

    def files(self, row: SegmentRow) -> SegmentFiles:
        """The files of one segment."""
        return SegmentFiles(self.directory, row.segment, self.dim)

    # Reading

    @property
    def model(self) -> SearchModel | None:
        """The model that searches use; None while the shard searches exactly on floats."""
        return self._model

    def __len__(self) -> int:
        """Live templates."""
        return self._templates

    def labels(self, rows: Collection[int]) -> dict[int, tuple[str, str | None]]:
        """Row to (template id, identity) for those of the rows that are live."""
        return self._store.labels(rows)

    def filter(self, identities: Sequence[str]) -> npt.NDArray[np.uint8]:
        """A bit for each row, lowest first, (bytes,) uint8: set for live templates of the identities."""
        bits = np.zeros(self.index.rows, dtype=bool)
        rows = self._store.rows_of(identities)
        # Rows that were committed this moment may not be in the index yet.
        bits[rows[rows < len(bits)]] = True
        return np.packbits(bits, bitorder="little")

    def existing(self, template_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are live."""
        return self._existing(template_ids, template_keys(template_ids))

    def _existing(self, template_ids: Sequence[str], keys: KeyArray) -> set[str]:
        return self._store.existing(*self._seen.among(template_ids, keys))

    def records(self, template_ids: Sequence[str], keys: KeyArray | None = None) -> list[TemplateRecord]:
        """Labels and metadata of the live templates among the ids. keys: (n,) uint64, of the ids, where known."""
        keys = template_keys(template_ids) if keys is None else keys
        return self._store.records(*self._seen.among(template_ids, keys))

    def identities(self, start: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities from `start` on, in byte order of their UTF-8, with their live templates."""
        return self._store.identities(start, limit)

    def sample(self, rows: int, seed: int) -> FloatArray:
        """Up to `rows` live embeddings, (n, dim) float32, drawn without replacement; the same for the same seed."""
        return self._sample(0, rows, seed)[0]

    def recent(self, rows: int, seed: int, since_lsn: int) -> tuple[FloatArray, int]:
        """As `sample`, of templates with a later LSN than that; and how many there are."""
        return self._sample(self._store.first_row_after(since_lsn), rows, seed)

    def _sample(self, first_row: int, rows: int, seed: int) -> tuple[FloatArray, int]:
        index, _ = self.view()
        live = np.setdiff1d(np.arange(first_row, index.rows), np.array(self._store.tombstones(), dtype=np.int64))
        count = len(live)
        if count > rows:
            live = np.sort(np.random.default_rng(seed).choice(live, rows, replace=False))
        return index.gather(live), count

    def stats(self) -> ShardStats:
        """Sizes, from memory and from the directory."""
        with self._write_lock:
            return ShardStats(
                templates=self._templates,
                deleted=self.index.rows - self.index.live_rows,
                segments=len(self._segments),
                code_bytes=self.index.code_bytes,
                disk_bytes=blocks_bytes(self.directory),
                lsn=int(self._store.meta("lsn") or 0),
                model_id=self._model.model_id if self._model else None,
            )

    def verify_checksums(self) -> None:
        """Read every sealed file; CorruptData names the first block that is not what was sealed."""
        for row in [row for row in self._store.segments() if row.is_sealed]:
            files = self.files(row)
            files.check_floats(row)
            files.read_keys(row)
            if self._model and (crc := self._store.codes_crc(row.segment, self._model.model_id)):
                files.read_codes(self._model.model_id, row.rows, self._model.code_bytes, crc)

    # Writing

    def enroll(self, batch: EnrollBatch, *, skip_existing: bool = False) -> EnrollReceipt:
        """Write templates; durable and searchable when it returns.

        Raises InvalidEmbedding or InvalidParameter for bad values, DuplicateTemplate for an id that is there (left out
        instead with `skip_existing`), with nothing written; WriteFailed if the disk fails: all of the batch or nothing
        of it is found when the shard is reopened, and until then it refuses writes.
        """
        check_batch(batch, self.dim)
        with self._writing():
            keys = template_keys(batch.template_ids)
            self._seen.prepare(self.index.keys(i) for i in range(len(self._segments)))
            existing = self._existing(batch.template_ids, keys)
            if existing and not skip_existing:
                raise DuplicateTemplate(
                    f"{len(existing)} of {len(batch)} template ids are there already, the first {min(existing)!r}"
                )
            if existing:
                fresh = [i for i, template_id in enumerate(batch.template_ids) if template_id not in existing]
                batch, keys = batch.take(fresh), keys[fresh]
            lsn = self._append(batch, keys) if len(batch) else int(self._store.meta("lsn") or 0)
            return EnrollReceipt(enrolled=len(batch), skipped=len(existing), lsn=lsn)

    def _append(self, batch: EnrollBatch, keys: KeyArray) -> int:
        model = self._model
        codes = None if model is None else model.encode(batch.embeddings)
        first_row = self.index.rows
        staged = self._tail.stage(self._segments[-1] if self._segments else None, batch.embeddings)
        with self._store.transaction() as db:
            lsn = next_lsn(db)
            for piece in staged:
                put_segment(db, piece.segment)
            put_templates(db, first_row, batch, keys, lsn)
        self._seen.add(keys)
        for piece in staged:
            rows = slice(piece.begin, piece.end)
            self._join(piece.segment, keys[rows], None if codes is None else codes[rows])
        return lsn

    def _join(self, segment: SegmentRow, keys: KeyArray, codes: CodeArray | None) -> None:
        """Make committed rows at the end of `segment` searchable, and seal it if it is full."""
        if segment.segment > len(self._segments):
            self.index.open_segment(str(self.files(segment).floats_path), segment.capacity)
        self._segments[segment.segment - 1 :] = [segment]
        self.index.append(keys, codes)
        self._templates += len(keys)
        try:
            if self._model is not None and codes is not None:
                self._tail_codes.write(
                    self.files(segment), segment, self._model.model_id, segment.rows - len(keys), codes
                )
            if segment.rows == segment.capacity:
                self._seal(segment)
        except StorageError as error:
            # The rows are committed, so a failure here must not say that they were not written.
            self._write_error = error
            _LOG.exception("%s: a segment could not be sealed; writes are refused until reopened", self.directory)

    def delete(self, *, template_ids: Sequence[str] = (), identities: Sequence[str] = ()) -> int:
        """Delete by id and by identity; returns how many templates. Durable and invisible when it returns."""
        with self._writing():
            rows = self._store.rows_to_delete(template_ids, identities)
            if not rows:
                return 0
            with self._store.transaction() as db:
                lsn = next_lsn(db)
                bury_templates(db, rows, lsn)
            self.index.delete(np.array(rows, dtype=np.int64))
            self._templates -= len(rows)
            return len(rows)

    def flush(self) -> None:
        """Seal the open tail: its files get checksums and never change again. Nothing is lost without it."""
        with self._writing():
            if self._segments and not self._segments[-1].is_sealed:
                self._seal(self._segments[-1])

    def _seal(self, row: SegmentRow) -> None:
        self._tail.close()
        model, keys = self._model, self.index.keys(row.segment - 1)
        codes = None if model is None else self._tail_codes.of(row, model.model_id, model.code_bytes)
        sealed = sealing.seal(self._store, self.files(row), row, keys, model, codes)
        self._tail_codes.drop()
        self._segments[row.segment - 1] = sealed
        self.index.seal(row.segment - 1, str(self.files(row).keys_path))

    # Models

    def view(self) -> tuple[Index, SearchModel | None]:
        """The index that searches use and the model of its codes, None if it has none. They belong together.

        A search that took them is right to the end, whatever is activated meanwhile: a switch replaces both.
        """
        with self._view_lock:
            return self.index, self._model

    def model_ids(self) -> set[str]:
        """Ids of the active model and of those whose codes are kept: the models that this shard needs."""
        return rollout.kept_models(self._store) | ({self._model.model_id} if self._model else set())

    def prepare(self, model: SearchModel) -> int:
        """Encode every sealed segment with the model, in files beside the codes in use; returns how many were encoded.

        Searches and writes go on. What is stored and sound already is left, so a call that a crash or an error ended is
        completed by the next. Raises ModelMismatch for another dimension, WriteFailed.
        """
        self._check_model(model)
        with self._rollout_lock:
            if model.model_id not in (kept := rollout.kept_models(self._store)):
                with self._committing() as db:
                    rollout.keep_models(db, kept | self.model_ids() | {model.model_id})
            return rollout.prepare(self._store, self.files, model, self._committing)

    def stage(self, model: SearchModel | None) -> rollout.StagedIndex:
        """Prepare what is not, and build an index of the model beside the one in use; None for one without codes.

        Both are in memory until `switch`, which should follow soon. Raises as `prepare` does.
        """
        with self._rollout_lock:
            if model is not None:
                self.prepare(model)
            return rollout.stage(self.dim, self._store, self.files, model)

    def switch(self, staged: rollout.StagedIndex) -> None:
        """Search with a staged index from now on, durably. Writes wait while the rows of the last moments are encoded.

        The codes of the model before stay in their files until `discard`, so the way back is a switch too. Codes of a
        segment that was sealed since staging are in memory only: `prepare` stores them.
        """
        with self._rollout_lock, self._writing():
            staged = self._caught_up(staged)
            model_id = "" if staged.model is None else staged.model.model_id
            with self._store.transaction() as db:
                set_meta(db, "model_id", model_id)
                rollout.keep_models(db, self.model_ids() | {model_id} - {""})
            with self._view_lock:
                self.index, self._model = staged.index, staged.model
            if staged.tail is None or staged.tail_codes is None:
                self._tail_codes.drop()
            else:
                self._tail_codes.write(self.files(staged.tail), staged.tail, model_id, 0, staged.tail_codes)

    def _caught_up(self, staged: rollout.StagedIndex) -> rollout.StagedIndex:
        """The staged index with every row and deletion of the shard. In this shard's turn to write."""
        if self._segments[: len(staged.segments)] != staged.segments:  # replaced since it was staged
            staged = rollout.stage(self.dim, self._store, self.files, staged.model)
        rollout.complete(staged, self.index, self._segments, self.files)
        staged.index.delete(np.array(self._store.tombstones(), dtype=np.int64))
        if staged.index.live_rows != self._templates:
            raise CorruptData(
                f"{self.directory}: {self._templates} templates are live, an index of its segments has"
                f" {staged.index.live_rows}; the model was not switched"
            )
        return staged

    def activate(self, model: SearchModel | None) -> None:
        """Search with the model from now on, None for scans of floats; prepares what is not prepared.

        Searches go on with the old codes until then; writes wait only while the rows of the last moments are encoded.
        Raises ModelMismatch for another dimension, WriteFailed.
        """
        with self._rollout_lock:
            if (model and model.model_id) != (self._model and self._model.model_id):
                self.switch(self.stage(model))
                if model is not None:
                    self.prepare(model)

    def discard(self, keep: Collection[str]) -> None:
        """Remove the codes of all models but these and the active one. Raises WriteFailed."""
        with self._rollout_lock:
            kept = {*keep, *([self._model.model_id] if self._model else [])}
            if self.model_ids() <= kept:
                return
            with self._committing() as db:
                rollout.keep_models(db, kept & self.model_ids())
            rollout.discard(self._store, self._store.segments(), self.files)

    def _check_model(self, model: SearchModel) -> None:
        if model.dim != self.dim:
            raise ModelMismatch(f"{self.directory}: model {model.model_id} has dimension {model.dim}, not {self.dim}")

    @contextlib.contextmanager
    def _committing(self) -> Iterator[sqlite3.Connection]:
        """A transaction of its own in this shard's turn to write; ShardClosed as soon as the shard is being closed."""
        if self._is_closing:
            raise ShardClosed(f"{self.directory} is being closed")
        with self._writing(), self._store.transaction() as db:
            yield db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._write_lock:
            if self._is_closed:
                raise ShardClosed(f"{self.directory} is closed")
            if self._write_error is not None:
                raise WriteFailed(f"{self.directory} refuses writes until it is reopened: {self._write_error!r}")
            try:
                yield
            except InvalidInput:
                raise  # nothing was touched
            except BaseException as error:
                # After a failed fsync or commit nobody knows what is on the disk, and an interruption between a commit
                # and the index would let the next rows overwrite committed ones; reopening reads what is there.
                self._write_error = error
                raise

    def close(self) -> None:
        """Close files and release the lock. Everything acknowledged is durable already. Idempotent."""
        self._is_closing = True  # a model that is being prepared is left after the segment under way
        with self._rollout_lock, self._write_lock:
            if not self._is_closed:
                self._is_closed = True
                self._tail.close()
                self._tail_codes.drop()
                self._store.close()
                self._lock.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
