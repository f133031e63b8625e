"""Codes of real faces: the recall that a model's bounds leave, against exact search on the LFW embeddings.

Prints what was measured (run with -s). The bounds are applied here in NumPy, to the model's codes and queries alone, so
that a fault of the native index cannot hide one of the model, nor the other way round. They are applied at their
tightest, as if the k-th best score were known from the start; a search begins with a lower one and finds more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shard.model import SearchModel
from shard.training import train
from shard.types import DEFAULT_RECALL, PLANE_BITS, FloatArray, RowArray

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


def blocks(probe_set: ProbeSet, every: int) -> list[tuple[slice, FloatArray]]:
    """Exact scores of every `every`th probe, 500 at a time, the probe's own row pushed out."""
    out = []
    for start in range(0, len(probe_set.probes), 500 * every):
        part = slice(start, start + 500 * every, every)
        scores = probe_set.probes[part] @ probe_set.gallery.T
        own = probe_set.own[part]
        scores[np.flatnonzero(own >= 0), own[own >= 0]] = -2.0
        out.append((part, scores))
    return out


def within(model: SearchModel, probes: FloatArray, rows: Codes, scores: FloatArray, k: int, recall: float):  # type: ignore[no-untyped-def]
    """Which rows (n, rows) the bounds of lists, plane 0 and all planes let through where the k-th score is known."""
    query = model.query(probes, recall)
    limit = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    limit = np.minimum(limit, query.knee + (limit - query.knee) / 2)
    passed = []
    if model.lists:
        least = query.bounds[:, 0] + query.bounds[:, 1] * limit
        passed.append(query.lists[:, rows.lists] >= least[:, None] - 1e-5)
    else:
        passed.append(np.ones(scores.shape, dtype=bool))
    for stage, bits in ((1, PLANE_BITS), (2, model.code_bits)):
        least = query.bounds[:, 2 * stage] + query.bounds[:, 2 * stage + 1] * limit
        passed.append(query.values[:, :bits] @ rows.signs[:, :bits].T >= least[:, None] - 1e-5)
    return passed[0], passed[0] & passed[1], passed[0] & passed[1] & passed[2]


@dataclass
class Codes:
    """Of a gallery: bits as signs (n, code_bits), and the list of each row."""

    signs: FloatArray
    lists: npt.NDArray[np.uint16]


def codes_of(model: SearchModel, gallery: FloatArray) -> Codes:
    codes = model.encode(gallery)
    planes = codes[:, : model.code_bits // 8]
    signs = np.unpackbits(planes, axis=1).astype(np.float32) * 2 - 1
    lists = np.ascontiguousarray(codes[:, model.code_bits // 8 :]).view("<u2").reshape(-1)
    return Codes(signs, lists)


@dataclass
class Measured:
    """Over all probes: recall@k, rank-1 by the bounds and exactly, mean rows in lists, past plane 0, past all."""

    recall: float
    rank1: float
    rank1_exact: float
    listed: float
    head: float
    full: float


def measure(probe_set: ProbeSet, model: SearchModel, k: int, recall: float, every: int = 1) -> Measured:
    """Every `every`th probe."""
    rows = codes_of(model, probe_set.gallery)
    sums, probes = np.zeros(6), 0
    for part, scores in blocks(probe_set, every):
        ids = probe_set.probe_ids[part]
        listed, head, full = within(model, probe_set.probes[part], rows, scores, k, recall)
        found = np.where(full, scores, -3.0)
        truth = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        first, first_exact = probe_set.gallery_ids[found.argmax(axis=1)], probe_set.gallery_ids[scores.argmax(axis=1)]
        hits = np.take_along_axis(full, truth, axis=1).sum() / k
        sums += [hits, (first == ids).sum(), (first_exact == ids).sum(), listed.sum(), head.sum(), full.sum()]
        probes += len(scores)
    return Measured(*(sums / probes).tolist())


def report(embedder: str, name: str, model: SearchModel, rows: int, k: int, recall: float, got: Measured) -> None:
    print(
        f"{embedder:18} {name:23} {model.code_bits:4} bits k {k:2} asked {recall} got {got.recall:.5f}"
        f" in lists {got.listed:.0f}, past the first plane {got.head:.0f}, past all {got.full:.1f} of {rows}"
    )


@pytest.mark.parametrize("name", ["leave-one-out", "one photo per identity", "held-out identities"])
@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_default_recall_finds_what_exact_search_finds(embedder: str, name: str) -> None:
    probe_set = probe_sets(embedder)[name]
    model = model_for(embedder, name, 512)
    every = 1 if "FACEGRID_TORTURE" in os.environ else max(1, len(probe_set.probes) // 4_000)
    got = measure(probe_set, model, 1, DEFAULT_RECALL, every)
    report(embedder, name, model, len(probe_set.gallery), 1, DEFAULT_RECALL, got)
    print(f"{'':18} {'':23} rank-1 {got.rank1:.5f}, exact search {got.rank1_exact:.5f}")
    assert got.recall >= 0.999
    assert abs(got.rank1 - got.rank1_exact) <= 0.001


@pytest.mark.parametrize("recall", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("code_bits", [128, 256, 1024])
@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_every_code_length_keeps_its_promise(embedder: str, code_bits: int, recall: float) -> None:
    probe_set = probe_sets(embedder)["held-out identities"]
    model = model_for(embedder, "held-out identities", code_bits)
    for k in (1, 10):
        got = measure(probe_set, model, k, recall, every=4)
        report(embedder, probe_set.name, model, len(probe_set.gallery), k, recall, got)
        # Some 600 probes: three standard errors of their miss rate.
        assert got.recall >= recall - 3 * ((1 - recall) * recall / (len(probe_set.probes) / 4)) ** 0.5
