"""Training of the SearchModel: a fit, and the ranks of true neighbours that its calibration rests on.

Owns what is held out and how ranks are measured. It must not know where the sample came from nor where the model goes:
the coordinator draws one across shards and broadcasts the other. Off the data path.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shard.calibration import K_GRID, RankSample, calibrate
from shard.errors import NotEnoughData
from shard.itq import fit
from shard.model import SearchModel, check_code_bits, encode_bits, hamming_distances
from shard.types import MIN_DIM, PLANE_BYTES, CodeArray, FloatArray, RowArray
from shard.validate import check_dim, check_embeddings, check_unit_rows

MIN_TRAIN = 1_000
"""Fewest templates to train on; below, shards search exactly on floats."""
MAX_SAMPLE = 20_000
"""Rows used of a larger sample, drawn at random: training on them takes 5 seconds of one core at 512 x 512."""
PROBES = 8_000
"""Most held-out probes of the calibration."""
STRANGER_SIGMAS = 5.0
"""A neighbour whose cosine is this many standard deviations above random pairs' is taken for a mate."""
_GALLERY_SHARES = (16, 4, 1)  # calibration galleries: a sixteenth, a quarter and all of the held-out rows
_MIN_GALLERY = 250
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
    half = len(used) // 2
    fitted, held_out = used[:half], used[half:]
    projection, thresholds = fit(fitted, code_bits, rng)
    ranks = measure_ranks(held_out, encode_bits(held_out, projection, thresholds))
    if len(used) < MAX_SAMPLE:
        # A small sample is worth refitting on all of it: the better fit only raises recall above what was measured.
        projection, thresholds = fit(used, code_bits, rng)
    return SearchModel(
        dim=sample.shape[1],
        code_bits=code_bits,
        projection=projection,
        thresholds=thresholds,
        calibration=calibrate(ranks),
        trained_on=len(used),
    )


def _check_sample(sample: FloatArray) -> None:
    dim = sample.shape[1] if isinstance(sample, np.ndarray) and sample.ndim == 2 else MIN_DIM
    check_unit_rows(check_embeddings(sample, check_dim(dim), what="training sample"), what="training sample")
    if len(sample) < MIN_TRAIN:
        raise NotEnoughData(f"training sample: expected at least {MIN_TRAIN} templates, got {len(sample)}")


def measure_ranks(rows: FloatArray, codes: CodeArray) -> list[RankSample]:
    """Ranks of the true nearest strangers of each probe, leave-one-out, in nested galleries of growing size.

    rows (n, dim) float32 unit norm, not used in the fit; codes (n, bytes). The first PROBES rows are the probes and the
    galleries are prefixes of `rows`. Mates are left out of the neighbours, not of the galleries: a probe may be a
    stranger, whose nearest neighbour is the hardest to keep.
    """
    probes = min(PROBES, len(rows))
    limit = stranger_limit(rows)
    sizes = [len(rows) // share for share in _GALLERY_SHARES if share == 1 or len(rows) // share >= _MIN_GALLERY]
    samples = []
    for size in sizes:
        k = min(K_GRID[-1], size // 4)
        blocks = [_block_ranks(rows, codes, block, size, k, limit) for block in _blocks(probes)]
        head, full = (np.concatenate(stage) for stage in zip(*blocks, strict=True))
        samples.append(RankSample(size, head, full))
    return samples


def _blocks(probes: int) -> Iterator[slice]:
    for start in range(0, probes, _PROBE_BLOCK):
        yield slice(start, min(start + _PROBE_BLOCK, probes))


def stranger_limit(rows: FloatArray) -> float:
    """The cosine above which a neighbour is taken for a mate: STRANGER_SIGMAS above the median of random pairs.

    The deviation is the median absolute one (times 1.4826, its normal consistency), which a few mates do not move.
    """
    half = len(rows) // 2
    cosines = np.einsum("ij,ij->i", rows[:half], rows[half : 2 * half])
    middle = np.median(cosines)
    return float(middle + STRANGER_SIGMAS * 1.4826 * np.median(np.abs(cosines - middle)))


def _block_ranks(
    rows: FloatArray, codes: CodeArray, block: slice, size: int, k: int, limit: float
) -> tuple[FloatArray, FloatArray]:
    """(head, full), each (probes, k): ranks of the k nearest strangers on plane 0 and on all planes."""
    scores = rows[block] @ rows[:size].T
    own = np.arange(block.start, block.stop)
    inside = own < size
    scores[scores > limit] = -2.0
    scores[np.flatnonzero(inside), own[inside]] = -2.0
    nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, nearest, axis=1), axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, order, axis=1)
    planes = (codes[:, :PLANE_BYTES], codes) if codes.shape[1] > PLANE_BYTES else (codes, codes)
    head, full = (_ranks(code[block], code[:size], nearest, own) for code in planes)
    return head, full


def _ranks(probes: CodeArray, codes: CodeArray, nearest: RowArray, own: RowArray) -> FloatArray:
    """Rank from 1 of each named row among the codes by distance; a probe's own row not counted, ties at the middle."""
    distances = hamming_distances(probes, codes)
    ranks = np.empty(nearest.shape, dtype=np.float32)
    for i, row in enumerate(distances):
        counts = np.bincount(row)
        equal = counts[row[nearest[i]]]
        ranks[i] = np.cumsum(counts)[row[nearest[i]]] - (equal - 1) / 2
        ranks[i] -= own[i] < len(row)
    clipped: FloatArray = np.maximum(ranks, 1.0)
    return clipped
