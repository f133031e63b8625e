"""Resident bytes per template of a gallery reopened from disk, measured from the process and not estimated.

A fresh process opens a home and searches; so does another whose home has an empty gallery of the same shape. The
difference of their resident sets, divided by the templates, is the answer. Codes, bitmaps and the model live on the
heap (anonymous memory), which is what a gallery needs. Pages of mapped floats that searches have touched are resident
too while there is room: the page cache, which the kernel takes back when it needs to, so they are told apart.

    python -m benchmarks.memory HOME GALLERY
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.resident import Resident, resident
from cluster import Cluster

_PROBES = 1_000


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes per template above the process with an empty gallery.

    reopened: everything resident after opening. used_heap: heap after 1,000 searches. used_mapped: pages of mapped
    files resident then. empty_process: bytes of the other process after opening.
    """

    templates: int
    empty_process: int
    reopened: float
    used_heap: float
    used_mapped: float


def measure(home: Path, gallery: str) -> MemoryReport:
    """Reopen `gallery` of `home`, which must be closed, in a process of its own, and an empty one in another."""
    with Cluster.open(home) as grid:
        stats = grid.gallery(gallery).stats()
    with tempfile.TemporaryDirectory() as folder:
        with Cluster.open(folder + "/home") as grid:
            grid.gallery(gallery, create=True, shards=stats.shards, dim=stats.dim, code_bits=stats.code_bits)
        empty_first, empty_last = _run(Path(folder) / "home", gallery)
    first, last = _run(home, gallery)

    def per_template(full: int, empty: int) -> float:
        return (full - empty) / stats.templates

    return MemoryReport(
        templates=stats.templates,
        empty_process=empty_first.total,
        reopened=per_template(first.total, empty_first.total),
        used_heap=per_template(last.anonymous, empty_last.anonymous),
        used_mapped=per_template(last.mapped, empty_last.mapped),
    )


def _run(home: Path, gallery: str) -> tuple[Resident, Resident]:
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(home), gallery]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    first, last = json.loads(output)
    return Resident(**first), Resident(**last)


def _child(home: str, gallery: str) -> None:
    rng = np.random.default_rng(0)
    with Cluster.open(home) as grid:
        opened = grid.gallery(gallery)
        probes = rng.normal(size=(_PROBES, opened.dim)).astype(np.float32)
        first = resident()
        for probe in range(_PROBES):
            opened.search(probes[probe : probe + 1], k=1)
        print(json.dumps([asdict(first), asdict(resident())]))


def main() -> None:
    """Measure the gallery named on the command line and print the report as JSON."""
    if sys.argv[1] == "--child":
        _child(*sys.argv[2:])
    else:
        print(json.dumps(asdict(measure(Path(sys.argv[1]), sys.argv[2])), indent=2))


if __name__ == "__main__":
    main()
