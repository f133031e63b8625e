"""Peers for the tests of the engine benchmark, one for each way in which a library may let it down."""

import importlib
import os
import threading
from pathlib import Path

import numpy as np

from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, TooSlow
from shard.types import FloatArray, RowArray


class Honest(Peer):
    """Exhaustive search by NumPy, over the first `share` of the rows in hundredths: a knob whose recall is known."""

    distribution = "numpy"
    how = "a part of the rows, searched exhaustively"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        np.save(folder / "floats.npy", source.rows)

    def open(self, folder: Path, threads: int) -> None:
        self._floats: FloatArray = np.load(folder / "floats.npy")

    def fixed(self) -> dict[str, Setting]:
        return {"exact": {"share": 100}}

    def curves(self) -> list[Curve]:
        return [[{"share": share} for share in range(5, 101, 5)]]

    def use(self, setting: Setting, k: int) -> None:
        self._rows, self._k = int(len(self._floats) * setting["share"] / 100), k

    def one(self, probe: FloatArray) -> object:
        return self.many(probe[None])

    def many(self, probes: FloatArray) -> object:
        return np.argsort(-(probes @ self._floats[: self._rows].T), axis=1)[:, : self._k]

    def rows(self, answer: object) -> RowArray:
        return np.asarray(answer, dtype=np.int64)


class NotInstalled(Honest):
    """Its library is nowhere."""

    def __init__(self) -> None:
        importlib.import_module("a_library_that_nobody_has")


class Raises(Honest):
    """Raises when it is opened."""

    def open(self, folder: Path, threads: int) -> None:
        raise RuntimeError("its index is of another version")


class Dies(Honest):
    """Takes its process with it."""

    def many(self, probes: FloatArray) -> object:
        os.write(2, b"illegal instruction, perhaps\n")
        os._exit(7)


class Prints(Honest):
    """Writes to stdout, where the replies go, from below Python."""

    def many(self, probes: FloatArray) -> object:
        os.write(1, b"searching ...\n")
        return super().many(probes)


class SlowGraph(Honest):
    """Sees after 100 rows that the rest takes too long."""

    is_incremental = True

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        raise TooSlow(100, 3.0, 60.0)


class NeverEnds(Honest):
    """Builds a small index at once, and a large one never."""

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        if len(source.rows) > 1_000:
            threading.Event().wait()
        super().build(source, folder, budget)
