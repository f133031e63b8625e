"""Which shard a template belongs to, and which host a new shard goes to. Pure: the same answer everywhere, for ever.

Rendezvous hashing (Thaler & Ravishankar 1998): each shard draws a weight from the key and the highest wins, so that
all templates of an identity share a shard and no table of keys is needed. The functions here are part of the storage
format: changing them loses templates, so a golden test holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shard.keys import template_keys

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shards_of(identities: Sequence[str | None], template_ids: Sequence[str], shards: int) -> npt.NDArray[np.int64]:
    """(n,) int64 shard numbers: by identity, or by template id where there is none."""
    labels = [
        f"t:{template_id}" if identity is None else f"i:{identity}"
        for identity, template_id in zip(identities, template_ids, strict=True)
    ]
    return rendezvous(labels, [f"shard:{i}" for i in range(shards)])


def rendezvous(labels: Sequence[str], places: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n,) int64: for each label the number of the place with the highest weight; ties go to the lower number."""
    keys = template_keys(labels)
    seeds = template_keys(places)
    weights = np.stack([_mix(keys ^ _mix(np.full(1, seed))) for seed in seeds])
    winners: npt.NDArray[np.int64] = np.argmax(weights, axis=0)
    return winners


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(31))
        return mixed


def place_shards(gallery_id: str, shards: int, load: Mapping[str, int]) -> tuple[str, ...]:
    """A host for each shard of a new gallery: the least loaded, ties by rendezvous so that galleries spread out.

    load: host name to the number of shards it holds now; at least one host.
    """
    held = dict(load)
    placed = []
    for shard in range(shards):
        least = min(held.values())
        candidates = sorted(host for host, count in held.items() if count == least)
        host = candidates[int(rendezvous([f"{gallery_id}:{shard}"], candidates)[0])]
        held[host] += 1
        placed.append(host)
    return tuple(placed)
