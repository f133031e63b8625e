"""Second half of the demo: a gallery of synthetic templates in 4 shards, and what it costs to search and to hold it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import memory
from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from cluster import Cluster, Gallery
from shard.index import kernel
from shard.types import FloatArray

GALLERY = "demo/synthetic"
_BLOCK = 25_000
_PROBES = 1_000


def run(home: Path, templates: int, console: Console) -> None:
    """Build, measure and print. One template a person, so that every search is a needle in a haystack."""
    source = SyntheticGallery(EDGEFACE, templates, 1, seed=1)
    probes, people = source.probes(_PROBES, seed=2)
    names = np.array([f"person-{i}" for i in people])
    console.print(f"[bold]Synthetic gallery[/bold]: {templates:,} people, one template each, 512-d, 4 shards, 512 bits")
    with Cluster.open(home) as grid:
        gallery = grid.gallery(GALLERY, create=True, shards=4, dim=EDGEFACE.dim)
        _build(gallery, source, console)
        _search(gallery, probes, names, console)
    report = memory.measure(home, GALLERY)
    console.print(
        f"  memory     reopened from disk: {report.reopened:.1f} bytes resident per template above the empty process;"
        f"\n             after {_PROBES:,} searches: {report.used_heap:.1f} on the heap, and"
        f" {report.used_mapped:,.0f} of mapped page cache, which the kernel takes back at need"
    )


def _build(gallery: Gallery, source: SyntheticGallery, console: Console) -> None:
    seconds = 0.0
    for rows, people in source.blocks(_BLOCK):
        started = time.monotonic()
        gallery.enroll(rows, identities=[f"person-{i}" for i in people])
        seconds += time.monotonic() - started
    console.print(f"  enrolled   {len(gallery):,} templates, durable, in {seconds:.1f} s")
    started = time.monotonic()
    report = gallery.train()
    gallery.flush()
    console.print(
        f"  trained    on {report.sample:,} of them, encoded and sealed in {time.monotonic() - started:.1f} s"
    )


def _search(gallery: Gallery, probes: FloatArray, names: np.ndarray, console: Console) -> None:
    started = time.monotonic()
    exact = gallery.search(probes, k=1, exact=True)
    exact_seconds = time.monotonic() - started
    gallery.search(probes[:64], k=1)  # first touch of mapped pages is not what is measured
    started = time.monotonic()
    batch = gallery.search(probes, k=1)
    batch_seconds = time.monotonic() - started
    singles = np.array([_timed(gallery, probes[i : i + 1]) for i in range(200)]) * 1000
    recall = np.mean([a == b for a, b in zip(batch.template_ids, exact.template_ids, strict=True)])
    rank1 = [
        np.mean([row[0] == name for row, name in zip(found.identities, names, strict=True)]) for found in (batch, exact)
    ]
    console.print(
        f"  recall@1   {recall:.4f} against exact search; rank-1 identification {rank1[0]:.4f}, exact {rank1[1]:.4f}\n"
        f"  latency    one probe at a time: p50 {np.percentile(singles, 50):.2f} ms,"
        f" p99 {np.percentile(singles, 99):.2f} ms (kernel {kernel()})\n"
        f"  throughput {len(probes) / batch_seconds:,.0f} searches/s in one batch;"
        f" exact {len(probes) / exact_seconds:,.0f} searches/s"
    )


def _timed(gallery: Gallery, probe: FloatArray) -> float:
    started = time.perf_counter()
    gallery.search(probe, k=1)
    return time.perf_counter() - started
