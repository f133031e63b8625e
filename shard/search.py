"""Search over shards of one process: one query by one model, one native call for all, then labels of the winners.

Coverage, tenants and other hosts are the coordinator's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shard.calibration import MAX_RECALL
from shard.candidates import without_repeats
from shard.gauges import SEARCH_TIMES
from shard.index import Index, blocks_named, search_indexes
from shard.model import Query, SearchModel
from shard.shard import Shard
from shard.types import CandidateBatch, FloatArray, KeyArray, RowArray, SearchParams
from shard.validate import check_params, check_probes

_Found = tuple[npt.NDArray[np.int32], RowArray, FloatArray, KeyArray]
_LABEL_ATTEMPTS = 3


def search_shards(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> CandidateBatch:
    """The k best templates of all shards together, for each probe; see `search_by_model`."""
    return search_by_model(shards, probes, params)[0]


def search_by_model(
    shards: Sequence[Shard], probes: FloatArray, params: SearchParams
) -> tuple[CandidateBatch, str | None]:
    """The k best templates of all shards together, for each probe, and the id of the one model that found them.

    probes: (n, dim) float32, unit norm, n <= MAX_PROBES. Each shard looks as far as the model's calibration says for
    `params.recall`, and no further than `params.threshold` demands. All floats are scanned instead with `params.exact`,
    above MAX_RECALL, and without a model; the id is None if that was so for every shard. Shards that differ in their
    model, as they do for moments of a rollout, are searched by the model that most rows are encoded with, and those of
    another one by their floats.
    Raises InvalidEmbedding, InvalidParameter; CorruptData, which names the file, if floats that were needed are not
    what was sealed.
    """
    check_params(params)
    if shards:
        probes = check_probes(probes, shards[0].dim)
    candidates, model_id = _search(shards, probes, params)
    if len(shards) > 1 and _is_repeating(candidates):
        # On its way from one shard to another, a template is in both: so twice as many hold all that are wanted.
        candidates, model_id = _search(shards, probes, replace(params, k=2 * params.k))
        candidates = without_repeats(candidates, params.k)
    return candidates, model_id


def _search(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> tuple[CandidateBatch, str | None]:
    for attempt in range(_LABEL_ATTEMPTS):
        is_filtered = bool(params.identities or params.where)
        with _frozen(shards if is_filtered and attempt + 1 == _LABEL_ATTEMPTS else ()):
            moves = [shard.moves for shard in shards]
            began = time.perf_counter()
            found, model_id, projected = _search_rows(shards, probes, params)
            searched = time.perf_counter()
            candidates, is_complete = _labelled(shards, found)
            SEARCH_TIMES.add(projected - began, searched - projected, time.perf_counter() - searched)
            # A filter names rows: a template whose row changed between the two was passed over.
            is_settled = not is_filtered or all(
                before % 2 == 0 and shard.moves == before for shard, before in zip(shards, moves, strict=True)
            )
        if is_complete and is_settled:
            break
    # A template deleted between scan and label leaves a gap; after a few rounds of that a shorter list is the truth.
    return candidates, model_id


def _is_repeating(candidates: CandidateBatch) -> bool:
    return any(len(set(names)) < len(names) for names in candidates.template_ids)


@contextlib.contextmanager
def _frozen(shards: Sequence[Shard]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for shard in shards:
            stack.enter_context(shard.frozen())
        yield


def _search_rows(shards: Sequence[Shard], probes: FloatArray, params: SearchParams) -> tuple[_Found, str | None, float]:
    """The rows, the model, and the time.perf_counter() value at which the index was called."""
    views = [shard.view() for shard in shards]
    model = None if params.exact or params.recall > MAX_RECALL else _model_of_most(views)
    cascade = None if model is None else _cascade(model.query(probes, params.recall))
    model_id = None if model is None else model.model_id
    projected = time.perf_counter()
    with blocks_named():
        found = search_indexes(
            [index for index, _ in views],
            probes,
            [cascade if own is not None and own.model_id == model_id else None for _, own in views],
            params.k,
            -np.inf if params.threshold is None or params.threshold <= -1 else params.threshold,
            [shard.filter(params.identities, params.where) for shard in shards]
            if params.identities or params.where
            else None,
        )
    return found, model_id, projected


def _model_of_most(views: Sequence[tuple[Index, SearchModel | None]]) -> SearchModel | None:
    """The model of most rows, since the rows of every other are scanned as floats; None without any."""
    rows: dict[str, int] = {}
    models: dict[str, SearchModel] = {}
    for index, model in views:
        if model is not None:
            models[model.model_id] = model
            rows[model.model_id] = rows.get(model.model_id, 0) + index.live_rows
    return models[max(rows, key=lambda model_id: (rows[model_id], model_id))] if rows else None


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
