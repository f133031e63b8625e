"""Synthetic galleries: a seeded, streaming source of face-like embeddings, calibrated to real ones.

Owns the random streams and which row is whose; the model behind them is `EmbeddingModel`. Every block of rows has a
random stream of its own (Philox, keyed by seed and block), so any row range can be made without the rows before it, and
the same seed gives the same gallery in whatever block size it is read. It knows nothing of shards, codes or searching.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property

import numpy as np

from benchmarks.embedding_model import EmbeddingModel, People
from benchmarks.profiles import EDGEFACE, LFW_LONG_TAIL, MOBILEFACENET, Profile
from shard.errors import InvalidParameter
from shard.types import FloatArray, RowArray

__all__ = ["EDGEFACE", "LFW_LONG_TAIL", "MOBILEFACENET", "Profile", "SyntheticGallery"]

TEMPLATE_BLOCK = 4096
"""Rows that share one random stream; also what one step of generation holds in memory."""
IDENTITY_BLOCK = 16
"""People that share one random stream: small, so that probes of scattered people stay cheap."""
PROBE_BLOCK = 256
"""Probes that share one random stream."""


class _Stream(IntEnum):
    """What a random stream is for; part of its counter, so that no two uses overlap."""

    PERSON = 0
    PHOTO = 1
    PROBE = 2
    OUTSIDER = 3
    OUTSIDER_PHOTO = 4


class SyntheticGallery:
    """Templates of `identities` made-up people, made on demand and never held.

    templates_per_identity: an int, or counts that repeat over the people (`LFW_LONG_TAIL`). Identities are numbered
    from 0 and their rows lie side by side. The same arguments give the same rows, whatever range or block size they are
    read in (bit for bit on one machine and one NumPy; BLAS may differ in the last bit elsewhere).
    """

    def __init__(
        self,
        profile: Profile,
        identities: int,
        templates_per_identity: int | tuple[int, ...] = 1,
        *,
        seed: int = 0,
    ) -> None:
        """Raises InvalidParameter for less than one identity or photo, or a seed outside [0, 2**64)."""
        counts = (templates_per_identity,) if isinstance(templates_per_identity, int) else templates_per_identity
        if identities < 1:
            raise InvalidParameter(f"identities: expected at least 1, got {identities}")
        if not counts or min(counts) < 1:
            raise InvalidParameter("templates_per_identity: expected at least 1 photo for every person")
        _check_seed(seed)
        self.profile = profile
        self.identities = identities
        self.seed = seed
        self._plan = PhotoPlan(counts, identities)

    def __len__(self) -> int:
        return self._plan.rows

    @cached_property
    def _model(self) -> EmbeddingModel:
        return EmbeddingModel(self.profile)

    def rows(self, start: int, stop: int) -> tuple[FloatArray, RowArray]:
        """Rows [start, stop): embeddings (n, dim) float32 of unit norm, identity numbers (n,) int64.

        Raises InvalidParameter unless 0 <= start < stop <= len(self).
        """
        if not 0 <= start < stop <= len(self):
            raise InvalidParameter(f"rows: expected 0 <= start < stop <= {len(self)}, got {start} and {stop}")
        numbers = self._plan.identities_of(np.arange(start, stop, dtype=np.int64))
        embeddings = np.empty((stop - start, self.profile.dim), dtype=np.float32)
        for block in range(start // TEMPLATE_BLOCK, (stop - 1) // TEMPLATE_BLOCK + 1):
            first = block * TEMPLATE_BLOCK
            low, high = max(start, first), min(stop, first + TEMPLATE_BLOCK)
            embeddings[low - start : high - start] = self._template_block(block)[low - first : high - first]
        return embeddings, numbers

    def blocks(
        self, block_rows: int = 16 * TEMPLATE_BLOCK, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[FloatArray, RowArray]]:
        """`rows` from start to stop (default: all), `block_rows` at a time; a multiple of 4096 wastes nothing."""
        if block_rows < 1:
            raise InvalidParameter(f"block_rows: expected at least 1, got {block_rows}")
        end = len(self) if stop is None else stop
        for first in range(start, end, block_rows):
            yield self.rows(first, min(first + block_rows, end))

    def probes(self, n: int, *, seed: int = 0) -> tuple[FloatArray, RowArray]:
        """n mated probes (n, dim), new photos of enrolled people drawn evenly, and their identities (n,) int64."""
        _check_probe_count(n)
        _check_seed(seed)
        embeddings = np.empty((n, self.profile.dim), dtype=np.float32)
        numbers = np.empty(n, dtype=np.int64)
        for first in range(0, n, PROBE_BLOCK):
            rng = self._random(_Stream.PROBE, first // PROBE_BLOCK, seed)
            drawn = rng.integers(0, self.identities, PROBE_BLOCK)
            photos = self._model.photos(rng, self._people(drawn))
            embeddings[first : first + PROBE_BLOCK] = photos[: n - first]
            numbers[first : first + PROBE_BLOCK] = drawn[: n - first]
        return embeddings, numbers

    def non_mated(self, n: int, *, seed: int = 0) -> FloatArray:
        """n non-mated probes (n, dim): one photo each of people who are in no gallery of this seed."""
        _check_probe_count(n)
        _check_seed(seed)
        embeddings = np.empty((n, self.profile.dim), dtype=np.float32)
        for first in range(0, n, PROBE_BLOCK):
            block = first // PROBE_BLOCK
            people = self._model.people(self._random(_Stream.OUTSIDER, block, seed), PROBE_BLOCK)
            photos = self._model.photos(self._random(_Stream.OUTSIDER_PHOTO, block, seed), people)
            embeddings[first : first + PROBE_BLOCK] = photos[: n - first]
        return embeddings

    def _template_block(self, block: int) -> FloatArray:
        # Always whole: the same shapes reach BLAS whatever range was asked for, so the rounding is the same too.
        rows = np.arange(block * TEMPLATE_BLOCK, (block + 1) * TEMPLATE_BLOCK, dtype=np.int64)
        people = self._people(self._plan.identities_of(rows))
        return self._model.photos(self._random(_Stream.PHOTO, block), people)

    def _people(self, numbers: RowArray) -> People:
        order = np.argsort(numbers, kind="stable")
        block_of = numbers[order] // IDENTITY_BLOCK
        parts = []
        for members in np.split(numbers[order], np.flatnonzero(np.diff(block_of)) + 1):
            rng = self._random(_Stream.PERSON, int(members[0]) // IDENTITY_BLOCK)
            parts.append(self._model.people(rng, IDENTITY_BLOCK)[members % IDENTITY_BLOCK])
        return People.joined(parts)[np.argsort(order)]

    def _random(self, stream: _Stream, block: int, sub_seed: int = 0) -> np.random.Generator:
        key = np.array([self.seed, sub_seed], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, block, stream], dtype=np.uint64)))


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise InvalidParameter(f"seed: expected 0 <= seed < 2**64, got {seed}")


def _check_probe_count(n: int) -> None:
    if n < 1:
        raise InvalidParameter(f"n: expected at least 1 probe, got {n}")


class PhotoPlan:
    """Which rows belong to which person: person i has `counts[i % len(counts)]` rows, side by side."""

    def __init__(self, counts: tuple[int, ...], identities: int) -> None:
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.rows = self.rows_before(identities)

    def rows_before(self, identity: int) -> int:
        """Rows of all people numbered below `identity`."""
        cycles, rest = divmod(identity, len(self._ends))
        return cycles * int(self._ends[-1]) + (int(self._ends[rest - 1]) if rest else 0)

    def identities_of(self, rows: RowArray) -> RowArray:
        """The person of each row, (n,) int64 as `rows`."""
        cycles, rest = np.divmod(rows, self._ends[-1])
        return cycles * len(self._ends) + np.searchsorted(self._ends, rest, side="right").astype(np.int64)
