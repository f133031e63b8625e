"""Codes of real faces: recall of the Hamming cascade against exact search on the LFW embeddings.

Prints what was measured (run with -s). The cascade here is written in NumPy, from the model's codes and survivors
alone, so that a fault of the native index cannot hide one of the model, nor the other way round.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shard.model import SearchModel, hamming_distances
from shard.training import train
from shard.types import DEFAULT_RECALL, PLANE_BYTES, CodeArray, FloatArray, RowArray

LFW = Path(os.environ.get("FACEGRID_DATA", Path(__file__).parents[3] / "shared/data")) / "lfw"
EMBEDDERS = ("edgeface_xs_512", "mobilefacenet_512")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not LFW.is_dir(), reason=f"no LFW embeddings at {LFW}; set FACEGRID_DATA"),
]


@dataclass(frozen=True)
class ProbeSet:
    """Probes against a gallery; `own[i]` is the gallery row that is probe i itself and must not be found, or -1."""

    name: str
    gallery: FloatArray
    gallery_ids: RowArray
    probes: FloatArray
    probe_ids: RowArray
    own: RowArray


@cache
def lfw(embedder: str) -> tuple[FloatArray, RowArray]:
    rows = np.load(LFW / f"{embedder}.npy").astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = (LFW / "identities.txt").read_text().splitlines()
    return rows, np.unique(names, return_inverse=True)[1].astype(np.int64)


@cache
def probe_sets(embedder: str) -> dict[str, ProbeSet]:
    rows, ids = lfw(embedder)
    _, first = np.unique(ids, return_index=True)
    rest = np.setdiff1d(np.arange(len(rows)), first)
    held_out = np.random.default_rng(0).permutation(ids.max() + 1)[:1_000]
    stranger = np.isin(ids, held_out)

    def against(name: str, gallery: RowArray, probes: RowArray) -> ProbeSet:
        none = np.full(len(probes), -1)
        return ProbeSet(name, rows[gallery], ids[gallery], rows[probes], ids[probes], none)

    everyone = ProbeSet("leave-one-out", rows, ids, rows, ids, np.arange(len(rows)))
    return {
        probe_set.name: probe_set
        for probe_set in (
            everyone,
            against("one photo per identity", first, rest),
            against("held-out identities", np.flatnonzero(~stranger), np.flatnonzero(stranger)),
        )
    }


@cache
def model_for(embedder: str, probe_set: str, code_bits: int) -> SearchModel:
    """Trained on the gallery alone, as the product does."""
    return train(probe_sets(embedder)[probe_set].gallery, code_bits=code_bits)


def blocks(probe_set: ProbeSet) -> list[tuple[slice, FloatArray]]:
    """Exact scores of 500 probes at a time, the probe's own row pushed out."""
    out = []
    for start in range(0, len(probe_set.probes), 500):
        part = slice(start, start + 500)
        scores = probe_set.probes[part] @ probe_set.gallery.T
        own = probe_set.own[part]
        scores[np.flatnonzero(own >= 0), own[own >= 0]] = -2.0
        out.append((part, scores))
    return out


def nearest(distances: npt.NDArray[np.int32], count: int) -> RowArray:
    """The `count` nearest columns of each row by (distance, column), in any order."""
    columns = distances.shape[1]
    keys = distances * np.int32(columns) + np.arange(columns, dtype=np.int32)
    return np.argpartition(keys, count - 1, axis=1)[:, :count] if count < columns else np.argsort(keys, axis=1)


def cascade(
    model: SearchModel,
    probe_codes: CodeArray,
    codes: CodeArray,
    own: RowArray,
    scores: FloatArray,
    k: int,
    recall: float,
) -> RowArray:
    """Rows (n, k) that the cascade returns, best first."""
    head, full = model.survivors(len(codes), k, recall)
    distances = hamming_distances(probe_codes[:, :PLANE_BYTES], codes[:, :PLANE_BYTES]).astype(np.int32)
    everything = hamming_distances(probe_codes, codes).astype(np.int32)
    for table in (distances, everything):
        table[np.flatnonzero(own >= 0), own[own >= 0]] = 10_000
    kept = np.sort(nearest(distances, head), axis=1)
    kept = np.take_along_axis(kept, nearest(np.take_along_axis(everything, kept, axis=1), full), axis=1)
    best = np.argsort(-np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(kept, best, axis=1)


def measure(
    probe_set: ProbeSet, model: SearchModel, k: int, recall: float, every: int = 1
) -> tuple[float, float, float]:
    """(recall@k, rank-1 by cascade, rank-1 by exact search) over every `every`th probe."""
    codes, probe_codes = model.encode(probe_set.gallery), model.encode(probe_set.probes)
    hits = rank1 = rank1_exact = probes = 0
    for part, all_scores in blocks(probe_set):
        scores, own = all_scores[::every], probe_set.own[part][::every]
        ids = probe_set.probe_ids[part][::every]
        found = cascade(model, probe_codes[part][::every], codes, own, scores, k, recall)
        truth = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        # Duplicate photos tie: a row that scores as much as the k-th true one counts as true.
        limit = np.take_along_axis(scores, truth, axis=1).min(axis=1, keepdims=True)
        hits += int((np.take_along_axis(scores, found, axis=1) >= limit).sum())
        rank1 += int((probe_set.gallery_ids[found[:, 0]] == ids).sum())
        rank1_exact += int((probe_set.gallery_ids[scores.argmax(axis=1)] == ids).sum())
        probes += len(scores)
    return hits / (probes * k), rank1 / probes, rank1_exact / probes


def report(embedder: str, name: str, model: SearchModel, rows: int, k: int, recall: float, got: float) -> None:
    head, full = model.survivors(rows, k, recall)
    print(
        f"{embedder:18} {name:23} {model.code_bits:4} bits k {k:2} asked {recall} got {got:.5f}"
        f" head {head} full {full} of {rows}"
    )


@pytest.mark.parametrize("name", ["leave-one-out", "one photo per identity", "held-out identities"])
@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_default_recall_finds_what_exact_search_finds(embedder: str, name: str) -> None:
    probe_set = probe_sets(embedder)[name]
    model = model_for(embedder, name, 512)
    got, rank1, rank1_exact = measure(probe_set, model, 1, DEFAULT_RECALL)
    report(embedder, name, model, len(probe_set.gallery), 1, DEFAULT_RECALL, got)
    print(f"{'':18} {'':23} rank-1 {rank1:.5f}, exact search {rank1_exact:.5f}")
    assert got >= 0.999
    assert abs(rank1 - rank1_exact) <= 0.001


@pytest.mark.parametrize("recall", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("code_bits", [128, 256, 1024])
@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_every_code_length_keeps_its_promise(embedder: str, code_bits: int, recall: float) -> None:
    probe_set = probe_sets(embedder)["held-out identities"]
    model = model_for(embedder, "held-out identities", code_bits)
    for k in (1, 10):
        got, _, _ = measure(probe_set, model, k, recall, every=4)
        report(embedder, probe_set.name, model, len(probe_set.gallery), k, recall, got)
        # Some 600 probes: three standard errors of their miss rate.
        assert got >= recall - 3 * ((1 - recall) * recall / (len(probe_set.probes) / 4)) ** 0.5
