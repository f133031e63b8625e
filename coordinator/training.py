"""When a gallery wants a SearchModel, and on which rows it is trained. Pure decisions and one message exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.messages import SampleRecent, SampleReply, SampleRows, StatsReply, StatsRequest
from coordinator.runtime import Runtime
from coordinator.types import GalleryRoute
from shard.drift import MAX_ROWS, Drift
from shard.training import MAX_SAMPLE, MIN_TRAIN
from shard.types import FloatArray

MIN_DRIFT_ROWS = 300
"""Fewest templates since the training whose drift says anything."""
DRIFT_SHARE = 0.25
"""A gallery's drift is looked at when this share of it has changed: a training because of it costs encoding it all."""
RETRAIN_GROWTH = 8
"""A gallery is trained again when it has grown by this factor, until its model has seen a full sample."""


def is_training_due(templates: int, trained_at: int | None, drift: Drift | None = None) -> bool:
    """Whether to train now: for a first model, for growth, or because recent templates are unlike those trained on.

    trained_at: templates when the active model was trained, None if there is no model.
    """
    if trained_at is None:
        return templates >= MIN_TRAIN
    if templates >= MIN_TRAIN and drift is not None and drift.score >= 1:
        return True
    return bool(trained_at < MAX_SAMPLE and templates >= RETRAIN_GROWTH * trained_at)


def is_drift_due(sizes: GallerySizes, templates: int, lsns: Sequence[int]) -> bool:
    """Whether a gallery has changed so much that its drift is worth a look, which reads MAX_ROWS embeddings.

    templates, lsns: at the last look, or at training. A write may hold many templates, and a gallery may change without
    growing, so either is taken for change.
    """
    changed = max(abs(sizes.templates - templates), sum(sizes.lsns) - sum(lsns))
    return changed >= max(MIN_DRIFT_ROWS, DRIFT_SHARE * templates)


def sample_shares(templates: Sequence[int], rows: int) -> list[int]:
    """How many rows to draw from each host, in proportion to its templates; never more than `rows` together."""
    total = sum(templates)
    if total <= rows:
        return list(templates)
    ends = np.floor(np.cumsum(templates) * (rows / total)).astype(int)
    return [int(share) for share in np.diff(ends, prepend=0)]


@dataclass(frozen=True, slots=True)
class GallerySizes:
    """by_host: host name to its live templates of the gallery. lsns: the LSN of each shard, by number."""

    by_host: dict[str, int]
    lsns: tuple[int, ...]

    @property
    def templates(self) -> int:
        """Live templates of the gallery."""
        return sum(self.by_host.values())


def gallery_sizes(runtime: Runtime, route: GalleryRoute, deadline: float) -> GallerySizes:
    """How large the gallery is, as the primaries of its shards say."""
    by_host = route.shards_by_host()
    futures = {
        host: runtime.submit(host, StatsRequest(route.gallery_id, shards, route.epochs_of(shards)), deadline=deadline)
        for host, shards in by_host.items()
    }
    counts: dict[str, int] = {}
    lsns: dict[int, int] = {}
    for host, future in futures.items():
        reply = future.result()
        assert isinstance(reply, StatsReply)
        counts[host] = sum(stats.templates for stats in reply.stats)
        lsns.update(zip(by_host[host], (stats.lsn for stats in reply.stats), strict=True))
    return GallerySizes(counts, tuple(lsns[shard] for shard in range(route.shards)))


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


def draw_recent(runtime: Runtime, route: GalleryRoute, since: Sequence[int], seed: int) -> FloatArray:
    """Up to about MAX_ROWS live embeddings, (n, dim) float32, of those written after each shard's LSN of `since`."""
    by_host = route.shards_by_host()
    calls = [
        (
            host,
            SampleRecent(
                route.gallery_id,
                shards,
                -(-MAX_ROWS * len(shards) // route.shards),
                seed,
                tuple(since[s] for s in shards),
            ),
        )
        for host, shards in by_host.items()
    ]
    replies = runtime.control(calls)
    return np.concatenate([reply.embeddings for reply in replies if isinstance(reply, SampleReply)])
