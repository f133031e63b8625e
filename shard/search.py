"""Search over shards of one process: one query per model, one native call for all shards, then labels of the winners.

Coverage, tenants and other hosts are the coordinator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shard.calibration import MAX_RECALL
from shard.index import CorruptBlock, corrupt_data, search_indexes
from shard.model import Query, SearchModel
from shard.shard import Shard
from shard.types import CandidateBatch, FloatArray, KeyArray, RowArray, SearchParams
from shard.validate import check_params, check_probes

_Found = tuple[npt.NDArray[np.int32], RowArray, FloatArray, KeyArray]
_LABEL_ATTEMPTS = 3


def search_shards(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> CandidateBatch:
    """The k best templates of all shards together, for each probe.

    probes: (n, dim) float32, unit norm, n <= MAX_PROBES. Each shard looks as far as its model's calibration says for
    `params.recall`, and no further than `params.threshold` demands. All floats are scanned instead with `params.exact`,
    above MAX_RECALL, and without a model.
    Raises InvalidEmbedding, InvalidParameter; CorruptData, which names the file, if floats that were needed are not
    what was sealed.
    """
    check_params(params)
    if shards:
        probes = check_probes(probes, shards[0].dim)
    for _ in range(_LABEL_ATTEMPTS):
        found = _search_rows(shards, probes, params)
        candidates, is_complete = _labelled(shards, found)
        if is_complete:
            break
    # A template deleted between scan and label leaves a gap; after a few rounds of that a shorter list is the truth.
    return candidates


def _search_rows(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> _Found:
    is_exact = params.exact or params.recall > MAX_RECALL
    models = [None if is_exact else shard.model for shard in shards]
    distinct = {model.model_id: model for model in models if model is not None}
    least = -np.inf if params.threshold is None or params.threshold <= -1 else params.threshold
    filters = [shard.filter(params.identities) for shard in shards] if params.identities else None
    cascades = {model_id: _cascade(model.query(probes, params.recall)) for model_id, model in distinct.items()}
    try:
        found = search_indexes(
            [shard.index for shard in shards],
            probes,
            [None if model is None else cascades[model.model_id] for model in models],
            params.k,
            least,
            filters,
        )
    except CorruptBlock as error:
        raise corrupt_data(error) from None
    except ValueError:
        # The codes of another model may have another width.
        if not _is_switched(shards, models):
            raise
    else:
        if not _is_switched(shards, models):
            return found
    # Codes of one model were compared with those of another; floats are the same under every model.
    return _search_rows(shards, probes, replace(params, exact=True))


def _is_switched(shards: Sequence[Shard], models: Sequence[SearchModel | None]) -> bool:
    return any(model is not None and shard.model is not model for shard, model in zip(shards, models, strict=True))


def _cascade(query: Query) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    return query.values, query.lists, query.bounds, query.knee


def _labelled(shards: Sequence[Shard], found: _Found) -> tuple[CandidateBatch, bool]:
    numbers, rows, scores, keys = found
    places = [list(zip(*pair, strict=True)) for pair in zip(numbers.tolist(), rows.tolist(), strict=True)]
    wanted: list[set[int]] = [set() for _ in shards]
    for pairs in places:
        for number, row in pairs:
            if number >= 0:
                wanted[number].add(row)
    labels = [shard.labels(rows) if rows else {} for shard, rows in zip(shards, wanted, strict=True)]
    template_ids: list[tuple[str, ...]] = []
    identities: list[tuple[str | None, ...]] = []
    is_complete = True
    for probe, pairs in enumerate(places):
        named = [labels[number].get(row) if number >= 0 else None for number, row in pairs]
        kept = [i for i, label in enumerate(named) if label is not None]
        if len(kept) < sum(number >= 0 for number, _ in pairs):
            is_complete = False
            scores[probe, : len(kept)], scores[probe, len(kept) :] = scores[probe, kept], np.nan
            keys[probe, : len(kept)], keys[probe, len(kept) :] = keys[probe, kept], 0
        template_ids.append(tuple(label[0] for label in named if label is not None))
        identities.append(tuple(label[1] for label in named if label is not None))
    return CandidateBatch(scores, keys, tuple(template_ids), tuple(identities)), is_complete
