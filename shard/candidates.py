"""Candidate lists as values: what is done with them whichever shard or host they are from. Pure."""

from __future__ import annotations

import numpy as np

from shard.types import CandidateBatch


def without_repeats(batch: CandidateBatch, k: int) -> CandidateBatch:
    """The first k of each list, a template id that comes again left out."""
    probes = len(batch.template_ids)
    scores = np.full((probes, k), np.nan, np.float32)
    keys = np.zeros((probes, k), np.uint64)
    template_ids, identities = [], []
    for probe, names in enumerate(batch.template_ids):
        first = list({name: at for at, name in reversed(list(enumerate(names)))}.values())
        kept = sorted(first)[:k]
        scores[probe, : len(kept)] = batch.scores[probe, kept]
        keys[probe, : len(kept)] = batch.keys[probe, kept]
        template_ids.append(tuple([names[at] for at in kept]))
        identities.append(tuple([batch.identities[probe][at] for at in kept]))
    return CandidateBatch(scores, keys, tuple(template_ids), tuple(identities))
