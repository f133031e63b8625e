"""Training of the SearchModel: a fit, and the pairs of probes and near rows that its calibration rests on.

Owns what is held out and what is measured on it. It must not know where the sample came from nor where the model goes:
the coordinator draws one across shards and broadcasts the other. Off the data path.
"""

from __future__ import annotations

import numpy as np

from shard.calibration import Calibration, calibrate
from shard.errors import NotEnoughData
from shard.itq import fit
from shard.model import SearchModel, check_code_bits, encode_bits
from shard.types import MIN_DIM, PLANE_BITS, FloatArray
from shard.validate import check_dim, check_embeddings, check_unit_rows

MIN_TRAIN = 1_000
"""Fewest templates to train on; below, shards search exactly on floats."""
MAX_SAMPLE = 20_000
"""Rows used of a larger sample, drawn at random."""
FITTED_SHARE = 2 / 3
"""Of the sample; the rest is held out, because a fit measured on its own rows looks better than it is."""
PROBES = 2_000
"""Most held-out probes of the calibration."""
NEIGHBOURS = 50
"""Rows nearest to each probe whose agreement is measured; of a small sample one row in twenty."""
STRANGER_SIGMAS = 5.0
"""A neighbour whose cosine is this many standard deviations above random pairs' is taken for a mate."""
_PROBE_BLOCK = 500


def train(sample: FloatArray, *, code_bits: int = 512, seed: int = 0) -> SearchModel:
    """A SearchModel fitted to a sample of the gallery, its recall calibration measured on rows that were held out.

    sample: (n, dim) float32, unit L2 norm, n >= MIN_TRAIN; of more than MAX_SAMPLE rows a random MAX_SAMPLE are used.
    The same sample, code_bits and seed give the same model on the same machine.
    Raises NotEnoughData below MIN_TRAIN rows or where they do not vary, InvalidEmbedding for a wrong shape or dtype,
    NaN, Inf or rows that are not of unit norm, InvalidParameter for code_bits or a dimension out of range.
    """
    check_code_bits(code_bits)
    _check_sample(sample)
    rng = np.random.default_rng(seed)
    used = sample[rng.permutation(len(sample))[:MAX_SAMPLE]]
    fitted = int(len(used) * FITTED_SHARE)
    mean, projection = fit(used[:fitted], code_bits, rng)
    return SearchModel(
        dim=sample.shape[1],
        code_bits=code_bits,
        mean=mean,
        projection=projection,
        calibration=measure(used[fitted:], mean, projection),
        trained_on=len(used),
    )


def _check_sample(sample: FloatArray) -> None:
    dim = sample.shape[1] if isinstance(sample, np.ndarray) and sample.ndim == 2 else MIN_DIM
    check_unit_rows(check_embeddings(sample, check_dim(dim), what="training sample"), what="training sample")
    if len(sample) < MIN_TRAIN:
        raise NotEnoughData(f"training sample: expected at least {MIN_TRAIN} templates, got {len(sample)}")


def measure(rows: FloatArray, mean: FloatArray, projection: FloatArray) -> Calibration:
    """The calibration of a projection on rows (n, dim) that it was not fitted to.

    The first PROBES rows are probes; measured are the strangers nearest to each. Mates agree by another line, and would
    make it too steep for the nearest strangers: asked for 0.9, those were found at 0.82 (docs/search-model.md).
    """
    limit = stranger_limit(rows)
    signs = np.unpackbits(encode_bits(rows, projection, mean @ projection), axis=1).astype(np.float32) * 2 - 1
    probes = min(PROBES, len(rows))
    near = min(NEIGHBOURS, len(rows) // 20)
    cosines = np.empty((probes, near), np.float32)
    agreements = np.empty((2, probes, near), np.float32)
    for start in range(0, probes, _PROBE_BLOCK):
        block = slice(start, min(start + _PROBE_BLOCK, probes))
        scores = rows[block] @ rows.T
        scores[np.arange(block.stop - start), np.arange(start, block.stop)] = -np.inf
        scores[scores > limit] = -np.inf
        nearest = np.argpartition(-scores, near - 1, axis=1)[:, :near]
        cosines[block] = np.take_along_axis(scores, nearest, axis=1)
        values = rows[block] @ projection - mean @ projection
        for stage, bits in enumerate((PLANE_BITS, projection.shape[1])):
            agreement = np.take_along_axis(values[:, :bits] @ signs[:, :bits].T, nearest, axis=1)
            agreements[stage, block] = agreement / norms(values[:, :bits])[:, None]
    return calibrate(cosines, rows[:probes] @ mean, agreements)


def stranger_limit(rows: FloatArray) -> float:
    """The cosine above which a neighbour is taken for a mate: STRANGER_SIGMAS above the median of random pairs.

    The deviation is the median absolute one (times 1.4826, its normal consistency), which a few mates do not move.
    """
    half = len(rows) // 2
    cosines = np.einsum("ij,ij->i", rows[:half], rows[half : 2 * half])
    middle = np.median(cosines)
    return float(middle + STRANGER_SIGMAS * 1.4826 * np.median(np.abs(cosines - middle)))


def norms(values: FloatArray) -> FloatArray:
    """L2 norms of rows, never 0."""
    found: FloatArray = np.maximum(np.linalg.norm(values, axis=1), np.float32(1e-12))
    return found
