"""What `shard.check` found is mended: from what is sound in the shard, or from another replica's floats.

Nothing is written that was not compared first: floats with the checksums of the manifest, keys and tables with the
digests of the records they are made from. Works on a shard that is open, whose index sees what is mended without being
opened again, and on one that cannot be opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shard import schema, sealing
from shard.damage import Damage, Inspected, Part, Span
from shard.errors import CorruptData, FacegridError, WriteFailed
from shard.files import make_directory
from shard.index import CHECKSUM_BLOCK, checksum_block, crc32c_blocks
from shard.store import SegmentRow, put_segment
from shard.types import FloatArray

__all__ = ["Fetch", "mend"]

Fetch = Callable[[int, int], FloatArray]
"""(first, last) to the rows first <= row < last of another replica, (n, dim) float32; FacegridError if it has not."""

_ORDER: tuple[Part, ...] = ("floats", "tail", "key", "keys", "codes", "template_keys", "identity_rows", "sums")
"""Codes are made from floats and tables from keys, so what is made comes after what it is made from."""
_REMEDY = "copy this replica anew from another, or restore a snapshot"


def mend(shard: Inspected, damages: Sequence[Damage], fetch: Fetch | None = None) -> list[Damage]:
    """Mend what can be mended; returns what is left, each with the reason in `what`.

    fetch: where floats come from; without it damaged floats are left. What is left and mendable may be tried again with
    another. Damage that is gone meanwhile is mended too.
    Raises WriteFailed if the disk fails, with what was mended until then mended.
    """
    left = []
    whole: set[tuple[Path, Part]] = set()
    for damage in sorted(damages, key=lambda damage: _ORDER.index(damage.part) if damage.part in _ORDER else -1):
        if damage.part in ("keys", "codes") and (damage.path, damage.part) in whole:
            continue  # the file was made again
        try:
            _mend(shard, damage, fetch)
            whole.add((damage.path, damage.part))
        except WriteFailed:
            raise
        except FacegridError as error:
            left.append(replace(damage, what=f"{damage.what}; not mended: {error}"))
    return left


def _mend(shard: Inspected, damage: Damage, fetch: Fetch | None) -> None:
    if not damage.is_mendable:
        raise CorruptData(_remedy(damage.part))
    if damage.part in ("floats", "tail"):
        _mend_floats(shard, damage, fetch)
    elif damage.part == "keys":
        _mend_keys(shard, damage)
    elif damage.part == "codes":
        _mend_codes(shard, damage)
    else:
        _mend_tables(shard, damage)


def _remedy(part: Part) -> str:
    if part == "file":
        return "files that Facegrid does not know are left alone"
    if part == "model":
        return "put the model's file back; the catalog and other hosts have it"
    return _REMEDY


def _mend_floats(shard: Inspected, damage: Damage, fetch: Fetch | None) -> None:
    row = _segment(shard, damage.span)
    if row is None or damage.span is None:
        return
    path, row_bytes, span = shard.files(row).floats_path, shard.dim * 4, damage.span
    if row.is_sealed and span.offset >= row.rows * row_bytes:
        shard.files(row).truncate_floats(row.rows)
        return
    if fetch is None:
        raise CorruptData("no other replica was named to fetch its floats from")
    for start, length, crc in list(_blocks(shard, row, span)):
        first, last = start // row_bytes, -(-(start + length) // row_bytes)
        rows = np.ascontiguousarray(fetch(row.first_row + first, row.first_row + last), dtype="<f4")
        if rows.shape != (last - first, shard.dim):
            raise CorruptData(f"expected ({last - first}, {shard.dim}) floats of the other replica, got {rows.shape}")
        data = rows.reshape(-1).view(np.uint8)[start - first * row_bytes :][:length]
        if crc32c_blocks(data, max(length, 1)) != crc:
            raise CorruptData(f"the other replica's bytes at {start} are not what was written either")
        with shard.frozen():
            if _segment(shard, span) is None:
                return
            make_directory(path.parent)
            shard.files(row).write_floats_again(start, data, first, rows)


def _blocks(shard: Inspected, row: SegmentRow, span: Span) -> Iterator[tuple[int, int, bytes]]:
    """(offset, bytes, checksum) of the blocks that make up a span, as the manifest has them."""
    if row.is_sealed:
        size, crc = row.rows * shard.dim * 4, row.floats_crc or b""
        covered = [(0, size, checksum_block(shard.files(row).floats_path, size, crc), crc)]
    else:
        appends = shard.store.appends(row.first_row, row.first_row + row.rows)
        row_bytes = shard.dim * 4
        covered = [((a - row.first_row) * row_bytes, n * row_bytes, CHECKSUM_BLOCK, crc) for a, n, crc in appends]
    for begin, size, block, crc in covered:
        for number, start in enumerate(range(begin, begin + size, block)):
            length = min(block, begin + size - start)
            if start < span.offset + span.size and span.offset < start + length:
                yield start, length, crc[number * 4 : number * 4 + 4]


def _mend_keys(shard: Inspected, damage: Damage) -> None:
    with shard.frozen():
        row = _segment(shard, damage.span)
        if row is None:
            return
        keys, made = sealing.keys_again(shard.store, shard.files(row), row)
        make_directory(shard.files(row).directory)
        # A crash between the two leaves keys that are not what was sealed, which are then made again.
        shard.files(row).write_keys_again(keys)
        with shard.amending() as db:
            put_segment(db, made)


def _mend_codes(shard: Inspected, damage: Damage) -> None:
    row, model = _segment(shard, damage.span), shard.model
    if model is None:
        raise CorruptData("the model cannot be loaded")
    if row is not None:
        make_directory(shard.files(row).directory)
        sealing.encode_segment(shard.store, shard.files(row), row, model)


def _mend_tables(shard: Inspected, damage: Damage) -> None:
    """Keys in `templates`, tables that find rows, or their sums; CorruptData if a record of theirs is not right."""
    first, last = damage.first_row or 0, damage.last_row or 0
    with shard.frozen():
        shard.store.templates_between(first, last)
        with shard.amending() as db:
            if damage.part == "key":
                schema.set_keys_again(db, first, last)
            elif damage.part == "sums":
                schema.sum_again(db)
            else:
                schema.index_rows_again(db, first, last)


def _segment(shard: Inspected, span: Span | None) -> SegmentRow | None:
    """The segment of a span as the manifest has it now; None if it went, and its damage with it."""
    found = [row for row in shard.store.segments() if span is not None and row.segment == span.segment]
    return found[0] if found and not found[0].is_dropped else None
