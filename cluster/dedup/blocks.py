"""What a worker process does for a dedup job: verify a part, join two parts. Tasks are plain values.

A worker keeps the corpus open, and the sketches of the parts that it used last, from one task to the next.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cluster.dedup.corpus import Corpus, CorpusSpec, Part
from cluster.dedup.pairs import encode_pairs
from shard.errors import InvalidParameter
from shard.pairs import Basis, Sketch, basis, join_sketches, sketch

CACHE_BYTES = 256 << 20
"""Sketches that a worker keeps."""
SAMPLE_ROWS = 16_384
"""Rows that the basis is made of."""


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """Compare the objects of a part with their digests."""

    corpus: CorpusSpec
    part: int


@dataclass(frozen=True, slots=True)
class JoinTask:
    """Pairs of two parts, by number. basis: as bytes. max_pairs: more of them are an error."""

    corpus: CorpusSpec
    basis: bytes
    left: int
    right: int
    threshold: float
    max_pairs: int


def verify_block(task: VerifyTask) -> bytes:
    """JSON of the bytes that were read; CorruptData names a damaged object."""
    corpus = _corpus(task.corpus)
    return json.dumps({"bytes": corpus.verify(corpus.parts[task.part])}).encode()


def join_block(task: JoinTask) -> bytes:
    """All pairs of the task, as `cluster.dedup.pairs.encode_pairs` has them. TooManyPairs, CorruptData."""
    corpus = _corpus(task.corpus)
    left = _SKETCHES.get(task, corpus.parts[task.left])
    right = None if task.left == task.right else _SKETCHES.get(task, corpus.parts[task.right])
    found = join_sketches(left, right, task.threshold, threads=1)
    check_count(len(found.left), task.max_pairs)
    return encode_pairs(found)


def check_count(found: int, max_pairs: int) -> None:
    """InvalidParameter, which says what to do, if there are more pairs than asked for."""
    if found > max_pairs:
        raise InvalidParameter(
            f"max_pairs: expected at most {max_pairs:,} pairs, found {found:,} or more: the threshold is among the"
            " scores of strangers. Raise it (an analysis of a smaller gallery shows where), or raise max_pairs"
        )


def basis_of(corpus: Corpus) -> bytes:
    """What all sketches of a corpus are made with: of SAMPLE_ROWS rows, evenly spread, the same each time."""
    count = min(SAMPLE_ROWS, len(corpus))
    rows = np.arange(count, dtype=np.int64) * len(corpus) // max(count, 1)
    return basis(corpus.floats(rows)).to_bytes()


class _SketchCache:
    """Sketches of the parts of one corpus with one basis, those used last."""

    def __init__(self) -> None:
        self._of: tuple[CorpusSpec, bytes] | None = None
        self._kept: OrderedDict[int, Sketch] = OrderedDict()

    def get(self, task: JoinTask, part: Part) -> Sketch:
        """The part's sketch, made if it is not there."""
        if self._of != (task.corpus, task.basis):
            self._kept.clear()
            self._of = task.corpus, task.basis
        if part.number not in self._kept:
            self._kept[part.number] = sketch(_basis(task.basis), _corpus(task.corpus).part_floats(part))
        self._kept.move_to_end(part.number)
        # The two that are being joined stay, whatever their size.
        while len(self._kept) > 2 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return self._kept[part.number]


_SKETCHES = _SketchCache()


@lru_cache(maxsize=1)
def _corpus(spec: CorpusSpec) -> Corpus:
    return Corpus(spec)


@lru_cache(maxsize=1)
def _basis(data: bytes) -> Basis:
    return Basis.from_bytes(data)
