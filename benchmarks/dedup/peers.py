"""Finding all pairs with FAISS and hnswlib, at sizes both can finish: `python -m benchmarks.dedup.peers REQUEST`.

Each size of each peer is a process of its own, whose threads are limited. Rows are in memory before the clock starts.
Building the index counts: it is made for this one question.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dedup.seeded import Seeded
from benchmarks.dedup.truth import MARGIN, keys
from shard.types import FloatArray, RowArray

M, EF_CONSTRUCTION, K = 16, 200, 32
"""Of hnswlib: the usual ones, and neighbours asked for; people here have 5 photos at most."""
EFS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024)
_BLOCK = 4_096
_SOURCE = Path(__file__).resolve().parents[2]
_LIMIT_S = 1_800


def peer_figures(
    seeded: Seeded, sizes: Sequence[int], threads: int, threshold: float, recalls: dict[str, float]
) -> dict[str, Any]:
    """Both peers at each size. recalls: by mode, what hnswlib has to reach at the least. n: extrapolated to."""
    sizes = sorted(size for size in sizes if size <= seeded.n)
    seeded.rows()
    peers: dict[str, Any] = {"faiss": [], "hnswlib": []}
    with tempfile.TemporaryDirectory(dir=seeded.folder) as folder:
        for size in sizes:
            for name, found in peers.items():
                request = {
                    "peer": name, "rows": str(seeded.folder), "n": seeded.n, "seed": seeded.seed, "size": size,
                    "threads": threads, "threshold": threshold, "recalls": recalls,
                    "pairs": str(Path(folder) / f"pairs-{size}.npy"),
                }  # fmt: skip
                found.append(_asked(request, threads))
    return {
        "n": seeded.n,
        "sizes": sizes,
        "threads": threads,
        "threshold": threshold,
        "versions": {name: metadata.version(name) for name in ("faiss-cpu", "hnswlib")},
        "parameters": {
            "faiss": "IndexFlatIP, add and range_search of all rows",
            "hnswlib": f"ip, M {M}, ef_construction {EF_CONSTRUCTION}, k {K}, ef: the least of {list(EFS)} that does",
        },
        "recalls": recalls,
        **peers,
        "extrapolated": extrapolations(peers, seeded.n),
    }


def _asked(request: dict[str, Any], threads: int) -> dict[str, Any]:
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    command = [sys.executable, "-m", "benchmarks.dedup.peers", json.dumps(request)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=environment, cwd=_SOURCE, timeout=_LIMIT_S, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def extrapolations(peers: dict[str, Any], n: int) -> dict[str, Any]:
    """Seconds at n rows, from the largest sizes that were measured.

    faiss_s: as n squared, less what does not grow so by the two largest sizes. hnswlib: for each recall,
    `as_n_log_n_s`, which is kind to it, and `as_power_s`, by the exponent between the two largest sizes; None where
    the recall was not reached.
    """
    flat = [(run["size"], run["seconds"]) for run in peers["faiss"]]
    found: dict[str, Any] = {
        "faiss_s": _square(flat) * n**2,
        "faiss_exponent": _exponent(flat),
        "hnswlib": {},
    }
    for name in peers["hnswlib"][-1]["at"]:
        runs = [(run["size"], _seconds(run, name)) for run in peers["hnswlib"]]
        size, seconds = runs[-1]
        reached = [(at, spent) for at, spent in runs if spent is not None]
        exponent = _exponent(reached)
        found["hnswlib"][name] = {
            "exponent": exponent,
            "as_n_log_n_s": None if seconds is None else seconds * n * math.log(n) / (size * math.log(size)),
            "as_power_s": None if seconds is None or exponent is None else seconds * (n / size) ** exponent,
        }
    return found


def _seconds(run: dict[str, Any], name: str) -> float | None:
    at = run["at"][name]
    return None if at is None else run["build_s"] + at["query_s"]


def _square(runs: list[tuple[int, float]]) -> float:
    """Seconds a pair of rows: of the largest size, or of what it has more than the one before, if that is less."""
    size, seconds = runs[-1]
    a_pair = seconds / size**2
    if len(runs) > 1:
        small, before = runs[-2]
        a_pair = min(a_pair, max(seconds - before, 0.0) / (size**2 - small**2))
    return a_pair


def _exponent(runs: list[tuple[int, float]]) -> float | None:
    """Of the power law between the two largest sizes."""
    if len(runs) < 2:
        return None
    (small, before), (large, after) = runs[-2:]
    return math.log(after / before) / math.log(large / small)


def faiss_pairs(rows: FloatArray, threads: int, threshold: float) -> tuple[dict[str, float], RowArray]:
    """Seconds, and the pairs as `keys`."""
    import faiss

    faiss.omp_set_num_threads(threads)
    began = time.perf_counter()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    built = time.perf_counter()
    found = []
    for start in range(0, len(rows), _BLOCK):
        probes = rows[start : start + _BLOCK]
        limits, _, labels = index.range_search(probes, threshold)
        left = np.repeat(np.arange(start, start + len(probes)), np.diff(limits.astype(np.int64)))
        found.append(keys(left[left < labels], labels[left < labels], len(rows)))
    done = time.perf_counter()
    return {"build_s": built - began, "query_s": done - built, "seconds": done - began}, np.concatenate(found)


def hnsw_pairs(
    rows: FloatArray, threads: int, threshold: float, truth: RowArray, recalls: dict[str, float]
) -> dict[str, Any]:
    """Seconds of building and, for each recall of the pairs `truth`, of asking for all with the least ef; None where no
    ef reaches it. `tried`: recall of each ef, with seconds."""
    import hnswlib

    began = time.perf_counter()
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=M, ef_construction=EF_CONSTRUCTION, random_seed=100)
    index.add_items(rows, np.arange(len(rows)), num_threads=threads)
    build = time.perf_counter() - began
    tried = []
    for ef in EFS:
        index.set_ef(ef)
        began = time.perf_counter()
        labels, distances = index.knn_query(rows, k=min(K, len(rows)), num_threads=threads)
        left, at = np.nonzero(1 - distances >= threshold)
        other = labels[left, at].astype(np.int64)
        found = np.unique(keys(left, other, len(rows))[left != other])
        spent = time.perf_counter() - began
        tried.append({"ef": ef, "query_s": spent, "recall": float(np.isin(truth, found).mean()) if len(truth) else 1.0})
        if tried[-1]["recall"] >= max(recalls.values()):
            break
    at_recall = {
        name: next((one for one in tried if one["recall"] >= recall), None) for name, recall in recalls.items()
    }
    return {"build_s": build, "at": at_recall, "tried": tried}


def main() -> None:
    """Answer one request with a line of JSON. FAISS keeps its pairs for hnswlib, whose truth they are."""
    request = json.loads(sys.argv[1])
    source = Seeded(Path(request["rows"]), request["n"], request["seed"])
    rows, threshold = np.ascontiguousarray(source.rows()[: request["size"]]), request["threshold"]
    if request["peer"] == "faiss":
        found, pairs = faiss_pairs(rows, request["threads"], threshold)
        left, right = np.divmod(pairs, len(rows))
        scores = np.einsum("ij,ij->i", rows[left], rows[right])
        np.save(request["pairs"], pairs[scores >= threshold + MARGIN])
        answer: dict[str, Any] = {"size": len(rows), **found, "pairs": len(pairs)}
    else:
        truth = np.load(request["pairs"])
        answer = {
            "size": len(rows), **hnsw_pairs(rows, request["threads"], threshold, truth, request["recalls"])
        }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
