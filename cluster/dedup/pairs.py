"""The pairs that blocks found: as bytes of a checkpoint, and all of them together in order.

A checkpoint has a header and three columns: rows of the left part, rows of the right part (uint32, from the part's
first row), scores (float32). The same pairs are the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from cluster.dedup.plan import PartPair
from shard.errors import CorruptData
from shard.pairs import Pairs
from shard.types import RowArray

_MAGIC = b"FGPAIRS1"
_HEADER = struct.Struct("<8sQ")
PAIR_BYTES = 12
"""Bytes of a pair in a checkpoint."""
BATCH_PAIRS = 1 << 22
"""Pairs that are sorted at a time, at some 60 bytes each."""


def encode_pairs(pairs: Pairs) -> bytes:
    """Pairs with rows from the first ones of their parts, as a checkpoint; sorted by (left, right) here."""
    pairs = pairs.in_order()
    columns = (pairs.left.astype("<u4"), pairs.right.astype("<u4"), pairs.scores.astype("<f4", copy=False))
    return _HEADER.pack(_MAGIC, len(pairs.left)) + b"".join(column.tobytes() for column in columns)


def decode_pairs(data: bytes, block: PartPair) -> Pairs:
    """Pairs of a block's checkpoint, in global rows, sorted; CorruptData if they cannot be of this block."""
    found = local_pairs(data, block.name, len(block.left), len(block.right))
    return Pairs(found.left + block.left.start, found.right + block.right.start, found.scores)


def local_pairs(data: bytes, name: str, lefts: int, rights: int) -> Pairs:
    """Pairs of a checkpoint as they are in it, of so many rows on each side; CorruptData if they cannot be."""
    count = pairs_in(data, name)
    columns = np.frombuffer(data, dtype="<u4", offset=_HEADER.size).reshape(3, count)
    if count and (columns[0].max() >= lefts or columns[1].max() >= rights):
        raise CorruptData(f"checkpoint {name}: it has rows that its parts do not have")
    scores = columns[2].view("<f4").astype(np.float32, copy=False)
    return Pairs(columns[0].astype(np.int64), columns[1].astype(np.int64), scores)


def pairs_in(data: bytes, name: str) -> int:
    """How many pairs a checkpoint has; CorruptData if it is none."""
    if len(data) < _HEADER.size:
        raise CorruptData(f"checkpoint {name}: expected pairs, got {len(data)} bytes")
    magic, count = _HEADER.unpack_from(data)
    if magic != _MAGIC or len(data) != _HEADER.size + count * PAIR_BYTES:
        raise CorruptData(f"checkpoint {name}: expected {count} pairs, got {len(data)} bytes")
    return int(count)


class FoundPairs:
    """The pairs of all blocks of a job, read from their checkpoints again each time they are asked for."""

    def __init__(self, blocks: Sequence[PartPair], read: Callable[[str], bytes]) -> None:
        """read: the checkpoint of a name."""
        self._lefts: dict[int, list[PartPair]] = {}
        for block in sorted(blocks, key=lambda b: (b.left.number, b.right.number)):
            self._lefts.setdefault(block.left.number, []).append(block)
        self._read = read
        self._count = sum(pairs_in(read(block.name), block.name) for block in blocks)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Pairs]:
        """Batches of pairs which, one after another, are sorted by (left, right); one for each left part."""
        for blocks in self._lefts.values():
            yield joined([decode_pairs(self._read(block.name), block) for block in blocks]).in_order()

    def all(self) -> Pairs:
        """Every pair, sorted by (left, right): 20 bytes each."""
        return gathered(self, self._count)

    def rows(self) -> RowArray:
        """(m,) int64 rows that are in a pair, ascending, each once."""
        found = np.empty(0, np.int64)
        for batch in self:
            found = np.union1d(found, np.concatenate([np.unique(batch.left), np.unique(batch.right)]))
        return found

    def ordered(self, rows: RowArray, rank: RowArray, *, batch_pairs: int = BATCH_PAIRS) -> Iterator[Pairs]:
        """Every pair with the row of lower rank to the left, sorted by the ranks of left and right.

        rows: what `rows` returns. rank: (m,) int64, a permutation of 0..m-1, entry i of rows[i]. Batches are of about
        `batch_pairs`, or as many as one row has to its left. The checkpoints are read once for each batch.
        """
        if not len(rows):
            return
        counts = np.zeros(len(rows), np.int64)
        for batch in self:
            counts += np.bincount(_turned(batch, rows, rank)[0], minlength=len(rows))
        ends = np.cumsum(counts)
        first = 0
        while first < len(rows):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + batch_pairs, side="right")))
            yield from self._between(rows, rank, first, last)
            first = last

    def _between(self, rows: RowArray, rank: RowArray, first: int, last: int) -> Iterator[Pairs]:
        """Those whose lower rank is first <= rank < last, sorted, as one batch or none."""
        found: list[Pairs] = []
        for batch in self:
            low, high = _turned(batch, rows, rank)
            at = np.flatnonzero((low >= first) & (low < last))
            found.append(Pairs(low[at], high[at], batch.scores[at]))
        ranked = joined(found)
        if len(ranked.left):
            ranked = ranked.in_order()
            by_rank = np.empty(len(rows), np.int64)
            by_rank[rank] = rows
            yield Pairs(by_rank[ranked.left], by_rank[ranked.right], ranked.scores)


def gathered(batches: Iterable[Pairs], count: int) -> Pairs:
    """`count` pairs in batches as one; in memory they are once, and the largest batch."""
    left, right = np.empty(count, np.int64), np.empty(count, np.int64)
    scores, done = np.empty(count, np.float32), 0
    for batch in batches:
        end = done + len(batch.left)
        left[done:end], right[done:end], scores[done:end] = batch.left, batch.right, batch.scores
        done = end
    return Pairs(left, right, scores)


def joined(batches: Sequence[Pairs]) -> Pairs:
    """The pairs of all batches, at least one, one after another."""
    return Pairs(
        np.concatenate([batch.left for batch in batches]),
        np.concatenate([batch.right for batch in batches]),
        np.concatenate([batch.scores for batch in batches]),
    )


def _turned(pairs: Pairs, rows: RowArray, rank: RowArray) -> tuple[RowArray, RowArray]:
    """The lower and the higher rank of each pair."""
    left, right = rank[np.searchsorted(rows, pairs.left)], rank[np.searchsorted(rows, pairs.right)]
    return np.minimum(left, right), np.maximum(left, right)
