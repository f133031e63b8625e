"""Milvus Lite: `MilvusClient("file.db")`, which serves itself over gRPC on a local socket; HNSW by FAISS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pymilvus import DataType, MilvusClient

from benchmarks.service.side import found_rows, measured, task, tell

NAME = "faces"
_INSERT = 5_000


def main() -> None:
    """Insert, flush, load, search one by one and in batches."""
    given, result = task()
    client = MilvusClient(str(given.folder / "milvus-lite.db"))
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=given.rows.shape[1])
    schema.add_field("identity", DataType.VARCHAR, max_length=64)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
    client.create_collection(NAME, schema=schema, index_params=index)
    begin = time.perf_counter()
    for first in range(0, len(given.rows), _INSERT):
        rows = range(first, min(first + _INSERT, len(given.rows)))
        people = given.people
        client.insert(
            NAME, [{"id": i, "vector": given.rows[i], "identity": f"person-{int(people[i]):07d}"} for i in rows]
        )
    client.flush(NAME)
    client.load_collection(NAME)

    def many(probes: Any) -> Sequence[Sequence[int]]:
        answers = client.search(NAME, data=probes.tolist(), limit=given.k, output_fields=["identity"])
        return [[hit["id"] for hit in hits] for hits in answers]

    def one(probe: Any) -> Sequence[int]:
        return many(probe[None])[0]

    one(given.probes[0])  # the index is built by then
    build_s = time.perf_counter() - begin
    found = found_rows(one, given)
    tell(result, build_s=build_s, found=found, figures=measured(given, one, many), packages=["milvus-lite", "pymilvus"])
    client.close()


if __name__ == "__main__":
    main()
