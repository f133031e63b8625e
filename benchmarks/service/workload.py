"""What is searched, and with what: galleries of made-up faces, probes, and what exhaustive search finds.

Two galleries as in the engine's benchmark: `one` photo of each person, and `twenty`. A search for ten in the first is
the hardest there is here: one template is of the person, nine are strangers' that are hardly nearer than others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from benchmarks.profiles import EDGEFACE
from benchmarks.synthetic import SyntheticGallery
from shard.types import FloatArray, RowArray

PROBES = 1_024
BATCH = 256
_SAME_SCORE = 2e-6
"""Two scores this near are the same: sums in another order differ by as much."""
JSON, MSGPACK = "application/json", "application/msgpack"


@dataclass(frozen=True, slots=True)
class Workload:
    """A gallery and its probes. rows (n, dim), people (n,), probes (PROBES, dim) of people in it; all of unit norm."""

    name: str
    rows: FloatArray
    people: RowArray
    probes: FloatArray

    def recall(self, found: Sequence[Sequence[int]], k: int) -> float:
        """recall@k of row numbers found for the first probes, against exhaustive search; ties count for everybody."""
        probes = self.probes[: len(found)]
        scores = probes @ self.rows.T
        least = np.partition(scores, -k, axis=1)[:, -k] - _SAME_SCORE
        hits = sum(
            int((scores[i, list(dict.fromkeys(rows))[:k]] >= least[i]).sum()) for i, rows in enumerate(found) if rows
        )
        return hits / (k * len(found))


def make(name: str, templates: int, seed: int) -> Workload:
    """`one` or `twenty`: photos of each person."""
    photos = {"one": 1, "twenty": 20}[name]
    gallery = SyntheticGallery(EDGEFACE, templates // photos, photos, seed=seed)
    rows, people = gallery.rows(0, len(gallery))
    probes, _ = gallery.probes(PROBES, seed=seed)
    return Workload(name, rows, people, probes)


def template_id(row: int) -> str:
    """The id that a row is enrolled under."""
    return f"t{row:07d}"


def row_of(template: str) -> int:
    """The row of an id."""
    return int(template[1:])


def identity(person: int) -> str:
    """The label of a person."""
    return f"person-{person:07d}"


def packed(array: FloatArray) -> dict[str, Any]:
    """An array in a msgpack body."""
    return {"shape": list(array.shape), "data": np.ascontiguousarray(array, "<f4").tobytes()}


def search_body(probes: FloatArray, k: int, kind: str, **options: Any) -> bytes:
    """A search request's body in the media type."""
    if kind == JSON:
        return json.dumps({"probes": probes.tolist(), "k": k, **options}).encode()
    body: bytes = msgpack.packb({"probes": packed(probes), "k": k, **options})
    return body


def single_bodies(workload: Workload, k: int, kind: str = MSGPACK, **options: Any) -> list[bytes]:
    """One body for each probe."""
    return [search_body(workload.probes[i : i + 1], k, kind, **options) for i in range(PROBES)]


def batch_bodies(workload: Workload, k: int, **options: Any) -> list[bytes]:
    """Bodies of BATCH probes, each of other probes or of the same in another order."""
    rng = np.random.default_rng(0)
    return [search_body(workload.probes[rng.permutation(PROBES)[:BATCH]], k, MSGPACK, **options) for _ in range(16)]
