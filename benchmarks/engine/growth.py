"""How Facegrid grows with the gallery: latency, throughput and memory over the number of templates, of several runs.

    python -m benchmarks.engine.growth RESULT.json RESULT.json ... [--shape one] [--charts FOLDER]

Each argument is a document of the engine benchmark, all of one k. Prints a table and draws engine-growth-<shape>.svg
and .png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.options import RESULTS
from shard.errors import InvalidParameter

LABELS = (">=0.99", ">=0.998", "default", "exact")


@dataclass(frozen=True, slots=True)
class Point:
    """One gallery: p50 in ms and searches a second by label, bytes a template of a process that has searched."""

    templates: int
    p50_ms: dict[str, float]
    batch: dict[str, float]
    bytes: float
    build_seconds: float


def points(documents: list[dict[str, Any]], shape: str) -> list[Point]:
    """The galleries of that shape by size. InvalidParameter if there is none, or unless all searches were of one k."""
    candidates = {document["options"]["k"] for document in documents}
    datasets = [dataset for document in documents for dataset in document["datasets"] if dataset["name"] == shape]
    if len(candidates) != 1 or not datasets:
        got = f"{len(datasets)} of shape {shape!r}, k in {sorted(candidates)}"
        raise InvalidParameter(f"growth: expected results of one shape and one k, got {got}")
    found = []
    for dataset in datasets:
        (peer,) = [peer for peer in dataset["peers"] if peer["name"] == "facegrid"]
        rows = {label: row for row in peer["rows"] for label in row["labels"] if label in LABELS}
        p50 = {label: statistics.median(t["p50_ms"] for t in row["single"]) for label, row in rows.items()}
        batch = {label: statistics.median(row["batch_per_second"]) for label, row in rows.items()}
        memory = peer["resident"]["reopened_anonymous"] + peer["resident"]["reopened_mapped"]
        found.append(Point(dataset["templates"], p50, batch, memory, peer["build_seconds"]))
    return sorted(found, key=lambda point: point.templates)


def draw(shape: str, found: list[Point], folder: Path) -> list[Path]:
    """Latency beside throughput, both over templates, on logarithmic axes; the paths written."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    plt.rcParams.update({"svg.hashsalt": "facegrid", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for label in LABELS:
        for axes, values in ((left, [p.p50_ms for p in found]), (right, [p.batch for p in found])):
            axes.plot([p.templates for p in found], [v[label] for v in values], marker="o", label=label)
    left.set(xlabel="templates", ylabel="single query, one thread, p50 (ms)", xscale="log", yscale="log")
    right.set(xlabel="templates", ylabel="batch of 1,024, all cores (searches a second)", xscale="log", yscale="log")
    for axes in (left, right):
        axes.grid(visible=True, which="both", alpha=0.25)
    left.legend(title="recall@1", fontsize=7)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"engine-growth-{shape}.{kind}" for kind in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.growth", description="Growth over templates.")
    parser.add_argument("results", type=Path, nargs="+", help="documents of the engine benchmark")
    parser.add_argument("--shape", default="one", help="photos of each person: one or twenty")
    parser.add_argument("--charts", type=Path, default=RESULTS, help="folder for the chart")
    given = parser.parse_args()
    try:
        found = points([json.loads(path.read_text()) for path in given.results], given.shape)
    except InvalidParameter as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(2)
    for point in found:
        times = "  ".join(f"{label} {point.p50_ms[label]:.3f} ms {point.batch[label]:,.0f}/s" for label in LABELS)
        print(f"{point.templates:>12,}  {times}  {point.bytes:.1f} B  built in {point.build_seconds:.0f} s")
    for path in draw(given.shape, found, given.charts):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
