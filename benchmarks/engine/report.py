"""Shows a run on a terminal: a table of settings and one of ratios for each dataset, and who is missing and why."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.engine.results import DatasetResult, PeerResult, Row, RunResult


def show(result: RunResult, console: Console) -> None:
    """Print everything but the rounds."""
    machine = result.machine
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['flags'])}); commit {result.source['commit']}"
        f"{' with changes' if result.source['is_dirty'] else ''}; seed {result.options['seed']};"
        f" {result.options['runs']} rounds; k {result.options['k']}; {result.seconds:.0f} s in all"
    )
    for dataset in result.datasets:
        console.print(
            f"\n[bold]{dataset.name}[/bold]: {dataset.templates:,} templates of {dataset.identities:,} people,"
            f" {dataset.dim}-d; {dataset.mated_probes:,} mated probes, {dataset.stranger_probes:,} strangers;"
            f" rank-1 of exact search {dataset.exact_rank1:.4f}"
        )
        console.print(_peers(dataset))
        console.print(_ratios(dataset))
        for note in notes(dataset):
            console.print(f"  {note}")


def notes(dataset: DatasetResult) -> Iterator[str]:
    """A line for each peer without figures, and for each target that a peer did not reach."""
    for peer in dataset.peers:
        if peer.status != "measured":
            yield f"{peer.name} {peer.status}: {peer.reason}"
        for target, best in peer.unreached.items():
            yield f"{peer.name} does not reach recall@1 {target}: {best:.4f} at best"


def _peers(dataset: DatasetResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("peer", "setting", "knobs"):
        table.add_column(title, overflow="fold")
    for title in (
        *("recall@1", "@10", "strangers @1", "@10", "rank-1", "p50 ms", "p99 ms", "batch /s"),
        *("opened B", "searched B", "disk B", "build s"),
    ):
        table.add_column(title, justify="right")
    for peer in dataset.peers:
        for number, row in enumerate(peer.rows):
            table.add_row(*_cells(peer, row), *(_sizes(peer) if number == 0 else ("",) * 4))
    return table


def _cells(peer: PeerResult, row: Row) -> list[str]:
    quality = [
        row.mated.recall_1,
        row.mated.recall_10,
        row.strangers.recall_1,
        row.strangers.recall_10,
        row.mated.rank1,
    ]
    knobs = " ".join(f"{name}={value:g}" for name, value in row.setting.items())
    cells = [peer.name, ", ".join(row.labels), knobs, *(f"{value:.4f}" for value in quality)]
    if not row.single or not row.batch_per_second:
        return [*cells, "-", "-", "-"]
    p50, p99 = (statistics.median(getattr(t, name) for t in row.single) for name in ("p50_ms", "p99_ms"))
    return [*cells, f"{p50:.3f}", f"{p99:.3f}", f"{statistics.median(row.batch_per_second):,.0f}"]


def _sizes(peer: PeerResult) -> tuple[str, str, str, str]:
    """Bytes per template: all resident when reopened, heap after searching, disk; seconds of the build."""
    if peer.resident is None or peer.disk_bytes is None or peer.build_seconds is None:
        return ("-",) * 4
    opened = peer.resident.reopened_anonymous + peer.resident.reopened_mapped
    return (
        f"{opened:,.0f}",
        f"{peer.resident.searched_anonymous:,.0f}",
        f"{peer.disk_bytes:,.0f}",
        f"{peer.build_seconds:.1f}",
    )


def _ratios(dataset: DatasetResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="times faster than", title_justify="left")
    for title in ("Facegrid at", "peer", "its setting"):
        table.add_column(title)
    for title in ("single query", "batch"):
        table.add_column(title, justify="right")
    for ratio in dataset.ratios:
        single, batch = f"{ratio.single_median:.2f}", f"{ratio.batch_median:.2f}"
        table.add_row(ratio.facegrid, ratio.peer, ratio.peer_row, single, batch)
    return table
