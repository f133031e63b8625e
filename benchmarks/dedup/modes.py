"""One dedup job of a mode, from a home that nothing else has open: seconds by phase, memory, what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from benchmarks.dedup.seeded import GALLERY, Seeded
from benchmarks.dedup.truth import accuracy, document, kept_truth
from benchmarks.dedup.watched import Driver, Peak
from cluster import Cluster
from shard.sketch import make_basis, sketch
from shard.types import FloatArray, RowArray

BEFORE = ("reading", "verifying")
"""Phases that are the same in every mode: the snapshot, and its verification."""
PAIRS = ("sampling", "joining")
"""Those in which pairs are found, which is all that the peers do."""
_SKETCHED = 65_536


def mode_figures(seeded: Seeded, shards: int, mode: str, threshold: float, sample_rows: int) -> dict[str, Any]:
    """A job that takes its own snapshot; removed afterwards."""
    home, rows = seeded.home(shards), seeded.rows()
    parameters = {"threshold": threshold, "mode": mode}
    with Driver(home, {"parameters": parameters}, seeded.folder / "driver.log") as driver:
        said, peak = driver.measured()
        found = reported_pairs(driver.directory / "result")
        summary = {"pairs": len(found[0]), "parts": len(list((driver.directory / "checkpoints").glob("verify-*")))}
    forget(home, driver.job_id)
    truth = kept_truth(seeded.folder, rows, threshold, sample_rows, seeded.seed)
    return {
        "n": seeded.n,
        "shards": shards,
        "mode": mode,
        "threshold": threshold,
        **times(said),
        **summary,
        "memory": memory(peak, driver.began["idle_anonymous"], seeded.n, sketch_bytes(rows, threshold)),
        "accuracy": document(accuracy(truth, rows, *found)),
    }


def times(said: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a job by what the driver said.

    whole: from submitting it to its end, the snapshot included. without_snapshot: less `reading`. after_verifying: less
    `verifying` too, what modes differ in. finding_pairs: sampling and joining. phases: by name, in their order.
    """
    phases: dict[str, float] = {}
    for phase in said["phases"]:
        phases[phase["phase"]] = phases.get(phase["phase"], 0.0) + phase["seconds"]
    whole, other = said["seconds"], sum(seconds for name, seconds in phases.items() if name not in BEFORE)
    # Fast mode may have phases of its own between verifying and grouping.
    pairs = sum(seconds for name, seconds in phases.items() if name not in (*BEFORE, "grouping", "writing"))
    return {
        "whole_s": whole,
        "without_snapshot_s": whole - phases.get("reading", 0.0),
        "after_verifying_s": other,
        "finding_pairs_s": pairs,
        "phases_s": phases,
    }


def memory(peak: Peak, idle: int, n: int, of_sketch: float) -> dict[str, Any]:
    """Bytes. codes: 64 of a template, which the gallery has in memory; sketches: what the join reads, if it had all."""
    codes = 64 * n
    return {
        "peak_anonymous": peak.anonymous,
        "peak_total": peak.total,
        "processes": peak.processes,
        "samples": peak.samples,
        "driver_idle_anonymous": idle,
        "codes": codes,
        "sketch_bytes_per_template": of_sketch,
        "sketches": int(of_sketch * n),
        "bound": codes + (1 << 30),
    }


def sketch_bytes(rows: FloatArray, threshold: float) -> float:
    """Bytes of a template's sketch in exact mode, by sketching some."""
    part = np.ascontiguousarray(rows[:_SKETCHED])
    return sketch(make_basis(part[:: max(len(part) // 16_384, 1)], threshold), [part]).nbytes / len(part)


def reported_pairs(result: Path) -> tuple[RowArray, RowArray, FloatArray]:
    """Rows of the left and of the right, (n,) int64, and scores (n,) float32 of pairs.parquet."""
    table = pyarrow.parquet.read_table(result / "pairs.parquet", columns=["left_id", "right_id", "score"])
    left, right = (_rows(table.column(name)) for name in ("left_id", "right_id"))
    return left, right, table.column("score").to_numpy()


def _rows(ids: Any) -> RowArray:
    numbers = pyarrow.compute.utf8_slice_codeunits(ids, 9, 17)
    rows: RowArray = numbers.cast(pyarrow.int64()).to_numpy()
    return rows


def forget(home: Path, *job_ids: str) -> None:
    """Remove jobs and their files, of which the snapshot is as large as the gallery."""
    with Cluster.open(home) as grid:
        for job_id in job_ids:
            grid.jobs.delete(job_id)


def take_snapshot(home: Path, store: Path) -> dict[str, str]:
    """A snapshot of the gallery, as parameters of a job."""
    with Cluster.open(home) as grid:
        made = grid.snapshots(store).create(GALLERY, progress=False)
    return {"store": str(store), "snapshot": made.manifest.snapshot_id}
