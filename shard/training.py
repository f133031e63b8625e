"""Training of the SearchModel: PCA, ITQ rotations in planes, and the ranks its calibration rests on.

Owns the recipe, chosen by the measurements in docs/search-model.md. It must not know where the sample came from nor
where the model goes: the coordinator draws one across shards and broadcasts the other. Off the data path.
"""

from __future__ import annotations

import numpy as np

from shard.calibration import calibrate
from shard.model import SearchModel, check_code_bits
from shard.types import FloatArray

MIN_TRAIN = 1_000
"""Fewest templates to train on; below, shards search exactly on floats."""
MAX_SAMPLE = 20_000
"""Rows used of a larger sample, drawn at random."""
VARIANCE_KEPT = 0.99
"""Share of the variance whose principal directions carry bits; the rest is noise."""
ITQ_ROUNDS = 30
FIT_ROWS = 10_000
"""Most rows that ITQ is fitted on."""
PROBES = 4_000
"""Most held-out probes of the calibration."""
STRANGER_SIGMAS = 5.0
"""A neighbour whose cosine is this many standard deviations above random pairs' is taken for a mate."""
_GALLERY_SHARES = (16, 4, 1)  # the calibration galleries: a sixteenth, a quarter and all of the held-out rows
_MIN_GALLERY = 250
_PROBE_BLOCK = 500


def train(sample: FloatArray, *, code_bits: int = 512, seed: int = 0) -> SearchModel:
    """A SearchModel fitted to a sample of the gallery, with its recall calibration measured on rows held out.

    sample: (n, dim) float32, unit L2 norm, n >= MIN_TRAIN; of more than MAX_SAMPLE rows a random MAX_SAMPLE are used.
    The same sample, code_bits and seed give the same model on the same machine (BLAS and its threads included).
    Raises NotEnoughData below MIN_TRAIN rows or where the rows hardly vary, InvalidEmbedding for a wrong shape or
    dtype, NaN, Inf or rows that are not of unit norm, InvalidParameter for code_bits.
    Source: ITQ, Gong & Lazebnik, CVPR 2011.
    """
    check_code_bits(code_bits)
    _check_sample(sample)
    rng = np.random.default_rng(seed)
    used = sample[rng.permutation(len(sample))[:MAX_SAMPLE]]
    half = len(used) // 2
    held_out = used[half:]
    projection, thresholds = fit(used[:half], code_bits, rng)
    calibration = calibrate(measure_ranks(held_out, encode_with(projection, thresholds), code_bits))
    if half < FIT_ROWS:
        # A small sample is worth refitting on all of it: the better fit only raises recall above what was measured.
        projection, thresholds = fit(used, code_bits, rng)
    return SearchModel(sample.shape[1], code_bits, projection, thresholds, calibration, len(used))
