"""The tables of `docs/sizing.md`, made from costs and figures; what is between the marks is never written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.dedup import PART_ROWS, block_costs
from benchmarks.simulation.scenarios import SIZES
from benchmarks.simulation.sizing import size

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"
_BLOCK = re.compile(r"(<!-- simulate: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(costs: Costs, figures: dict[str, Any], path: Path = PAGE) -> None:
    """Put the tables in their places."""
    path.write_text(rendered(path.read_text(), costs, figures))


def rendered(text: str, costs: Costs, figures: dict[str, Any]) -> str:
    """The page with its tables as the costs and figures have them."""
    return _BLOCK.sub(lambda found: found[1] + "\n" + TABLES[found[2]](costs, figures) + "\n\n" + found[3], text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _count(n: float) -> str:
    return f"{n / 1e9:.0f} B" if n >= 1e9 else f"{n / 1e6:.0f} M"


def _sig(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _bytes(n: float) -> str:
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= scale:
            return f"{_sig(n / scale)} {unit}"
    return f"{_sig(n / 1e3)} kB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{_sig(seconds)} s"
    if seconds < 7200:
        return f"{_sig(seconds / 60)} min"
    return f"{_sig(seconds / 3600)} h"


def _galleries(costs: Costs, _: dict[str, Any]) -> str:
    rows = []
    for templates in SIZES:
        for dim in (512, 128):
            for replicas in (1, 2, 3):
                s = size(templates, dim, replicas, costs)
                cells = (_count(templates), str(dim), str(replicas), _bytes(s.memory), _bytes(s.disk), str(s.hosts))
                rows.append((*cells, _bytes(s.catalog)))
    return _table(("templates", "dim", "replicas", "memory", "disk", "hosts", "catalog"), rows)


def _searches(costs: Costs, _: dict[str, Any]) -> str:
    rows = []
    for templates in SIZES:
        for replicas in (1, 2, 3):
            for recall in ("0.9", "0.99", "0.999"):
                s = size(templates, 512, replicas, costs, recall)
                cells = (_count(templates), str(replicas), recall, str(s.hosts), str(s.asked), _sig(s.core_s * 1_000))
                rows.append((*cells, _sig(s.qps), _bytes(s.network)))
    head = ("templates", "replicas", "recall", "hosts", "asked", "core ms a query", "queries/s", "network a query")
    return _table(head, rows)


def _fanout(_: Costs, figures: dict[str, Any]) -> str:
    rows = []
    for found in figures["queries"]:
        traffic = found["traffic"]
        what = "stragglers" if traffic["trouble"]["slow_share"] else "calm"
        cells = (str(traffic["hosts"]), what, "yes" if traffic["is_hedged"] else "no", str(found["asked"]))
        shares = (f"{found['hedges'] / found['requests']:.1%}", _sig(found["qps"]), found["limited_by"])
        rows.append((*cells, _sig(found["p50_ms"]), _sig(found["p99_ms"]), _sig(found["max_ms"]), *shares))
    head = ("hosts", "hosts are", "hedged", "asked", "p50 ms", "p99 ms", "max ms", "hedges of requests", "queries/s")
    return _table((*head, "short of"), rows)


def _placement(_: Costs, figures: dict[str, Any]) -> str:
    rows = [
        (
            str(f["hosts"]),
            str(f["replicas"]),
            f"{f['least_replicas']} to {f['most_replicas']}",
            str(f["most_primaries"]),
            str(f["asked_by_a_query"]),
            _sig(f["cpu_s"]["place_replicas"] * 1_000),
            _sig(f["cpu_s"]["choose_hosts"] * 1_000),
        )
        for f in figures["placement"]
    ]
    head = ("hosts", "replicas", "on a host", "most primaries", "asked", "`place_replicas` ms", "`choose_hosts` ms")
    return _table(head, rows)


def _changes(_: Costs, figures: dict[str, Any]) -> str:
    rows = []
    for f in figures["lost"]:
        last = (str(f["replicas_lost"]), str(f["copies"]), _time(f["begin_s"]), _time(f["level_s"]))
        rows.append((f"1 of {f['hosts']:,} is lost", *last))
    for f in figures["added"]:
        last = (str(f["moved"]), str(f["copies"]), "at once", _time(f["level_s"]))
        rows.append((f"{f['new']} join {f['hosts']:,}", *last))
    return _table(("hosts", "replicas copied", "copies at a time", "begins after", "level after"), rows)


def _dedup(_: Costs, figures: dict[str, Any]) -> str:
    rows = [
        (
            _count(f["plan"]["rows"]),
            f"{f['plan']['hosts']:,}",
            f"{f['blocks']:,}",
            f"{f['checkpoints']:,}",
            _time(f["hours"] * 3600),
            f"{f['busy_share']:.0%}",
            f"{f['driver_share']:.0%}",
            _bytes(f["read_bytes"]),
            _sig(f["read_gbit_s_per_host"]),
        )
        for f in figures["dedup"]
    ]
    head = ("rows", "hosts", "blocks", "checkpoints", "takes", "workers busy", "driver busy", "floats read")
    return _table((*head, "Gbit/s a host"), rows)


def _trouble(_: Costs, figures: dict[str, Any]) -> str:
    rows = [
        (f["what"], _time(f["hours"] * 3600), f"{f['driver_share']:.0%}", f"{f['read_parts']:,}", str(f["lost"]))
        for f in figures["trouble"]
    ]
    return _table(("100 M rows on 100 hosts, and", "takes", "driver busy", "sketches made", "tasks begun again"), rows)


def _costs(costs: Costs, _: dict[str, Any]) -> str:
    measured, block = costs.measured, block_costs(costs)
    machine, join, copy = measured["machine"], measured["join"], measured["copy"]
    sketch = f"{_sig(block.sketch_s)} s" if block.sketch_s else "not measured: no sketches in this version"
    ten = f"{costs.k10:.2f} times that for one"
    own, engine = "`simulation-costs.json`", "`engine-*-k1.json`"
    rows = [
        ("a query, per core, at 100 k, 1 M, 10 M", ", ".join(f"{_sig(s * 1_000)} ms" for s in costs.core_s), engine),
        ("recall 0.9, 0.99 instead of 0.999, at 10 M", ", ".join(_sig(f) for f in costs.recalls.values()), engine),
        ("a query for ten, at 1 M", ten, "`engine-1m-one-k10.json`"),
        ("resident, after searches, a template", f"{_sig(costs.resident_bytes)} B", "`engine-1m-k1.json`"),
        ("files, a template of 512 floats", f"{_sig(costs.disk_bytes)} B", "`engine-1m-k1.json`"),
        ("a request to a host: router, CPU", f"{_sig(costs.router_s * 1e6)} µs", own),
        ("a request to a host: router's decisions, CPU", f"{_sig(costs.decision_s * 1e6)} µs", own),
        ("a request to a host: host beside the search, CPU", f"{_sig(costs.host_s * 1e6)} µs", own),
        ("merging 1,000 lists of ten", f"{_sig(costs.merge_s(1_000) * 1e3)} ms", own),
        ("copying a replica", f"{_sig(copy['rows_per_s'])} templates/s", own),
        ("a checkpoint, synced", f"{_sig(block.checkpoint_s * 1e3)} ms", own),
        (f"joining, by `{join['by']}`", f"{_sig(join['pairs_per_core_s'] / 1e6)} M pairs/s a core", own),
        (f"a block of {PART_ROWS:,} by {PART_ROWS:,} rows", f"{_sig(block.join_s)} s of a core", "from the line above"),
        ("a sketch of a part", sketch, own),
    ]
    note = f"Measured on: {machine['cpu']}, {machine['cores']} cores, {machine['facegrid_kernel']}."
    return note + "\n\n" + _table(("what", "cost", "in `benchmarks/results/`"), rows)


TABLES: dict[str, Callable[[Costs, dict[str, Any]], str]] = {
    "costs": _costs,
    "galleries": _galleries,
    "searches": _searches,
    "fanout": _fanout,
    "placement": _placement,
    "changes": _changes,
    "dedup": _dedup,
    "trouble": _trouble,
}
