"""USearch: its graph over half-precision floats, and over ITQ codes with a rerank on mapped floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from usearch.index import Index, MetricKind, ScalarKind

from benchmarks.engine import codes
from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, blocks, efforts
from shard.types import CodeArray, FloatArray, RowArray

CONNECTIVITY, EXPANSION_ADD = 16, 128  # its defaults
_BLOCK = 2_000  # rows between two looks at the clock


class _Usearch(Peer):
    """A graph, filled row by row."""

    distribution: ClassVar[str] = "usearch"
    is_incremental: ClassVar[bool] = True
    _threads: int
    _k: int

    def _fill(self, index: Index, rows: FloatArray | CodeArray, source: Source, budget: Budget) -> None:
        for block in blocks(len(rows), _BLOCK):
            index.add(np.arange(block.start, block.stop), np.ascontiguousarray(rows[block]), threads=source.threads)
            budget.check(block.stop, len(rows))

    def _find(self, index: Index, queries: FloatArray | CodeArray, count: int) -> Any:
        return index.search(queries, count, threads=self._threads).keys

    def rows(self, answer: object) -> RowArray:
        """Keys are row numbers; USearch fills lists that are too short with 0, which is then a wrong answer."""
        return np.atleast_2d(np.asarray(answer)).astype(np.int64)


class UsearchF16(_Usearch):
    """The knob is expansion_search."""

    how: ClassVar[str] = "inner product on f16, connectivity 16, expansion_add 128; the knob is expansion_search"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Insert all rows with all cores."""
        index = Index(
            ndim=source.rows.shape[1],
            metric=MetricKind.IP,
            dtype=ScalarKind.F16,
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
        )
        self._fill(index, source.rows, source, budget)
        index.save(str(folder / "index.usearch"))

    def open(self, folder: Path, threads: int) -> None:
        """Read into memory."""
        self._threads = threads
        self._index = Index.restore(str(folder / "index.usearch"))

    def curves(self) -> list[Curve]:
        """Rising expansion."""
        return [[{"expansion": e} for e in efforts(len(self._index))]]

    def use(self, setting: Setting, k: int) -> None:
        """Set the expansion."""
        self._k = k
        self._index.expansion_search = int(setting["expansion"])

    def one(self, probe: FloatArray) -> object:
        """One vector."""
        return self._find(self._index, probe, self._k)

    def many(self, probes: FloatArray) -> object:
        """One call."""
        return self._find(self._index, probes, self._k)


class UsearchB1(_Usearch):
    """A Hamming graph; the knobs are the shortlist and the expansion, a multiple of it."""

    how: ClassVar[str] = "Hamming on 512 ITQ bits, its shortlist reranked on mapped floats; shortlist x expansion"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Fit the codes, insert all with all cores, and save the floats too."""
        coder = codes.fit(source.rows)
        index = Index(
            ndim=codes.BITS,
            metric=MetricKind.Hamming,
            dtype=ScalarKind.B1,
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
        )
        self._fill(index, coder.encode(source.rows), source, budget)
        index.save(str(folder / "index.usearch"))
        coder.save(folder)
        np.save(folder / "floats.npy", source.rows)

    def open(self, folder: Path, threads: int) -> None:
        """Graph and codes in memory, floats mapped."""
        self._threads = threads
        self._index = Index.restore(str(folder / "index.usearch"))
        self._coder = codes.Coder.load(folder)
        self._floats: FloatArray = np.load(folder / "floats.npy", mmap_mode="r")

    def curves(self) -> list[Curve]:
        """Rising shortlists, with an expansion as long and four times as long."""
        lengths = efforts(len(self._floats))
        return [[{"shortlist": c, "expansion": factor * c} for c in lengths] for factor in (1, 4)]

    def use(self, setting: Setting, k: int) -> None:
        """Set both."""
        self._k, self._shortlist = k, max(k, int(setting["shortlist"]))
        self._index.expansion_search = int(setting["expansion"])

    def one(self, probe: FloatArray) -> object:
        """A batch of one."""
        return self.many(probe[None])

    def many(self, probes: FloatArray) -> object:
        """Search the graph, then rerank."""
        found = np.atleast_2d(self._find(self._index, self._coder.encode(probes), self._shortlist))
        return codes.rerank(self._floats, probes, found.astype(np.int64), self._k)
