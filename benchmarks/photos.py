"""Photos a second through the service: the pool that embeds in batches beside one photo after another.

    python -m benchmarks.photos --rounds 3 --json FILE

Real photos go through `POST …/images` and `POST …/search/image`, one a request, over 1 and 16 connections, and all in
one request of `POST …/images`. Both ways of finding faces serve in the same process, in turns, so that what else the
machine does falls on both; figures are medians of the rounds, and the ratio is what to compare. One by one is
`FacePipeline.faces` in the thread of each request.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from cluster import Cluster
from cluster.faces import Face
from cluster.service.gateway import WORK_THREADS, Gateway
from cluster.service.serve import Listen, Service

CONNECTIONS = (1, 16)
PHOTOS = 32
GALLERY = "bench/photos"
PATH = f"/v1/galleries/{GALLERY}"
JPEG = {"content-type": "image/jpeg"}


class OneByOne:
    """A `FaceSource` that embeds each image by itself, as many at once as the service has threads for writes."""

    threads = WORK_THREADS

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def begin(self, image: bytes, embedder: str, *, embed_refused: bool, until: float) -> Future[tuple[Face, ...]]:
        """Everything in the caller's thread."""
        done: Future[tuple[Face, ...]] = Future()
        done.set_result(self._cluster.pipeline(embedder).faces(image, embed_refused=embed_refused))
        return done

    def close(self) -> None:
        """Nothing waits."""


@contextmanager
def served(cluster: Cluster, gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of a service of the cluster, with an operator's key."""
    service = Service(gateway, Listen(port=0))
    listens = threading.Event()
    thread = threading.Thread(target=service.run, kwargs={"ready": listens.set})
    thread.start()
    listens.wait()
    _, secret = cluster.tenants.create_key(None, "benchmark", scopes=("admin",))
    headers = {"Authorization": f"Bearer {secret}"}
    try:
        with httpx.Client(base_url=service.url, headers=headers, timeout=600) as client:
            yield client
    finally:
        service.stop()
        thread.join()


@dataclass(frozen=True, slots=True)
class Cost:
    """Photos a second, and milliseconds of all cores a photo: what else a busy machine does touches these little."""

    rate: float
    cpu_ms: float


def cost(send: Callable[[bytes], httpx.Response], requests: list[bytes], connections: int, photos: int) -> Cost:
    """What `photos` cost, in these requests."""
    with ThreadPoolExecutor(connections) as threads:
        began, cpu = time.perf_counter(), time.process_time()
        answers = list(threads.map(send, requests))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    for answer in answers:
        answer.raise_for_status()
    return Cost(photos / took, cpu / photos * 1000)


def measure(client: httpx.Client, embedder: str, photos: list[bytes]) -> dict[str, Cost]:
    """What a photo costs in each way to send them, by name."""
    found: dict[str, Cost] = {}
    for connections in CONNECTIONS:
        client.post("/v1/galleries", json={"name": GALLERY, "embedder": embedder}).raise_for_status()
        for name in ("images", "search/image"):
            found[f"{name}, {connections} connections"] = cost(
                lambda data, name=name: client.post(f"{PATH}/{name}", content=data, headers=JPEG),  # type: ignore[misc]
                photos,
                connections,
                len(photos),
            )
        client.delete(PATH).raise_for_status()
    client.post("/v1/galleries", json={"name": GALLERY, "embedder": embedder}).raise_for_status()
    body = {"images": [{"data": base64.b64encode(data).decode()} for data in photos]}
    whole = json.dumps(body).encode()
    found["images, one request"] = cost(
        lambda data: client.post(f"{PATH}/images", content=data, headers={"content-type": "application/json"}),
        [whole],
        1,
        len(photos),
    )
    client.delete(PATH).raise_for_status()
    return found


def usable(cluster: Cluster, embedder: str, folder: Path, count: int) -> list[bytes]:
    """Photos with a face to search with, in the order of their names."""
    pipeline = cluster.pipeline(embedder)
    found: list[bytes] = []
    for path in sorted(folder.glob("*.jpg")):
        if len(found) < count and pipeline.faces(path):
            found.append(path.read_bytes())
    return found


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FACEGRID_DATA", "../shared/data")))
    parser.add_argument("--embedder", default="edgeface_xs")
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    rounds: dict[str, list[dict[str, Cost]]] = {"one by one": [], "pool": []}
    with tempfile.TemporaryDirectory() as home, Cluster.open(home, models=(given.data / "models",)) as cluster:
        cluster.tenants.create("bench")
        photos = usable(cluster, given.embedder, given.data / "photos", given.photos)
        alone, pool = Gateway(cluster, faces=OneByOne(cluster)), Gateway(cluster)
        with served(cluster, alone) as one_by_one, served(cluster, pool) as pooled:
            for _ in range(given.rounds):
                rounds["one by one"].append(measure(one_by_one, given.embedder, photos))
                rounds["pool"].append(measure(pooled, given.embedder, photos))
    figures = {way: {name: median([one[name] for one in found]) for name in found[0]} for way, found in rounds.items()}
    print(f"{len(photos)} photos, {given.embedder}, {os.cpu_count()} cores, {given.rounds} rounds; photos/s")
    for name, pooled_cost in figures["pool"].items():
        before = figures["one by one"][name]
        print(
            f"{name:30} one by one {before.rate:6.2f} ({before.cpu_ms:5.1f} ms CPU)   pool {pooled_cost.rate:6.2f}"
            f" ({pooled_cost.cpu_ms:5.1f} ms CPU)   ratio {pooled_cost.rate / before.rate:.2f}"
        )
    if given.json is not None:
        shown = {way: {name: asdict(one) for name, one in found.items()} for way, found in figures.items()}
        given.json.write_text(json.dumps({"photos": len(photos), "embedder": given.embedder, **shown}, indent=1))


def median(costs: list[Cost]) -> Cost:
    """Of each figure."""
    return Cost(statistics.median(one.rate for one in costs), statistics.median(one.cpu_ms for one in costs))


if __name__ == "__main__":
    main()
