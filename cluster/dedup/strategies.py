"""How the pairs of a corpus are found: a strategy for each mode. Whatever it does, it leaves blocks of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.dedup.blocks import JoinTask, VerifyTask, basis_of, check_count, join_block, verify_block
from cluster.dedup.corpus import Corpus
from cluster.dedup.pairs import FoundPairs, pairs_in
from cluster.dedup.parameters import DedupParameters
from cluster.dedup.plan import PartPair, part_pairs
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.jobs.context import JobContext

BASIS = "basis"
"""Checkpoint of what sketches are made with."""

Strategy = Callable[["JobContext", Corpus, float, int], Sequence[PartPair]]
"""Gets a job, its corpus, a threshold and a limit of pairs; every block that it returns has its checkpoint then."""


def verify(job: JobContext, corpus: Corpus) -> None:
    """Every object of the snapshots read and compared with its digest; CorruptData names what is damaged."""
    blocks = {f"verify-{part.number:04}": VerifyTask(corpus.spec, part.number) for part in corpus.parts}
    job.map_blocks(verify_block, blocks, phase="verifying")


def found_pairs(job: JobContext, corpus: Corpus, values: DedupParameters, threshold: float) -> FoundPairs:
    """All pairs that score the threshold or more, as the mode finds them."""
    blocks = strategy_of(values)(job, corpus, threshold, values.max_pairs)
    return FoundPairs(blocks, job.checkpoints.read)


def strategy_of(values: DedupParameters) -> Strategy:
    """The mode's; InvalidParameter for one that this version does not have."""
    found = STRATEGIES.get(values.mode)
    if found is None:
        raise InvalidParameter(f"mode: expected one of {', '.join(STRATEGIES)}, got {values.mode!r}")
    return found


def join_exact(job: JobContext, corpus: Corpus, threshold: float, max_pairs: int) -> list[PartPair]:
    """Every pair of parts, joined without loss."""
    blocks = list(part_pairs(corpus.parts, is_cross=corpus.is_cross))
    basis = _basis(job, corpus) if blocks else b""
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


def _basis(job: JobContext, corpus: Corpus) -> bytes:
    if not job.checkpoints.has(BASIS):
        job.progress(0, 1, "blocks", "sampling")
        job.checkpoints.write(BASIS, basis_of(corpus))
    return job.checkpoints.read(BASIS)


STRATEGIES: dict[str, Strategy] = {"exact": join_exact}
