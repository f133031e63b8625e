"""Training of the SearchModel: a fit, and the pairs of probes and near rows that its calibration rests on.

Owns what is held out and what is measured on it. It must not know where the sample came from nor where the model goes:
the coordinator draws one across shards and broadcasts the other. Off the data path.
"""

from __future__ import annotations

import numpy as np

from shard.calibration import LISTS, STAGES, Calibration, calibrate
from shard.errors import NotEnoughData
from shard.itq import fit
from shard.lists import fit_lists, list_count, nearest_list
from shard.model import SearchModel, check_code_bits
from shard.types import MIN_DIM, PLANE_BITS, FloatArray
from shard.validate import check_dim, check_embeddings, check_unit_rows

MIN_TRAIN = 1_000
"""Fewest templates to train on; below, shards search exactly on floats."""
MAX_SAMPLE = 40_000
"""Rows used of a larger sample, drawn at random: 65 for each list."""
HELD_OUT_SHARE, MAX_HELD_OUT = 1 / 3, 6_667
"""Of the sample; held out, because a fit measured on its own rows looks better than it is."""
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
    fitted, held_out = np.split(used, [len(used) - min(int(len(used) * HELD_OUT_SHARE), MAX_HELD_OUT)])
    mean, projection = fit(fitted, code_bits, rng)
    head = fitted @ projection[:, :PLANE_BITS] - mean @ projection[:, :PLANE_BITS]
    centroids = fit_lists(head, list_count(len(fitted)), rng)
    return SearchModel(
        dim=sample.shape[1],
        code_bits=code_bits,
        mean=mean,
        projection=projection,
        centroids=centroids,
        calibration=measure(held_out, mean, projection, centroids),
        trained_on=len(used),
    )


def _check_sample(sample: FloatArray) -> None:
    dim = sample.shape[1] if isinstance(sample, np.ndarray) and sample.ndim == 2 else MIN_DIM
    check_unit_rows(check_embeddings(sample, check_dim(dim), what="training sample"), what="training sample")
    if len(sample) < MIN_TRAIN:
        raise NotEnoughData(f"training sample: expected at least {MIN_TRAIN} templates, got {len(sample)}")


def measure(rows: FloatArray, mean: FloatArray, projection: FloatArray, centroids: FloatArray) -> Calibration:
    """The calibration of a projection and centroids on rows (n, dim) that they were not fitted to.

    The first PROBES rows are probes; measured are the strangers nearest to each. Mates agree by another line, and would
    make it too steep for the nearest strangers: asked for 0.9, those were found at 0.82 (docs/search-model.md).
    """
    limit = stranger_limit(rows)
    values: FloatArray = rows @ projection - mean @ projection
    signs = np.where(values > 0, np.float32(1), np.float32(-1))
    head = values[:, :PLANE_BITS]
    lists = nearest_list(head, centroids) if len(centroids) else None
    probes = min(PROBES, len(rows))
    near = min(NEIGHBOURS, len(rows) // 20)
    cosines = np.empty((probes, near), np.float32)
    agreements = np.zeros((STAGES, probes, near), np.float32)
    for start in range(0, probes, _PROBE_BLOCK):
        block = slice(start, min(start + _PROBE_BLOCK, probes))
        scores = rows[block] @ rows.T
        scores[np.arange(block.stop - start), np.arange(start, block.stop)] = -np.inf
        scores[scores > limit] = -np.inf
        nearest = np.argpartition(-scores, near - 1, axis=1)[:, :near]
        nearest = np.take_along_axis(nearest, np.argsort(-np.take_along_axis(scores, nearest, 1), axis=1), axis=1)
        cosines[block] = np.take_along_axis(scores, nearest, axis=1)
        if lists is not None:
            of_lists = np.take_along_axis(head[block] @ centroids.T, lists[nearest], axis=1)
            agreements[LISTS, block] = of_lists / norms(head[block])[:, None]
        for stage, bits in ((1, PLANE_BITS), (2, projection.shape[1])):
            agreement = np.take_along_axis(values[block, :bits] @ signs[:, :bits].T, nearest, axis=1)
            agreements[stage, block] = agreement / norms(values[block, :bits])[:, None]
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
