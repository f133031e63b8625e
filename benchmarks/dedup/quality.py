"""How good the groups are, on real faces: `python -m benchmarks.dedup.quality [--data DIR] [--json FILE]`.

The people of LFW are halved by a hash of their names. One half is enrolled in a gallery and calibrated, as a user
would; its calibration gives the thresholds, for as many templates as the other half has. The other half is grouped at
them: by us, DBSCAN and Chinese whispers, of the same embeddings. The peers are also given the threshold that is best
for them, by the labels, which no user has. Our constant NEARNESS was chosen on the first half (`--design` evaluates
there instead)."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from sklearn.cluster import DBSCAN

from benchmarks.dedup.whispers import chinese_whispers
from cluster import Cluster
from cluster.dedup.evaluation import Agreement, agreement
from cluster.dedup.faces import Faces
from cluster.dedup.grouping import group
from cluster.dedup.rules import Rules
from shard.pairs import Pairs
from shard.types import FloatArray, RowArray

EMBEDDERS = ("edgeface_xs", "mobilefacenet")
TARGETS = (0.01, 0.02, 0.05)
"""Of the calibrated thresholds: FPIR, the first being that of docs/calibration.md's examples."""
GRID = tuple(round(0.36 + 0.02 * step, 2) for step in range(13))
"""Thresholds among which each method's best one is looked for."""
SEEDS = (0, 1)
"""Of Chinese whispers, whose figures are means over them."""


@dataclass(frozen=True)
class Half:
    """Embeddings (n, dim) float32 of unit norm, and names and numbers of their people, (n,) each."""

    rows: FloatArray
    names: list[str]
    people: RowArray


def read_half(data: Path, embedder: str, which: int) -> Half:
    """The half 0 or 1 of LFW's people, by a hash of their names."""
    rows = np.load(data / "lfw" / f"{embedder}_512.npy").astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = (data / "lfw" / "identities.txt").read_text(encoding="utf-8").splitlines()
    chosen = [i for i, name in enumerate(names) if hashlib.blake2b(name.encode()).digest()[0] & 1 == which]
    kept = [names[i] for i in chosen]
    return Half(rows[chosen], kept, np.unique(kept, return_inverse=True)[1].astype(np.int64))


def calibrated(half: Half, templates: int) -> dict[float, float]:
    """Thresholds for TARGETS in a gallery of so many templates, by the calibration of a gallery of this half."""
    with tempfile.TemporaryDirectory() as folder, Cluster.open(Path(folder) / "home") as grid:
        gallery = grid.gallery("lfw/half", create=True, shards=1, dim=half.rows.shape[1])
        ids = [f"{name}/{row}" for row, name in enumerate(half.names)]  # a sample is drawn by them
        gallery.enroll(half.rows, identities=half.names, template_ids=ids)
        grid.wait_until_idle()
        found = gallery.calibrate(samples=len(set(half.names)))
        return {target: found.threshold_for_fpir(target, templates) for target in TARGETS}


def all_pairs(rows: FloatArray, threshold: float) -> Pairs:
    """Every pair of rows with a cosine of `threshold` or more, by brute force."""
    parts = []
    for start in range(0, len(rows), 1_024):
        scores = rows[start : start + 1_024] @ rows.T
        left, right = np.nonzero(scores >= threshold)
        later = left + start < right
        parts.append((left[later] + start, right[later], scores[left[later], right[later]]))
    left, right, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pairs(left, right, scores)


def at_least(pairs: Pairs, threshold: float) -> Pairs:
    """The pairs from a threshold up."""
    return pairs.take(np.flatnonzero(pairs.scores >= threshold))


def ours(half: Half, pairs: Pairs, threshold: float) -> RowArray:
    """Our groups with default rules, -1 for faces in none. Labels are not shown."""
    faces = Faces.unlabelled(len(half.rows))
    found = group(pairs, faces, lambda rows: half.rows[rows], Rules(threshold=threshold))
    groups = np.full(len(half.rows), -1, np.int64)
    groups[found.row] = found.group
    return groups


def dbscan(min_samples: int) -> Callable[[Half, Pairs, float], RowArray]:
    """DBSCAN with eps = 1 - threshold on cosine distance; noise is in no group."""

    def run(half: Half, pairs: Pairs, threshold: float) -> RowArray:
        n = len(half.rows)
        distance = np.maximum(1 - pairs.scores.astype(np.float64), 1e-9)
        graph = coo_matrix((distance, (pairs.left, pairs.right)), shape=(n, n)).tocsr()
        # The pairs are those within eps already; a little more keeps rounding from dropping any.
        found = DBSCAN(eps=1 - threshold + 1e-6, min_samples=min_samples, metric="precomputed").fit_predict(
            graph + graph.T
        )
        return np.asarray(found, np.int64)

    return run


def whispers(seed: int) -> Callable[[Half, Pairs, float], RowArray]:
    """Chinese whispers on the pairs."""
    return lambda half, pairs, threshold: chinese_whispers(
        len(half.rows), pairs.left, pairs.right, pairs.scores, seed=seed
    )


METHODS: dict[str, tuple[Callable[[Half, Pairs, float], RowArray], ...]] = {
    "facegrid": (ours,),
    "dbscan_2": (dbscan(2),),
    "dbscan_3": (dbscan(3),),
    "dbscan_4": (dbscan(4),),
    "chinese_whispers": tuple(whispers(seed) for seed in SEEDS),
}


def figures(runs: list[Agreement]) -> dict[str, float]:
    """Means over runs, of every figure; F is the mean of the runs' F."""
    names = ("pair_precision", "pair_recall", "pair_f", "bcubed_precision", "bcubed_recall", "bcubed_f")
    return {name: round(float(np.mean([getattr(run, name) for run in runs])), 5) for name in names}


def evaluate(data: Path, embedder: str, *, design: bool) -> dict[str, Any]:
    """All methods on one half of LFW, at thresholds from the other one's calibration and at each one's best."""
    known, unseen = read_half(data, embedder, 0), read_half(data, embedder, 1)
    half = known if design else unseen
    thresholds = calibrated(unseen if design else known, len(half.rows))
    everything = all_pairs(half.rows, min(*GRID, *thresholds.values()))
    table: dict[str, dict[float, dict[str, float]]] = {name: {} for name in METHODS}
    for threshold in sorted({*GRID, *thresholds.values()}):
        pairs = at_least(everything, threshold)
        for name, runs in METHODS.items():
            table[name][threshold] = figures([agreement(run(half, pairs, threshold), half.people) for run in runs])
    best = {
        name: {figure: _best({t: by[t] for t in GRID}, figure) for figure in ("pair_f", "bcubed_f")}
        for name, by in table.items()
    }
    return {
        "faces": len(half.rows),
        "people": int(half.people.max()) + 1,
        "calibrated": {
            str(target): {"threshold": round(t, 5), "methods": {name: by[t] for name, by in table.items()}}
            for target, t in thresholds.items()
        },
        "best_threshold_by_labels": best,
        "by_threshold": {
            name: {str(t): [by[t]["pair_f"], by[t]["bcubed_f"]] for t in GRID} for name, by in table.items()
        },
    }


def _best(by: dict[float, dict[str, float]], figure: str) -> dict[str, float]:
    threshold = max(by, key=lambda t: by[t][figure])
    return {"threshold": threshold, **by[threshold]}


def show(embedder: str, found: dict[str, Any]) -> None:
    """Print the figures of one embedder."""
    print(f"\n{embedder}: {found['faces']:,} faces of {found['people']:,} people")
    for target, entry in found["calibrated"].items():
        print(f"  calibrated to FPIR {target}: threshold {entry['threshold']:.3f}")
        for name, by in entry["methods"].items():
            print(f"    {name:17} {_line(by)}")
    for figure in ("pair_f", "bcubed_f"):
        print(f"  each at its own best threshold for {figure}, chosen by the labels")
        for name, by in found["best_threshold_by_labels"].items():
            print(f"    {name:17} {_line(by[figure])}  at {by[figure]['threshold']:.2f}")


def _line(by: dict[str, float]) -> str:
    pair = f"pairs P {by['pair_precision']:.4f} R {by['pair_recall']:.4f} F {by['pair_f']:.4f}"
    return f"{pair}  B-cubed P {by['bcubed_precision']:.4f} R {by['bcubed_recall']:.4f} F {by['bcubed_f']:.4f}"


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FACEGRID_DATA", "../shared/data")))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--design", action="store_true", help="the half that NEARNESS was chosen on, for comparison")
    given = parser.parse_args()
    results = {}
    for embedder in EMBEDDERS:
        results[embedder] = evaluate(given.data, embedder, design=given.design)
        show(embedder, results[embedder])
        sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
