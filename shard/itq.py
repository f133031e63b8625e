"""PCA and ITQ: the projection of a code, and the mean that it is taken from, fitted to a sample of embeddings.

Owns the recipe of the planes, chosen by the measurements in docs/search-model.md. It must not know calibration, models
or files: rows in, two arrays out. Pure NumPy, off the data path.
"""

from __future__ import annotations

import numpy as np

from shard.errors import NotEnoughData
from shard.types import PLANE_BITS, FloatArray

VARIANCE_KEPT = 0.99
"""Share of the variance whose principal directions carry bits; the rest is noise."""
ITQ_ROUNDS = 20
"""Alternations of ITQ; thirty gave the same recall."""
FIT_ROWS = 8_000
"""Most rows that the rotation is fitted on: half a row for each of its 128 x 128 values, and a bound on the time."""


def fit(sample: FloatArray, code_bits: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(mean (dim,), projection (dim, code_bits)), float32: bit = x @ projection > mean @ projection.

    sample: (n, dim) float32. Plane 0 is ITQ on the strongest 128 principal directions; every further plane is 128
    directions of a random rotation of all that carry variance (ITQ on those gained nothing measurable, and cost three
    quarters of the training). Where fewer than 128 carry variance, a plane is filled by several rotations of those.
    Raises NotEnoughData where the rows do not vary. Source: Gong & Lazebnik, CVPR 2011.
    """
    mean: FloatArray = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred: FloatArray = sample - mean
    directions = principal_directions(centred)
    strongest: FloatArray = directions[:, :PLANE_BITS]
    blocks: list[FloatArray] = []
    for plane in range(code_bits // PLANE_BITS):
        wanted = PLANE_BITS
        while wanted:
            width = min(wanted, directions.shape[1])
            if plane == 0 and wanted == PLANE_BITS:
                blocks.append(strongest @ itq_rotation(centred[:FIT_ROWS] @ strongest, rng))
            else:
                blocks.append(directions @ random_rotation(directions.shape[1], rng)[:, :width])
            wanted -= width
    projection = np.concatenate(blocks, axis=1)
    return mean, projection


def principal_directions(centred: FloatArray) -> FloatArray:
    """Directions (dim, d) float32 of centred rows (n, dim): orthonormal, strongest first.

    They hold VARIANCE_KEPT of the variance. Raises NotEnoughData where the rows do not vary.
    """
    rows, dim = centred.shape
    # The smaller of the two Gram matrices has the same spectrum; a direction of the rows is a mixture of the rows.
    gram = centred @ centred.T if rows < dim else centred.T @ centred
    variances, vectors = np.linalg.eigh(gram.astype(np.float64) / rows)
    variances, vectors = np.clip(variances[::-1], 0.0, None), vectors[:, ::-1]
    total = variances.sum()
    if total < 1e-6:
        raise NotEnoughData(f"training sample: its {rows} rows are all but equal (variance {total:.1e})")
    kept = 1 + int(np.searchsorted(np.cumsum(variances), VARIANCE_KEPT * total))
    directions = vectors[:, :kept]
    if rows < dim:
        directions = centred.T @ directions / np.sqrt(rows * variances[:kept])
    return np.ascontiguousarray(directions, dtype=np.float32)


def random_rotation(size: int, rng: np.random.Generator) -> FloatArray:
    """An orthogonal (size, size) float32 matrix."""
    rotation: FloatArray = np.linalg.qr(rng.standard_normal((size, size)))[0].astype(np.float32)
    return rotation


def itq_rotation(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The rotation (d, d) that brings rows (n, d), centred, near the corners of the cube, by alternation."""
    rotation = random_rotation(values.shape[1], rng)
    for _ in range(ITQ_ROUNDS):
        corners = np.where(values @ rotation > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(values.T @ corners)
        rotation = left @ right
    return rotation
