"""Many small galleries in one home: making them, opening the home, and the first query of each.

    python -m benchmarks.galleries --galleries 10000 --templates 100 --dim 128 --json FILE

A process makes the galleries through the public API, one shard each, enrolls synthetic faces into each, and closes. A
fresh process, whose limit of open files is lowered to 1,024, opens the home, asks every gallery once in random order
(those were closed: cold), then some of those asked last again and again (warm). Each answer has to be the template that
was asked for. Resident memory, open files and threads are read from /proc on the way; the largest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.resident import resident
from cluster import Cluster
from shard.types import FloatArray

OPEN_FILES = 1_024
"""Soft limit of open files that most systems give a process."""
OPEN_TARGET_S, RESIDENT_TARGET, COLD_TARGET_MS = 60.0, 2 << 30, 20.0
"""A home of 10,000 galleries of 100 templates: opening it, resident bytes, median of a cold query."""
_WARM_GALLERIES, _WARM_ROUNDS = 50, 20
_LOOK_EVERY = 200


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process: resident bytes, open files, threads."""

    resident: int
    open_files: int
    threads: int


@dataclass(frozen=True, slots=True)
class Made:
    """Seconds of making and filling the galleries; median and 99th percentile in ms of one."""

    galleries_s: float
    create_p50_ms: float
    create_p99_ms: float
    enroll_p50_ms: float
    enroll_p99_ms: float
    close_s: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Asked:
    """opened_s: of `Cluster.open`. all_asked_s: from before it until every gallery has answered once.

    cold: from the gallery's name to its first answer. warm: again, of galleries that are open.
    """

    opened_s: float
    all_asked_s: float
    cold_p50_ms: float
    cold_p99_ms: float
    warm_p50_ms: float
    warm_p99_ms: float
    close_s: float
    opened: Usage
    most: Usage


@dataclass(frozen=True, slots=True)
class GalleriesReport:
    """again: a second process after the first, which remembers what that one closed."""

    galleries: int
    templates: int
    dim: int
    disk_bytes: int
    file_limit: int
    made: Made
    asked: Asked
    again: Asked
    machine: str
    cores: int


def usage() -> Usage:
    """This process now."""
    files = len(os.listdir("/proc/self/fd"))
    return Usage(resident().total, files, len(os.listdir("/proc/self/task")))


def name_of(number: int) -> str:
    """Tenants have a hundred galleries each."""
    return f"tenant-{number // 100:03d}/gallery-{number:05d}"


def rows_of(number: int, templates: int, dim: int) -> FloatArray:
    """Templates of one gallery, (templates, dim) float32 of unit norm, the same for the same number."""
    rows = np.random.default_rng(number).normal(size=(templates, dim)).astype(np.float32)
    normalised: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def measure(galleries: int, templates: int, dim: int, folder: Path) -> GalleriesReport:
    """Everything in one run; the home is made in `folder`."""
    home = folder / "home"
    shape = (str(galleries), str(templates), str(dim))
    made = _child("--make", str(home), *shape)
    asked, again = (_child("--ask", str(home), *shape) for _ in range(2))
    return GalleriesReport(
        galleries=galleries,
        templates=templates,
        dim=dim,
        disk_bytes=sum(path.stat().st_blocks * 512 for path in home.rglob("*") if path.is_file()),
        file_limit=OPEN_FILES,
        made=Made(**{**made, "usage": Usage(**made["usage"])}),
        asked=_asked(asked),
        again=_asked(again),
        machine=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
    )


def _asked(told: dict[str, Any]) -> Asked:
    usages = {field: Usage(**told[field]) for field in ("opened", "most")}
    return Asked(**{**told, **usages})


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.galleries", *arguments]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return float(p50), float(p99)


def _make(home: str, galleries: int, templates: int, dim: int) -> Made:
    created, enrolled = [], []
    began = time.monotonic()
    with Cluster.open(home) as grid:
        for number in range(galleries):
            first = time.monotonic()
            gallery = grid.gallery(name_of(number), create=True, shards=1, dim=dim)
            second = time.monotonic()
            ids = [f"photo-{number}-{i}" for i in range(templates)]
            gallery.enroll(rows_of(number, templates, dim), template_ids=ids)
            created.append(second - first)
            enrolled.append(time.monotonic() - second)
        grid.wait_until_idle()
        closing, most = time.monotonic(), usage()
    return Made(closing - began, *_percentiles(created), *_percentiles(enrolled), time.monotonic() - closing, most)


def _ask(home: str, galleries: int, templates: int, dim: int) -> Asked:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    order = np.random.default_rng(1).permutation(galleries).tolist()
    cold, warm, looks = [], [], []
    began = time.monotonic()
    with Cluster.open(home) as grid:
        opened_s = time.monotonic() - began
        grid.wait_until_idle()
        opened = usage()
        for count, number in enumerate(order):
            cold.append(_query(grid, number, templates, dim))
            if count % _LOOK_EVERY == 0:
                looks.append(usage())
        all_asked_s = time.monotonic() - began
        for _ in range(_WARM_ROUNDS):
            warm += [_query(grid, number, templates, dim) for number in order[-_WARM_GALLERIES:]]
        looks.append(usage())
        closing = time.monotonic()
    most = Usage(*(max(getattr(look, field) for look in looks) for field in ("resident", "open_files", "threads")))
    close_s = time.monotonic() - closing
    return Asked(opened_s, all_asked_s, *_percentiles(cold), *_percentiles(warm), close_s, opened, most)


def _query(grid: Cluster, number: int, templates: int, dim: int) -> float:
    wanted = number % templates
    probe = rows_of(number, templates, dim)[wanted : wanted + 1]
    began = time.monotonic()
    found = grid.gallery(name_of(number)).search(probe, k=5)
    took = time.monotonic() - began
    assert found.template_ids[0][0] == f"photo-{number}-{wanted}", f"gallery {number} answers {found.template_ids[0]}"
    return took


def show(report: GalleriesReport) -> None:
    """The report as text."""
    r, made = report, report.made
    print(f"{r.galleries:,} galleries x {r.templates} x {r.dim}, {r.disk_bytes / 1e9:.2f} GB, {r.cores} cores")
    print(
        f"  made in {made.galleries_s:.1f} s: one created in {made.create_p50_ms:.1f} ms (p99 {made.create_p99_ms:.1f})"
        f" and filled in {made.enroll_p50_ms:.1f} ms (p99 {made.enroll_p99_ms:.1f}); closed in {made.close_s:.1f} s;"
        f" {_shown(made.usage)}"
    )
    for title, asked in (("opened", r.asked), ("opened again", r.again)):
        print(
            f"  {title} in {asked.opened_s:.2f} s ({_shown(asked.opened)}), all had answered after"
            f" {asked.all_asked_s:.1f} s; cold query {asked.cold_p50_ms:.2f} ms (p99 {asked.cold_p99_ms:.2f}), warm"
            f" {asked.warm_p50_ms:.2f} ms (p99 {asked.warm_p99_ms:.2f}); at most {_shown(asked.most)};"
            f" closed in {asked.close_s:.2f} s"
        )
    worst = (
        max(a.opened_s for a in (r.asked, r.again)) < OPEN_TARGET_S,
        max(a.most.resident for a in (r.asked, r.again)) < RESIDENT_TARGET,
        max(a.cold_p50_ms for a in (r.asked, r.again)) < COLD_TARGET_MS,
        max(a.most.open_files for a in (r.asked, r.again)) < OPEN_FILES,
    )
    names = (f"opened in {OPEN_TARGET_S:g} s", "2 GiB", f"cold query in {COLD_TARGET_MS:g} ms", f"{OPEN_FILES} files")
    for name, is_met in zip(names, worst, strict=True):
        print(f"  {'within' if is_met else 'ABOVE'} the target: {name}")


def _shown(seen: Usage) -> str:
    return f"{seen.resident / 2**20:.0f} MiB, {seen.open_files} files, {seen.threads} threads"


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.galleries", description=__doc__)
    parser.add_argument("--galleries", type=int, default=10_000)
    parser.add_argument("--templates", type=int, default=100, help="templates of each gallery")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--folder", type=Path, help="make the home below this folder: the disk that is measured")
    parser.add_argument("--make", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for given, work in ((options.make, _make), (options.ask, _ask)):
        if given:
            home, *shape = given
            print(json.dumps(asdict(work(home, *map(int, shape)))))
            return
    folder = Path(tempfile.mkdtemp(prefix="facegrid-galleries-", dir=options.folder))
    try:
        report = measure(options.galleries, options.templates, options.dim, folder)
    finally:
        shutil.rmtree(folder)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
