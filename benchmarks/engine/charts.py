"""Draws a run: recall against latency and memory against latency, for each dataset, as SVG and PNG."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.engine.options import size_name
from benchmarks.engine.results import DatasetResult, PeerResult, Row, RunResult
from shard.errors import MissingExtra

_FORMATS = ("svg", "png")
_MISS_FLOOR = 1e-3  # where a recall of 1 is drawn: 1,000 probes say no more
_REFERENCE = 0.99


def draw(result: RunResult, folder: Path) -> list[Path]:
    """Write engine-<size>-<dataset>-<recall|memory>.<svg|png>; the paths. MissingExtra without matplotlib."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingExtra("charts need matplotlib; `pip install 'facegrid[bench]'`") from None
    plt.switch_backend("Agg")
    # So that the same figures give the same SVG.
    plt.rcParams.update({"svg.hashsalt": "facegrid", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset in result.datasets:
        size = size_name(dataset.templates)
        for name, paint in (("recall", _recall), ("memory", _memory)):
            figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
            paint(axes, dataset)
            for kind in _FORMATS:
                path = folder / f"engine-{size}-{dataset.name}-{name}.{kind}"
                figure.savefig(path, dpi=150, metadata={"Date": None} if kind == "svg" else None)
                written.append(path)
            plt.close(figure)
    return written


def _p50(row: Row) -> float:
    return statistics.median(timing.p50_ms for timing in row.single)


def _timed(dataset: DatasetResult) -> list[PeerResult]:
    return [peer for peer in dataset.peers if peer.status == "measured" and all(row.single for row in peer.rows)]


def _style(number: int, peer: PeerResult) -> dict[str, Any]:
    is_ours = peer.name == "facegrid"
    return {"color": "black" if is_ours else f"C{number % 10}", "marker": "*" if is_ours else "osD^vXP<>h"[number % 10]}


def _recall(axes: Any, dataset: DatasetResult) -> None:
    for number, peer in enumerate(_timed(dataset)):
        points = sorted((_p50(row), max(1 - row.mated.recall_1, _MISS_FLOOR)) for row in peer.rows)
        axes.plot(*zip(*points, strict=True), label=peer.name, markersize=6, linewidth=1, **_style(number, peer))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="single query, one thread, p50 (ms)",
        ylabel="1 − recall@1 against exact search (lower is better)",
        title=f"{dataset.templates:,} templates of {dataset.identities:,} people",
    )
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7)


def _memory(axes: Any, dataset: DatasetResult) -> None:
    """Each peer once: its fastest setting with recall@1 of 0.99 or more; peers that have none are left out."""
    for number, peer in enumerate(_timed(dataset)):
        times = [_p50(row) for row in peer.rows if row.mated.recall_1 >= _REFERENCE]
        if not times or peer.resident is None:
            continue
        # A log axis has no place for 0: an index that is mapped altogether is drawn at one byte.
        point = (min(times), max(peer.resident.searched_anonymous, 1.0))
        axes.scatter(*point, s=50, **_style(number, peer))
        axes.annotate(peer.name, point, textcoords="offset points", xytext=(5, 4), fontsize=7)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"single query, one thread, p50 at recall@1 ≥ {_REFERENCE} (ms)",
        ylabel="heap per template after searching (bytes)",
        title=f"{dataset.templates:,} templates of {dataset.identities:,} people",
    )
    axes.grid(visible=True, which="both", alpha=0.25)
