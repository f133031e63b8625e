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
from shard.errors import InvalidParameter, StoreUnavailable, UnknownSnapshot
from shard.pairs import join_sketches
from shard.sketch import Basis, Sketch, make_basis, sketch
from shard.types import FloatArray, RowArray

CACHE_BYTES = 256 << 20
"""Sketches that a worker keeps."""
SAMPLE_ROWS = 16_384
"""Rows that the basis is made of."""
PROBE_ROWS = 4_096
"""Rows by whose pairs the fast mode is tuned and measured."""
LIKELY_ROWS, LIKELY_HITS = 8_192, 2_000
"""Rows of the sample that says how many pairs there may be, and pairs in it from which on it is believed."""


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """Compare the objects of a part with their digests."""

    corpus: CorpusSpec
    part: int


@dataclass(frozen=True, slots=True)
class BasisTask:
    """What all sketches of a corpus are made with, for joins at a threshold. max_pairs: see `check_likely`."""

    corpus: CorpusSpec
    threshold: float
    max_pairs: int


@dataclass(frozen=True, slots=True)
class JoinTask:
    """Pairs of two parts, by number. basis: as bytes. max_pairs: more of them are an error."""

    corpus: CorpusSpec
    basis: bytes
    left: int
    right: int
    threshold: float
    max_pairs: int


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """Pairs of the probes with a part, by number. basis: as bytes, without lists."""

    corpus: CorpusSpec
    basis: bytes
    part: int
    threshold: float


def verify_block(task: VerifyTask) -> bytes:
    """JSON of the bytes that were read; CorruptData names a damaged object."""
    corpus = _corpus(task.corpus)
    return json.dumps({"bytes": corpus.verify(corpus.parts[task.part])}).encode()


def basis_block(task: BasisTask) -> bytes:
    """The basis, unless there would be far too many pairs."""
    corpus = _corpus(task.corpus)
    check_likely(corpus, task.threshold, task.max_pairs)
    return basis_of(corpus, task.threshold)


def join_block(task: JoinTask) -> bytes:
    """All pairs of the task, as `cluster.dedup.pairs.encode_pairs` has them. InvalidParameter for too many,
    CorruptData."""
    corpus = _corpus(task.corpus)
    left = _SKETCHES.get(task.corpus, task.basis, corpus.parts[task.left])
    right = None if task.left == task.right else _SKETCHES.get(task.corpus, task.basis, corpus.parts[task.right])
    found = join_sketches(left, right, task.threshold)
    check_count(len(found.left), task.max_pairs)
    return encode_pairs(found)


def probe_block(task: ProbeTask) -> bytes:
    """All pairs of a probe, by its number, and another row of the part, as `join_block` gives them."""
    corpus = _corpus(task.corpus)
    part, rows = corpus.parts[task.part], probe_rows(corpus)
    probes = sketch(_basis(task.basis), [corpus.floats(rows)])
    found = join_sketches(probes, _SKETCHES.get(task.corpus, task.basis, part), task.threshold)
    return encode_pairs(found.take(np.flatnonzero(rows[found.left] != found.right + part.start)))


def probe_rows(corpus: Corpus) -> RowArray:
    """(m,) int64: at most PROBE_ROWS rows of the first input, evenly spread between those of the sample."""
    rows = corpus.bounds[1]
    count = min(PROBE_ROWS, rows)
    between: RowArray = (2 * np.arange(count, dtype=np.int64) + 1) * rows // (2 * max(count, 1))
    return between


def check_count(found: int, max_pairs: int) -> None:
    """InvalidParameter, which says what to do, if there are more pairs than asked for."""
    if found > max_pairs:
        raise InvalidParameter(
            f"max_pairs: expected at most {max_pairs:,} pairs, found some {found:,} or more: the threshold is among the"
            " scores of strangers. Raise it (an analysis of a smaller gallery shows where), or raise max_pairs"
        )


def sample_of(corpus: Corpus, count: int = SAMPLE_ROWS) -> FloatArray:
    """(m, dim) float32: rows evenly spread over a corpus that has some, at most `count`; the same each time."""
    count = min(count, len(corpus))
    return corpus.floats(np.arange(count, dtype=np.int64) * len(corpus) // count)


def basis_of(corpus: Corpus, threshold: float) -> bytes:
    """What all sketches of a corpus are made with, for joins at a threshold."""
    return make_basis(sample_of(corpus), threshold).to_bytes()


def check_likely(corpus: Corpus, threshold: float, max_pairs: int) -> None:
    """As `check_count`, before anything is joined, where a sample says beyond doubt that there are far more pairs.

    One block of them could be more than memory holds.
    """
    sample = sample_of(corpus, LIKELY_ROWS)
    hits = -len(sample)  # a row with itself
    for start in range(0, len(sample), 1_024):
        hits += int(np.count_nonzero(sample[start : start + 1_024] @ sample.T >= threshold))
    sizes = [manifest.templates for manifest in corpus.manifests]
    compared = sizes[0] * sizes[1] if corpus.is_cross else sizes[0] ** 2 / 2
    likely = hits / len(sample) ** 2 * compared
    if hits > LIKELY_HITS and likely > 4 * max_pairs:
        check_count(int(likely), max_pairs)


class _SketchCache:
    """Sketches of the parts of one corpus with one basis, those used last."""

    def __init__(self) -> None:
        self._of: tuple[CorpusSpec, bytes] | None = None
        self._kept: OrderedDict[int, Sketch] = OrderedDict()

    def get(self, spec: CorpusSpec, basis: bytes, part: Part) -> Sketch:
        """The part's sketch, made if it is not there."""
        if self._of != (spec, basis):
            self._kept.clear()
            self._of = spec, basis
        if part.number not in self._kept:
            self._kept[part.number] = sketch(_basis(basis), _corpus(spec).part_floats(part))
        self._kept.move_to_end(part.number)
        # The two that are being joined stay, whatever their size.
        while len(self._kept) > 2 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return self._kept[part.number]


_SKETCHES = _SketchCache()


@lru_cache(maxsize=1)
def _corpus(spec: CorpusSpec) -> Corpus:
    try:
        return Corpus(spec)
    except UnknownSnapshot as error:
        # Who runs the job has read it, so this is another machine's directory of that name.
        if all("://" in source.store for source in spec.inputs):
            raise
        raise StoreUnavailable(
            f"{error} on a machine that runs blocks of the job: a directory has to be the same on all of them; mount"
            " it there, or name a store such as s3://bucket/prefix"
        ) from None


@lru_cache(maxsize=1)
def _basis(data: bytes) -> Basis:
    return Basis.from_bytes(data)
