"""`Shard`: a durable set of templates and the index that searches them.

The way of an enrollment: check everything, write floats to the open tail and sync them, commit the SQLite transaction
that names them, make the rows searchable, return. What is true after a crash is what the database names. Searching is
in `shard.search`, which reads `view` and `labels` only; what is done for a change of models in `shard.rollout`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from shard import gauges, rollout
from shard.encrypted_segments import segments_of
from shard.encryption import ShardCipher, cipher_of
from shard.errors import (
    ClusterError,
    CorruptData,
    DuplicateTemplate,
    EncryptedGallery,
    FacegridError,
    HostBusy,
    InvalidInput,
    InvalidParameter,
    ModelMismatch,
    OutOfStep,
    ShardClosed,
    StaleRoute,
    StorageError,
    WriteFailed,
)
from shard.export import (
    ExportedRows,
    MovedRange,
    RowRange,
    ShardPoint,
    export_moved,
    export_rows,
    export_templates,
    no_rows_to,
    segment_points,
)
from shard.files import DirectoryLock, blocks_bytes, make_directory, probe_directory
from shard.filters import MetadataFilters
from shard.group import (
    GROUP_ROWS,
    Amendment,
    Deletion,
    Departure,
    Enrollment,
    Renaming,
    Request,
    Ticket,
    WaitingRequests,
)
from shard.holds import Holds
from shard.index import Index, blocks_named
from shard.keys import template_keys
from shard.log import AMEND, APPEND, BURY, DEPART, DROP, MOVE, SEAL, Changes, Entry, Position, no_batch, no_rows
from shard.model import SearchModel
from shard.rows import ModelLoader, Rows
from shard.segments import SegmentFiles
from shard.store import SegmentRow, Store, StoredTemplate, set_meta
from shard.types import (
    EnrollBatch,
    EnrollReceipt,
    ErasureState,
    FloatArray,
    IdentityCount,
    KeyArray,
    RowArray,
    ShardStats,
    TemplateRecord,
)
from shard.validate import check_batch, check_dim, check_label, check_metadata, check_unique

__all__ = ["ModelLoader", "Shard"]

_RANGE_ROWS = 1 << 16
"""Rows whose LSNs are read at once."""
_LOG = logging.getLogger(__name__)


def _drawn(index: Index, live: RowArray, rows: int, seed: int) -> FloatArray:
    """Up to `rows` of the live rows, drawn without replacement; CorruptData if one is not what was sealed."""
    # Rows that were committed this moment may not be in the index yet.
    live = live[live < index.rows]
    if len(live) > rows:
        live = np.sort(np.random.default_rng(seed).choice(live, rows, replace=False))
    with blocks_named():
        return index.gather(live)


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries as they are carried out: appends together, up to GROUP_ROWS rows, everything else alone."""
    group: list[Entry] = []
    rows = 0
    for entry in entries:
        if group and (entry.verb != APPEND or rows + len(entry.batch) > GROUP_ROWS):
            yield group
            group, rows = [], 0
        if entry.verb != APPEND:
            yield [entry]
        else:
            group.append(entry)
            rows += len(entry.batch)
    if group:
        yield group


class Shard:
    """One shard of a gallery. Thread-safe; one process at a time (HomeLocked for the second).

    Searches run beside writes; writes run one after another.
    """

    def __init__(
        self,
        directory: Path,
        load_model: ModelLoader,
        *,
        key: bytes | None = None,
        is_settled: bool = False,
        holds: Holds | None = None,
    ) -> None:
        """Open a shard that `create` made; `load_model` gives the model of an id that `activate` was given before.

        key: the 32 bytes that it was created with, None for a shard in the clear. is_settled: it was closed in order,
        and nobody has opened it since. holds: of the same shard before it was closed by this process.

        Raises CorruptData for a file that is not what the manifest says, FormatTooNew, HomeLocked; KeyUnavailable for
        an encrypted shard without a key, WrongKey for another key than its own, or any if it is in the clear.
        """
        if not (directory / "shard.db").is_file():
            raise CorruptData(f"{directory} is not a shard: it has no shard.db")
        self.directory = directory
        self._write_lock = threading.RLock()
        self._rollout_lock = threading.RLock()  # taken before the write lock
        self._write_error: BaseException | None = None
        self._is_closed = self._is_closing = False
        self._decides = True
        self._waiting = WaitingRequests()
        self.on_commit: Callable[[Sequence[Entry]], None] | None = None
        """Called with every entry as it becomes true, in order and under the write lock: what replicas are told."""
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(DirectoryLock(directory))
            cipher = cipher_of(directory, key)
            self._store = Store(directory / "shard.db", cipher.database_key if cipher else None, is_settled=is_settled)
            undo.callback(self._store.close)
            self.configured_epoch = int(self._store.meta("configured_epoch") or 0)
            self.configured_hosts = tuple((self._store.meta("configured_hosts") or "").split())
            self._filters, self._holds = MetadataFilters(self._store), holds or Holds()
            self._segment_files = segments_of(directory, int(self._store.meta("dim") or 0), cipher)
            undo.callback(self._segment_files.close)
            self._rows = Rows(directory, self._store, load_model, self._segment_files)
            self.is_encrypted = cipher is not None
            self.dim = self._rows.dim
            self._lock = lock
            undo.pop_all()
        gauges.opened(self)

    @classmethod
    def create(cls, directory: Path, *, dim: int, load_model: ModelLoader, key: bytes | None = None) -> Shard:
        """Create an empty shard, or open the one that is there; ModelMismatch if that has another dimension.

        key: 32 bytes that everything in its files will be encrypted with (`shard.encryption`), None for a shard in the
        clear. One that is there has to be of the same kind: KeyUnavailable, WrongKey.
        """
        make_directory(directory)
        cipher = cipher_of(directory, None) if key is None else ShardCipher.create(directory, key)
        database_key = cipher.database_key if cipher else None
        Store.create(directory / "shard.db", {"dim": str(check_dim(dim))}, database_key).close()
        shard = cls(directory, load_model, key=key)
        if shard.dim != dim:
            shard.close()
            raise ModelMismatch(f"{directory}: the shard has dimension {shard.dim}, expected {dim}")
        return shard

    def files(self, row: SegmentRow) -> SegmentFiles:
        """The files of one segment."""
        return self._rows.files(row)

    # Reading

    def view(self) -> tuple[Index, SearchModel | None]:
        """The index that searches use and the model of its codes, None if it has none. They belong together.

        A search that took them is right to the end, whatever is activated meanwhile: a switch replaces both.
        """
        return self._rows.view

    @property
    def index(self) -> Index:
        """The index that searches use; see `view`."""
        return self._rows.index

    @property
    def store(self) -> Store:
        """The database, for `shard.check` and `shard.mending`."""
        return self._store

    @property
    def model(self) -> SearchModel | None:
        """The model that searches use; None while the shard searches exactly on floats."""
        return self._rows.model

    def __len__(self) -> int:
        """Live templates."""
        return self._rows.templates

    def labels(self, rows: Collection[int]) -> dict[int, tuple[str, str | None]]:
        """Row to (template id, identity) for those of the rows that are live."""
        return self._store.labels(rows)

    @property
    def moves(self) -> int:
        """Raised before and after templates change their rows; odd in between. A filter is of one such number only."""
        return self._rows.moves

    def filter(self, identities: Sequence[str], where: bytes = b"") -> npt.NDArray[np.uint8]:
        """A bit for each row, lowest first, (bytes,) uint8: set for live templates of the identities, or of all for
        none, whose metadata meets the filter (`shard.where`), b"" for none. Bits of dead rows say nothing.
        """
        if not identities:
            return self._filters.bits(where, self.index.rows)
        bits = np.zeros(self.index.rows, dtype=bool)
        rows = self._store.rows_of(identities)
        if where:
            rows = self._filters.among(where, rows)
        # Rows that were committed this moment may not be in the index yet.
        bits[rows[rows < len(bits)]] = True
        return np.packbits(bits, bitorder="little")

    def existing(self, template_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are live."""
        return self._existing(template_ids, template_keys(template_ids))

    def _existing(self, template_ids: Sequence[str], keys: KeyArray) -> set[str]:
        return self._store.existing(*self._rows.seen.among(template_ids, keys))

    def records(self, template_ids: Sequence[str], keys: KeyArray | None = None) -> list[TemplateRecord]:
        """Labels and metadata of the live templates among the ids. keys: (n,) uint64, of the ids, where known."""
        keys = template_keys(template_ids) if keys is None else keys
        return self._store.records(*self._rows.seen.among(template_ids, keys))

    def ids_after(self, after: str, limit: int, identity: str | None = None) -> list[str]:
        """Up to `limit` template ids after one, "" for the first, in listing order (`shard.keys`); of an identity."""
        return self._store.ids_after(after, limit, identity)

    def identities(self, start: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities from `start` on, in byte order of their UTF-8, with their live templates."""
        return self._store.identities(start, limit)

    def sample(self, rows: int, seed: int) -> FloatArray:
        """Up to `rows` live embeddings, (n, dim) float32, drawn without replacement; the same for the same seed.

        Raises CorruptData if one of them is not what was sealed.
        """
        index, _ = self.view()
        there = [np.arange(s.first_row, s.first_row + s.rows) for s in self._store.segments() if not s.is_dropped]
        stored = np.concatenate(there) if there else no_rows()
        live = np.setdiff1d(stored, np.array(self._store.tombstones(), dtype=np.int64), assume_unique=True)
        return _drawn(index, live, rows, seed)

    def recent(self, rows: int, seed: int, since_lsn: int) -> tuple[FloatArray, int]:
        """As `sample`, of templates that were enrolled after that LSN; and how many there are."""
        index, _ = self.view()
        # Rows that were moved keep their LSN, so any row may be recent; a range at a time, for the sake of searches.
        found = [
            self._store.rows_after(since_lsn, first, first + _RANGE_ROWS) for first in range(0, index.rows, _RANGE_ROWS)
        ]
        live = np.concatenate(found) if found else no_rows()
        return _drawn(index, live, rows, seed), len(live)

    def gather(self, rows: RowArray) -> FloatArray:
        """Embeddings of rows (n,) int64, (n, dim) float32; dead ones too, while their segment is there.

        Raises CorruptData if one of them is not what was sealed.
        """
        return self._rows.gather(rows)

    @property
    def segments(self) -> tuple[SegmentRow, ...]:
        """The segments, dropped ones too, as they are now."""
        return tuple(self._rows.segments)

    @property
    def lsn(self) -> int:
        """LSN of the last entry that is true here."""
        return self._rows.lsn

    @property
    def position(self) -> Position:
        """How far this replica is."""
        with self._write_lock:
            return Position(self._rows.lsn, self._rows.epoch, self.index.rows)

    def live_rows(self, segment: SegmentRow) -> RowArray:
        """The live rows of a segment, (n,) int64 ascending."""
        return self._store.keys_of_rows(segment.first_row, segment.first_row + segment.rows)[0]

    def erasure(self) -> ErasureState:
        """Which deleted templates' bytes are still in the files."""
        dead, oldest = self._store.oldest_burial()
        last_burial = int(self._store.meta("last_burial") or 0)
        needs_scrub = last_burial > int(self._store.meta("scrubbed_lsn") or 0)
        if needs_scrub and oldest is None:
            oldest = int(self._store.meta("last_burial_at") or 0)
        return ErasureState(dead, oldest, needs_scrub)

    def point(self, shard: int) -> ShardPoint:
        """This moment, to export the rows of later. shard: the number that the caller knows this shard by.

        EncryptedGallery if the shard is encrypted: what is exported is written in the clear.
        """
        if self.is_encrypted:
            raise EncryptedGallery(f"{self.directory} is encrypted; snapshots would keep its templates in the clear")
        with self._write_lock:
            history = self._store.epochs()
            return ShardPoint(
                shard=shard,
                lsn=self._rows.lsn,
                rows=self.index.rows,
                segments=segment_points(self._rows.segments),
                epochs=tuple(epoch for epoch, _ in history),
                epoch_starts=tuple(first_lsn for _, first_lsn in history),
            )

    def export(self, wanted: RowRange, known: bytes) -> ExportedRows:
        """A piece of a range of rows, see `shard.export`; nothing of a segment that was dropped, whose rows were moved.

        Labels and floats are read beside writes. Raises InvalidParameter for rows that were never there, CorruptData.
        """
        segment = self._stored_segment(wanted.segment)
        if not segment.is_dropped:
            try:
                return export_rows(self._store, self.gather, self.dim, segment, wanted, known)
            except IndexError:
                # It may have been dropped between its labels and its floats, which are then not to be had.
                if not self._stored_segment(wanted.segment).is_dropped:
                    raise
        return no_rows_to(wanted.end, self.dim)

    def export_moved(self, wanted: MovedRange) -> ExportedRows:
        """A piece of what compaction has moved since a point was taken, see `shard.export`."""
        # Rows are named by the database before they are in the index, but for a moment only.
        with self._write_lock:
            self.recover()
            return export_moved(self._store, self.gather, self.dim, wanted)

    def _stored_segment(self, segment: int) -> SegmentRow:
        for row in self._store.segments():
            if row.segment == segment:
                return row
        raise InvalidParameter(f"{self.directory} has no segment {segment}")

    def stats(self) -> ShardStats:
        """Sizes, from memory and from the directory."""
        with self._write_lock:
            return ShardStats(
                templates=self._rows.templates,
                deleted=sum(row.rows for row in self._rows.segments if not row.is_dropped) - self.index.live_rows,
                segments=sum(not row.is_dropped for row in self._rows.segments),
                code_bytes=self.index.code_bytes,
                disk_bytes=blocks_bytes(self.directory),
                lsn=self._rows.lsn,
                model_id=self._rows.model.model_id if self._rows.model else None,
            )

    def epochs(self) -> list[tuple[int, int]]:
        """(epoch, LSN of its first entry) of every configuration that decided an entry here, ascending."""
        return self._store.epochs()

    def operations_after(self, lsn: int) -> list[tuple[bytes, int, int, int]]:
        """(operation, LSN, done, left out) of the writes after an LSN that are remembered, by LSN."""
        return self._store.operations_after(lsn)

    def templates_between(self, first: int, last: int) -> list[StoredTemplate]:
        """The live rows first <= row < last with their records, ascending."""
        return self._store.templates_between(first, last)

    def buried(self, first: int, last: int, after_lsn: int = 0) -> list[tuple[int, int, int]]:
        """(row, LSN, unix seconds) of the tombstones of rows first <= row < last that are younger than the LSN."""
        return self._store.buried(first, last, after_lsn)

    # Writing

    def enroll(self, batch: EnrollBatch, *, skip_existing: bool = False, operation: bytes = b"") -> EnrollReceipt:
        """Write templates; durable and searchable when it returns. Callers at the same time share a commit.

        operation: an id of this call; repeated with the same one within the next KEPT_OPERATIONS writes, it tells what
        the first call did and does nothing. Raises InvalidEmbedding or InvalidParameter for bad values,
        DuplicateTemplate for an id that is there (left out instead with `skip_existing`), with nothing written;
        WriteFailed if the disk fails: all of the batch or nothing of it is found when the shard is reopened, and until
        then, or until `recover`, it refuses writes.
        """
        try:
            check_batch(batch, self.dim)
            done, left_out, lsn = self._submit(Enrollment(batch, skip_existing, operation))
        except MemoryError as error:
            raise WriteFailed(f"{self.directory}: out of memory for {len(batch)} templates") from error
        return EnrollReceipt(enrolled=done, skipped=left_out, lsn=lsn)

    def delete(
        self, *, template_ids: Sequence[str] = (), identities: Sequence[str] = (), operation: bytes = b""
    ) -> int:
        """Delete by id and by identity; returns how many templates. Durable and invisible when it returns."""
        return self._submit(Deletion(tuple(template_ids), tuple(identities), operation))[0]

    def amend(self, template_ids: Sequence[str], metadata: Sequence[bytes | None], *, operation: bytes = b"") -> int:
        """Give templates other metadata, an entry for each id; returns how many of them are there. Durable and visible
        to searches when it returns; the old metadata is erased like what was deleted. InvalidParameter as `enroll`.
        """
        check_metadata(metadata, len(template_ids))
        check_unique(template_ids)
        return self._submit(Amendment(tuple(template_ids), tuple(metadata), operation))[0]

    def rename(self, identity: str, into: str, *, limit: int = 4_096, operation: bytes = b"") -> int:
        """Give up to `limit` templates of an identity another one; returns how many. As durable as `amend`."""
        check_label(into, what="identity")
        return self._submit(Renaming(identity, into, limit, operation))[0]

    def move_out(
        self, identity: str, departed: Sequence[str], *, hold_s: float, limit: int, operation: bytes
    ) -> ExportedRows:
        """Delete templates of an identity that another shard has by now; then up to `limit` of those left, by row.

        From then on, for `hold_s` seconds, whatever else would change the identity's templates here, or add one, is
        HostBusy: what the answer says stays true while it is written elsewhere. 0 ends that. Nothing is durable of it.
        """
        with self._write_lock:
            if departed:
                self._submit(Departure(identity, tuple(departed), operation))
            self._holds.hold(identity, hold_s)
            rows = np.sort(self._store.rows_of((identity,)))[:limit]
            return export_templates(self._store.templates_of(rows), self.gather, self.dim)

    @property
    def holds(self) -> Holds:
        """Identities that are held, and when templates left: in memory only."""
        return self._holds

    @property
    def has_departures(self) -> bool:
        """Whether templates may have moved to another shard while a write that is under way went from shard to shard:
        one that did not find them here may have looked for them there too early."""
        return self._holds.are_recent

    @property
    def has_fresh_departures(self) -> bool:
        """As `has_departures`, for a read that is under way."""
        return self._holds.are_fresh

    def flush(self) -> None:
        """Seal the open tail: its files get checksums and never change again. Nothing is lost without it."""
        with self._writing():
            if self._rows.segments and not self._rows.segments[-1].is_sealed and self._rows.segments[-1].rows:
                self._carry_out([self._entry(SEAL)])

    def move(self, rows: RowArray) -> int:
        """Write rows (n,) int64 again at the end and give up where they were, those that are still live; how many.

        Part of compaction.
        """
        with self._writing():
            live = self._store.live_among(rows)
            if len(live):
                self._carry_out([self._entry(MOVE, rows=live)])
            return len(live)

    def drop_segment(self, segment: int) -> None:
        """Remove a sealed segment that has no live row left; its row numbers are not used again.

        InvalidParameter if there is no such segment, or if a row of it is live.
        """
        with self._writing():
            if not 1 <= segment <= len(self._rows.segments) or not self._rows.segments[segment - 1].is_sealed:
                raise InvalidParameter(f"{self.directory}: segment {segment} is not a sealed one of this shard")
            row = self._rows.segments[segment - 1]
            if self._store.templates_between(row.first_row, row.first_row + row.rows):
                raise InvalidParameter(f"{self.directory}: segment {segment} has live rows")
            if not row.is_dropped:
                self._carry_out([self._entry(DROP, segment=segment)])

    def scrub(self) -> None:
        """Leave no byte of deleted labels in the database and its log. Searches wait for their labels meanwhile."""
        with self._writing():
            self._store.scrub()
            with self._store.transaction() as db:
                set_meta(db, "scrubbed_lsn", str(self._rows.lsn))

    def apply(self, entries: Sequence[Entry]) -> None:
        """Carry out what the primary decided, in its order; entries that are here already are passed over.

        Raises OutOfStep, with nothing done, unless the entries follow this replica's last one.
        """
        with self._writing():
            fresh = [entry for entry in entries if entry.lsn > self._rows.lsn]
            self._check_past([entry for entry in entries if entry.lsn <= self._rows.lsn])
            rows, lsn = self.index.rows, self._rows.lsn
            for entry in fresh:
                if entry.lsn != lsn + 1 or entry.first_row != rows or entry.epoch < self._rows.epoch:
                    raise OutOfStep(
                        f"{self.directory}: expected entry {lsn + 1} after {rows} rows of epoch {self._rows.epoch} or"
                        f" later, got entry {entry.lsn} after {entry.first_row} of epoch {entry.epoch}"
                    )
                lsn += 1
                rows += (
                    len(entry.batch) if entry.verb == APPEND else len(entry.rows) if entry.verb in (MOVE, AMEND) else 0
                )
            for group in _groups(fresh):
                self._carry_out(group)

    def _check_past(self, entries: Sequence[Entry]) -> None:
        """OutOfStep if entries that should be here already are others than those that are."""
        history = self._store.epochs() if entries else []
        for entry in entries:
            epoch = max((epoch for epoch, first_lsn in history if first_lsn <= entry.lsn), default=0)
            if epoch != entry.epoch:
                raise OutOfStep(
                    f"{self.directory}: entry {entry.lsn} is of epoch {epoch} here, got one of {entry.epoch}"
                )

    @property
    def is_catching_up(self) -> bool:
        """Whether the shard is in the middle of taking over another replica's state, and so answers for nothing."""
        return self._rows.is_catching_up

    def progress(self) -> tuple[Position, int]:
        """(position, settled LSN) as `shard.catchup.changes_after` at another replica wants to know them."""
        with self._write_lock:
            if not self._rows.is_catching_up:
                return self.position, self._rows.lsn
            lsn, epoch = (int(self._store.meta(key) or 0) for key in ("absorbed_lsn", "absorbed_epoch"))
            return Position(lsn, epoch, self.index.rows), self._rows.lsn

    def absorb(self, changes: Changes) -> None:
        """Write a piece of what another replica has; durable when it returns. CorruptData if pieces do not fit."""
        with self._writing():
            self._rows.absorb(changes)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing is written inside."""
        with self._write_lock:
            yield

    @contextlib.contextmanager
    def amending(self) -> Iterator[sqlite3.Connection]:
        """A transaction that changes what follows from the rest, of `shard.mending`: no row comes or goes by it."""
        with self._writing():
            with self._store.transaction() as db:
                yield db
            self._rows.segments = self._store.segments()

    @property
    def decides(self) -> bool:
        """Whether this replica may decide entries; see `take_epoch`."""
        return self._decides

    def take_epoch(self, epoch: int, hosts: Sequence[str] | None = None, *, decides: bool = False) -> None:
        """From now on entries are decided, or accepted, under this configuration; durable. StaleRoute for an older.

        hosts: those that hold the shard under it, where they are known. decides: whether this replica may decide
        entries under it; one that may not refuses writes of its own with StaleRoute, those that had begun too, so that
        no two replicas ever make different entries of one epoch.
        """
        with self._writing():
            if epoch < self.configured_epoch:
                raise StaleRoute(f"{self.directory}: configuration {epoch} is older than {self.configured_epoch}")
            self._decides = decides
            known = self.configured_hosts if hosts is None else tuple(hosts)
            if (epoch, known) != (self.configured_epoch, self.configured_hosts):
                with self._store.transaction() as db:
                    set_meta(db, "configured_epoch", str(epoch))
                    set_meta(db, "configured_hosts", "\n".join(known))
                if epoch > 1:
                    self._holds.hold("", 0)  # what another primary held is not known here
                self.configured_epoch, self.configured_hosts = epoch, known

    def _submit(self, request: Request) -> tuple[int, int, int]:
        ticket = self._waiting.add(request)
        with self._write_lock:
            while not ticket.is_done:
                self._serve(self._waiting.take())
        return ticket.result()

    def _serve(self, tickets: list[Ticket]) -> None:
        """Carry out a group; every ticket of it is done afterwards."""
        try:
            with self._writing():
                self._check_decides()
                self._plan(tickets)
                planned = [ticket for ticket in tickets if ticket.entry is not None]
                if planned:
                    # Callers with the same operation share an entry, which is carried out once.
                    entries = {ticket.entry.lsn: ticket.entry for ticket in planned if ticket.entry is not None}
                    self._carry_out(list(entries.values()))
                for ticket in planned:
                    assert ticket.entry is not None
                    ticket.outcome = (ticket.entry.done, ticket.entry.left_out, ticket.entry.lsn)
        except FacegridError as error:
            for ticket in tickets:
                if not ticket.is_done:
                    ticket.error = error
        except BaseException as error:
            for ticket in tickets:
                if not ticket.is_done:
                    ticket.error = WriteFailed(f"{self.directory}: the commit was interrupted: {error!r}")
            raise

    def _plan(self, tickets: list[Ticket]) -> None:
        """Decide what each request comes to: an entry, an outcome without one, or an error of its own."""
        taken: set[str] = set()
        decided: dict[bytes, Ticket] = {}
        lsn, first_row = self._rows.lsn, self.index.rows
        for ticket in tickets:
            request = ticket.request
            if request.operation and (before := self._store.operation(request.operation)) is not None:
                ticket.outcome = (before[1], before[2], before[0])
                continue
            if request.operation in decided:  # b"" never is
                ticket.entry = decided[request.operation].entry
                continue
            entry: Entry | None = None
            try:
                if isinstance(request, Enrollment):
                    entry = self._enrollment(ticket, request, taken, lsn, first_row)
                elif isinstance(request, Deletion | Departure):
                    entry = self._deletion(ticket, request, lsn, first_row)
                else:
                    entry = self._amendment(ticket, request, lsn, first_row)
            except (InvalidInput, HostBusy) as error:
                ticket.error = error
            if entry is not None:
                ticket.entry = entry
                lsn, first_row = lsn + 1, first_row + len(entry.batch)
                taken.update(entry.batch.template_ids)
                if request.operation:
                    decided[request.operation] = ticket

    def _enrollment(
        self, ticket: Ticket, request: Enrollment, taken: set[str], lsn: int, first_row: int
    ) -> Entry | None:
        batch = request.batch
        self._holds.check(batch.identities)
        keys = template_keys(batch.template_ids)
        self._rows.seen.prepare(self.index.keys(i) for i in range(len(self._rows.segments)))
        existing = self._existing(batch.template_ids, keys)
        if taken:
            existing |= taken.intersection(batch.template_ids)
        if existing and not request.skip_existing:
            raise DuplicateTemplate(
                f"{len(existing)} of {len(batch)} template ids are there already, the first {min(existing)!r}"
            )
        if existing:
            batch = batch.take([i for i, template_id in enumerate(batch.template_ids) if template_id not in existing])
        if not len(batch):
            ticket.outcome = (0, len(existing), lsn)
            return None
        return Entry(
            lsn + 1, self.configured_epoch, APPEND, request.operation, time.time(), first_row, batch, no_rows(), 0,
            len(batch), len(existing),
        )  # fmt: skip

    def _deletion(self, ticket: Ticket, request: Deletion | Departure, lsn: int, first_row: int) -> Entry | None:
        if isinstance(request, Departure):
            found = self._store.rows_to_delete(request.template_ids, ())
            labels = self._store.labels(found)
            found, verb = [row for row in found if labels[row][1] == request.identity], DEPART
        else:
            found, verb = self._store.rows_to_delete(request.template_ids, request.identities), BURY
            if self._holds.are_held and found:
                self._holds.check(person for _, person in self._store.labels(found).values())
        rows = np.array(found, dtype=np.int64)
        if not len(rows):
            ticket.outcome = (0, 0, lsn)
            return None
        return Entry(
            lsn + 1, self.configured_epoch, verb, request.operation, time.time(), first_row, no_batch(), rows, 0,
            len(rows), 0,
        )  # fmt: skip

    def _amendment(self, ticket: Ticket, request: Amendment | Renaming, lsn: int, first_row: int) -> Entry | None:
        if isinstance(request, Renaming):
            before = self._store.templates_of(np.sort(self._store.rows_of((request.identity,)))[: request.limit])
            after = [stored._replace(identity=request.into) for stored in before]
        else:
            rows = self._store.rows_to_delete(request.template_ids, ())
            before = self._store.templates_of(np.array(rows, dtype=np.int64))
            self._holds.check(stored.identity for stored in before)
            given = dict(zip(request.template_ids, request.metadata, strict=True))
            after = [stored._replace(metadata=given[stored.template_id]) for stored in before]
        changed = [new for old, new in zip(before, after, strict=True) if new != old]
        if not changed:
            ticket.outcome = (len(before), 0, lsn)
            return None
        labels = EnrollBatch(
            no_batch().embeddings,
            tuple([new.template_id for new in changed]),
            tuple([new.identity for new in changed]),
            tuple([new.metadata for new in changed]),
        )
        rows_changed = np.array([new.row for new in changed], dtype=np.int64)
        return Entry(
            lsn + 1, self.configured_epoch, AMEND, request.operation, time.time(), first_row, labels, rows_changed, 0,
            len(before), 0,
        )  # fmt: skip

    def _entry(self, verb: str, rows: RowArray | None = None, segment: int = 0) -> Entry:
        """An entry of the shard's own accord."""
        self._check_decides()
        return Entry(
            self._rows.lsn + 1, self.configured_epoch, verb, b"", time.time(), self.index.rows, no_batch(),
            no_rows() if rows is None else rows, segment, 0, 0,
        )  # fmt: skip

    def _check_decides(self) -> None:
        """Under the write lock."""
        if not self._decides:
            raise StaleRoute(f"{self.directory}: another replica decides in epoch {self.configured_epoch}")

    def _carry_out(self, entries: Sequence[Entry]) -> None:
        """Make entries true: durable, then visible, then told to whoever forwards them. Under the write lock.

        Several at once only if each of them appends.
        """
        verb, last = entries[0].verb, entries[-1]
        if verb == APPEND:
            self._rows.append(entries)
        elif verb == BURY:
            self._rows.bury(last)
        elif verb == DEPART:
            self._holds.leave()
            self._rows.bury(last)
        elif verb in (MOVE, AMEND):
            self._rows.move(last)
        elif verb == SEAL:
            self._rows.close_tail(last)
        else:
            self._rows.drop(last)
        if self.on_commit is not None:
            self.on_commit(entries)

    # Models

    def model_ids(self) -> set[str]:
        """Ids of the active model and of those whose codes are kept: the models that this shard needs."""
        active = self._rows.model
        return rollout.kept_models(self._store) | ({active.model_id} if active else set())

    def prepare(self, model: SearchModel) -> int:
        """Encode every sealed segment with the model, in files beside the codes in use; returns how many were encoded.

        Searches and writes go on. What is stored and sound already is left, so a call that a crash or an error ended is
        completed by the next. Raises ModelMismatch for another dimension, WriteFailed, CorruptData for damaged floats.
        """
        self._check_model(model)
        with self._rollout_lock:
            if model.model_id not in (kept := rollout.kept_models(self._store)):
                with self._committing() as db:
                    rollout.keep_models(db, kept | self.model_ids() | {model.model_id})
            return rollout.prepare(self._rows, self._store, model, self._committing)

    def stage(self, model: SearchModel | None) -> rollout.StagedIndex:
        """Prepare what is not, and build an index of the model beside the one in use; None for one without codes.

        Both are in memory until `switch`, which should follow soon. Raises as `prepare` does.
        """
        with self._rollout_lock:
            if model is not None:
                self.prepare(model)
            return rollout.stage(self._rows, self._store, model)

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
            self._rows.switch(staged.index, staged.model, staged.tail_codes)

    def _caught_up(self, staged: rollout.StagedIndex) -> rollout.StagedIndex:
        """The staged index with every row, deletion and dropped segment of the shard. In this shard's turn to write."""
        if not rollout.is_part_of(staged, self._rows):
            staged = rollout.stage(self._rows, self._store, staged.model)
        rollout.complete(staged, self._rows)
        staged.index.delete(np.array(self._store.tombstones(), dtype=np.int64))
        if staged.index.live_rows != self._rows.templates:
            raise CorruptData(
                f"{self.directory}: {self._rows.templates} templates are live, an index of its segments has"
                f" {staged.index.live_rows}; the model was not switched"
            )
        return staged

    def activate(self, model: SearchModel | None) -> None:
        """Search with the model from now on, None for scans of floats; prepares what is not prepared.

        Searches go on with the old codes until then; writes wait only while the rows of the last moments are encoded.
        Raises ModelMismatch for another dimension, WriteFailed, CorruptData for damaged floats.
        """
        with self._rollout_lock:
            active = self._rows.model
            if (model and model.model_id) != (active and active.model_id):
                self.switch(self.stage(model))
                if model is not None:
                    self.prepare(model)

    def discard(self, keep: Collection[str]) -> None:
        """Remove the codes of all models but these and the active one. Raises WriteFailed."""
        with self._rollout_lock:
            active = self._rows.model
            kept = {*keep, *([active.model_id] if active else [])}
            if self.model_ids() <= kept:
                return
            with self._committing() as db:
                rollout.keep_models(db, kept & self.model_ids())
            rollout.discard(self._rows, self._store)

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
                # What failed after its commit is no error of this write, but of those to come.
                self._write_error = self._rows.failure
            except (InvalidInput, ClusterError):
                raise  # nothing was touched
            except BaseException as error:
                # After a failed fsync or commit nobody knows what is on the disk, and an interruption between a commit
                # and the index would let the next rows overwrite committed ones; reopening reads what is there.
                self._write_error = error
                with contextlib.suppress(StorageError, MemoryError):
                    self._rows.hide_deleted()
                if isinstance(error, MemoryError | OSError):
                    raise WriteFailed(f"could not write to {self.directory}: {error or 'out of memory'}") from error
                raise

    @property
    def write_error(self) -> BaseException | None:
        """Why writes are refused, None if they are not."""
        return self._write_error

    def recover(self) -> None:
        """Take up writing again after a failed one, without closing: read back what the disk holds, and go on from it.

        Searches go on meanwhile. Raises WriteFailed, and changes nothing, while the disk still fails.
        """
        with self._write_lock:
            if self._is_closed:
                raise ShardClosed(f"{self.directory} is closed")
            if self._write_error is None:
                return
            probe_directory(self.directory)
            self._store.renew_writer()
            self._rows.take_over_commits()
            self._write_error = None
            _LOG.warning("%s: writes are taken up again", self.directory)

    def close(self) -> None:
        """Close files and release the lock. Everything acknowledged is durable already. Idempotent."""
        self._is_closing = True  # a model that is being prepared is left after the segment under way
        with self._rollout_lock, self._write_lock:
            if not self._is_closed:
                self._is_closed = True
                gauges.closed(self)
                self._rows.close()
                self._segment_files.close()
                self._store.close()
                self._lock.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
