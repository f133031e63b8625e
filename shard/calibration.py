"""How many rows each stage of the cascade must keep for a promised recall: the table a SearchModel carries.

Owns the table, its look-up (`Calibration.survivors`) and the choice of survivors from measured ranks (`calibrate`).
It must not know embeddings, codes or files: ranks come in as numbers from `shard.training`, rows go out. All figures
in comments here come from docs/search-model.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard.errors import InvalidParameter
from shard.types import FloatArray, RowArray

RECALL_GRID = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
"""Recalls the table holds; one in between is served by the next higher."""
K_GRID = (1, 10, 100)
"""Candidate list lengths the table holds; one in between is served by the next higher."""
HEAD_FLOOR, FULL_FLOOR = 512, 64
"""Fewest survivors of plane 0 and of all planes: below these the work saved is not worth the risk."""
HEAD_GROWTH, FULL_GROWTH = 0.95, 0.85
"""Beyond the largest gallery measured, survivors grow as rows**growth. The rank of a mate grows linearly, that of the
nearest stranger as rows**0.80 to 0.95 (plane 0) and rows**0.55 to 0.75 (all planes), because strangers get nearer."""
FULL_COST = 16.0
"""Cost of reranking one row on floats, in units of scoring one row on all planes: 2 KB of mapped floats against 64
bytes of codes in memory."""
CONFIDENCE = 0.9
"""Probability that the true miss rate is within the promise, given the misses counted."""
_SPLITS = 9


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Survivors measured on held-out rows, as a table over gallery size, k and recall.

    rows: (s,) int64 ascending, gallery sizes measured. ks: (t,) int64 and recalls: (r,) float64, ascending.
    survivors_head, survivors_full: (s, t, r) float32, rows to keep on plane 0 and on all planes; both rise along
    every axis. probes: held-out probes behind the figures.
    """

    rows: RowArray
    ks: RowArray
    recalls: npt.NDArray[np.float64]
    survivors_head: FloatArray
    survivors_full: FloatArray
    probes: int

    def survivors(self, rows: int, k: int, recall: float) -> tuple[int, int]:
        """(head, full) for a shard of `rows` rows: k <= full <= head <= rows, except that rows caps all.

        Rises with rows, k and recall. A recall above the table's last scans all rows.
        Raises InvalidParameter for k < 1, rows < 0 or a recall outside (0, 1).
        """
        _check(rows, k, recall)
        at = int(np.searchsorted(self.recalls, recall - 1e-12))
        if rows == 0 or at == len(self.recalls):
            return rows, rows
        head = self._count(self.survivors_head, rows, k, at, HEAD_GROWTH)
        full = self._count(self.survivors_full, rows, k, at, FULL_GROWTH)
        full = max(full, FULL_FLOOR, 2 * k)
        head = max(head, HEAD_FLOOR, 4 * k, full)
        return min(head, rows), min(full, rows)

    def _count(self, table: FloatArray, rows: int, k: int, at: int, growth: float) -> int:
        """Survivors at one recall: log-log interpolation over gallery sizes, `rows**growth` beyond the last."""
        t = min(int(np.searchsorted(self.ks, k)), len(self.ks) - 1)
        # Beyond the last k of the table, ranks of the k-th neighbour grow at most in proportion to k.
        stretch = max(1.0, k / float(self.ks[t]))
        column = np.log(np.maximum(table[:, t, at].astype(np.float64), 1.0))
        sizes = np.log(self.rows.astype(np.float64))
        x = math.log(rows)
        y = float(np.interp(x, sizes, column)) + growth * max(0.0, x - float(sizes[-1]))
        return math.ceil(stretch * math.exp(min(y, math.log(rows))) - 1e-9)


def _check(rows: int, k: int, recall: float) -> None:
    if rows < 0:
        raise InvalidParameter(f"rows: expected 0 or more, got {rows}")
    if k < 1:
        raise InvalidParameter(f"k: expected 1 or more, got {k}")
    if not 0.0 < recall < 1.0:
        raise InvalidParameter(f"recall: expected a number between 0 and 1, both excluded, got {recall!r}")


@dataclass(frozen=True, slots=True, eq=False)
class RankSample:
    """Where the true neighbours of held-out probes stood in one gallery.

    rows: size of the gallery. head, full: (probes, k_max) ranks from 1, on plane 0 and on all planes, of each probe's
    true neighbours, nearest first.
    """

    rows: int
    head: FloatArray
    full: FloatArray


def calibrate(samples: Sequence[RankSample]) -> Calibration:
    """The table from ranks measured at one or more gallery sizes, ascending in rows."""
    k_max = samples[-1].head.shape[1]
    ks = np.array([k for k in K_GRID if k <= k_max], dtype=np.int64)
    heads = np.empty((len(samples), len(ks), len(RECALL_GRID)), dtype=np.float64)
    fulls = np.empty_like(heads)
    for s, sample in enumerate(samples):
        for t, k in enumerate(ks):
            # A gallery too small to measure this k repeats the row of the k before it; `survivors` keeps 2k anyway.
            width = min(int(k), sample.head.shape[1])
            heads[s, t], fulls[s, t] = _row(sample, width)
    return Calibration(
        rows=np.array([sample.rows for sample in samples], dtype=np.int64),
        ks=ks,
        recalls=np.array(RECALL_GRID),
        survivors_head=_rising(heads),
        survivors_full=_rising(fulls),
        probes=samples[-1].head.shape[0],
    )


def _rising(table: npt.NDArray[np.float64]) -> FloatArray:
    """The least table above this one that rises along every axis: noise must not make a higher recall cheaper."""
    for axis in range(table.ndim):
        table = np.maximum.accumulate(table, axis=axis)
    return np.ceil(table).astype(np.float32)


def _row(sample: RankSample, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(head, full) for every recall of the grid, for candidate lists of k."""
    probes = sample.head.shape[0]
    head, full = sample.head[:, :k].ravel(), sample.full[:, :k].ravel()
    heads, fulls, resolved = [], [], []
    for recall in RECALL_GRID:
        misses = allowed_misses(probes, 1.0 - recall)
        if misses is None:
            break
        # Neighbours of one probe miss together, so confidence counts probes, and the rate is applied to pairs.
        best = cheapest(head, full, misses * k)
        heads.append(best[0])
        fulls.append(best[1])
        resolved.append(recall)
    return _extend(heads, resolved, sample.rows), _extend(fulls, resolved, sample.rows)


def allowed_misses(probes: int, miss_rate: float) -> int | None:
    """Most misses among `probes` that still show a true miss rate <= miss_rate with CONFIDENCE; None if even 0 cannot.

    Exact for the Poisson law, the limit of the binomial for small rates and slightly stricter than it.
    """
    mean = probes * miss_rate
    cumulative = 0.0
    misses = -1
    while True:
        # From the logarithm, each term on its own: exp(-mean) is 0 in floating point from a mean of 745 on.
        cumulative += math.exp((misses + 1) * math.log(mean) - mean - math.lgamma(misses + 2))
        if cumulative > 1.0 - CONFIDENCE:
            return misses if misses >= 0 else None
        misses += 1


def cheapest(head: FloatArray, full: FloatArray, misses: int) -> tuple[float, float]:
    """The (head, full) of least cost that loses at most `misses` of the pairs, the budget split between both stages.

    head, full: (pairs,) ranks. misses < pairs.
    """
    # At most `misses` pairs are lost, so both answers are among the misses + 1 largest ranks of their stage.
    farthest_head = -np.partition(-head, misses)[: misses + 1]
    farthest_head[::-1].sort()
    by_full = np.argpartition(-full, misses)[: misses + 1]
    by_full = by_full[np.argsort(-full[by_full], kind="stable")]
    best, best_cost = (0.0, 0.0), math.inf
    for at_head in sorted({misses * i // (_SPLITS - 1) for i in range(_SPLITS)}):
        keep = float(farthest_head[at_head])
        # Ties at `keep` stay inside, so fewer than `at_head` pairs may be lost here; the rest is left to `full`.
        lost = int(np.count_nonzero(farthest_head > keep))
        rank = float(full[by_full[head[by_full] <= keep][misses - lost]])
        cost = keep + FULL_COST * rank
        if cost < best_cost:
            best, best_cost = (keep, rank), cost
    return best


def _extend(counts: list[float], resolved: list[float], rows: int) -> npt.NDArray[np.float64]:
    """Counts for the whole grid: what the probes could not resolve continues the measured power law of the miss rate.

    In log-log the measured curves bend down towards high recall, so a straight continuation keeps too many, never
    too few; with fewer than two resolved recalls everything is scanned.
    """
    out = np.full(len(RECALL_GRID), float(rows))
    out[: len(counts)] = counts
    if len(counts) < 2:
        return out
    rise = math.log(max(counts[-1], 1.0) / max(counts[0], 1.0))
    slope = max(rise / math.log((1 - resolved[0]) / (1 - resolved[-1])), 0.5)
    for i in range(len(counts), len(RECALL_GRID)):
        out[i] = min(rows, counts[-1] * ((1 - resolved[-1]) / (1 - RECALL_GRID[i])) ** slope)
    return out
