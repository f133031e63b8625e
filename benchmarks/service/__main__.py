"""The HTTP service under load, on this machine's loopback, in one run.

    python -m benchmarks.service --json FILE

`facegrid serve` runs in a process of its own; wrk and a paced client ask it. Then ten thousand small galleries are
opened (`benchmarks.galleries`), and peers search the same embeddings. Everything is made in a temporary folder, bounded
in time, and removed. Every figure that is printed was measured in the run that prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.engine import machine
from benchmarks.judged import Judged
from benchmarks.service import targets, workload
from benchmarks.service.beside import beside
from benchmarks.service.many import many_galleries
from benchmarks.service.peers.catalogue import PEERS
from benchmarks.service.report import text
from benchmarks.service.results import FORMAT, RunResult
from benchmarks.service.searching import MANY, Asking, Tenant, fairness, searched
from benchmarks.service.served import Served
from benchmarks.service.workload import BATCH, JSON, Workload
from shard.types import DEFAULT_RECALL

_RECALL_PROBES = 300
_PEER_LIMIT_S = 900
_SOURCE = Path(__file__).resolve().parents[2]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="templates of each gallery (%(default)s)")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=8, help="of each load, after its warm-up (%(default)s)")
    parser.add_argument("--pace-seconds", type=int, default=20, help="of each stretch of paced queries (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="stretches alone and beside the flood (%(default)s)")
    parser.add_argument("--galleries", type=int, default=10_000, help="small galleries of 100; 0 leaves them out")
    parser.add_argument("--peers", default="all", help="modules of benchmarks/service/peers, with commas; or none")
    parser.add_argument("--environments", type=Path, help="keep the peers' virtual environments there for other runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="make everything below this folder")
    parser.add_argument("--json", type=Path, help="write the document there")
    options = parser.parse_args(arguments)
    known = [peer.module for peer in PEERS]
    wanted = {"all": known, "none": []}.get(options.peers, options.peers.split(","))
    if unknown := set(wanted) - set(known):
        parser.error(f"--peers: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    options.peers = wanted
    return options


def measure(options: argparse.Namespace, folder: Path) -> RunResult:
    """Everything, in order; files are made in `folder`."""
    began = time.monotonic()
    run = RunResult(
        format=FORMAT,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=0.0,
        options={name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        machine=machine.describe(),
        source=machine.source(_SOURCE),
        load_before=list(os.getloadavg()),
        enrolled_per_s={},
        recall={},
    )
    galleries = {name: workload.make(name, options.n, options.seed) for name in ("one", "twenty")}
    _service(run, options, folder, galleries)
    failed = _many(run, options, folder)
    environments = options.environments or folder / "environments"
    environments.mkdir(parents=True, exist_ok=True)
    for peer in PEERS:
        if peer.module in options.peers:
            _say(f"{peer.name}")
            found = beside(
                peer, galleries["one"], folder, k=10, seconds=options.seconds, limit_s=_PEER_LIMIT_S,
                environments=environments.absolute(),
            )  # fmt: skip
            run.peers.append(found)
    run.judged = targets.judged(run) + failed
    run.seconds = time.monotonic() - began
    return run


def _service(run: RunResult, options: argparse.Namespace, folder: Path, galleries: dict[str, Workload]) -> None:
    """One `facegrid serve`: two tenants, searches of each gallery, and the flood."""
    with Served(folder / "home", folder / "service.log") as served:
        tenants: dict[str, Tenant] = {}
        for tenant, (name, made) in zip(("acme", "globex"), galleries.items(), strict=True):
            _say(f"enrolling {len(made.rows):,} templates, {name}")
            gallery = f"{tenant}/{name}"
            tenants[name] = Tenant(served.tenant(tenant), gallery, made)
            run.enrolled_per_s[name] = served.fill(gallery, made, options.shards)
            for k in (10, 1):
                found = served.found(gallery, made, _RECALL_PROBES, k)
                run.recall[f"{name}, k={k}"] = made.recall(found, k)
        for name, tenant_of in tenants.items():
            for asking, connections, queries in _loads(tenant_of.gallery, is_main=name == "one"):
                _say(f"{asking.gallery}, k={asking.k}, {asking.body}: {connections} connections, {queries} a request")
                found_load = searched(
                    served, tenant_of.workload, tenant_of.key, asking, connections=connections, queries=queries,
                    seconds=options.seconds,
                )  # fmt: skip
                run.searches.append(found_load)
        _say("single queries beside a flood")
        run.fairness = fairness(
            served, tenants["twenty"], tenants["one"], k=10, seconds=options.pace_seconds, rounds=options.rounds
        )


def _loads(gallery: str, *, is_main: bool) -> list[tuple[Asking, int, int]]:
    """Ways to ask, connections, probes of a request. The main gallery is asked in JSON and at a lower recall too."""
    found = []
    for k in (10, 1):
        asking = Asking(gallery, k)
        found += [(asking, 1, 1), (asking, MANY, 1), (asking, 1, BATCH)]
    if is_main:
        for asking in (Asking(gallery, 10, recall=0.99), Asking(gallery, 1, JSON, DEFAULT_RECALL)):
            found += [(asking, 1, 1), (asking, MANY, 1)]
    return found


def _many(run: RunResult, options: argparse.Namespace, folder: Path) -> list[Judged]:
    """The many galleries; a line that says so if they failed."""
    if not options.galleries:
        return []
    _say(f"{options.galleries:,} galleries")
    try:
        run.galleries = many_galleries(options.galleries, 100, folder)
    except subprocess.SubprocessError as error:
        return [Judged(f"{options.galleries:,} galleries", "see docs/benchmarks.md", f"failed: {error}"[:200], None)]
    return []


def _say(what: str) -> None:
    print(f"[{datetime.now():%H:%M:%S}] {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print and store."""
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="facegrid-service-", dir=options.folder))
    try:
        run = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(text(run))
    if options.json:
        options.json.write_text(json.dumps(run.document(), indent=2) + "\n")


if __name__ == "__main__":
    main()
