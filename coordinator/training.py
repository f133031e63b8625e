"""When a gallery wants a SearchModel, and on which rows it is trained. Pure decisions and one message exchange."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coordinator.messages import SampleReply, SampleRows, StatsReply, StatsRequest
from coordinator.runtime import Runtime
from coordinator.types import GalleryRoute
from shard.training import MAX_SAMPLE, MIN_TRAIN
from shard.types import FloatArray

RETRAIN_GROWTH = 8
"""A gallery is trained again when it has grown by this factor, until its model has seen a full sample."""


def is_training_due(templates: int, trained_at: int | None) -> bool:
    """Whether to train now. trained_at: templates when the active model was trained, None if there is no model."""
    if trained_at is None:
        return templates >= MIN_TRAIN
    return bool(trained_at < MAX_SAMPLE and templates >= RETRAIN_GROWTH * trained_at)


def sample_shares(templates: Sequence[int], rows: int) -> list[int]:
    """How many rows to draw from each host, in proportion to its templates; never more than `rows` together."""
    total = sum(templates)
    if total <= rows:
        return list(templates)
    ends = np.floor(np.cumsum(templates) * (rows / total)).astype(int)
    return [int(share) for share in np.diff(ends, prepend=0)]


def count_templates(runtime: Runtime, route: GalleryRoute, deadline: float) -> dict[str, int]:
    """Host name to its live templates of the gallery."""
    by_host = route.shards_by_host()
    futures = {
        host: runtime.submit(host, StatsRequest(route.gallery_id, shards, route.epochs_of(shards)), deadline=deadline)
        for host, shards in by_host.items()
    }
    counts: dict[str, int] = {}
    for host, future in futures.items():
        reply = future.result()
        assert isinstance(reply, StatsReply)
        counts[host] = sum(stats.templates for stats in reply.stats)
    return counts


def draw_sample(runtime: Runtime, route: GalleryRoute, counts: dict[str, int], seed: int) -> FloatArray:
    """Up to MAX_SAMPLE live embeddings, (n, dim) float32, drawn from all shards in proportion."""
    shards = route.shards_by_host()
    shares = sample_shares(list(counts.values()), MAX_SAMPLE)
    calls = [
        (host, SampleRows(route.gallery_id, shards[host], share, seed))
        for host, share in zip(counts, shares, strict=True)
        if share
    ]
    replies = runtime.control(calls)
    return np.concatenate([reply.embeddings for reply in replies if isinstance(reply, SampleReply)])
