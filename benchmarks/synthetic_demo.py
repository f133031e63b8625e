"""Second half of the demo: a gallery of synthetic templates in 4 shards, and what it costs to search and to hold it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import memory
from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from cluster import Cluster, Gallery
from cluster.results import SearchBatch
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
    started = time.monotonic()
    gallery.search(probes, k=1)
    batch_seconds = time.monotonic() - started
    found, seconds = zip(*(_timed(gallery, probes[i : i + 1]) for i in range(len(probes))), strict=True)
    singles = np.array(seconds) * 1000
    recall = np.mean([one.template_ids[0] == best for one, best in zip(found, exact.template_ids, strict=True)])
    right = np.mean([one.identities[0][0] == name for one, name in zip(found, names, strict=True)])
    exactly = np.mean([row[0] == name for row, name in zip(exact.identities, names, strict=True)])
    console.print(
        f"  recall@1   {recall:.4f} against exact search; rank-1 identification {right:.4f}, exact {exactly:.4f}\n"
        f"  latency    one probe at a time: p50 {np.percentile(singles, 50):.2f} ms,"
        f" p99 {np.percentile(singles, 99):.2f} ms (kernel {kernel()})\n"
        f"  throughput {len(probes) / batch_seconds:,.0f} searches/s in one batch of {len(probes):,};"
        f" exact {len(probes) / exact_seconds:,.0f} searches/s"
    )


def _timed(gallery: Gallery, probe: FloatArray) -> tuple[SearchBatch, float]:
    started = time.perf_counter()
    found = gallery.search(probe, k=1)
    return found, time.perf_counter() - started
