"""FaceFlash: 512 bits by PCA and ITQ, a scan by popcount, the best candidates reranked on mapped floats."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from faceflash.index import FaceIndex

from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, blocks, efforts, padded
from shard.types import FloatArray, RowArray

_BLOCK = (
    262_144  # add_batch copies all earlier rows, so few calls; one call for all would need four copies of the floats
)


class FaceFlash(Peer):
    """`FaceIndex` as its own benchmark uses it: full scan, no clusters. The knob is `n_candidates`."""

    distribution: ClassVar[str] = "faceflash"
    how: ClassVar[str] = "FaceIndex(512 bits), full scan; the knob is `n_candidates` (default max(100, 10 k))"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Add in blocks, which fits the quantizer on the first 5,000 rows, and save."""
        index = FaceIndex(dim=source.rows.shape[1])
        for block in blocks(len(source.rows), _BLOCK):
            labels = [f"person-{i}" for i in source.identities[block].tolist()]
            index.add_batch(np.ascontiguousarray(source.rows[block]), labels)
        index.save(str(folder))

    def open(self, folder: Path, threads: int) -> None:
        """Codes and labels in memory, floats mapped: what its `load` does. Threads come from the environment."""
        self._index = FaceIndex()
        self._index.load(str(folder))
        self._threads = threads

    def fixed(self) -> dict[str, Setting]:
        """Its default."""
        return {"default": {}}

    def curves(self) -> list[Curve]:
        """Rising shortlists."""
        return [[{"candidates": c} for c in efforts(len(self._index), 30_000)]]

    def use(self, setting: Setting, k: int) -> None:
        """`n_candidates`, None for the default."""
        self._k = k
        self._candidates = int(setting["candidates"]) if setting else None

    def one(self, probe: FloatArray) -> object:
        """`search`."""
        return [self._index.search(probe, self._k, n_candidates=self._candidates)]

    def many(self, probes: FloatArray) -> object:
        """`search_batch`, its path for throughput."""
        return self._index.search_batch(probes, self._k, n_candidates=self._candidates, parallel=self._threads > 1)

    def rows(self, answer: object) -> RowArray:
        """The third of each triple."""
        assert isinstance(answer, list)
        return padded([[row for _, _, row in found] for found in answer], self._k)
