"""`check_shard`: everything of one shard is read and compared, and every damage is named, not the first only.

Files are read, not mapped, so that a sector that cannot be read is damage like any other. Changes nothing; what can be
mended is mended by `shard.mending`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shard.check_database import Contents, read_database
from shard.damage import Damage, Inspected, Part, Span, runs
from shard.encryption import is_encrypted
from shard.errors import CorruptData, FacegridError
from shard.index import CHECKSUM_BLOCK, checksum_block, crc32c_blocks
from shard.store import SegmentRow
from shard.stored_file import StoredFile

__all__ = ["Damage", "check_files", "check_shard"]

_SHARD_NAMES = re.compile(
    r"LOCK|encryption\.json(\.tmp)?|shard\.db(-wal|-shm|-journal)?|probe(\.tmp)?|segment-[0-9]{6}"
)
_SEGMENT_NAMES = re.compile(r"floats\.f32|keys\.u64|codes-[0-9a-f]+\.rows|.*\.tmp")
_ENCRYPTED_NAMES = re.compile(r"floats\.enc|keys\.enc|codes-[0-9a-f]+\.enc|.*\.enc\.tmp")


def check_shard(shard: Inspected) -> list[Damage]:
    """Every damage of a shard, open or not; searches go on meanwhile, writes wait while the database is read.

    Compares: SQLite's structure; every record with its digest; rows with segments and tombstones; the tables that find
    rows with the records; the history of entries; and, with the checksums of the manifest, floats and keys of sealed
    segments, codes of the active model and appends of the open tail. Keys are compared with the ids too. Files that an
    interruption may leave are no damage, since opening removes them; those that nobody knows are.
    """
    with shard.frozen(), shard.store.snapshot() as db:
        contents = read_database(db, shard.store.path)
    damages = list(contents.damages)
    for row in contents.segments:
        if row.is_dropped or (row.is_sealed and not row.floats_crc and row.rows):
            continue
        found = [*_check_floats(shard, row, contents), *_check_keys(shard, row, contents)]
        found += _check_codes(shard, row, contents)
        # What was compacted or encoded anew meanwhile is gone, and not damaged.
        damages += found if not found or is_current(shard, row, contents.model_id) else []
    if contents.model_id and shard.model is None:
        what = f"expected the search model {contents.model_id}, which cannot be loaded"
        damages.append(Damage(shard.store.path, "model", what))
    return damages + list(_foreign_files(shard.directory))


def check_files(shard: Inspected) -> list[Damage]:
    """Damage of the files of sealed segments alone, by their checksums; nothing waits for it."""
    damages: list[Damage] = []
    model = shard.model
    for row in [row for row in shard.store.segments() if row.is_sealed and not row.is_dropped and row.floats_crc]:
        files = shard.files(row)
        found = [
            *_check_file(files.stored_floats(), "floats", row, shard.dim * 4, row.floats_crc or b""),
            *_check_file(files.stored_keys(), "keys", row, 8, row.keys_crc or b""),
        ]
        if model is not None and (crc := shard.store.codes_crc(row.segment, model.model_id)):
            found += _check_file(files.stored_codes(model.model_id), "codes", row, model.code_bytes, crc)
        damages += found if not found or is_current(shard, row, model.model_id if model else None) else []
    return damages


def is_current(shard: Inspected, row: SegmentRow, model_id: str | None) -> bool:
    """Whether the manifest still names the segment, with the same checksums, and the model; True if nobody can tell."""
    try:
        same = [found for found in shard.store.segments() if found.segment == row.segment]
        is_grown = not row.is_sealed and bool(same) and not same[0].is_dropped
        return (is_grown or same == [row]) and (shard.store.meta("model_id") or None) == model_id
    except FacegridError:
        return True


def _check_floats(shard: Inspected, row: SegmentRow, contents: Contents) -> Iterator[Damage]:
    stored, row_bytes = shard.files(row).stored_floats(), shard.dim * 4
    if row.is_sealed:
        yield from _check_file(stored, "floats", row, row_bytes, row.floats_crc or b"")
        return
    last = row.first_row + row.rows
    end = row.first_row
    for first_row, rows, crc in contents.appends:
        if first_row < end or rows < 0 or first_row + rows > last:
            what = f"appends: expected rows {end} to {last - 1} of the open tail, found {rows} from {first_row}"
            yield Damage(shard.store.path, "tail", what, first_row, first_row + max(rows, 0))
            continue
        end = first_row + rows
        offset, size = (first_row - row.first_row) * row_bytes, rows * row_bytes
        yield from _check_blocks(stored, "tail", row, row_bytes, offset, size, CHECKSUM_BLOCK, crc)
    # Rows that an earlier version wrote have no checksums, but they have to be there.
    found, expected = stored.size(), row.rows * row_bytes
    if end < last and found < expected:
        what = f"expected {expected} bytes, {_came(found)}"
        yield Damage(stored.path, "tail", what, max(end, row.first_row + max(found, 0) // row_bytes), last)


def _check_keys(shard: Inspected, row: SegmentRow, contents: Contents) -> Iterator[Damage]:
    """The file against its checksums, then, where it is what was sealed, against the ids."""
    if not row.is_sealed:
        return
    stored = shard.files(row).stored_keys()
    damages = list(_check_file(stored, "keys", row, 8, row.keys_crc or b""))
    yield from damages
    if damages or not contents.is_layout_sound:
        return
    keys = np.frombuffer(stored.read(0, row.rows * 8), "<u8")
    inside = slice(*np.searchsorted(contents.rows, [row.first_row, row.first_row + row.rows]))
    rows = contents.rows[inside]
    for first, last in runs(rows[keys[rows - row.first_row] != contents.keys[inside]]):
        span = Span(row.segment, (first - row.first_row) * 8, (last - first) * 8)
        yield Damage(stored.path, "keys", "expected the keys of the ids, found others", first, last, True, span)


def _check_codes(shard: Inspected, row: SegmentRow, contents: Contents) -> Iterator[Damage]:
    if not row.is_sealed or shard.model is None or shard.model.model_id != contents.model_id:
        return
    stored, size = shard.files(row).stored_codes(shard.model.model_id), shard.model.code_bytes
    crc = contents.codes.get(row.segment)
    if crc is None:
        what = f"expected checksums of segment {row.segment}'s codes by model {contents.model_id}, found none"
        span = Span(row.segment, 0, row.rows * size)
        yield Damage(stored.path, "codes", what, row.first_row, row.first_row + row.rows, True, span)
        return
    yield from _check_file(stored, "codes", row, size, crc)


def _check_file(stored: StoredFile, part: Part, row: SegmentRow, row_bytes: int, crc: bytes) -> Iterator[Damage]:
    """A file of sealed rows of `row_bytes` bytes each, against checksums of all of it."""
    path, size = stored.path, row.rows * row_bytes
    try:
        block = checksum_block(path, size, crc)
    except CorruptData:
        what = f"the manifest has {len(crc)} bytes of checksums, which are not those of {size} bytes"
        rows = (row.first_row, row.first_row + row.rows)
        yield Damage(path, part, what, *rows, part != "floats", Span(row.segment, 0, size))
        return
    found = stored.size()
    if found > size:
        what = f"expected {size} bytes, found {found}"
        yield Damage(path, part, what, is_mendable=True, span=Span(row.segment, size, found - size))
    yield from _check_blocks(stored, part, row, row_bytes, 0, size, block, crc)


def _check_blocks(
    stored: StoredFile, part: Part, row: SegmentRow, row_bytes: int, offset: int, size: int, block: int, crc: bytes
) -> Iterator[Damage]:
    """Bytes offset <= at < offset + size, in blocks from `offset` on; what is missing at the end is one damage."""
    path, end = stored.path, offset + size
    found = stored.size()
    for number, start in enumerate(range(offset, end, block)):
        length = min(block, end - start)
        if start + length > found:
            what = f"expected {end} bytes, {_came(found)}"
            yield _damaged(path, part, what, row, row_bytes, Span(row.segment, start, end - start))
            return
        stated, actual = crc[number * 4 : number * 4 + 4], _crc_of(stored, start, length)
        if actual != stated:
            came = f"got {actual[::-1].hex()}" if isinstance(actual, bytes) else f"it cannot be read: {actual}"
            what = f"wrong CRC32C in the {length} bytes at byte {start}: expected {stated[::-1].hex()}, {came}"
            yield _damaged(path, part, what, row, row_bytes, Span(row.segment, start, length))


def _came(size: int) -> str:
    return "the file is missing" if size < 0 else f"found {size}"


def _crc_of(stored: StoredFile, start: int, length: int) -> bytes | OSError | CorruptData:
    try:
        data = stored.read(start, length)
    except (OSError, CorruptData) as error:
        return error
    return crc32c_blocks(np.frombuffer(data, np.uint8), max(length, 1))


def _damaged(path: Path, part: Part, what: str, row: SegmentRow, row_bytes: int, span: Span) -> Damage:
    first = row.first_row + span.offset // row_bytes
    last = row.first_row + -(-(span.offset + span.size) // row_bytes)
    return Damage(path, part, what, first, last, is_mendable=True, span=span)


def _foreign_files(directory: Path) -> Iterator[Damage]:
    names = _ENCRYPTED_NAMES if is_encrypted(directory) else _SEGMENT_NAMES
    for path in sorted(directory.iterdir()):
        if not _SHARD_NAMES.fullmatch(path.name):
            yield _foreign(path)
        elif path.name.startswith("segment-") and path.is_dir():
            yield from (_foreign(found) for found in sorted(path.iterdir()) if not _is_ours(found, names))


def _is_ours(path: Path, names: re.Pattern[str]) -> bool:
    """A file that has gone since it was listed was being written or removed: a name of ours is enough then."""
    return names.fullmatch(path.name) is not None and not path.is_dir()


def _foreign(path: Path) -> Damage:
    return Damage(path, "file", "expected files that the manifest names only; remove it, if nobody needs it")
