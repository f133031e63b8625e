"""A whole run: data, builds, tuning, rounds of timing, ratios.

Peers are timed in rounds, each peer in a process that has opened its index and waits, so that what else this machine
does hits all of them alike; ratios are taken within a round and the median of rounds counts. Single queries come first,
in processes with one thread; batches after, in processes with all cores.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import machine
from benchmarks.engine.contender import Contender, tuned_label
from benchmarks.engine.datasets import Dataset, lfw, synthetic
from benchmarks.engine.options import SOURCE, Options
from benchmarks.engine.recall import rank1
from benchmarks.engine.results import FORMAT, DatasetResult, PeerResult, Ratio, Row, RunResult

FACEGRID, FACEFLASH = "facegrid", "faceflash"
Tell = Callable[[str], None]


def run(options: Options, tell: Tell) -> RunResult:
    """Measure every peer on every dataset. tell: gets a line for each step."""
    started, clock = datetime.now(timezone.utc), time.perf_counter()

    def say(text: str) -> None:
        tell(f"{time.perf_counter() - clock:7.1f} s  {text}")

    source = machine.source(SOURCE)
    with contextlib.ExitStack() as closing:
        work = options.work or Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="facegrid-bench-")))
        results = []
        for make in _datasets(options, work):
            say("data and exact answers")
            results.append(measure(make(), options, say))
    return RunResult(
        format=FORMAT,
        started=started.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - clock,
        options=_plain(options),
        machine=machine.describe(),
        source=source,
        datasets=results,
    )


def _datasets(options: Options, work: Path) -> list[Callable[[], Dataset]]:
    found = [partial(synthetic, shape, options.n, options.seed, work) for shape in options.shapes]
    real = [partial(lfw, options.data, options.seed, work)] if options.is_real else []
    return [*found, *real]


def _plain(options: Options) -> dict[str, Any]:
    """The options that decide figures; no path of this machine."""
    plain = asdict(options)
    for path in ("json", "charts", "data", "work"):
        del plain[path]
    return {**plain, "peers": list(options.peers), "seconds": options.timing_seconds}


def measure(dataset: Dataset, options: Options, tell: Tell) -> DatasetResult:
    """Every peer on one dataset."""
    result = _described(dataset)
    cores = machine.cores()
    contenders = [Contender(name, target, dataset, options, cores) for name, target in options.peers.items()]
    try:
        for contender in contenders:
            tell(f"{dataset.name}: building {contender.result.name}")
            contender.attempt(contender.build)
            if not contender.is_in:
                tell(f"{dataset.name}: {contender.result.name} {contender.result.status}: {contender.result.reason}")
        _time_single(contenders, options, lambda text: tell(f"{dataset.name}: {text}"))
        _time_batches(contenders, options, cores, lambda text: tell(f"{dataset.name}: {text}"))
    finally:
        for contender in contenders:
            contender.remove()
    result.peers = [contender.result for contender in contenders]
    result.ratios = ratios(result.peers)
    return result


def _described(dataset: Dataset) -> DatasetResult:
    mated = len(dataset.probes.mated)
    return DatasetResult(
        name=dataset.name,
        templates=len(dataset.rows),
        dim=dataset.rows.shape[1],
        identities=len(np.unique(dataset.identities)),
        mated_probes=mated,
        stranger_probes=len(dataset.probes.strangers),
        exact_rank1=rank1(dataset, dataset.truth.rows[:mated]),
        seconds=dataset.seconds,
    )


def _time_single(contenders: Sequence[Contender], options: Options, tell: Tell) -> None:
    _open(contenders, 1)
    targets = sorted({*options.recalls, *_recall_of_faceflash(contenders)})
    tell("tuning")
    with ThreadPoolExecutor(machine.cores()) as pool:
        list(pool.map(lambda contender: contender.attempt(contender.explore, targets), contenders))
    for contender in contenders:
        contender.attempt(contender.tune, targets)
    for number in range(options.runs):
        tell(f"single queries, one thread, round {number + 1} of {options.runs}")
        for contender in contenders:
            contender.attempt(contender.time_single)
    for contender in contenders:
        contender.close()


def _open(contenders: Sequence[Contender], threads: int) -> None:
    """All start before the first is waited for: imports take longer than opening a small index."""
    for contender in contenders:
        contender.attempt(contender.start, threads)
    for contender in contenders:
        contender.attempt(contender.open)


def _recall_of_faceflash(contenders: Sequence[Contender]) -> list[float]:
    """recall@1 of FaceFlash's default, to which everybody is tuned as well; nothing where FaceFlash does not run."""
    for contender in contenders:
        if contender.result.name == FACEFLASH:
            contender.attempt(contender.measure_default)
            return [] if contender.default_recall is None else [contender.default_recall]
    return []


def _time_batches(contenders: Sequence[Contender], options: Options, cores: int, tell: Tell) -> None:
    _open(contenders, cores)
    for contender in contenders:
        contender.attempt(contender.measure_resident)
    for number in range(options.runs):
        tell(f"batches of 1,024, {cores} cores, round {number + 1} of {options.runs}")
        for contender in contenders:
            contender.attempt(contender.time_batch)


def ratios(peers: Sequence[PeerResult]) -> list[Ratio]:
    """Facegrid's tuned rows against each peer's row of the same label, and against rows that are there as they are.

    Those are a peer's default and exact rows, compared with Facegrid tuned to no less than their recall@1.
    """
    measured = {peer.name: peer for peer in peers if peer.status == "measured"}
    ours = measured.pop(FACEGRID, None)
    found = []
    for row in ours.rows if ours else []:
        tuned = [label for label in row.labels if label.startswith(">=")]
        for peer in measured.values():
            for label in tuned:
                found += [_ratio(label, row, peer.name, label, their) for their in peer.rows if label in their.labels]
                found += [
                    _ratio(label, row, peer.name, fixed, their)
                    for their in peer.rows
                    for fixed in their.labels
                    if not fixed.startswith(">=") and _is_fair(label, fixed, their)
                ]
    return found


def _is_fair(label: str, fixed: str, their: Row) -> bool:
    """Exact rows stand beside every target; a default, beside the target that is its own recall or more."""
    return fixed == "exact" or float(label.removeprefix(">=")) >= float(tuned_label(their.mated.recall_1)[2:])


def _ratio(label: str, ours: Row, peer: str, peer_label: str, their: Row) -> Ratio:
    single = [b.p50_ms / a.p50_ms for a, b in zip(ours.single, their.single, strict=True)]
    batch = [a / b for a, b in zip(ours.batch_per_second, their.batch_per_second, strict=True)]
    return Ratio(label, peer, peer_label, single, statistics.median(single), batch, statistics.median(batch))
