"""FAISS `IndexBinaryFlat` over ITQ codes: all 512 bits of all rows, the best reranked on mapped floats."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import faiss
import numpy as np

from benchmarks.engine import codes
from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, blocks, efforts
from shard.types import FloatArray, RowArray


class FaissBinary(Peer):
    """The knob is the shortlist."""

    distribution: ClassVar[str] = "faiss-cpu"
    how: ClassVar[str] = "IndexBinaryFlat on 512 ITQ bits, shortlist reranked on mapped floats; the knob is its length"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Fit the codes, encode, and save codes and floats."""
        coder = codes.fit(source.rows)
        index = faiss.IndexBinaryFlat(codes.BITS)
        index.add(coder.encode(source.rows))
        faiss.write_index_binary(index, str(folder / "codes.faiss"))
        coder.save(folder)
        np.save(folder / "floats.npy", source.rows)

    def open(self, folder: Path, threads: int) -> None:
        """Codes in memory, floats mapped."""
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index_binary(str(folder / "codes.faiss"))
        self._coder = codes.Coder.load(folder)
        self._floats: FloatArray = np.load(folder / "floats.npy", mmap_mode="r")
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads

    def curves(self) -> list[Curve]:
        """Rising shortlists."""
        return [[{"shortlist": c} for c in efforts(len(self._floats), 10_000)]]

    def use(self, setting: Setting, k: int) -> None:
        """Length of the shortlist."""
        self._k, self._shortlist = k, int(setting["shortlist"])

    def one(self, probe: FloatArray) -> object:
        """Scan, then rerank."""
        return self._search(probe[None])

    def many(self, probes: FloatArray) -> object:
        """Scan in one call; rerank in one thread a core, as NumPy lets go of the GIL to copy and to multiply."""
        shortlists = self._shortlists(probes)
        share = -(-len(probes) // self._threads)
        parts = [
            self._pool.submit(codes.rerank, self._floats, probes[part], shortlists[part], self._k)
            for part in blocks(len(probes), share)
        ]
        return np.concatenate([part.result() for part in parts])

    def _search(self, probes: FloatArray) -> RowArray:
        return codes.rerank(self._floats, probes, self._shortlists(probes), self._k)

    def _shortlists(self, probes: FloatArray) -> RowArray:
        _, rows = self._index.search(self._coder.encode(probes), max(self._k, self._shortlist))
        return np.asarray(rows, dtype=np.int64)

    def rows(self, answer: object) -> RowArray:
        """They are row numbers already."""
        assert isinstance(answer, np.ndarray)
        return answer
