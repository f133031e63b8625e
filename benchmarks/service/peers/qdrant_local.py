"""Qdrant's local mode: `QdrantClient(":memory:")`, NumPy in this process; exhaustive search."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from qdrant_client import QdrantClient, models

from benchmarks.service.side import found_rows, measured, task, tell

NAME = "faces"


def main() -> None:
    """Upload, search one by one and in batches."""
    given, result = task()
    warnings.simplefilter("ignore")  # it advises against galleries of this size, as the report says
    client = QdrantClient(":memory:")
    size = given.rows.shape[1]
    client.create_collection(NAME, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE))
    begin = time.perf_counter()
    payload = [{"identity": f"person-{person:07d}"} for person in given.people.tolist()]
    client.upload_collection(NAME, vectors=given.rows, ids=range(len(given.rows)), payload=payload)
    build_s = time.perf_counter() - begin

    def one(probe: Any) -> Sequence[int]:
        points = client.query_points(NAME, query=probe, limit=given.k, with_payload=True).points
        return [point.id for point in points]

    def many(probes: Any) -> Sequence[Sequence[int]]:
        requests = [models.QueryRequest(query=probe.tolist(), limit=given.k, with_payload=True) for probe in probes]
        return [[point.id for point in found.points] for found in client.query_batch_points(NAME, requests)]

    found = found_rows(one, given)
    # Each search multiplies by all rows on all cores; 64 of them at once would measure the machine's patience.
    figures = measured(given, one, many, is_concurrent=False)
    tell(result, build_s=build_s, found=found, figures=figures, packages=["qdrant-client", "numpy"])
    client.close()


if __name__ == "__main__":
    main()
