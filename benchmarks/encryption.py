"""What encryption costs: one shard in the clear and one encrypted, written and searched by turns in the same run.

    python -m benchmarks.encryption --n 100000 --json FILE

The rows are synthetic faces, generated before the clock starts. Each shard gets them in batches, is trained (the same
model for both), sealed, opened again, and searched; seconds are the best of `--repeat` turns, since other work on the
machine only adds to them. Memory is the private and shared resident memory of a process that has one shard open and has
searched it, floats in the page cache not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import EnrollBatch, FloatArray, SearchParams

KEY = bytes(range(32))
BATCH = 2_048
_SAMPLE = 20_000


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="templates")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each search")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of is not None:
        print(_memory(Path(options.memory_of[0]), bytes.fromhex(options.memory_of[1]) or None))
        return
    with tempfile.TemporaryDirectory(prefix="facegrid-encryption-") as folder:
        report = measure(Path(folder), options.n, options.repeat)
    print(json.dumps(report, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(folder: Path, n: int, repeat: int) -> dict[str, dict[str, float]]:
    """Figures by kind of shard: seconds, and MiB of memory and disk."""
    gallery = SyntheticGallery(EDGEFACE, n, seed=1)
    rows, _ = gallery.rows(0, n)
    model = train(rows[:_SAMPLE])
    (folder / "model").write_bytes(model.to_bytes())
    keys = {"clear": None, "encrypted": KEY}
    report: dict[str, dict[str, float]] = {name: {} for name in keys}
    for name, key in keys.items():
        with Shard.create(folder / name, dim=rows.shape[1], load_model=lambda _: model, key=key) as shard:
            shard.activate(model)
            report[name]["enroll_s"] = _seconds(lambda shard=shard: _enroll(shard, rows))
            report[name]["flush_s"] = _seconds(shard.flush)
            report[name]["disk_mib"] = shard.stats().disk_bytes / 2**20
    opened: dict[str, Shard] = {}
    for name, key in keys.items():
        started = time.perf_counter()
        opened[name] = Shard(folder / name, lambda _: model, key=key)
        report[name]["open_s"] = time.perf_counter() - started
    probes = rows[:: max(1, n // 256)][:256].copy()
    for params, figure in ((SearchParams(k=10), "search_s"), (SearchParams(k=10, exact=True), "exact_s")):
        for name in list(keys) * repeat:
            took = _seconds(lambda name=name, params=params: search_shards([opened[name]], probes, params))
            report[name][figure] = min(took, report[name].get(figure, took))
    for name, key in keys.items():
        opened[name].close()
        command = [sys.executable, "-m", "benchmarks.encryption", "--memory-of", str(folder / name), (key or b"").hex()]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        report[name]["memory_mib"] = float(found.stdout)
    return report


def _enroll(shard: Shard, rows: FloatArray) -> None:
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        numbers = range(begin, begin + len(batch))
        ids, people = tuple(f"template-{i}" for i in numbers), tuple(f"person-{i}" for i in numbers)
        shard.enroll(EnrollBatch(np.ascontiguousarray(batch), ids, people, (None,) * len(batch)))


def _seconds(work: object) -> float:
    assert callable(work)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _memory(directory: Path, key: bytes | None) -> float:
    """MiB of anonymous and shared memory with the shard open and searched."""
    data = (directory.parent / "model").read_bytes()
    with Shard(directory, lambda _: SearchModel.from_bytes(data), key=key) as shard:
        search_shards([shard], shard.sample(64, 1), SearchParams(k=10, exact=True))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines())
        return sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem")) / 1024


if __name__ == "__main__":
    main()
