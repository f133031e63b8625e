"""Drawing identities of a shard at random, and templates of them, for measuring error rates.

An identity is drawn by a hash of its name: those with the lowest are the sample, so that it is uniform over identities,
whatever the number of their templates, and the same however a gallery is cut into shards.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

import numpy as np

from shard.shard import Shard
from shard.types import FloatArray, IdentityCount, IdentityDraw

_PAGE = 10_000
_LABELS_AT_ONCE = 500
"""Identities whose rows are looked up by one statement."""


def draw_rank(name: str, seed: int) -> tuple[int, str]:
    """Where a name comes in the draw: by a 64-bit hash keyed with the seed, then by itself."""
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest(), "little"), name


def first_drawn(found: Iterable[IdentityCount], count: int, seed: int) -> tuple[IdentityCount, ...]:
    """The `count` identities that come first in the draw, at most all, in its order. Each is given once."""
    return tuple(heapq.nsmallest(count, found, key=lambda entry: draw_rank(entry.identity, seed)))


class _First:
    """The first `count` of what comes page by page."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[tuple[int, str], IdentityCount]] = []

    def take(self, ranked: list[tuple[tuple[int, str], IdentityCount]]) -> None:
        """Keep those of these, and of the ones before, that come first."""
        if len(self._kept) == self._count:
            last = self._kept[-1][0]
            ranked = [entry for entry in ranked if entry[0] < last]
        self._kept = sorted([*self._kept, *ranked], key=itemgetter(0))[: self._count]

    def found(self) -> tuple[IdentityCount, ...]:
        """What is kept, in the order of the draw."""
        return tuple(entry for _, entry in self._kept)


def draw_identities(shards: Sequence[Shard], count: int, seed: int) -> IdentityDraw:
    """Up to `count` identities of all and of those with a pair, in the order of the draw.

    Reads the name of every identity, page by page: some 10 s for a million.
    """
    lone, paired = _First(count), _First(count)
    identities = templates = 0
    for shard in shards:
        for page in _pages(shard):
            identities += len(page)
            templates += sum(entry.templates for entry in page)
            ranked = [(draw_rank(entry.identity, seed), entry) for entry in page]
            lone.take(ranked)
            paired.take([entry for entry in ranked if entry[1].templates > 1])
    return IdentityDraw(lone.found(), paired.found(), identities, templates)


def _pages(shard: Shard) -> Iterator[list[IdentityCount]]:
    start = ""
    while page := shard.identities(start, _PAGE):
        yield page
        start = page[-1].identity + "\0"  # the next text in byte order


def templates_of(
    shard: Shard, identities: Sequence[str], per_identity: int, seed: int
) -> tuple[FloatArray, tuple[str, ...]]:
    """Up to so many templates of each identity that is here, those that come first in the draw by template id.

    Returns embeddings (n, dim) float32 and their identities, in no order. Raises CorruptData for a damaged row.
    """
    chosen: list[tuple[int, str]] = []
    for first in range(0, len(identities), _LABELS_AT_ONCE):
        rows = shard.store.rows_of(identities[first : first + _LABELS_AT_ONCE])
        # Rows that were committed this moment may not be in the index yet.
        labels = shard.labels(rows[rows < shard.index.rows].tolist())
        of: dict[str, list[tuple[tuple[int, str], int]]] = {}
        for row, (template_id, identity) in labels.items():
            if identity is not None:
                of.setdefault(identity, []).append((draw_rank(template_id, seed), row))
        chosen += [(row, name) for name, found in of.items() for _, row in heapq.nsmallest(per_identity, found)]
    return shard.gather(np.array([row for row, _ in chosen], np.int64)), tuple(name for _, name in chosen)
