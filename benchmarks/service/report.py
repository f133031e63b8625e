"""A run as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.service.results import PeerResult, RunResult, SearchLoad


def text(run: RunResult) -> str:
    """Machine, targets, every load, peers."""
    machine = run.machine
    load = ", ".join(f"{value:.2f}" for value in run.load_before)
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['flags'])}; load average before: {load}",
        f"commit {run.source['commit']}{', changed' if run.source['is_dirty'] else ''}; {run.seconds:.0f} s in all",
        "enrolled over HTTP, durable, templates/s: "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in run.enrolled_per_s.items()),
        "recall@k over HTTP against exhaustive search: "
        + ", ".join(f"{name} {value:.4f}" for name, value in run.recall.items()),
        _judged(run),
        _table(
            ["load", "queries/s", "p50 ms", "p90", "p99", "max", "errors", "CPU ms a query", "cores others used"],
            [_load_row(search) for search in run.searches],
        ),
    ]
    if run.peers:
        parts.append(_peers(run.peers))
    return "\n\n".join(parts)


def _judged(run: RunResult) -> str:
    words = {True: "pass", False: "FAIL", None: "not measured"}
    rows = [[item.figure, item.target, item.measured, words[item.is_met]] for item in run.judged]
    return _table(["figure", "target", "measured", ""], rows)


def _load_row(search: SearchLoad) -> list[str]:
    load = search.load
    name = f"{search.gallery}, k={search.k}, recall {search.recall:g}, {search.body.rpartition('/')[2]}"
    what = f"{name}, {load.connections} connections" + (f", {search.queries} a request" if search.queries > 1 else "")
    times = [f"{value:.2f}" for value in (load.p50_ms, load.p90_ms, load.p99_ms, load.max_ms)]
    rest = [str(load.errors), f"{search.server_cpu_ms:.3f}", f"{search.others_cores:.2f}"]
    return [what, f"{search.queries_per_s:,.0f}", *times, *rest]


def _peers(peers: Sequence[PeerResult]) -> str:
    header = [
        "peer", "how", "index", "recall@10", "one caller p50 ms", "p99", "/s", "64 callers /s", "p99", "errors",
        "batches /s", "build s",
    ]  # fmt: skip
    rows = [_peer_row(peer) for peer in peers]
    notes = [
        f"{peer.name}: {peer.status}: {peer.reason}" if peer.status != "measured" else f"{peer.name}: {_versions(peer)}"
        for peer in peers
    ]
    return _table(header, rows) + "\n" + "\n".join(notes)


def _versions(peer: PeerResult) -> str:
    return ", ".join(f"{name} {version}" for name, version in peer.versions.items())


def _peer_row(peer: PeerResult) -> list[str]:
    if peer.figures is None:
        return [peer.name, peer.over, peer.exactness, peer.status, *[""] * 8]
    found: dict[str, Any] = peer.figures
    return [
        peer.name,
        peer.over,
        peer.exactness,
        f"{peer.recall_at_10:.3f}",
        *(_number(found[name]) for name in ("single_p50_ms", "single_p99_ms", "single_per_s")),
        *(_number(found[name]) for name in ("many_per_s", "many_p99_ms", "many_errors", "batch_per_s")),
        "" if peer.build_s is None else f"{peer.build_s:.0f}",
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text; the first is left-aligned, and so is any other that is not of numbers alone."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
