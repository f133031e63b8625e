"""A small gallery that keeps its rows twice: in an `Index` and in plain arrays, for the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shard import _native

DIM = 40
PLANES = 3
LISTS = 4
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
        self.lists = rng.integers(0, LISTS, rows).astype("<u2")
        self.coded = np.concatenate([self.codes, self.lists[:, None].view(np.uint8)], axis=1)
        self.keys = rng.integers(0, 2**64, rows, dtype=np.uint64)
        self.live = np.ones(rows, dtype=bool)
        self.segments = np.split(np.arange(rows), np.cumsum(segments)[:-1])
        self.index = _native.Index(DIM)
        if with_codes:
            self.index.set_codes(PLANES, LISTS, [])
        for number, members in enumerate(self.segments):
            path = folder / f"floats-{seed}-{number}"
            self.floats[members].tofile(path)
            assert self.index.open_segment(str(path), len(members)) == number
            first = self.index.append(self.keys[members], self.coded[members] if with_codes else None)
            assert first == sum(segments[:number])

    def delete(self, rows: list[int]) -> int:
        self.live[rows] = False
        return self.index.delete(np.array(rows, dtype=np.int64))

    def agreement(self, values: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of every row: values of the bits that are set minus those that are not, on the first plane and on all."""
        signs = np.unpackbits(self.codes, axis=1).astype(np.float64) * 2 - 1
        return signs[:, :128] @ values[:128], signs @ values


def best(gallery: Gallery, probe: Floats, rows: npt.NDArray[np.int64], k: int) -> list[int]:
    """The k best of the rows; the scores of random floats are far enough apart for another order of additions."""
    scores = gallery.floats[rows].astype(np.float64) @ probe.astype(np.float64)
    return [int(row) for row in rows[np.lexsort((gallery.keys[rows], -scores))[:k]]]


def make_probes(n: int, seed: int = 11) -> tuple[Floats, Floats]:
    """Probes (n, DIM), and projections for them (n, PLANES * 128)."""
    rng = np.random.default_rng(seed)
    floats = rng.standard_normal((n, DIM)).astype(np.float32)
    return floats, rng.standard_normal((n, PLANES * 128)).astype(np.float32)


def cascade(
    values: Floats, offset: float, slope: float = 0.0, lists: int = LISTS
) -> tuple[Floats, Floats, Floats, float]:
    """A cascade with one bound for all planes and all probes; no list is left out."""
    bounds = np.tile(np.array([-1e9, 0.0, offset, slope, offset, slope], np.float32), (len(values), 1))
    return values, np.zeros((len(values), lists), np.float32), bounds, 2.0
