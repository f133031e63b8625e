"""ScaNN: a tree of partitions, anisotropic 4-bit codes scored by table look-up, a reordering on floats in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
from scann.scann_ops.py import scann_ops_pybind

from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, doublings, padded
from shard.types import FloatArray, RowArray

_TREE_FROM = 20_000  # rows; below, its authors advise to score all
_TRAIN_ROWS = 250_000
_REORDERED = (30, 100, 300, 1_000)


class Scann(Peer):
    """The knobs are leaves_to_search and pre_reorder_num_neighbors."""

    distribution: ClassVar[str] = "scann"
    how: ClassVar[str] = "tree of 2 sqrt(n) leaves, AH 2 dims/block, threshold 0.2, reorder on floats; leaves x reorder"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """As its authors' guide has it for this size."""
        n = len(source.rows)
        leaves = int(2 * math.sqrt(n)) if n >= _TREE_FROM else 0
        builder = scann_ops_pybind.builder(np.ascontiguousarray(source.rows), 10, "dot_product")
        builder = builder.set_n_training_threads(source.threads)
        if leaves:
            builder = builder.tree(leaves, max(1, leaves // 20), training_sample_size=_TRAIN_ROWS)
        searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
        searcher.serialize(str(folder))
        (folder / "leaves").write_text(str(leaves))

    def open(self, folder: Path, threads: int) -> None:
        """Read all into memory."""
        self._leaves = int((folder / "leaves").read_text())
        self._searcher = scann_ops_pybind.load_searcher(str(folder))
        self._searcher.set_num_threads(threads)
        self._is_parallel = threads > 1

    def curves(self) -> list[Curve]:
        """Rising leaves, for each of a few reorderings; without a tree, rising reorderings."""
        if not self._leaves:
            return [[{"reorder": r, "leaves": -1} for r in doublings(10, 4_000)]]
        leaves = doublings(1, self._leaves)
        return [[{"reorder": r, "leaves": count} for count in leaves] for r in _REORDERED]

    def use(self, setting: Setting, k: int) -> None:
        """Keep both for the calls."""
        self._k, self._reorder, self._search_leaves = k, max(k, int(setting["reorder"])), int(setting["leaves"])

    def one(self, probe: FloatArray) -> object:
        """`search`."""
        rows, _ = self._searcher.search(probe, self._k, self._reorder, self._search_leaves)
        return [rows]

    def many(self, probes: FloatArray) -> object:
        """`search_batched`, parallel where there are threads."""
        search = self._searcher.search_batched_parallel if self._is_parallel else self._searcher.search_batched
        rows, _ = search(probes, self._k, self._reorder, self._search_leaves)
        return rows

    def rows(self, answer: object) -> RowArray:
        """Row numbers, perhaps fewer than k."""
        assert isinstance(answer, (list, np.ndarray))
        return padded([[int(row) for row in found] for found in answer], self._k)
