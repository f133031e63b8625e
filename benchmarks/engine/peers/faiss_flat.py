"""FAISS `IndexFlatIP`: every float of every row, the exact answer and the price of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from benchmarks.engine.peer import Budget, Peer, Setting, Source, blocks
from shard.types import FloatArray, RowArray

_BLOCK = 65_536


def add_all(index: Any, rows: FloatArray) -> None:
    """Add mapped rows block by block, so that no second copy of all is made."""
    for block in blocks(len(rows), _BLOCK):
        index.add(np.ascontiguousarray(rows[block]))


def save(index: Any, folder: Path) -> None:
    """Write `folder`/index.faiss."""
    faiss.write_index(index, str(folder / "index.faiss"))


def load(folder: Path) -> Any:
    """Read `folder`/index.faiss into memory."""
    return faiss.read_index(str(folder / "index.faiss"))


def load_mapped(folder: Path) -> Any:
    """Read `folder`/index.faiss with float rows mapped rather than read, as Facegrid and FaceFlash have theirs."""
    return faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)


class FaissFlat(Peer):
    """Exhaustive inner products, no knob."""

    distribution: ClassVar[str] = "faiss-cpu"
    how: ClassVar[str] = "IndexFlatIP, floats mapped"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Copy the rows."""
        index = faiss.IndexFlatIP(source.rows.shape[1])
        add_all(index, source.rows)
        save(index, folder)

    def open(self, folder: Path, threads: int) -> None:
        """Map the rows."""
        faiss.omp_set_num_threads(threads)
        self._index = load_mapped(folder)

    def fixed(self) -> dict[str, Setting]:
        """The only one."""
        return {"exact": {}}

    def use(self, setting: Setting, k: int) -> None:
        """Nothing to set but k."""
        self._k = k

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
