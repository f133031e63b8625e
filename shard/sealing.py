"""What happens to a segment as a whole: sealing it, encoding it with a model, reading its codes and keys back.

Works on one segment's files and its rows in the database; knows nothing of the index or of locks, which are the
shard's.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from shard.errors import CorruptData
from shard.index import CHECKSUM_BLOCK, checksum_block, crc32c_blocks
from shard.keys import template_keys
from shard.model import SearchModel
from shard.segments import SegmentFiles
from shard.store import SegmentRow, Store, drop_appends, put_codes, put_segment
from shard.types import CodeArray, FloatArray, KeyArray

_LOG = logging.getLogger(__name__)
_ENCODE_ROWS = 8_192


def seal(
    store: Store,
    files: SegmentFiles,
    row: SegmentRow,
    keys: KeyArray,
    model: SearchModel | None,
    codes: CodeArray | None,
) -> SegmentRow:
    """Cut the float file to its rows, write keys and codes, and commit their checksums. Returns the sealed segment.

    keys: (rows,) uint64, those that the index has. codes: (rows, code_bytes) uint8 by the model, None to encode here.

    A crash on the way leaves the segment an open tail, which is opened, and may be sealed, again. Raises CorruptData
    for floats that are not what was appended: checksums of them would make them look sound.
    """
    files.check_appends(row, store.appends(row.first_row, row.first_row + row.rows))
    floats = files.floats(row.rows)
    files.truncate_floats(row.rows)
    keys_crc = files.write_keys(keys)
    codes_crc = None
    if model is not None:
        codes_crc = files.write_codes(model.model_id, encode_rows(model, floats) if codes is None else codes)
    sealed = replace(row, capacity=row.rows, is_sealed=True, floats_crc=crc32c_blocks(floats), keys_crc=keys_crc)
    with store.transaction() as db:
        put_segment(db, sealed)
        drop_appends(db, row.first_row, row.first_row + row.rows)
        if model is not None and codes_crc is not None:
            put_codes(db, row.segment, model.model_id, codes_crc)
    return sealed


def encode_segment(store: Store, files: SegmentFiles, row: SegmentRow, model: SearchModel) -> CodeArray:
    """Codes of the segment's rows, (rows, code_bytes) uint8; a sealed segment's are stored too.

    Raises CorruptData if a sealed segment's floats are not what was sealed: codes of them would look sound.
    """
    if row.is_sealed:
        files.check_floats(row)
    codes = encode_rows(model, files.floats(row.rows))
    if row.is_sealed:
        crc = files.write_codes(model.model_id, codes)
        with store.transaction() as db:
            put_codes(db, row.segment, model.model_id, crc)
    return codes


def load_codes(store: Store, files: SegmentFiles, row: SegmentRow, model: SearchModel | None) -> CodeArray:
    """A segment's codes: read where stored and sound, else encoded again; (rows, 0) without a model."""
    if model is None:
        return np.empty((row.rows, 0), np.uint8)
    crc = store.codes_crc(row.segment, model.model_id) if row.is_sealed else None
    if crc is not None:
        try:
            return files.read_codes(model.model_id, row.rows, model.code_bytes, crc)
        except CorruptData as error:
            # Codes are derived from the floats, so a damaged file costs time and nothing else.
            _LOG.warning("encoding a segment again from its floats: %s", error)
    return encode_segment(store, files, row, model)


def load_keys(store: Store, files: SegmentFiles, row: SegmentRow) -> tuple[KeyArray, SegmentRow]:
    """A sealed segment's keys, (rows,) uint64, and the segment: read where stored and sound, else made again.

    Keys are made again only if the records of all live rows are right; CorruptData otherwise.
    """
    try:
        return files.read_keys(row), row
    except CorruptData as error:
        _LOG.warning("writing a segment's keys again from the database: %s", error)
    keys, made = keys_again(store, files, row)
    files.write_keys_again(keys)
    with store.transaction() as db:
        put_segment(db, made)
    return keys, made


def keys_again(store: Store, files: SegmentFiles, row: SegmentRow) -> tuple[KeyArray, SegmentRow]:
    """Keys of a sealed segment from its records, (rows,) uint64, and the segment with their checksums.

    Those of deleted rows, which nobody sees, are as they were found if that gives what was sealed, else 0 in the
    blocks that are damaged. Raises CorruptData unless every row is known to be live, with a right record, or deleted.
    """
    first, last = row.first_row, row.first_row + row.rows
    labels = store.templates_between(first, last)
    live = np.array([stored.row for stored in labels], dtype=np.int64)
    dead = np.array([buried for buried, _, _ in store.buried(first, last)], dtype=np.int64)
    if not np.array_equal(np.sort(np.concatenate([live, dead])), np.arange(first, last)):
        raise CorruptData(
            f"{files.keys_path}: expected {row.rows} rows that are live or deleted, the database has {len(live)} live"
            f" and {len(dead)} deleted ones",
            path=str(files.keys_path),
        )
    keys = files.found_keys(row.rows)
    keys[live - first] = template_keys([stored.template_id for stored in labels])
    if row.keys_crc and crc32c_blocks(keys, _block_of(files, row)) == row.keys_crc:
        return keys, row
    stated = np.frombuffer(row.keys_crc or b"", np.uint8)
    for number in range(-(-keys.nbytes // CHECKSUM_BLOCK)):
        rows = slice(number * CHECKSUM_BLOCK // 8, (number + 1) * CHECKSUM_BLOCK // 8)
        crc = np.frombuffer(crc32c_blocks(keys[rows]), np.uint8)
        if not np.array_equal(crc, stated[number * 4 : number * 4 + 4]):
            own = dead[(dead - first >= rows.start) & (dead - first < rows.stop)]
            keys[own - first] = 0
    return keys, replace(row, keys_crc=crc32c_blocks(keys))


def _block_of(files: SegmentFiles, row: SegmentRow) -> int:
    try:
        return checksum_block(files.keys_path, row.rows * 8, row.keys_crc or b"")
    except CorruptData:
        return CHECKSUM_BLOCK


def keys_of(store: Store, row: SegmentRow) -> KeyArray:
    """Tie keys of a segment's rows, from the database; 0 for deleted rows, which nobody sees."""
    keys = np.zeros(row.rows, np.uint64)
    rows, live = store.keys_of_rows(row.first_row, row.first_row + row.rows)
    keys[rows - row.first_row] = live
    return keys


def encode_rows(model: SearchModel, floats: FloatArray) -> CodeArray:
    """Codes (n, code_bytes) of rows (n, dim), block by block: a mapped segment is never in memory as a whole."""
    codes = np.empty((len(floats), model.code_bytes), np.uint8)
    for begin in range(0, len(floats), _ENCODE_ROWS):
        codes[begin : begin + _ENCODE_ROWS] = model.encode(np.asarray(floats[begin : begin + _ENCODE_ROWS]))
    return codes
