"""What a shard host does for the SearchModels of its shards: samples to train on, codes, and the switch.

Requests of `coordinator.training` and `coordinator.rollout`, carried out by `ShardHost`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from coordinator.messages import (
    ActivateModel,
    DiscardModels,
    Done,
    DrawIdentities,
    DrawnReply,
    DrawTemplates,
    ModelsReply,
    ModelsRequest,
    PrepareModel,
    SampleRecent,
    SampleReply,
    SampleRows,
)
from coordinator.replica import Replica
from shard.labelled import draw_identities, templates_of
from shard.shard import Shard
from shard.types import IdentityDraw

if TYPE_CHECKING:
    from coordinator.host import ShardHost


def sample(host: ShardHost, request: SampleRows) -> SampleReply:
    """Rows from each shard in proportion to its templates."""
    with host.readable(request.gallery_id, request.shards) as shards:
        templates = sum(len(shard) for shard in shards)
        share = min(1.0, request.rows / max(1, templates))
        rows = [shard.sample(int(np.ceil(len(shard) * share)), request.seed + i) for i, shard in enumerate(shards)]
    return SampleReply(np.concatenate(rows)[: request.rows], templates)


def sample_recent(host: ShardHost, request: SampleRecent) -> SampleReply:
    """The same number of recent rows from each shard: shards fill evenly."""
    share = -(-request.rows // max(1, len(request.shards)))
    with host.readable(request.gallery_id, request.shards) as shards:
        found = [s.recent(share, request.seed, lsn) for s, lsn in zip(shards, request.since, strict=True)]
    return SampleReply(np.concatenate([rows for rows, _ in found])[: request.rows], sum(n for _, n in found))


def draw_identities_of(host: ShardHost, request: DrawIdentities) -> IdentityDraw:
    """Identities of the asked shards together, by the hash of their names."""
    with host.readable(request.gallery_id, request.shards) as shards:
        return draw_identities(shards, request.count, request.seed)


def draw_templates(host: ShardHost, request: DrawTemplates) -> DrawnReply:
    """Templates of the identities, each of which is in one shard."""
    with host.readable(request.gallery_id, request.shards) as shards:
        found = [templates_of(s, request.identities, request.per_identity, request.seed) for s in shards]
    return DrawnReply(np.concatenate([rows for rows, _ in found]), tuple(i for _, names in found for i in names))


def prepare_model(host: ShardHost, request: PrepareModel) -> Done:
    """Store the model, and the codes it makes of every sealed row."""
    replicas = host.replicas(request.gallery_id, request.shards)
    with host.model_files.storing(request.model, host.keys.of(request.gallery_id)) as model:
        for replica in replicas:
            with replica.using() as shard:
                shard.prepare(model)
    return Done()


def activate_model(host: ShardHost, request: ActivateModel) -> Done:
    """Build what all the shards need, then switch one right after the other, so that searches meet few mixtures."""
    with host.switching, contextlib.ExitStack() as stack:
        shards = [stack.enter_context(r.using()) for r in host.replicas(request.gallery_id, request.shards)]
        wanted = request.model_id
        model = (
            None
            if wanted is None
            else stack.enter_context(host.model_files.using(wanted, host.keys.of(request.gallery_id)))
        )
        late = [shard for shard in shards if (shard.model and shard.model.model_id) != wanted]
        for shard, staged in [(shard, shard.stage(model)) for shard in late]:
            shard.switch(staged)
        for shard in late:
            if model is not None:  # what was sealed between staging and switching
                shard.prepare(model)
    return Done()


def discard_models(host: ShardHost, request: DiscardModels) -> Done:
    """Remove codes that are no longer needed, then models that no shard of this host needs."""
    has_gone = False
    for replica in host.replicas(request.gallery_id, request.shards):
        keep = {*request.keep, _model_id(replica)}
        if not model_ids(replica) <= keep:
            with replica.using() as shard:
                shard.discard(request.keep)
            has_gone = True
    if has_gone or not host.has_swept_models:
        host.remove_unused_models()
    return Done()


def models(host: ShardHost, request: ModelsRequest) -> ModelsReply:
    """The active model of each shard."""
    return ModelsReply(tuple(map(_model_id, host.replicas(request.gallery_id, request.shards))))


def _model_id(replica: Replica) -> str | None:
    """Of the model that the shard is searched by."""
    return replica.lazy.ask(
        lambda rest: rest.stats.model_id, lambda shard: shard.model.model_id if shard.model else None
    )


def model_ids(replica: Replica) -> set[str]:
    """Of the models that the shard needs."""
    return replica.lazy.ask(lambda rest: set(rest.model_ids), Shard.model_ids)
