"""What the service is held to, and whether it was met: a line for each figure of a run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.judged import Judged
from benchmarks.service.results import Fairness, RunResult, SearchLoad
from benchmarks.service.searching import MANY, PACE_PER_S
from benchmarks.service.workload import BATCH

SINGLE_P50_MS = 1.5
MANY_PER_S, MANY_P99_MS = 3_000.0, 60.0
BATCH_TIMES = 10.0
FLOODED_TIMES = 3.0
OPEN_S, RESIDENT_BYTES, COLD_MS = 60.0, 2 << 30, 20.0


def judged(run: RunResult) -> list[Judged]:
    """Every figure of the run that has a target."""
    found = judged_searches(run.searches)
    if run.fairness is not None:
        found.append(_fairness(run.fairness))
    if run.galleries is not None:
        found += _galleries(run.galleries)
    return found


def judged_searches(searches: list[SearchLoad]) -> list[Judged]:
    """Single queries first, then batches; these need both single loads of the same kind among the searches."""
    found = [item for search in searches for item in _search(search)]
    return [*found, *_batches(searches)]


def _what(search: SearchLoad) -> str:
    recall = "" if search.recall == 0.999 else f", recall {search.recall:g}"
    return f"{search.gallery}, k={search.k}{recall}, {search.body.rpartition('/')[2]}"


def _search(search: SearchLoad) -> Iterator[Judged]:
    load = search.load
    if search.queries != 1:
        return
    if load.connections == 1:
        is_met = load.p50_ms < SINGLE_P50_MS and not load.errors
        measured = f"p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms, {load.per_s:,.0f}/s, {load.errors} errors"
        yield Judged(f"1 connection: {_what(search)}", f"p50 < {SINGLE_P50_MS:g} ms", measured, is_met)
    elif load.connections == MANY:
        is_met = search.queries_per_s >= MANY_PER_S and load.p99_ms < MANY_P99_MS and not load.errors
        measured = f"{search.queries_per_s:,.0f}/s, p99 {load.p99_ms:.1f} ms, {load.errors} errors"
        target = f">= {MANY_PER_S:,.0f}/s, p99 < {MANY_P99_MS:g} ms, no errors"
        yield Judged(f"{MANY} connections: {_what(search)}", target, measured, is_met)


def _batches(searches: list[SearchLoad]) -> Iterator[Judged]:
    """Each batch against the single queries of the same gallery and k."""
    for batch in searches:
        if batch.queries != BATCH:
            continue
        rates = {
            single.load.connections: single.queries_per_s
            for single in searches
            if single.queries == 1
            and (single.gallery, single.k, single.body, single.recall)
            == (batch.gallery, batch.k, batch.body, batch.recall)
        }
        times = batch.queries_per_s / rates[1]
        measured = (
            f"{batch.queries_per_s:,.0f}/s: {times:.1f} times one connection's {rates[1]:,.0f}/s, "
            f"{batch.queries_per_s / rates[MANY]:.1f} times {MANY} connections' {rates[MANY]:,.0f}/s"
        )
        is_met = times >= BATCH_TIMES and not batch.load.errors
        yield Judged(f"batches of {BATCH}: {_what(batch)}", f">= {BATCH_TIMES:g} times one by one", measured, is_met)


def _fairness(found: Fairness) -> Judged:
    alone, beside = found.alone, found.beside
    measured = (
        f"p99 {beside.p99_ms:.1f} ms, {beside.p99_ms / alone.p99_ms:.1f} times {alone.p99_ms:.1f} ms alone "
        f"(p50 {beside.p50_ms:.1f} and {alone.p50_ms:.1f}), {alone.errors + beside.errors} errors; "
        f"the flood got {found.flood_per_s:,.0f} probes/s ({found.flood_alone_per_s:,.0f} alone)"
    )
    is_met = beside.p99_ms <= FLOODED_TIMES * alone.p99_ms and not alone.errors + beside.errors
    figure = f"{PACE_PER_S:g} single queries/s beside another tenant's batches"
    return Judged(figure, f"p99 at most {FLOODED_TIMES:g} times alone", measured, is_met)


def _galleries(found: dict[str, object]) -> Iterator[Judged]:
    asked = found["asked"]
    assert isinstance(asked, dict)
    what = f"{found['galleries']:,} galleries x {found['templates']} x {found['dim']}: "
    resident = asked["most"]["resident"]
    every = f"opened in {asked['opened_s']:.2f} s, all asked after {asked['all_asked_s']:.1f} s"
    yield Judged(f"{what}opening all", f"< {OPEN_S:g} s", every, asked["all_asked_s"] < OPEN_S)
    size = f"{resident / 2**30:.2f} GiB"
    yield Judged(f"{what}resident", f"< {RESIDENT_BYTES / 2**30:g} GiB", size, resident < RESIDENT_BYTES)
    cold = f"p50 {asked['cold_p50_ms']:.1f} ms, p99 {asked['cold_p99_ms']:.1f} ms"
    yield Judged(f"{what}cold first query", f"< {COLD_MS:g} ms", cold, asked["cold_p50_ms"] < COLD_MS)
