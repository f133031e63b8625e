"""Binary codes for the peers that search bits and make none: ITQ on PCA directions, as good as we know how.

Bits go only where there is variance: the first 128 are ITQ on the top 128 PCA directions, each further 128 are ITQ on a
random 128-dimensional view of all directions that carry variance. Kept apart from `shard` on purpose: the peers' codes
must not change when Facegrid's do. Source: ITQ, Gong & Lazebnik, CVPR 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engine.peer import blocks
from shard.types import CodeArray, FloatArray, RowArray

BITS = 512
_PLANE = 128
_SAMPLE = 20_000
_ITERATIONS = 30
_LEAST_VARIANCE = 1e-2  # of the largest; directions below are noise
_BLOCK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Coder:
    """projection (bits, dim) and thresholds (bits,), float32: bit b is row . projection[b] > thresholds[b]."""

    projection: FloatArray
    thresholds: FloatArray

    def encode(self, rows: FloatArray) -> CodeArray:
        """Packed bits (n, bits / 8) of rows (n, dim), block by block."""
        codes = np.empty((len(rows), len(self.projection) // 8), dtype=np.uint8)
        for block in blocks(len(rows), _BLOCK):
            codes[block] = np.packbits(rows[block] @ self.projection.T > self.thresholds, axis=1)
        return codes

    def save(self, folder: Path) -> None:
        """Write coder.npz."""
        np.savez(folder / "coder.npz", projection=self.projection, thresholds=self.thresholds)

    @classmethod
    def load(cls, folder: Path) -> Coder:
        """Read coder.npz."""
        with np.load(folder / "coder.npz") as saved:
            return cls(saved["projection"], saved["thresholds"])


def fit(rows: FloatArray) -> Coder:
    """A coder of 512 bits fitted to up to 20,000 of the rows; dim >= 128."""
    rng = np.random.default_rng(0)
    sample = rows[np.sort(rng.choice(len(rows), min(len(rows), _SAMPLE), replace=False))]
    mean = sample.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(sample, rowvar=False))  # ascending
    directions = vectors.T[::-1].astype(np.float32)
    kept = max(_PLANE, int((variances > _LEAST_VARIANCE * variances[-1]).sum()))
    planes = []
    for plane in range(BITS // _PLANE):
        basis = directions[:_PLANE]
        if plane:
            turned, _ = np.linalg.qr(rng.normal(size=(kept, _PLANE)))
            basis = turned.T.astype(np.float32) @ directions[:kept]
        planes.append(_rotation((sample - mean) @ basis.T, rng).T @ basis)
    projection = np.ascontiguousarray(np.concatenate(planes), dtype=np.float32)
    return Coder(projection, np.median(sample @ projection.T, axis=0).astype(np.float32))


def _rotation(projected: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The rotation (d, d) that ITQ finds for centred data (n, d)."""
    rotation, _ = np.linalg.qr(rng.normal(size=(projected.shape[1],) * 2).astype(np.float32))
    for _ in range(_ITERATIONS):
        signs = np.where(projected @ rotation > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(projected.T @ signs)
        rotation = left @ right
    return np.asarray(rotation, dtype=np.float32)


def rerank(floats: FloatArray, probes: FloatArray, shortlists: RowArray, k: int) -> RowArray:
    """The k best of each probe's shortlist (n, c), by inner product on floats; (n, min(k, c)), -1 kept for none."""
    best = np.empty((len(probes), min(k, shortlists.shape[1])), dtype=np.int64)
    for i, rows in enumerate(shortlists):
        scores = floats[rows] @ probes[i]
        scores[rows < 0] = -np.inf
        best[i] = rows[np.argsort(-scores, kind="stable")[: best.shape[1]]]
    return best
