"""What the data plane costs: one shard host in its own process, searched over TCP, by Ray actor call, and in process.

    python -m benchmarks.data_plane [--templates 20000] [--seconds 5] [--tls [--rounds 3]]

Prints one JSON object. The gallery is small on purpose, so that the way is measured and not the scan. With --tls it
compares the data plane with TLS and without, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data_plane_tls import compared
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.home import Home
from coordinator.messages import Reply, SearchReply, SearchRequest
from coordinator.ray_cluster import RayCluster, RayOptions
from coordinator.ray_coordinator import RayCoordinator
from coordinator.router import Router
from coordinator.runtime import LocalRuntime, Runtime
from coordinator.types import GalleryRoute, GallerySpec
from shard.types import EnrollBatch, FloatArray, SearchParams

DIM, SHARDS, CALLERS, K = 512, 4, 64, 10
HOST = "host-0"
DEADLINE_S = 30.0
Search = Callable[[SearchRequest], Reply]


def main() -> None:
    """Fill a gallery on Ray, then measure the three ways to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templates", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each throughput measurement")
    parser.add_argument("--tls", action="store_true", help="compare the data plane with TLS and without")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each with --tls, in turn")
    options = parser.parse_args()
    if options.tls:
        print(json.dumps({"templates": options.templates, "dim": DIM, "shards": SHARDS, **with_tls(options)}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch) / "home")
        cluster = RayCluster.start(RayOptions(num_cpus=2), home.directory, home.home_id, home.secret, ())
        route = filled(cluster.coordinator, cluster.runtime, options.templates)
        actor = cluster.actors[HOST]
        results = {
            "data plane": measured(over(cluster.runtime), route, options.seconds),
            "actor call": measured(lambda request: actor.call("execute", request), route, options.seconds),
        }
        cluster.close()
        runtime = LocalRuntime(home.hosts_directory, [HOST])
        results["in process"] = measured(over(runtime), route, options.seconds)
        runtime.close()
        home.close()
    print(
        json.dumps({"templates": options.templates, "dim": DIM, "shards": SHARDS, "cores": os.cpu_count(), **results})
    )


def with_tls(options: argparse.Namespace) -> dict[str, object]:
    """The data plane of a host in a process of its own, with TLS and without."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch) / "home")
        with contextlib.closing(Catalog(home.directory / "catalog.db")) as catalog:
            runtime = LocalRuntime(home.hosts_directory, [HOST])
            coordinator = Coordinator(catalog, runtime)
            route = filled(coordinator, runtime, options.templates)
            coordinator.close()
            runtime.close()
        directory = home.hosts_directory / HOST
        found = compared(
            directory, HOST, route, lambda search: measured(search, route, options.seconds), options.rounds
        )
        home.close()
        return found


def filled(coordinator: Coordinator | RayCoordinator, runtime: Runtime, templates: int) -> GalleryRoute:
    """A trained gallery of random unit rows."""
    route = coordinator.create_gallery(GallerySpec("bench/data-plane", DIM, SHARDS, 512, None))
    rows = unit_rows(templates, seed=1)
    nothing = (None,) * templates
    batch = EnrollBatch(rows, tuple(f"t{i}" for i in range(templates)), nothing, nothing)
    Router(runtime).enroll(route, batch, skip_existing=False, new_ids=True)
    coordinator.train(route.name)
    return coordinator.gallery(route.name)


def unit_rows(n: int, seed: int) -> FloatArray:
    """(n, DIM) float32 unit rows whose variance falls off, as that of embeddings does."""
    scale = (1.0 + np.arange(DIM, dtype=np.float32) / 16) ** -1
    rows = np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32) * scale
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32, copy=False)
    return unit


def over(runtime: Runtime) -> Search:
    """A search through a runtime."""
    return lambda request: runtime.submit(HOST, request, deadline=time.monotonic() + DEADLINE_S).result()


def measured(search: Search, route: GalleryRoute, seconds: float) -> dict[str, float]:
    """Milliseconds of one search at a time, and searches a second from CALLERS threads."""
    probes = unit_rows(256, seed=2)
    requests = [
        SearchRequest(route.gallery_id, tuple(range(SHARDS)), probes[i : i + 1], SearchParams(K), route.epochs)
        for i in range(256)
    ]
    times = []
    for request in itertools.islice(itertools.cycle(requests), 2_000):
        begin = time.perf_counter()
        assert isinstance(search(request), SearchReply)
        times.append(time.perf_counter() - begin)
    return {
        "p50_ms": round(statistics.median(times) * 1_000, 3),
        "p99_ms": round(statistics.quantiles(times, n=100)[98] * 1_000, 3),
        "queries_per_s": round(throughput(search, requests, seconds), 0),
    }


def throughput(search: Search, requests: list[SearchRequest], seconds: float) -> float:
    """Answered searches a second."""
    end = time.perf_counter() + seconds
    counts = [0] * CALLERS

    def run(caller: int) -> None:
        for request in itertools.cycle(requests[caller:] + requests[:caller]):
            if time.perf_counter() > end:
                return
            search(request)
            counts[caller] += 1

    threads = [threading.Thread(target=run, args=(caller,)) for caller in range(CALLERS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
