"""What a shard's database says, held against itself: SQLite's own check, records against their digests, rows against
segments, and the tables that find rows against the records.

Reads one connection that sees one state. Knows no files but the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shard.damage import Damage, Part, runs
from shard.digests import record_digest
from shard.keys import template_keys
from shard.store import SegmentRow
from shard.types import KeyArray, RowArray

_BATCH = 4_096
_NO_ROWS = np.empty(0, np.int64)


@dataclass(slots=True)
class Contents:
    """What a sound database says, and which damage was found on the way.

    rows, keys: (n,) int64 and uint64, the live rows whose records are right, ascending, and the keys of their ids.
    named: those of them with an identity. unsound: rows whose records are wrong. appends: (first row, rows, checksums).
    codes: segment to checksums of the active model's codes.
    """

    damages: list[Damage] = field(default_factory=list)
    segments: list[SegmentRow] = field(default_factory=list)
    is_layout_sound: bool = True
    rows: RowArray = field(default_factory=lambda: _NO_ROWS)
    keys: KeyArray = field(default_factory=lambda: np.empty(0, np.uint64))
    named: RowArray = field(default_factory=lambda: _NO_ROWS)
    unsound: RowArray = field(default_factory=lambda: _NO_ROWS)
    appends: list[tuple[int, int, bytes]] = field(default_factory=list)
    model_id: str | None = None
    codes: dict[int, bytes] = field(default_factory=dict)


def read_database(db: sqlite3.Connection, path: Path) -> Contents:
    """Everything of the database at `path`, which `db` has open in one transaction, and every damage of it."""
    # Bytes that are no UTF-8 are damage of a record and not the end of the check.
    db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    contents = Contents()
    steps: Sequence[Callable[[sqlite3.Connection, Path, Contents], Iterable[Damage]]] = (
        _integrity, _segments, _files, _records, _rows, _log, _template_keys, _identity_rows, _sums
    )  # fmt: skip
    for step in steps:
        try:
            contents.damages += step(db, path, contents)
        except sqlite3.DatabaseError as error:
            damage = Damage(path, "database", f"expected a sound database, SQLite says: {error}")
            if damage not in contents.damages:
                contents.damages.append(damage)
    return contents


def _integrity(db: sqlite3.Connection, path: Path, contents: Contents) -> Iterator[Damage]:
    for (said,) in db.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield Damage(path, "database", f"expected a sound database, SQLite says: {said}")


def _segments(db: sqlite3.Connection, path: Path, contents: Contents) -> list[Damage]:
    """Segments are numbered from 1, each begins where the one before ends, and all but the last are sealed."""
    columns = "segment, first_row, rows, capacity, sealed, floats_crc, keys_crc, dropped"
    found = db.execute(f"SELECT {columns} FROM segments ORDER BY segment").fetchall()
    damages = []
    row = 0
    for i, values in enumerate(found):
        if any(type(value) is not int for value in (*values[:5], values[7])):
            damages.append(_segment_damage(path, values[0], f"expected integers, got {values}"))
            continue
        number, first_row, rows, capacity, is_sealed, floats_crc, keys_crc, is_dropped = values
        segment = SegmentRow(number, first_row, rows, capacity, bool(is_sealed), floats_crc, keys_crc, bool(is_dropped))
        contents.segments.append(segment)
        wrong = _contradictions(segment, number=i + 1, first_row=row, is_last=i + 1 == len(found))
        damages += [_segment_damage(path, number, what, first_row, rows) for what in wrong]
        row += segment.rows
    contents.is_layout_sound = not damages
    return damages


def _contradictions(segment: SegmentRow, *, number: int, first_row: int, is_last: bool) -> Iterator[str]:
    if segment.segment != number:
        yield f"expected segment {number}, found {segment.segment}"
    if segment.first_row != first_row:
        yield f"expected its first row to be {first_row}, found {segment.first_row}"
    if not 0 <= segment.rows <= segment.capacity:
        yield f"expected 0 to {segment.capacity} rows, found {segment.rows}"
    if segment.is_sealed and segment.rows != segment.capacity:
        yield f"expected a sealed one to be as long as its {segment.rows} rows, found {segment.capacity}"
    if not segment.is_sealed and not is_last:
        yield "expected it to be sealed, since it is not the last"
    if segment.is_dropped and not segment.is_sealed:
        yield "expected one that was dropped to be sealed"
    for name, crc in (("floats_crc", segment.floats_crc), ("keys_crc", segment.keys_crc)):
        is_expected = segment.is_sealed and not segment.is_dropped
        if (type(crc) is bytes) != is_expected:
            yield f"{name}: expected {'checksums' if is_expected else 'none'}, found {crc!r}"


def _segment_damage(path: Path, number: object, what: str, first_row: int = 0, rows: int = 0) -> Damage:
    last = first_row + rows
    return Damage(path, "segments", f"segment {number}: {what}", first_row if rows else None, last if rows else None)


def _files(db: sqlite3.Connection, path: Path, contents: Contents) -> list[Damage]:
    """What is compared with the files: appends and codes."""
    appends = db.execute("SELECT first_row, rows, crc FROM appends ORDER BY first_row").fetchall()
    contents.appends = [append for append in appends if tuple(map(type, append)) == (int, int, bytes)]
    what = "appends: expected rows and checksums, found others"
    damages = [Damage(path, "tail", what, a[0], a[0] + 1) for a in appends if a not in contents.appends]
    stated = db.execute("SELECT value FROM meta WHERE key = 'model_id'").fetchone()
    contents.model_id = None if stated is None else str(stated[0])
    codes = db.execute("SELECT segment, crc FROM codes WHERE model_id = ?", (contents.model_id,))
    contents.codes = {segment: crc for segment, crc in codes if type(crc) is bytes}
    return damages


def _records(db: sqlite3.Connection, path: Path, contents: Contents) -> list[Damage]:
    """Every record against its digest, and the column `key` against the id."""
    damages: list[Damage] = []
    rows: list[RowArray] = []
    keys: list[KeyArray] = []
    named: list[int] = []
    unsound: list[int] = []
    found = db.execute("SELECT row, key, template_id, identity, metadata, lsn, digest FROM templates ORDER BY row")
    while batch := found.fetchmany(_BATCH):
        sound = [record for record in batch if _is_right(*record[:1], *record[2:])]
        wrong = sorted({record[0] for record in batch} - {record[0] for record in sound})
        unsound += wrong
        what = "expected a record that its digest belongs to, found another"
        damages += [Damage(path, "record", f"row {row}: {what}", row, row + 1) for row in wrong]
        named += [record[0] for record in sound if record[3] is not None]
        true = template_keys([record[2] for record in sound])
        rows.append(np.array([record[0] for record in sound], dtype=np.int64))
        keys.append(true)
        for record, key in zip(sound, true.view(np.int64).tolist(), strict=True):
            if record[1] != key:
                what = f"row {record[0]}: expected the key {key} of its id, found {record[1]!r}"
                damages.append(Damage(path, "key", what, record[0], record[0] + 1, is_mendable=True))
    if rows:
        contents.rows, contents.keys = np.concatenate(rows), np.concatenate(keys)
    contents.named = np.array(named, dtype=np.int64)
    contents.unsound = np.array(unsound, dtype=np.int64)
    return [*damages, *_named_twice(db, path, contents)]


def _is_right(row: int, template_id: Any, identity: Any, metadata: Any, lsn: Any, digest: Any) -> bool:
    is_typed = (
        type(template_id) is str
        and (identity is None or type(identity) is str)
        and (metadata is None or type(metadata) is bytes)
        and type(lsn) is int
    )
    try:
        return is_typed and digest == record_digest(row, template_id, identity, metadata, lsn)
    except UnicodeEncodeError:  # it was no UTF-8
        return False


def _named_twice(db: sqlite3.Connection, path: Path, contents: Contents) -> Iterator[Damage]:
    """Template ids that two live rows bear."""
    order = np.argsort(contents.keys, kind="stable")
    same = np.flatnonzero(np.diff(contents.keys[order]) == 0)
    suspects = np.unique(contents.rows[order[np.concatenate([same, same + 1])]]) if len(same) else _NO_ROWS
    seen: dict[str, int] = {}
    for row in suspects.tolist():
        (template_id,) = db.execute("SELECT template_id FROM templates WHERE row = ?", (row,)).fetchone()
        first = seen.setdefault(template_id, row)
        if first != row:
            yield Damage(path, "rows", f"row {row}: its template is row {first} already", row, row + 1)


def _rows(db: sqlite3.Connection, path: Path, contents: Contents) -> Iterator[Damage]:
    """Every row of a segment that is there is either live or deleted."""
    if not contents.is_layout_sound:
        return
    buried = np.array(db.execute("SELECT row FROM tombstones ORDER BY row").fetchall(), np.int64).reshape(-1)
    live = np.union1d(contents.rows, contents.unsound)
    held = [np.arange(s.first_row, s.first_row + s.rows) for s in contents.segments if not s.is_dropped]
    stored = np.concatenate(held) if held else _NO_ROWS
    for what, rows in (
        ("expected a live or a deleted row, found both", np.intersect1d(live, buried)),
        ("expected a live or a deleted row, found neither", np.setdiff1d(stored, np.union1d(live, buried))),
        ("live, but expected to be a row of a segment", np.setdiff1d(live, stored)),
        ("deleted, but expected to be a row of a segment", np.setdiff1d(buried, stored)),
    ):
        for first, last in runs(rows):
            yield Damage(path, "rows", f"{_named(first, last)}: {what}", first, last)


def _log(db: sqlite3.Connection, path: Path, contents: Contents) -> Iterator[Damage]:
    """No entry is younger than the last one, and epochs follow each other."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    if meta.get("is_catching_up") == "1":
        return  # what it has is younger than what it answers for
    stated = str(meta.get("lsn"))
    if not stated.isascii() or not stated.isdigit():
        yield Damage(path, "log", f"meta: expected the last LSN, found {stated!r}")
        return
    lsn = int(stated)
    for table, column in (("templates", "lsn"), ("tombstones", "lsn"), ("epochs", "first_lsn"), ("operations", "lsn")):
        (youngest,) = db.execute(f"SELECT max({column}) FROM {table}").fetchone()
        if youngest is not None and (type(youngest) is not int or youngest > lsn):
            yield Damage(path, "log", f"{table}: expected no LSN after the last, {lsn}, found {youngest!r}")
    starts = [first for _, first in db.execute("SELECT epoch, first_lsn FROM epochs ORDER BY epoch")]
    if any(type(start) is not int for start in starts) or starts != sorted(set(starts)):
        yield Damage(path, "log", f"epochs: expected them to begin one after another, found {starts}")


def _template_keys(db: sqlite3.Connection, path: Path, contents: Contents) -> list[Damage]:
    """The entries are those of the ids, no more and no less."""
    found = db.execute("SELECT key, row FROM template_keys").fetchall()
    pairs = [pair for pair in found if set(map(type, pair)) == {int}]
    keys, rows = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    at = np.searchsorted(contents.rows, rows)
    is_right = np.zeros(len(rows), bool)
    inside = at < len(contents.rows)
    at, own = at[inside], contents.keys.view(np.int64)
    is_right[inside] = (contents.rows[at] == rows[inside]) & (own[at] == keys[inside])
    extra = np.setdiff1d(rows[~is_right], contents.unsound)
    lacking = np.setdiff1d(contents.rows, rows[is_right])
    return _finders(path, "template_keys", extra, lacking) + _no_rows(path, "template_keys", len(found) - len(pairs))


def _identity_rows(db: sqlite3.Connection, path: Path, contents: Contents) -> list[Damage]:
    extra = db.execute(
        "SELECT i.row FROM identity_rows i LEFT JOIN templates t ON t.row = i.row AND t.identity = i.identity"
        " WHERE t.row IS NULL"
    ).fetchall()
    lacking = db.execute(
        "SELECT t.row FROM templates t WHERE t.identity IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM identity_rows i WHERE i.identity = t.identity AND i.row = t.row)"
    ).fetchall()
    rows = [row for (row,) in extra if type(row) is int]
    extra_rows = np.setdiff1d(np.array(rows, dtype=np.int64), contents.unsound)
    lacking_rows = np.setdiff1d(np.array(lacking, dtype=np.int64).reshape(-1), contents.unsound)
    damages = _finders(path, "identity_rows", extra_rows, lacking_rows)
    return damages + _no_rows(path, "identity_rows", len(extra) - len(rows))


def _sums(db: sqlite3.Connection, path: Path, contents: Contents) -> Iterator[Damage]:
    """What the tables that find rows should add up to, of `schema.add_sums`, where every record is right."""
    if any(damage.part in ("database", "record", "rows") for damage in contents.damages):
        return
    rows, keys = contents.rows, contents.keys
    low, high = (int(half.sum()) for half in (keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)))
    expected = f"{len(rows)} {low} {high} {rows.sum()} {len(contents.named)} {contents.named.sum()}"
    stated = db.execute("SELECT value FROM meta WHERE key = 'sums'").fetchone()
    found = stated[0] if stated is not None else "0 0 0 0 0 0"
    if found != expected:
        yield Damage(path, "sums", f"meta: sums: expected {expected!r}, found {found!r}", is_mendable=True)


def _no_rows(path: Path, table: Part, count: int) -> list[Damage]:
    what = f"{table}: expected integers as keys and rows, {count} entries are others"
    return [Damage(path, table, what, is_mendable=True)] if count else []


def _finders(path: Path, table: Part, extra: RowArray, lacking: RowArray) -> list[Damage]:
    """One damage for each run of rows that a table does not find, or finds by something else."""
    damages = []
    for first, last in runs(np.union1d(extra, lacking)):
        missing, wrong = (int(np.count_nonzero((rows >= first) & (rows < last))) for rows in (lacking, extra))
        what = f"{table}: {_named(first, last)}: expected their records' entries, {missing} are missing, {wrong} wrong"
        damages.append(Damage(path, table, what, first, last, is_mendable=True))
    return damages


def _named(first: int, last: int) -> str:
    return f"row {first}" if last == first + 1 else f"rows {first} to {last - 1}"
