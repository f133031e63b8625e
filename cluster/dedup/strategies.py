"""How the pairs of a corpus are found: a strategy for each mode. Whatever it does, it leaves blocks of pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.dedup.blocks import (
    BasisTask,
    JoinTask,
    ProbeTask,
    VerifyTask,
    basis_block,
    check_count,
    join_block,
    probe_block,
    probe_rows,
    sample_of,
    verify_block,
)
from cluster.dedup.corpus import Corpus
from cluster.dedup.pairs import FoundPairs, joined, local_pairs, pairs_in
from cluster.dedup.parameters import DedupParameters
from cluster.dedup.plan import PartPair, part_pairs
from cluster.dedup.tuning import Tuning, thinned, tune
from shard.errors import CorruptData
from shard.pairs import Pairs
from shard.sketch import Basis

if TYPE_CHECKING:
    from cluster.jobs.context import JobContext

BASIS = "basis"
"""Checkpoint of what sketches are made with."""
LISTS, TUNING = "basis-lists", "tuning"
"""Checkpoints of the fast mode: the same with lists, and what was measured of them, which is written last."""
PROVEN = "Every pair was compared, or a bound on its score proves that it is below the threshold."


@dataclass(frozen=True, slots=True)
class Joined:
    """Blocks of pairs, each with its checkpoint, and what can be said of the recall, for the summary."""

    blocks: Sequence[PartPair]
    recall: dict[str, Any]


Strategy = Callable[["JobContext", Corpus, DedupParameters, float], Joined]
"""Gets a job, its corpus, its parameters and a threshold."""


def verify(job: JobContext, corpus: Corpus) -> None:
    """Every object of the snapshots read and compared with its digest; CorruptData names what is damaged."""
    blocks = {f"verify-{part.number:04}": VerifyTask(corpus.spec, part.number) for part in corpus.parts}
    job.map_blocks(verify_block, blocks, phase="verifying")


def found_pairs(
    job: JobContext, corpus: Corpus, values: DedupParameters, threshold: float
) -> tuple[FoundPairs, dict[str, Any]]:
    """The pairs that score the threshold or more, as the mode finds them, and what the summary says of its recall."""
    done = STRATEGIES[values.mode](job, corpus, values, threshold)
    recall = {"mode": values.mode, "target": values.target_recall, **done.recall}
    return FoundPairs(done.blocks, job.checkpoints.read), recall


def join_exact(job: JobContext, corpus: Corpus, values: DedupParameters, threshold: float) -> Joined:
    """Every pair of parts, joined without loss."""
    basis = _basis(job, corpus, threshold, values.max_pairs) if len(corpus) else b""
    return Joined(_join(job, corpus, basis, threshold, values.max_pairs), {"statement": PROVEN})


def join_fast(job: JobContext, corpus: Corpus, values: DedupParameters, threshold: float) -> Joined:
    """Every pair of parts, of rows that are in one list or in lists nearby, by a margin tuned on the corpus."""
    if not len(corpus):
        return join_exact(job, corpus, values, threshold)
    basis = _basis(job, corpus, threshold, values.max_pairs)
    if not job.checkpoints.has(TUNING):
        listed, tuning = _tuned(job, corpus, basis, values.target_recall, threshold)
        job.checkpoints.write(LISTS, listed.to_bytes())
        job.checkpoints.write(TUNING, json.dumps(asdict(tuning)).encode())
        job.log("lists", **asdict(tuning))
    tuning = _tuning(job.checkpoints.read(TUNING))
    blocks = _join(job, corpus, job.checkpoints.read(LISTS), threshold, values.max_pairs)
    return Joined(blocks, {"statement": tuning.statement, **asdict(tuning)})


def _tuned(job: JobContext, corpus: Corpus, basis: bytes, target: float, threshold: float) -> tuple[Basis, Tuning]:
    parts = [part for part in corpus.parts if part.input == corpus.parts[-1].input]
    tasks = {f"probe-{part.number:04}": ProbeTask(corpus.spec, basis, part.number, threshold) for part in parts}
    job.map_blocks(probe_block, tasks, phase="tuning")
    rows = probe_rows(corpus)
    found = []
    for name, part in zip(tasks, parts, strict=True):
        pairs = local_pairs(job.checkpoints.read(name), name, len(rows), len(part))
        found.append(Pairs(rows[pairs.left], pairs.right + part.start, pairs.scores))
    part_rows = max(len(part) for part in corpus.parts)
    known, sample = Basis.from_bytes(basis), sample_of(corpus)
    return tune(known, sample, corpus.floats, thinned(joined(found).in_order()), part_rows, threshold, target)


def _tuning(data: bytes) -> Tuning:
    try:
        return Tuning(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise CorruptData(f"checkpoint {TUNING}: {error}") from None


def _join(job: JobContext, corpus: Corpus, basis: bytes, threshold: float, max_pairs: int) -> list[PartPair]:
    """Every pair of parts, joined with a basis."""
    blocks = list(part_pairs(corpus.parts, is_cross=corpus.is_cross))
    tasks = {
        block.name: JoinTask(corpus.spec, basis, block.left.number, block.right.number, threshold, max_pairs)
        for block in blocks
    }
    there = job.checkpoints.names()
    found = sum(pairs_in(job.checkpoints.read(name), name) for name in tasks if name in there)

    def count(name: str, data: bytes) -> None:
        nonlocal found
        found += pairs_in(data, name)
        check_count(found, max_pairs)

    check_count(found, max_pairs)
    job.map_blocks(join_block, tasks, phase="joining", kept=count)
    return blocks


def _basis(job: JobContext, corpus: Corpus, threshold: float, max_pairs: int) -> bytes:
    if not job.checkpoints.has(BASIS):
        job.map_blocks(basis_block, {BASIS: BasisTask(corpus.spec, threshold, max_pairs)}, phase="sampling")
    return job.checkpoints.read(BASIS)


STRATEGIES: dict[str, Strategy] = {"exact": join_exact, "fast": join_fast}
