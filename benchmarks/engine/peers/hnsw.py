"""hnswlib: a graph over floats in memory."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import hnswlib
import numpy as np

from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, blocks, efforts
from shard.types import FloatArray, RowArray

M, EF_CONSTRUCTION = 16, 200
_BLOCK = 2_000  # rows between two looks at the clock


class Hnswlib(Peer):
    """The knob is ef."""

    distribution: ClassVar[str] = "hnswlib"
    how: ClassVar[str] = f"inner product, M {M}, ef_construction {EF_CONSTRUCTION}; the knob is ef"
    is_incremental: ClassVar[bool] = True

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Insert all rows with all cores."""
        n, dim = source.rows.shape
        index = hnswlib.Index(space="ip", dim=dim)
        index.init_index(max_elements=n, M=M, ef_construction=EF_CONSTRUCTION, random_seed=100)
        for block in blocks(n, _BLOCK):
            index.add_items(source.rows[block], np.arange(block.start, block.stop), num_threads=source.threads)
            budget.check(block.stop, n)
        index.save_index(str(folder / "index.hnsw"))
        (folder / "dim").write_text(str(dim))

    def open(self, folder: Path, threads: int) -> None:
        """Read the graph and its floats into memory; it has no other way."""
        self._index = hnswlib.Index(space="ip", dim=int((folder / "dim").read_text()))
        self._index.load_index(str(folder / "index.hnsw"))
        self._index.set_num_threads(threads)

    def curves(self) -> list[Curve]:
        """Rising ef."""
        return [[{"ef": ef} for ef in efforts(self._index.get_current_count())]]

    def use(self, setting: Setting, k: int) -> None:
        """Set ef."""
        self._k = k
        self._index.set_ef(int(setting["ef"]))

    def one(self, probe: FloatArray) -> object:
        """A batch of one."""
        return self._index.knn_query(probe, self._k)[0]

    def many(self, probes: FloatArray) -> object:
        """One call."""
        return self._index.knn_query(probes, self._k)[0]

    def rows(self, answer: object) -> RowArray:
        """Labels are row numbers."""
        assert isinstance(answer, np.ndarray)
        return answer.astype(np.int64)
