"""How hard identification is on labelled embeddings: NumPy only, so that it judges generators and not the index.

Owns the two measures that matter for a search engine: how often the right person comes first, and how far down a
ranking by code the true nearest neighbour stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard.types import FloatArray, RowArray

CODE_BITS = 128
MAX_PROBES_OF_ONE = 10
"""Probes taken of one person, so that the few with hundreds of photos do not decide."""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """rank1, rank5: share of probes whose person is first, or among five. hamming_ranks: where exact search's first
    stands in the ranking by 128-bit codes, at 50, 90 and 99 % of the probes, 1 being first. probes: how many."""

    probes: int
    rank1: float
    rank5: float
    hamming_ranks: tuple[float, float, float]


def split_by_photo(identities: RowArray, *, seed: int = 0) -> tuple[RowArray, RowArray]:
    """Rows of a gallery with one photo of each person, and of probes: up to 10 other photos of each who has them."""
    order = np.random.default_rng(seed).permutation(len(identities))
    grouped = order[np.argsort(identities[order], kind="stable")]
    _, starts, people = np.unique(identities[grouped], return_index=True, return_inverse=True)
    place = np.arange(len(grouped)) - starts[people]
    return grouped[place == 0], grouped[(place > 0) & (place <= MAX_PROBES_OF_ONE)]


def identification(
    gallery: FloatArray, gallery_people: RowArray, probes: FloatArray, probe_people: RowArray
) -> Difficulty:
    """Search every mated probe (m, dim) in a gallery (n, dim) with one row a person."""
    mean = gallery.mean(axis=0)
    axes = _code_axes(gallery - mean)
    codes, probe_codes = _signs((gallery - mean) @ axes), _signs((probes - mean) @ axes)
    row_of = {int(person): row for row, person in enumerate(gallery_people)}
    ranks, hamming_ranks = [], []
    for at in range(0, len(probes), 256):
        scores = probes[at : at + 256] @ gallery.T
        each = np.arange(len(scores))
        own = scores[each, [row_of[int(person)] for person in probe_people[at : at + 256]]]
        ranks.append((scores > own[:, None]).sum(axis=1) + 1)
        agreement = probe_codes[at : at + 256] @ codes.T
        nearest = agreement[each, scores.argmax(axis=1)]
        hamming_ranks.append((agreement > nearest[:, None]).sum(axis=1) + 1)
    rank, hamming = np.concatenate(ranks), np.concatenate(hamming_ranks)
    at_50, at_90, at_99 = np.percentile(hamming, (50, 90, 99)).tolist()
    return Difficulty(len(probes), float((rank == 1).mean()), float((rank <= 5).mean()), (at_50, at_90, at_99))


def _code_axes(centred: FloatArray) -> FloatArray:
    """The 128 principal axes, turned at random so that every bit carries alike (as LSH would; ITQ does better)."""
    _, axes = np.linalg.eigh(centred.T @ centred)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((CODE_BITS, CODE_BITS)))
    turned: FloatArray = (axes[:, : -CODE_BITS - 1 : -1] @ turn).astype(np.float32)
    return turned


def _signs(projected: npt.NDArray[np.float32]) -> FloatArray:
    signs: FloatArray = np.where(projected > 0, np.float32(1), np.float32(-1))
    return signs
