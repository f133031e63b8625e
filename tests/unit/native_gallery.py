"""A small gallery that keeps its rows twice: in an `Index` and in plain arrays, for the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shard import _native

DIM = 40
PLANES = 3
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


class Gallery:
    """Rows in an Index and in plain arrays, for the oracle."""

    def __init__(self, folder: Path, segments: tuple[int, ...], *, seed: int = 5, with_codes: bool = True) -> None:
        rng = np.random.default_rng(seed)
        rows = sum(segments)
        floats = rng.standard_normal((rows, DIM)).astype(np.float32)
        self.floats = floats / np.linalg.norm(floats, axis=1, keepdims=True)
        self.codes = rng.integers(0, 256, (rows, PLANES * 16), dtype=np.uint8)
        self.keys = rng.integers(0, 2**64, rows, dtype=np.uint64)
        self.live = np.ones(rows, dtype=bool)
        self.segments = np.split(np.arange(rows), np.cumsum(segments)[:-1])
        self.index = _native.Index(DIM)
        if with_codes:
            self.index.set_codes(PLANES, [])
        for number, members in enumerate(self.segments):
            path = folder / f"floats-{seed}-{number}"
            self.floats[members].tofile(path)
            assert self.index.open_segment(str(path), len(members)) == number
            first = self.index.append(self.keys[members], self.codes[members] if with_codes else None)
            assert first == sum(segments[:number])

    def delete(self, rows: list[int]) -> int:
        self.live[rows] = False
        return self.index.delete(np.array(rows, dtype=np.int64))

    def survivors(self, code: Codes, head: int, full: int) -> npt.NDArray[np.int64]:
        """The rows that the cascade reranks, by sorting (distance, row) twice."""
        rows = np.flatnonzero(self.live)
        for width, keep in ((16, head), (PLANES * 16, full)):
            distances = np.bitwise_count(self.codes[rows, :width] ^ code[:width]).sum(axis=1)
            rows = np.sort(rows[np.argsort(distances, kind="stable")[:keep]])
        return rows


def best(gallery: Gallery, probe: Floats, rows: npt.NDArray[np.int64], k: int) -> list[int]:
    """The k best of the rows; the scores of random floats are far enough apart for another order of additions."""
    scores = gallery.floats[rows].astype(np.float64) @ probe.astype(np.float64)
    return [int(row) for row in rows[np.lexsort((gallery.keys[rows], -scores))[:k]]]


def make_probes(n: int, seed: int = 11) -> tuple[Floats, Codes]:
    rng = np.random.default_rng(seed)
    floats = rng.standard_normal((n, DIM)).astype(np.float32)
    return floats, rng.integers(0, 256, (n, PLANES * 16), dtype=np.uint8)
