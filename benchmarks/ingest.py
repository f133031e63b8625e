"""How fast a gallery is enrolled, trained and sealed, and how soon it answers after a restart.

    python -m benchmarks.ingest --n 1000000 --shards 4 --json FILE

The rows are synthetic faces (one a person), generated to a file before the clock starts. The gallery is written through
the public API: batches of `enroll` with ids and identities of the caller, training by itself, then `flush`, after which
every row is durable, encoded and sealed. Beside it, in the same run: a plain sequential write and fsync of the same
bytes, and the matrix product that encoding cannot do without. A process of its own then opens the home and searches,
once with what the page cache holds and once with the files dropped from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.ingest_phases import Phases
from benchmarks.resident import resident
from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from cluster import Cluster
from shard.types import FloatArray

GALLERY = "bench/ingest"
_GENERATED = 65_536
_WRITE_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds of a new process: opening the home until it may be asked, the first answer, and all of the process,
    from the interpreter's start over imports to its end."""

    opened: float
    answered: float
    process: float


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Seconds, and what they are compared with.

    total: from the first `enroll` until everything is sealed; enroll, train_wait and flush are its parts. phases: own
    seconds of each step, summed over threads, if timers were asked for. raw_write: the same bytes, one
    file, one fsync. projection: the matrix product of encoding all rows. peak_heap: most anonymous memory seen.
    """

    templates: int
    dim: int
    shards: int
    batch: int
    total: float
    enroll: float
    train_wait: float
    flush: float
    megabytes_per_second: float
    slowest_batch: float
    raw_write: float
    projection: float
    disk_bytes: int
    peak_rss: int
    peak_heap: int
    restart_warm: Restart
    restart_cold: Restart
    phases: dict[str, float]
    machine: str
    cores: int


def rows_file(folder: Path, n: int) -> FloatArray:
    """n synthetic rows, mapped from a file in `folder` that is made where there is none."""
    path = folder / f"edgeface-one-{n}.f32"
    if not path.exists():
        gallery = SyntheticGallery(EDGEFACE, n)
        unfinished = path.with_suffix(".tmp")
        rows = np.memmap(unfinished, "<f4", "w+", shape=(n, EDGEFACE.dim))
        for start in range(0, n, _GENERATED):
            rows[start : start + _GENERATED] = gallery.rows(start, min(n, start + _GENERATED))[0]
        rows.flush()
        unfinished.rename(path)
    return np.memmap(path, "<f4", "r", shape=(n, EDGEFACE.dim))


def ingest(home: Path, rows: FloatArray, shards: int, batch: int) -> tuple[list[float], float, float, int]:
    """Seconds of each `enroll`, of waiting for the training and of `flush`, and the most heap seen."""
    heap = 0
    seconds = []
    with Cluster.open(home) as grid:
        gallery = grid.gallery(GALLERY, create=True, shards=shards, dim=rows.shape[1])
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            numbers = range(start, start + len(part))
            ids, people = [photo_id(i) for i in numbers], [f"person-{i:08d}" for i in numbers]
            started = time.perf_counter()
            gallery.enroll(part, template_ids=ids, identities=people)
            seconds.append(time.perf_counter() - started)
            heap = max(heap, resident().anonymous)
        started = time.perf_counter()
        grid.wait_until_idle()
        trained = time.perf_counter()
        gallery.flush()
        done = time.perf_counter()
        heap = max(heap, resident().anonymous)
        stats = gallery.stats()
        assert stats.templates == len(rows)
        assert stats.model_id is not None
    return seconds, trained - started, done - trained, heap


def photo_id(number: int) -> str:
    """A row's template id, scattered like the hash of a photo, which `enroll_folder` takes: no order helps an index."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).hexdigest()


def raw_write(folder: Path, rows: FloatArray) -> float:
    """Seconds to write the rows to one file in order and to fsync it once."""
    path = folder / "raw"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(rows), _WRITE_ROWS):
            file.write(rows[start : start + _WRITE_ROWS].data)
        os.fsync(file.fileno())
    spent = time.perf_counter() - started
    path.unlink()
    return spent


def projection(rows: FloatArray, bits: int = 512) -> float:
    """Seconds of rows @ (dim, bits) in blocks, all cores: what encoding costs at the least."""
    matrix = np.random.default_rng(0).standard_normal((rows.shape[1], bits)).astype(np.float32)
    out = np.empty((_WRITE_ROWS, bits), np.float32)
    started = time.perf_counter()
    for start in range(0, len(rows), _WRITE_ROWS):
        block = rows[start : start + _WRITE_ROWS]
        np.matmul(block, matrix, out=out[: len(block)])
    return time.perf_counter() - started


def drop_from_page_cache(home: Path) -> None:
    """Have the kernel forget every file of the home, as far as it follows the advice."""
    for path in [path for path in home.rglob("*") if path.is_file()]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def restart(home: Path, *, drop_cache: bool) -> Restart:
    """Open the home and search once, in a new process."""
    if drop_cache:
        drop_from_page_cache(home)
    command = [sys.executable, "-m", "benchmarks.ingest", "--reopen", str(home)]
    started = time.perf_counter()
    opened, answered = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return Restart(opened, answered, time.perf_counter() - started)


def _reopen(home: str) -> None:
    probe = np.random.default_rng(0).standard_normal((1, EDGEFACE.dim)).astype(np.float32)
    started = time.perf_counter()
    with Cluster.open(home) as grid:
        gallery = grid.gallery(GALLERY)
        opened = time.perf_counter()
        gallery.search(probe, k=10)
        answered = time.perf_counter()
    print(json.dumps([opened - started, answered - opened]))


def measure(n: int, shards: int, batch: int, data: Path, folder: Path, *, timers: bool) -> IngestReport:
    """Everything in one run; `data` keeps the generated rows, `folder` the homes."""
    rows = rows_file(data, n)
    raw, product = raw_write(folder, rows), projection(rows)
    home, phases = folder / "home", Phases()
    with ExitStack() as stack:
        if timers:
            stack.enter_context(phases.watching())
        seconds, train_wait, flush, heap = ingest(home, rows, shards, batch)
    # Before the new processes: of this one, which wrote.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    total = sum(seconds) + train_wait + flush
    return IngestReport(
        templates=n,
        dim=rows.shape[1],
        shards=shards,
        batch=batch,
        total=total,
        enroll=sum(seconds),
        train_wait=train_wait,
        flush=flush,
        megabytes_per_second=rows.nbytes / total / 1e6,
        slowest_batch=max(seconds),
        raw_write=raw,
        projection=product,
        disk_bytes=sum(path.stat().st_blocks * 512 for path in home.rglob("*") if path.is_file()),
        peak_rss=peak,
        peak_heap=heap,
        restart_warm=restart(home, drop_cache=False),
        restart_cold=restart(home, drop_cache=True),
        phases={name: round(spent, 3) for name, spent in sorted(phases.seconds.items(), key=lambda item: -item[1])},
        machine=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
    )


def show(report: IngestReport) -> None:
    """The report as text."""
    r = report
    print(f"{r.templates:,} x {r.dim} float32 into {r.shards} shards, batches of {r.batch:,}, {r.cores} cores")
    print(f"  enroll {r.enroll:.1f} s + training {r.train_wait:.1f} s + flush {r.flush:.1f} s = {r.total:.1f} s")
    print(f"  {r.megabytes_per_second:.0f} MB/s; the slowest batch {r.slowest_batch:.2f} s")
    print(f"  the same bytes written and fsynced: {r.raw_write:.1f} s ({r.total / r.raw_write:.1f} times)")
    print(f"  the projection alone: {r.projection:.1f} s ({r.total / r.projection:.1f} times)")
    print(f"  peak heap {r.peak_heap / 1e6:.0f} MB, peak RSS {r.peak_rss / 1e6:.0f} MB (mapped floats included)")
    for name, restarted in (("page cache warm", r.restart_warm), ("files dropped from it", r.restart_cold)):
        print(
            f"  reopened, {name}: {restarted.opened:.2f} s + first answer {restarted.answered:.2f} s"
            f" (process {restarted.process:.2f} s)"
        )
    for name, spent in r.phases.items():
        print(f"    {name:24s} {spent:7.2f} s")


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000, help="templates")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--batch", type=int, default=50_000, help="templates of one enroll call")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--data", type=Path, help="keep the generated rows in this folder")
    parser.add_argument("--folder", type=Path, help="make the home below this folder: the disk that is measured")
    parser.add_argument("--timers", action="store_true", help="time each step; costs a little itself")
    parser.add_argument("--reopen", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reopen:
        _reopen(options.reopen)
        return
    folder = Path(tempfile.mkdtemp(prefix="facegrid-ingest-", dir=options.folder))
    try:
        data = options.data or folder
        data.mkdir(parents=True, exist_ok=True)
        report = measure(options.n, options.shards, options.batch, data, folder, timers=options.timers)
    finally:
        shutil.rmtree(folder)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
