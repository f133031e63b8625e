"""Draws a simulation: latency against hosts, with and without hedging, and hours of dedup against hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shard.errors import MissingExtra


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write an SVG. MissingExtra without matplotlib."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingExtra("charts need matplotlib; `pip install 'facegrid[bench]'`") from None
    plt.switch_backend("Agg")
    # So that the same figures give the same SVG.
    plt.rcParams.update({"svg.hashsalt": "facegrid", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    _latency(left, figures["queries"])
    _dedup(right, figures["dedup"])
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _latency(axes: Any, queries: list[dict[str, Any]]) -> None:
    for is_ill in (False, True):
        for is_hedged in (True, False):
            points = [
                (q["traffic"]["hosts"], q["p99_ms"])
                for q in queries
                if q["traffic"]["is_hedged"] == is_hedged and bool(q["traffic"]["trouble"]["slow_share"]) == is_ill
            ]
            label = f"{'stragglers' if is_ill else 'calm'}, {'hedged' if is_hedged else 'not hedged'}"
            style = {"color": "C3" if is_ill else "black", "linestyle": "-" if is_hedged else "--", "marker": "o"}
            axes.plot(*zip(*sorted(points), strict=True), label=label, markersize=4, linewidth=1, **style)
    axes.set(xscale="log", yscale="log", xlabel="hosts", ylabel="p99 (ms), simulated", title="Searching 1 B templates")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7)


def _dedup(axes: Any, jobs: list[dict[str, Any]]) -> None:
    for number, rows in enumerate(sorted({job["plan"]["rows"] for job in jobs})):
        points = sorted((job["plan"]["hosts"], job["hours"]) for job in jobs if job["plan"]["rows"] == rows)
        axes.plot(*zip(*points, strict=True), label=f"{rows / 1e6:,.0f} M", color=f"C{number}", marker="o", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="hosts of 16 cores", ylabel="hours, simulated", title="All pairs")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7)
