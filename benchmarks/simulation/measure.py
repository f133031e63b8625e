"""Times the primitives that a simulation is made of, on this machine: `python -m benchmarks.simulate --measure`.

CPU seconds rather than wall time, so that what else runs on the machine says little; the least of several rounds where
one figure is wanted. Written with the machine they were taken on to `benchmarks/results/simulation-costs.json`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.machine import describe, source
from benchmarks.simulation.costs import load
from benchmarks.simulation.queries import Traffic, simulate
from benchmarks.simulation.wire import measure_wire
from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from coordinator import merge
from coordinator.catalog import Catalog
from coordinator.placement import place_replicas
from coordinator.types import GallerySpec
from shard.catchup import changes_after
from shard.files import write_file
from shard.model import SearchModel
from shard.pairs import join_sketches
from shard.search import search_shards
from shard.shard import Shard
from shard.sketch import make_basis, sketch
from shard.training import MAX_SAMPLE, train
from shard.types import CandidateBatch, EnrollBatch, FloatArray, SearchParams

DIM, K = 512, 10
ROWS, SHARDS, PROBES = 50_000, 4, 200
JOIN_ROWS, SKETCH_ROWS = 16_384, 50_000
CATALOG_SHARDS, CATALOG_HOSTS = 1_024, 1_000
QUANTILES = 200


def measure(rows: int = ROWS) -> dict[str, Any]:
    """Every cost, with units in the names; rows: templates of each shard that is made for it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made, models = _shards(folder, rows)
        try:
            found = {
                "format": 1,
                "machine": describe(),
                "source": source(Path(__file__).parent),
                "search": _search(made),
                "copy": _copy(made[0], folder / "copy", models),
                "join": measure_join(),
                "merge": {str(lists): _merge(lists) for lists in (1, 10, 100, 1_000)},
                "checkpoint": _checkpoint(folder),
                "catalog": _catalog(folder),
                "wire": measure_wire(folder / "wire", DIM, K),
            }
            return {**found, "decide_s": _decide(found)}
        finally:
            for shard in made:
                shard.close()


def _gallery(rows: int) -> SyntheticGallery:
    return SyntheticGallery(EDGEFACE, rows, 1, seed=0)


def _shards(folder: Path, rows: int) -> tuple[list[Shard], dict[str, SearchModel]]:
    """SHARDS shards of one gallery, one model, sealed."""
    gallery, made = _gallery(rows * SHARDS), []
    models: dict[str, SearchModel] = {}
    for number in range(SHARDS):
        shard = Shard.create(folder / f"shard-{number}", dim=DIM, load_model=models.__getitem__)
        floats, people = gallery.rows(number * rows, (number + 1) * rows)
        shard.enroll(_batch(floats, people.tolist()))
        made.append(shard)
    model = train(made[0].sample(MAX_SAMPLE, 0))
    models[model.model_id] = model
    for shard in made:
        shard.activate(model)
        shard.flush()
    return made, models


def _batch(floats: FloatArray, people: list[int]) -> EnrollBatch:
    ids = tuple(f"t{person}" for person in people)
    return EnrollBatch(floats, ids, tuple(f"person-{person}" for person in people), (None,) * len(ids))


def _least(act: Callable[[], object], rounds: int = 3) -> float:
    """CPU seconds of this process, the least of some rounds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return min(times)


def _search(shards: list[Shard]) -> dict[str, Any]:
    """How unlike each other searches of one size are: by the probe (it is as hard for every host), and by the host.

    CPU time of each probe on each shard, the least of three. by_probe: quantiles of the probes' means, by_host: of what
    one shard takes over the probe's mean; the mean of either is 1.
    """
    gallery = _gallery(len(shards[0]) * len(shards))
    probes = gallery.probes(PROBES, seed=1)[0]
    params = SearchParams(k=K)
    times = np.full((PROBES, len(shards)), np.inf)
    for _ in range(3):
        for column, shard in enumerate(shards):
            for row, probe in enumerate(probes):
                began = time.process_time()
                search_shards([shard], probe[None], params)
                times[row, column] = min(times[row, column], time.process_time() - began)
    means = times.mean(axis=1, keepdims=True)
    return {
        "rows": len(shards[0]),
        "probes": PROBES,
        "k": K,
        "recall": params.recall,
        "mean_s": float(times.mean()),
        "by_probe": _quantiles(means / means.mean()),
        "by_host": _quantiles(times / means),
    }


def _quantiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    found = np.quantile(values, levels)
    return [round(float(value), 4) for value in found / found.mean()]


def _copy(shard: Shard, folder: Path, models: dict[str, SearchModel]) -> dict[str, Any]:
    """A replica that catches up from nothing: reading, hashing, writing, encoding; no network."""
    began_cpu, began = time.process_time(), time.perf_counter()
    with Shard.create(folder, dim=DIM, load_model=models.__getitem__) as replica:
        replica.activate(next(iter(models.values())))
        while True:
            changes = changes_after(shard, *replica.progress())
            replica.absorb(changes)
            if changes.is_last:
                break
        assert len(replica) == len(shard)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {"rows": len(shard), "wall_s": seconds, "cpu_s": cpu, "rows_per_s": len(shard) / seconds}


def measure_join() -> dict[str, Any]:
    """The join of dedup jobs at threshold 0.5: two halves of some rows with each other, after a sketch of either."""
    floats = _gallery(SKETCH_ROWS).rows(0, SKETCH_ROWS)[0]
    basis, half = make_basis(floats[:JOIN_ROWS], 0.5), len(floats) // 2
    sketch_s = _least(lambda: sketch(basis, [floats[:half]]))
    left, right = sketch(basis, [floats[:half]]), sketch(basis, [floats[half:]])
    join_s = _least(lambda: join_sketches(left, right, 0.5))
    return {
        "by": "shard.pairs",
        "rows": half,
        "pairs_per_core_s": half * (len(floats) - half) / join_s,
        "sketch_rows_per_core_s": half / sketch_s,
    }


def _merge(lists: int) -> float:
    """Seconds to merge so many lists of K candidates of one probe."""
    rng = np.random.default_rng(lists)
    batches = []
    for number in range(lists):
        scores = -np.sort(-rng.random((1, K), dtype=np.float32), axis=1)
        keys = rng.integers(1, 1 << 63, (1, K), np.uint64)
        batches.append(CandidateBatch(scores, keys, (tuple(f"{number}-{i}" for i in range(K)),), ((None,) * K,)))
    rounds = max(1, 1_000 // lists)
    return _least(lambda: [merge.merge(batches, K) for _ in range(rounds)]) / rounds


def _decide(found: dict[str, Any]) -> float:
    """CPU seconds of a router's decisions for one request, in queries to a thousand hosts; the least of three."""
    costs = load({**found, "decide_s": 0.0})
    traffic = Traffic(1_000_000_000, 1_000, routers=1, queries=30)
    return float(min(simulate(traffic, costs)["decision_us"] for _ in range(3))) / 1e6


def _checkpoint(folder: Path) -> dict[str, float]:
    """Wall seconds of a checkpoint of 64 KiB: written, synced, renamed, the directory synced."""
    times = []
    for number in range(50):
        began = time.perf_counter()
        write_file(folder / f"checkpoint-{number}", bytes(1 << 16))
        times.append(time.perf_counter() - began)
    return {"bytes": 1 << 16, "median_s": statistics.median(times)}


def _catalog(folder: Path) -> dict[str, Any]:
    """A gallery of CATALOG_SHARDS shards with two replicas each in a catalog in SQLite."""
    names = [f"host-{number:04}" for number in range(CATALOG_HOSTS)]
    path = folder / "catalog.db"
    catalog = Catalog(path)
    catalog.claim("0123456789abcdef")
    catalog.register_hosts(names, 0.0)
    catalog.forget()
    before = path.stat().st_size
    gallery_id = "0123456789abcdef"
    placed = place_replicas(gallery_id, CATALOG_SHARDS, 2, dict.fromkeys(names, 0))
    spec = GallerySpec("acme/all", DIM, CATALOG_SHARDS, 512, None, 2)
    add_s = _least(lambda: catalog.add_gallery(gallery_id, spec, placed), 1)
    catalog.set_state(gallery_id, "ready")

    catalog.close()
    times = []
    for _ in range(3):
        catalog = Catalog(path)
        began = time.process_time()
        catalog.shards()
        times.append(time.process_time() - began)
        again_s = _least(catalog.shards)
        catalog.close()
    return {
        "shards": CATALOG_SHARDS,
        "hosts": CATALOG_HOSTS,
        "add_s": add_s,
        "read_all_s": min(times),
        "read_again_s": again_s,
        "bytes_before": before,
        "bytes": path.stat().st_size,
    }
