"""Dedup jobs of a large gallery with seeded duplicates, beside what finds the same pairs, in one run.

    python -m benchmarks.dedup --json FILE

Steps are measured one after another, each in processes of its own; `--steps` chooses some, and what others found at
another time stays in the document. Every figure that is printed was measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.dedup import results
from benchmarks.dedup.hosts import host_figures
from benchmarks.dedup.kills import kill_figures
from benchmarks.dedup.modes import mode_figures
from benchmarks.dedup.peers import peer_figures
from benchmarks.dedup.seeded import MADE, PER_CYCLE, Seeded
from benchmarks.dedup.targets import Steps
from benchmarks.dedup.watched import DriverFailed
from benchmarks.engine import machine
from cluster.dedup.parameters import RECALLS
from shard.errors import FacegridError

STEPS = ("exact", "fast", "peers", "quality", "kill", "hosts")
SHARDS = (1, 2, 4)
_SOURCE = Path(__file__).resolve().parents[2]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dedup", description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000, help="templates, a multiple of 50 (%(default)s)")
    parser.add_argument("--small", type=int, default=100_000, help="templates of `kill`, `ray`, `hosts` (%(default)s)")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--sample", type=int, default=4_000, help="rows joined by brute force (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-sizes", type=_numbers, default=[20_000, 40_000], help="20000,40000 if not given")
    parser.add_argument("--threads", type=int, default=2, help="of each peer (%(default)s)")
    parser.add_argument("--steps", type=_names, default=list(STEPS), help=f"of {','.join(STEPS)}; all if not given")
    parser.add_argument("--ray", action="store_true", help="also kill a Ray cluster in the middle of a job")
    parser.add_argument("--home", type=Path, help="keep rows and homes below this folder for other runs")
    data = Path(os.environ.get("FACEGRID_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="with lfw/, for `quality`")
    parser.add_argument("--json", type=Path, help="the document; steps that are in it and not measured now stay")
    options = parser.parse_args(arguments)
    for name in ("n", "small"):
        if getattr(options, name) < PER_CYCLE or getattr(options, name) % PER_CYCLE:
            parser.error(f"--{name}: expected a multiple of {PER_CYCLE}, got {getattr(options, name)}")
    if unknown := set(options.steps) - {*STEPS, "ray"}:
        parser.error(f"--steps: expected some of {', '.join(STEPS)}, got {', '.join(sorted(unknown))}")
    if options.ray and "ray" not in options.steps:
        options.steps.append("ray")
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def measure(options: argparse.Namespace, folder: Path, steps: Steps) -> None:
    """The steps asked for, in order; each is written as soon as it has ended."""
    full, small = (Seeded(folder, n, options.seed) for n in (options.n, options.small))
    threshold, shards = options.threshold, options.shards
    known: dict[str, Callable[[], dict[str, Any]]] = {
        "exact": lambda: mode_figures(full, shards, "exact", threshold, options.sample),
        "fast": lambda: mode_figures(full, shards, "fast", threshold, options.sample),
        "peers": lambda: peer_figures(full, options.peer_sizes, options.threads, threshold, reached(steps)),
        "quality": lambda: _quality(options.data),
        "kill": lambda: kill_figures(small, shards, "exact", threshold),
        "ray": lambda: _ray(small, shards, threshold),
        "hosts": lambda: host_figures(small, SHARDS, "exact", threshold),
    }
    for name in [name for name in known if name in options.steps]:
        print(f"[{datetime.now():%H:%M:%S}] {name}", file=sys.stderr, flush=True)
        steps[name] = _step(known[name], options, folder)
        if options.json:
            results.write(options.json, results.document(steps), folder, options.data.absolute(), _SOURCE)


def _step(step: Callable[[], dict[str, Any]], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    about = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
        "gallery": MADE,
        "machine": machine.describe(),
        "source": machine.source(_SOURCE),
        "load_before": list(os.getloadavg()),
    }
    found: dict[str, Any]
    try:
        found = {"found": step()}
    except subprocess.SubprocessError as error:
        # Its message has the command, and so paths.
        found = {"failed": f"{type(error).__name__}: {getattr(error, 'returncode', 'took too long')}"}
    except (FacegridError, DriverFailed, OSError, ImportError) as error:
        found = {"failed": f"{type(error).__name__}: {error}".replace(str(folder), "FOLDER")[:400]}
    return {**about, "seconds": time.monotonic() - began, **found}


def reached(steps: Steps) -> dict[str, float]:
    """Recalls that a peer has to reach: those of our modes as measured, or else as promised."""
    found = {}
    for mode, promised in RECALLS.items():
        measured = steps.get(mode, {}).get("found", {}).get("accuracy", {}).get("recall")
        # Of an exact mode that misses nothing an approximate index can but come near: it gets what is promised.
        found[mode] = promised if measured is None or mode == "exact" else measured
    return found


def _quality(data: Path) -> dict[str, Any]:
    # Needs the extra `bench`; all else but the peers does not.
    from benchmarks.dedup.quality import EMBEDDERS, evaluate

    if not (data / "lfw").is_dir():
        raise FileNotFoundError("no lfw/ in --data or FACEGRID_DATA")
    return {"embedders": {embedder: evaluate(data, embedder, design=False) for embedder in EMBEDDERS}}


def _ray(seeded: Seeded, shards: int, threshold: float) -> dict[str, Any]:
    from benchmarks.dedup.ray_kill import ray_figures

    return ray_figures(seeded, shards, "exact", threshold)


def main() -> None:
    """Measure, print and store."""
    options = parse()
    steps = results.read(options.json)
    folder = options.home or Path(tempfile.mkdtemp(prefix="facegrid-dedup-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(options, folder.absolute(), steps)
    finally:
        if options.home is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(results.text(steps))


if __name__ == "__main__":
    main()
