"""What dedup is held to, and whether it was met: a line for each figure of the steps that have been measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.judged import Judged

FULL = 1_000_000
"""Templates that the targets of time and memory are for; figures of fewer are shown and not judged."""
EXACT_S, EXACT_RECALL = 480.0, 0.999
FAST_TIMES, FAST_RECALL = 5.0, 0.99
FLAT_TIMES, GRAPH_TIMES = 20.0, 5.0
OURS = "facegrid"

Steps = dict[str, dict[str, Any]]


def judged(steps: Steps) -> list[Judged]:
    """Every figure, in the order of the issue. steps: by name what each has measured; one that failed has `failed`."""
    found = [
        *_exact(steps), *_fast(steps), *_beside_peers(steps), *_memory(steps), *_quality(steps), *_kills(steps),
        *_hosts(steps),
    ]  # fmt: skip
    failed = [
        Judged(f"step {name}", "to be measured", f"failed: {step['failed']}", None)
        for name, step in steps.items()
        if "failed" in step
    ]
    return found + failed


def document(found: list[Judged]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(item) for item in found]


def _exact(steps: Steps) -> Iterator[Judged]:
    exact = _measured(steps, "exact")
    if exact is None:
        yield _missing("exact mode", f"< {EXACT_S:g} s")
        return
    whole = exact["whole_s"]
    yield Judged(
        f"{_size(exact)}, exact mode: whole job", f"< {EXACT_S:g} s", _times(exact), _if_full(exact, whole < EXACT_S)
    )
    yield from _accuracy("exact", exact, EXACT_RECALL)


def _fast(steps: Steps) -> Iterator[Judged]:
    fast, exact = _measured(steps, "fast"), _measured(steps, "exact")
    if fast is None:
        yield _missing("fast mode", f">= {FAST_TIMES:g} times faster than exact")
        return
    for what, name in (("after the snapshot and its verification", "after_verifying_s"), ("whole job", "whole_s")):
        figure, target = f"{_size(fast)}, fast mode: {what}", f">= {FAST_TIMES:g} times faster than exact"
        if exact is None or exact["n"] != fast["n"]:
            yield Judged(figure, target, f"{fast[name]:.1f} s; exact mode of that size was not measured", None)
            continue
        ratio = exact[name] / fast[name]
        measured = f"{ratio:.1f} times: {fast[name]:.1f} s, exact {exact[name]:.1f} s; {_times(fast)}"
        yield Judged(figure, target, measured, _if_full(fast, ratio >= FAST_TIMES))
    yield from _accuracy("fast", fast, FAST_RECALL)


def _accuracy(mode: str, found: dict[str, Any], least: float) -> Iterator[Judged]:
    a = found["accuracy"]
    where = f"{_size(found)}, {mode} mode: "
    yield Judged(
        f"{where}pair recall",
        f">= {least:g}",
        f"{_share(a['recall_sample'])} of {a['sample_pairs']:,} pairs of {a['sample_rows']:,} rows by brute force, "
        f"{_share(a['recall_seeded'])} of the {a['seeded_above']:,} of {a['seeded']:,} seeded pairs that reach it",
        None if a["recall"] is None else a["recall"] >= least,
    )
    is_met = a["precision"] == 1 and not a["wrong"]
    yield Judged(
        f"{where}precision",
        "1.0",
        f"{_share(a['precision'])} of {a['reported']:,} pairs, all recomputed; {a['wrong']} that brute force has not; "
        f"scores differ by at most {a['score_error']:.1e}",
        None if a["precision"] is None else is_met,
    )


def _beside_peers(steps: Steps) -> Iterator[Judged]:
    peers = _measured(steps, "peers")
    if peers is None:
        yield _missing("against FAISS range_search", f">= {FLAT_TIMES:g} times faster")
        yield _missing("against hnswlib", f">= {GRAPH_TIMES:g} times faster")
        return
    flat = peers["extrapolated"]
    yield from _ratios(steps, peers, "exact", "FAISS range_search", FLAT_TIMES, flat["faiss_s"], flat["faiss_exponent"])
    for mode in ("fast", "exact"):
        graph, name = peers["extrapolated"]["hnswlib"][mode], f"hnswlib at recall {peers['recalls'][mode]:.4f}"
        yield from _ratios(steps, peers, mode, name, GRAPH_TIMES, graph["as_n_log_n_s"], graph["exponent"])


def _ratios(
    steps: Steps,
    peers: dict[str, Any],
    mode: str,
    name: str,
    least: float,
    seconds: float | None,
    exponent: float | None,
) -> Iterator[Judged]:
    ours = _measured(steps, mode)
    for what, field in (("finding pairs", "finding_pairs_s"), ("whole job", "whole_s")):
        figure, target = f"{_size(peers)}, {mode} mode, {what}, against {name}", f">= {least:g} times faster"
        if ours is None or ours["n"] != peers["n"]:
            yield Judged(figure, target, f"{mode} mode of that size was not measured", None)
        elif seconds is None:
            yield Judged(figure, target, "it did not reach that recall", None)
        else:
            ratio = seconds / ours[field]
            grew = "" if exponent is None else f", where time grew with exponent {exponent:.2f}"
            measured = (
                f"{ratio:.1f} times: {ours[field]:.1f} s, {seconds:,.0f} s from {peers['sizes'][-1]:,} rows{grew}"
            )
            yield Judged(figure, target, measured, _if_full(peers, ratio >= least))


def _memory(steps: Steps) -> Iterator[Judged]:
    for mode in ("exact", "fast"):
        found = _measured(steps, mode)
        if found is None:
            yield _missing(f"{mode} mode: peak memory", "codes + 1 GiB")
            continue
        m = found["memory"]
        measured = (
            f"{_mib(m['peak_anonymous'])} anonymous (resident with mapped files {_mib(m['peak_total'])}) of "
            f"{m['processes']} processes; bound {_mib(m['bound'])}: codes {_mib(m['codes'])}; all sketches would be "
            f"{_mib(m['sketches'])}; the driver has {_mib(m['driver_idle_anonymous'])} before the job"
        )
        is_met = _if_full(found, m["peak_anonymous"] <= m["bound"])
        yield Judged(f"{_size(found)}, {mode} mode: peak memory", "codes + 1 GiB", measured, is_met)


def _quality(steps: Steps) -> Iterator[Judged]:
    quality = _measured(steps, "quality")
    if quality is None:
        yield _missing("real LFW: groups against labels", "above DBSCAN and Chinese whispers")
        return
    for embedder, found in quality["embedders"].items():
        for fpir, entry in found["calibrated"].items():
            by = entry["methods"]
            for figure, name in (("pair_f", "pairwise F"), ("bcubed_f", "B-cubed F")):
                best = max((peer for peer in by if peer != OURS), key=lambda peer: by[peer][figure])
                ours = by[OURS]
                kind = figure.partition("_")[0]
                measured = (
                    f"{ours[figure]:.4f} (precision {ours[f'{kind}_precision']:.4f}, recall "
                    f"{ours[f'{kind}_recall']:.4f}); the best peer, {best}: {by[best][figure]:.4f}"
                )
                yield Judged(
                    f"LFW, {embedder}, threshold {entry['threshold']:.3f} (FPIR {fpir}): {name}",
                    "above DBSCAN and Chinese whispers",
                    measured,
                    ours[figure] > by[best][figure],
                )


def _kills(steps: Steps) -> Iterator[Judged]:
    target = "identical files, at most a block a worker lost"
    kill = _measured(steps, "kill")
    for name in ("worker", "driver"):
        if kill is None:
            yield _missing(f"{name} killed", target)
            continue
        found = kill[name]
        again = found.get("blocks_begun_again", found.get("blocks_finished_but_lost", 0))
        most = 1 if name == "worker" else 0
        measured = f"{'identical' if found['identical'] else 'DIFFERENT'} files; killed after "
        measured += f"{found['killed_after_blocks']} of {kill['blocks']} blocks, {found['workers']} workers; "
        measured += f"{again} block(s) run again" if name == "worker" else f"{again} finished blocks lost"
        is_met = found["identical"] and again <= most and not found["checkpoints_made_again"]
        yield Judged(f"{_size(kill)}: {name} killed", target, measured, is_met)
    ray = _measured(steps, "ray")
    if ray is None:
        yield _missing("Ray cluster killed (tests/integration/test_jobs_ray.py has it)", target)
        return
    measured = (
        f"{'identical' if ray['identical'] else 'DIFFERENT'} files; killed after {ray['killed_after_blocks']} of "
    )
    measured += f"{ray['blocks']} blocks; {ray['blocks_finished_but_lost']} finished blocks lost"
    is_met = ray["identical"] and not ray["blocks_finished_but_lost"] and not ray["checkpoints_made_again"]
    yield Judged(f"{_size(ray)}: Ray cluster killed", target, measured, is_met)


def _hosts(steps: Steps) -> Iterator[Judged]:
    found = _measured(steps, "hosts")
    if found is None:
        yield _missing("1, 2, 4 shards, 1 and 2 workers", "the same groups, faster with cores")
        return
    shards, workers = (sorted({run[name] for run in found["runs"]}) for name in ("shards", "workers"))
    is_same = found["same_groups"] and found["same_pairs"]
    measured = f"{'same' if is_same else 'DIFFERENT'} groups and pairs; {workers[-1]} workers find pairs "
    measured += f"{found['times_faster_finding_pairs']:.2f} times faster than {workers[0]}"
    figure = f"{_size(found)}: {', '.join(map(str, shards))} shards, {' and '.join(map(str, workers))} workers"
    is_met = is_same and found["times_faster_finding_pairs"] > 1
    yield Judged(figure, "the same groups, faster with cores", measured, is_met)


def _measured(steps: Steps, name: str) -> dict[str, Any] | None:
    step = steps.get(name)
    return None if step is None or "failed" in step else step["found"]


def _missing(figure: str, target: str) -> Judged:
    return Judged(figure, target, "not measured in this document", None)


def _if_full(found: dict[str, Any], is_met: bool) -> bool | None:
    return is_met if found["n"] >= FULL else None


def _size(found: dict[str, Any]) -> str:
    return f"{found['n']:,}"


def _times(found: dict[str, Any]) -> str:
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["phases_s"].items())
    return f"{found['whole_s']:.1f} s with the snapshot, {found['without_snapshot_s']:.1f} s without: {phases}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
