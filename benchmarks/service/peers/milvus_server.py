"""The Milvus server that its authors put on PyPI (`milvus`, all of a standalone in one process), over HTTP; HNSW.

It listens on all addresses of the machine and cannot be told otherwise, so it runs in a network namespace of its own
(`unshare`), and so does what asks it. Single searches go over HTTP by wrk, as Facegrid's do; its API for HTTP takes one
vector a request, so batches go over gRPC by its Python client.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from milvus import MilvusServer, MilvusServerConfig
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections, utility

from benchmarks.service import wrk
from benchmarks.service.side import CALLERS, Figures, Task, found_rows, measured, task, tell

NAME = "faces"
_INSERT = 2_000
_READY_S = 300


def main() -> None:
    """Start, insert, index, load, search; stop."""
    given, result = task()
    server = MilvusServer(MilvusServerConfig(data_dir=str(given.folder / "milvus-server")))
    server.start()
    try:
        connections.connect(host="127.0.0.1", port=server.listen_port)
        collection, build_s = _filled(given)
        target = wrk.Target("127.0.0.1", server.listen_port, "/v1/vector/search", {"Content-Type": "application/json"})
        found = found_rows(lambda probe: _asked(target, _body(probe, given.k)), given)
        figures = _figures(collection, target, given)
        tell(result, build_s=build_s, found=found, figures=figures, packages=["milvus", "pymilvus"])
    finally:
        server.stop()


def _filled(given: Task) -> tuple[Any, float]:
    """The collection, indexed and loaded, and how long that took."""
    dim = given.rows.shape[1]
    schema = CollectionSchema(
        [
            FieldSchema("id", DataType.INT64, is_primary=True),
            FieldSchema("vector", DataType.FLOAT_VECTOR, dim=dim),
            FieldSchema("identity", DataType.VARCHAR, max_length=64),
        ]
    )
    begin = time.perf_counter()
    collection = Collection(NAME, schema)
    for first in range(0, len(given.rows), _INSERT):
        rows = range(first, min(first + _INSERT, len(given.rows)))
        people = [f"person-{int(given.people[row]):07d}" for row in rows]
        collection.insert([list(rows), given.rows[first : first + _INSERT].tolist(), people])
    collection.flush()
    params = {"M": 16, "efConstruction": 200}
    collection.create_index("vector", {"index_type": "HNSW", "metric_type": "COSINE", "params": params})
    utility.wait_for_index_building_complete(NAME, timeout=_READY_S)
    collection.load()
    return collection, time.perf_counter() - begin


def _body(probe: Any, k: int) -> bytes:
    fields = ["id", "identity"]
    return json.dumps({"collectionName": NAME, "vector": probe.tolist(), "limit": k, "outputFields": fields}).encode()


def _asked(target: wrk.Target, body: bytes) -> Sequence[int]:
    url = f"http://{target.host}:{target.port}{target.path}"
    with urllib.request.urlopen(urllib.request.Request(url, body, dict(target.headers))) as answer:
        said = json.loads(answer.read())
    if said["code"] != 200:
        raise RuntimeError(f"search: {said}")
    return [int(hit["id"]) for hit in said["data"]]


def _figures(collection: Any, target: wrk.Target, given: Task) -> Figures:
    bodies = [_body(probe, given.k) for probe in given.probes]
    seconds = round(given.seconds)
    single = wrk.load(target, bodies, connections=1, seconds=seconds)
    crowd = wrk.load(target, bodies, connections=CALLERS, seconds=seconds)

    def many(probes: Any) -> Sequence[Sequence[int]]:
        answers = collection.search(
            probes.tolist(), "vector", {"metric_type": "COSINE"}, given.k, output_fields=["identity"]
        )
        return [list(hits.ids) for hits in answers]

    batch = measured(given, lambda probe: many(probe[None])[0], many, is_concurrent=False).batch_per_s
    return Figures(
        single.p50_ms, single.p99_ms, single.per_s, crowd.p50_ms, crowd.p99_ms, crowd.per_s, crowd.errors, batch
    )


if __name__ == "__main__":
    main()
