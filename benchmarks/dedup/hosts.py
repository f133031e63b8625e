"""The same rows in 1, 2 and 4 shards, and a job with 1 worker and with 2: whether groups differ, and the time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from benchmarks.dedup.modes import forget, times
from benchmarks.dedup.seeded import Seeded
from benchmarks.dedup.watched import Driver

WORKERS = (1, 2)
_NAMING_SHARDS = ["left_shard", "right_shard"]


def host_figures(seeded: Seeded, shards: Sequence[int], mode: str, threshold: float) -> dict[str, Any]:
    """A job of each number of shards and workers. Galleries have the same name, each in a home of its own."""
    runs = []
    for count in shards:
        home = seeded.home(count)
        for workers in WORKERS:
            given = {"threshold": threshold, "mode": mode, "workers": workers}
            with Driver(home, {"parameters": given}, seeded.folder / "driver.log") as driver:
                said = driver.finished()
                result = driver.directory / "result"
                runs.append({"shards": count, "workers": workers, **times(said), **_digests(result)})
            forget(home, driver.job_id)
    return {"n": seeded.n, "mode": mode, "threshold": threshold, "runs": runs, **verdict(runs)}


def verdict(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether all runs have the same groups.parquet, and the same pairs but for the shards' columns; how much faster
    finding pairs is with the most workers than with the fewest, in the same gallery (median of galleries)."""
    gains = sorted(gain for gain in (_gain(runs, count) for count in {run["shards"] for run in runs}))
    return {
        "same_groups": len({run["groups_sha256"] for run in runs}) == 1,
        "same_pairs": len({run["pairs_sha256"] for run in runs}) == 1,
        "times_faster_finding_pairs": gains[len(gains) // 2],
    }


def _gain(runs: Sequence[dict[str, Any]], shards: int) -> float:
    of_gallery = sorted((run["workers"], run["finding_pairs_s"]) for run in runs if run["shards"] == shards)
    slow: float = of_gallery[0][1]
    fast: float = of_gallery[-1][1]
    return slow / fast


def _digests(result: Path) -> dict[str, str]:
    """Of groups.parquet as it is, and of the pairs without what names shards."""
    pairs = pyarrow.parquet.read_table(result / "pairs.parquet").drop_columns(_NAMING_SHARDS)
    digest = hashlib.sha256()
    for name in pairs.column_names:
        digest.update(name.encode() + repr(pairs.column(name).to_pylist()).encode())
    groups = hashlib.sha256((result / "groups.parquet").read_bytes()).hexdigest()
    return {"groups_sha256": groups, "pairs_sha256": digest.hexdigest()}
