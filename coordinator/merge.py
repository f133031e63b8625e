"""Answers of several hosts into one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shard.candidates import without_repeats
from shard.types import CandidateBatch


def empty(probes: int, k: int) -> CandidateBatch:
    """No candidates for any probe."""
    return CandidateBatch(
        np.full((probes, k), np.nan, np.float32), np.zeros((probes, k), np.uint64), ((),) * probes, ((),) * probes
    )


def merge(batches: Sequence[CandidateBatch], k: int) -> CandidateBatch:
    """The k best of all lists for each probe, by (score descending, key ascending). At least one batch.

    A template that is in two of them, on its way from one shard to another, is taken once.
    """
    if len(batches) == 1:
        return batches[0]
    if _may_repeat(batches):
        return without_repeats(_merged(batches, sum(batch.scores.shape[1] for batch in batches)), k)
    return _merged(batches, k)


def _may_repeat(batches: Sequence[CandidateBatch]) -> bool:
    """Whether a key is in a probe's lists twice; each list has it once."""
    keys = np.sort(np.concatenate([batch.keys for batch in batches], axis=1), axis=1)
    return bool(((keys[:, 1:] == keys[:, :-1]) & (keys[:, 1:] != 0)).any())


def _merged(batches: Sequence[CandidateBatch], k: int) -> CandidateBatch:
    scores = np.concatenate([batch.scores for batch in batches], axis=1)
    keys = np.concatenate([batch.keys for batch in batches], axis=1)
    # NaN, the padding, sorts last.
    order = np.lexsort((keys, -scores), axis=1)[:, :k]
    starts = np.cumsum([0, *(batch.scores.shape[1] for batch in batches)])
    source = np.searchsorted(starts, order, side="right") - 1
    position = order - starts[source]
    merged_scores = np.take_along_axis(scores, order, axis=1)
    picks = [
        [(s, p) for s, p, score in zip(ss, ps, row, strict=True) if score == score]  # NaN is padding
        for ss, ps, row in zip(source.tolist(), position.tolist(), merged_scores.tolist(), strict=True)
    ]
    return CandidateBatch(
        merged_scores,
        np.take_along_axis(keys, order, axis=1),
        tuple(tuple(batches[s].template_ids[i][p] for s, p in row) for i, row in enumerate(picks)),
        tuple(tuple(batches[s].identities[i][p] for s, p in row) for i, row in enumerate(picks)),
    )


def bounded(batch: CandidateBatch) -> CandidateBatch:
    """Scores cut to [-1, 1], which rounding may have carried them past; only after every merge, see CandidateBatch."""
    return replace(batch, scores=np.clip(batch.scores, np.float32(-1), np.float32(1)))


def stack(batches: Sequence[CandidateBatch]) -> CandidateBatch:
    """Batches of different probes, one after another."""
    if len(batches) == 1:
        return batches[0]
    return CandidateBatch(
        np.concatenate([batch.scores for batch in batches]),
        np.concatenate([batch.keys for batch in batches]),
        tuple(ids for batch in batches for ids in batch.template_ids),
        tuple(names for batch in batches for names in batch.identities),
    )


def odd_ones_out(model_ids: Sequence[str | None]) -> list[int]:
    """Which replies of one search must be asked for again with exact scans, so that one model is behind the answer.

    model_ids: what each reply says found it, None for exact scans, which go with any model. Most replies decide, the
    larger id among equals. Empty when there is nothing to repeat, as it is outside of rollouts.
    """
    counts = Counter(model_id for model_id in model_ids if model_id is not None)
    if len(counts) < 2:
        return []
    chosen = max(counts, key=lambda model_id: (counts[model_id], model_id))
    return [i for i, model_id in enumerate(model_ids) if model_id not in (None, chosen)]
