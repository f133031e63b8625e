"""FAISS inverted lists: `IVFPQFastScan`, `IVFRaBitQ` and its FastScan, each refined on mapped floats.

Two knobs, `nprobe` (lists scanned) and `k_factor` (candidates reranked, in multiples of k); they are tuned together.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, doublings
from benchmarks.engine.peers.faiss_flat import add_all, load, load_mapped, save
from shard.types import FloatArray, RowArray

_TRAIN_ROWS = 200_000
_ROWS_PER_CENTROID = 64  # k-means needs tens of points for each centroid
_K_FACTORS = (1, 4, 16, 64)


class _FaissIvf(Peer):
    """An index of the factory, around one inverted file."""

    distribution: ClassVar[str] = "faiss-cpu"
    factory: ClassVar[str]

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Train on up to 200,000 rows and add all. About 4 sqrt(n) lists."""
        n, dim = source.rows.shape
        faiss.omp_set_num_threads(source.threads)
        lists = max(16, min(2 ** round(math.log2(4 * math.sqrt(n))), n // _ROWS_PER_CENTROID))
        index: Any = faiss.index_factory(dim, self.factory.format(lists=lists, dim=dim), faiss.METRIC_INNER_PRODUCT)
        sample = np.sort(np.random.default_rng(0).choice(n, min(n, _TRAIN_ROWS), replace=False))
        index.train(np.ascontiguousarray(source.rows[sample]))
        add_all(index, source.rows)
        save(index.base_index, folder)
        (folder / "floats").mkdir()
        save(index.refine_index, folder / "floats")

    def open(self, folder: Path, threads: int) -> None:
        """Lists in memory, the refining floats mapped: read as one index, the lists would be mapped too."""
        faiss.omp_set_num_threads(threads)
        self._base, self._floats = load(folder), load_mapped(folder / "floats")
        # Around an empty index first: the constructor would copy the floats of a full one.
        self._index = faiss.IndexRefineFlat(faiss.IndexFlatIP(self._floats.d))
        self._index.own_refine_index = False
        self._index.base_index, self._index.refine_index = self._base, self._floats
        self._index.ntotal = self._floats.ntotal
        self._ivf = faiss.extract_index_ivf(self._base)

    def curves(self) -> list[Curve]:
        """Rising nprobe, for each of a few k_factors."""
        probes = doublings(1, self._ivf.nlist)
        return [[{"nprobe": p, "k_factor": factor} for p in probes] for factor in _K_FACTORS]

    def use(self, setting: Setting, k: int) -> None:
        """Set both knobs."""
        self._k = k
        self._ivf.nprobe = int(setting["nprobe"])
        self._index.k_factor = setting["k_factor"]

    def one(self, probe: FloatArray) -> object:
        """A batch of one."""
        return self._index.search(probe[None], self._k)[1]

    def many(self, probes: FloatArray) -> object:
        """One call."""
        return self._index.search(probes, self._k)[1]

    def rows(self, answer: object) -> RowArray:
        """Labels are row numbers."""
        assert isinstance(answer, np.ndarray)
        return answer.astype(np.int64)


class FaissPQFastScan(_FaissIvf):
    """Rotated to the 192 directions that carry the variance of EdgeFace, 96 products of 4 bits: 48 bytes."""

    how: ClassVar[str] = "PCAR192, IVF of 4 sqrt(n) lists, PQ96x4 FastScan, refined on floats; nprobe x k_factor"
    factory: ClassVar[str] = "PCAR192,IVF{lists},PQ96x4fs,RFlat"


class FaissRaBitQ(_FaissIvf):
    """One bit for each of 512 randomly rotated directions."""

    how: ClassVar[str] = "RR512, IVF of 4 sqrt(n) lists, RaBitQ, refined on floats; nprobe x k_factor"
    factory: ClassVar[str] = "RR{dim},IVF{lists},RaBitQ,RFlat"


class FaissRaBitQFastScan(_FaissIvf):
    """The same codes, scanned by FastScan."""

    how: ClassVar[str] = "RR512, IVF of 4 sqrt(n) lists, RaBitQ FastScan, refined on floats; nprobe x k_factor"
    factory: ClassVar[str] = "RR{dim},IVF{lists},RaBitQfs,RFlat"
