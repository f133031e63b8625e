"""Measuring a gallery's error rates: searches with its own templates, and scores of pairs of them.

The best score of a template among those of other identities stands for a non-mated search: the gallery without the
probe's own identity is a gallery that the person is not in. Templates without identity are candidates like any other,
but never probes. One that is of the probe's person after all, like two identities that are one person, counts as a
false positive: thresholds come out too high rather than too low.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.calibrations import LabelledSample
from coordinator.error_rates import ImpostorScores, RateArray
from coordinator.gallery_calibration import Calibration, measured
from coordinator.router import Router
from coordinator.types import GalleryRoute
from shard.errors import InvalidParameter, NotEnoughData
from shard.types import MAX_K, RowArray, SearchParams

MIN_SAMPLES, MAX_SAMPLES = 100, 5_000
DEFAULT_SAMPLES = 2_000
MIN_PAIRS = 30
"""Fewest identities with two templates: with 30 and no error, an FNMR of 10 % is just excluded (rule of 3)."""
_SEARCHED_AT_ONCE = 256
_DEADLINE_MS = 120_000


def check_samples(samples: int, seed: int) -> None:
    """InvalidParameter for a number of identities, or a seed, that is out of range."""
    if isinstance(samples, bool) or not isinstance(samples, int) or not MIN_SAMPLES <= samples <= MAX_SAMPLES:
        raise InvalidParameter(f"samples: expected {MIN_SAMPLES} to {MAX_SAMPLES:,} identities, got {samples!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(1 << 63) <= seed < 1 << 63:
        raise InvalidParameter(f"seed: expected an integer of 64 bits, got {seed!r}")


def check_enough(name: str, sample: LabelledSample) -> None:
    """NotEnoughData, with what is there and what it takes."""
    if len(sample.probes) < MIN_SAMPLES or len(sample.pairs) < MIN_PAIRS:
        raise NotEnoughData(
            f"calibrating {name} needs templates of {MIN_SAMPLES} identities, {MIN_PAIRS} of them with two templates or"
            f" more; it has {sample.identities:,} identities, {len(sample.pairs):,} of them with two"
        )


def measure(
    router: Router, route: GalleryRoute, sample: LabelledSample, *, samples: int, seed: int, now: float
) -> Calibration:
    """Search with the sample's probes, compare its pairs, and make a calibration of the scores.

    now: unix seconds. Searches aim at a recall of 0.999. Raises NotEnoughData, and what `Router.search` does.
    """
    check_enough(route.name, sample)
    top = np.full(len(sample.probes), np.nan)
    for rows, k in _batches(sample.own):
        found = router.search(route, sample.probes[rows], SearchParams(k), deadline_ms=_DEADLINE_MS).candidates
        for row, scores, names in zip(rows.tolist(), found.scores, found.identities, strict=True):
            others = (score for score, name in zip(scores, names, strict=False) if name != sample.names[row])
            top[row] = next(others, np.nan)  # its identity may have grown since
    has_score = ~np.isnan(top)
    genuine: RateArray = np.einsum("gd,gd->g", sample.pairs[:, 0], sample.pairs[:, 1]).astype(np.float64)
    if has_score.sum() < MIN_SAMPLES:
        raise NotEnoughData(
            f"calibrating {route.name} needs {MIN_SAMPLES} non-mated searches; {int(has_score.sum())} were possible:"
            f" the other identities have {MAX_K:,} templates or more, or are all there is"
        )
    return measured(
        genuine,
        ImpostorScores(sample.probes[has_score]),
        top[has_score],
        gallery_size=sum(stats.templates for stats in router.stats(route)),
        embedder=route.embedder,
        labelled=sample.templates,
        identities=sample.identities,
        left_out=int((~has_score).sum()),
        samples=samples,
        seed=seed,
        created_at=now,
    )


def _batches(own: tuple[int, ...]) -> Iterator[tuple[RowArray, int]]:
    """Rows of probes, with a k that passes all templates of their own identities; where none does, left out."""
    wanted = np.array(own) + 1
    # A power of two apart, so that few probes look much further than they have to.
    k = np.minimum(1 << np.ceil(np.log2(wanted)).astype(np.int64), MAX_K)
    for each in np.unique(k[wanted <= MAX_K]).tolist():
        rows = np.flatnonzero((k == each) & (wanted <= MAX_K))
        for first in range(0, len(rows), _SEARCHED_AT_ONCE):
            yield rows[first : first + _SEARCHED_AT_ONCE], each
