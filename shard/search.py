"""Search over shards of one process: encode once per model, one native call for all shards, then labels of the winners.

Coverage, tenants and other hosts are the coordinator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shard.index import search_indexes
from shard.model import SearchModel
from shard.shard import Shard
from shard.types import CandidateBatch, CodeArray, FloatArray, KeyArray, RowArray, SearchParams
from shard.validate import check_params, check_probes

_Found = tuple[RowArray, RowArray, FloatArray, KeyArray]
_LABEL_ATTEMPTS = 3

EXACT_SHARE_ONE, EXACT_SHARE_MANY = 0.6, 0.06
"""Share of a shard's rows to rerank from which scanning all of its floats is faster: for one probe, and for a batch,
whose probes share what is read. Measured by `benchmarks/exact_or_cascade.py`."""


def search_shards(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> CandidateBatch:
    """The k best templates of all shards together, for each probe.

    probes: (n, dim) float32, unit norm, n <= MAX_PROBES. Each shard keeps as many survivors as its model's calibration
    says for `params.recall`. All floats are scanned instead with `params.exact`, without a model, and where the
    survivors would be so many that reranking them takes longer.
    Raises InvalidEmbedding, InvalidParameter.
    """
    check_params(params)
    if shards:
        check_probes(probes, shards[0].dim)
    for _ in range(_LABEL_ATTEMPTS):
        found = _search_rows(shards, probes, params)
        candidates, is_complete = _labelled(shards, found)
        if is_complete:
            break
    # A template deleted between scan and label leaves a gap; after a few rounds of that a shorter list is the truth.
    return candidates


def _search_rows(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> _Found:
    models = [None if params.exact else shard.model for shard in shards]
    codes, survivors = _plan(shards, models, probes, params)
    try:
        found = search_indexes([s.index for s in shards], probes, codes, survivors, params.k)
    except ValueError:
        # The codes of another model may have another width.
        if not _is_switched(shards, models):
            raise
    else:
        if not _is_switched(shards, models):
            numbers, rows, scores, keys = found
            return numbers.astype(np.int64), rows, scores, keys
    # Codes of one model were compared with those of another; floats are the same under every model.
    return _search_rows(shards, probes, replace(params, exact=True))


def _is_switched(shards: Sequence[Shard], models: Sequence[SearchModel | None]) -> bool:
    return any(model is not None and shard.model is not model for shard, model in zip(shards, models, strict=True))


def _plan(
    shards: Sequence[Shard], models: Sequence[SearchModel | None], probes: FloatArray, params: SearchParams
) -> tuple[list[CodeArray | None], list[tuple[int, int]]]:
    """For each shard, the probes' codes (None to scan its floats) and how many rows survive each stage."""
    codes: list[CodeArray | None] = []
    survivors: list[tuple[int, int]] = []
    encoded: dict[str, CodeArray] = {}
    for shard, model in zip(shards, models, strict=True):
        if model is None:
            codes.append(None)
            survivors.append((0, 0))
            continue
        head, full = model.survivors(shard.index.rows, params.k, params.recall)
        survivors.append((head, full))
        if is_exact_faster(len(probes), full, shard.index.rows):
            codes.append(None)
            continue
        if model.model_id not in encoded:
            encoded[model.model_id] = model.encode(probes)
        codes.append(encoded[model.model_id])
    return codes, survivors


def is_exact_faster(probes: int, survivors: int, rows: int) -> bool:
    """Whether scanning `rows` floats takes less time than reranking `survivors` of them for each probe."""
    return survivors >= rows * max(EXACT_SHARE_ONE / max(1, probes), EXACT_SHARE_MANY)


def _labelled(shards: Sequence[Shard], found: _Found) -> tuple[CandidateBatch, bool]:
    numbers, rows, scores, keys = found
    labels = [shard.labels(np.unique(rows[numbers == i]).tolist()) for i, shard in enumerate(shards)]
    template_ids: list[tuple[str, ...]] = []
    identities: list[tuple[str | None, ...]] = []
    is_complete = True
    for probe in range(len(rows)):
        pairs = zip(numbers[probe].tolist(), rows[probe].tolist(), strict=True)
        named = [labels[number].get(row) if number >= 0 else None for number, row in pairs]
        kept = [i for i, label in enumerate(named) if label is not None]
        if len(kept) < int((numbers[probe] >= 0).sum()):
            is_complete = False
            scores[probe, : len(kept)], scores[probe, len(kept) :] = scores[probe, kept], np.nan
            keys[probe, : len(kept)], keys[probe, len(kept) :] = keys[probe, kept], 0
        template_ids.append(tuple(label[0] for label in named if label is not None))
        identities.append(tuple(label[1] for label in named if label is not None))
    return CandidateBatch(scores, keys, tuple(template_ids), tuple(identities)), is_complete
