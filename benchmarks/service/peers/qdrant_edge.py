"""Qdrant Edge: the engine of the Qdrant server (Rust, HNSW) as a library in this process, with its defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import qdrant_edge as qdrant

from benchmarks.service.side import found_rows, measured, task, tell

_UPSERT = 1_000


def main() -> None:
    """Upsert, build the index, search one by one and in batches."""
    given, result = task()
    folder = given.folder / "qdrant-edge"
    folder.mkdir()
    vectors = {"": qdrant.EdgeVectorParams(size=given.rows.shape[1], distance=qdrant.Distance.Cosine)}
    shard = qdrant.EdgeShard.create(str(folder), qdrant.EdgeConfig(vectors=vectors))
    begin = time.perf_counter()
    for first in range(0, len(given.rows), _UPSERT):
        points = [
            qdrant.Point(row, {"": given.rows[row].tolist()}, {"identity": f"person-{int(given.people[row]):07d}"})
            for row in range(first, min(first + _UPSERT, len(given.rows)))
        ]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.flush()
    build_s = time.perf_counter() - begin

    def request(probe: Any) -> Any:
        return qdrant.QueryRequest(limit=given.k, query=qdrant.Query.Nearest(probe.tolist()), with_payload=True)

    def one(probe: Any) -> Sequence[int]:
        return [point.id for point in shard.query(request(probe))]

    def many(probes: Any) -> Sequence[Sequence[int]]:
        batch = qdrant.QueryBatchRequest([request(probe) for probe in probes])
        return [[point.id for point in found] for found in shard.query_batch(batch)]

    found = found_rows(one, given)
    tell(result, build_s=build_s, found=found, figures=measured(given, one, many), packages=["qdrant-edge-py"])
    shard.close()


if __name__ == "__main__":
    main()
