"""The galleries and probes of a run, and the exact answers: made once, kept in a folder, mapped by every process.

A dataset's folder holds rows.npy (n, dim) float32 of unit norm, identities.npy, probes.npz (mated, strangers, people)
and truth.npz (the exact nearest of every probe). A run that is given the folder of an earlier one reads them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engine.peer import blocks
from benchmarks.face_statistics import read_labelled
from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from shard.errors import InvalidParameter
from shard.types import FloatArray, RowArray

MATED, STRANGERS = 1_000, 300
"""Probes of enrolled people, and of people who are in no gallery."""
TRUTH_K = 10
PHOTOS = {"one": 1, "twenty": 20}
"""Templates of each person, by shape."""
_BLOCK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """mated (m, dim), the identity number of each in people (m,), strangers (s, dim); float32 of unit norm."""

    mated: FloatArray
    people: RowArray
    strangers: FloatArray

    def both(self) -> FloatArray:
        """Mated ones first."""
        return np.concatenate([self.mated, self.strangers])


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Exact search for all probes, mated ones first: rows (p, k) int64 and scores (p, k) float32, best first."""

    rows: RowArray
    scores: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One gallery on disk with its probes and their exact answers. seconds: spent on making it and on searching it."""

    name: str
    folder: Path
    rows: FloatArray
    identities: RowArray
    probes: Probes
    truth: Truth
    seconds: dict[str, float]


def synthetic(shape: str, n: int, seed: int, work: Path) -> Dataset:
    """About n templates like EdgeFace's, of people with 1 or 20 photos each; InvalidParameter below 2,000."""
    if n < 2 * MATED:
        raise InvalidParameter(f"n: expected at least {2 * MATED}, got {n}")
    gallery = SyntheticGallery(EDGEFACE, n // PHOTOS[shape], PHOTOS[shape], seed=seed)

    def make(folder: Path) -> None:
        rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (len(gallery), EDGEFACE.dim))
        identities = np.empty(len(gallery), dtype=np.int64)
        for block in blocks(len(gallery), _BLOCK):
            rows[block], identities[block] = gallery.rows(block.start, block.stop)
        rows.flush()
        mated, people = gallery.probes(MATED, seed=seed + 1)
        _save(folder, identities, Probes(mated, people, gallery.non_mated(STRANGERS, seed=seed + 2)))

    return _dataset(shape, work / f"{shape}-{len(gallery)}-{seed}", make)


def lfw(data: Path, seed: int, work: Path) -> Dataset:
    """EdgeFace's embeddings of LFW: 1,000 photos of people who have more are probes, 300 single photos are strangers.

    Everything else is the gallery. Raises InvalidParameter if `data`/lfw does not hold the embeddings.
    """
    source = data / "lfw"
    if not (source / f"{EDGEFACE.name}.npy").is_file():
        raise InvalidParameter(
            f"real embeddings: expected {EDGEFACE.name}.npy in {source}; name its parent with --data"
        )

    def make(folder: Path) -> None:
        embeddings, people = read_labelled(source, EDGEFACE.name)
        mated, strangers = _held_out(people, seed)
        kept = np.setdiff1d(np.arange(len(people)), np.concatenate([mated, strangers]))
        np.save(folder / "rows.npy", embeddings[kept])
        _save(folder, people[kept], Probes(embeddings[mated], people[mated], embeddings[strangers]))

    return _dataset("lfw", work / f"lfw-{seed}", make)


def _held_out(people: RowArray, seed: int) -> tuple[RowArray, RowArray]:
    """Rows of the mated probes, whose people keep a photo in the gallery, and of the strangers, who had only one."""
    order = np.random.default_rng(seed).permutation(len(people))
    _, first, count = np.unique(people[order], return_index=True, return_counts=True)
    spare = np.setdiff1d(np.arange(len(people)), first)  # all photos but one of each person
    return order[spare[:MATED]], order[first[count == 1][:STRANGERS]]


def _save(folder: Path, identities: RowArray, probes: Probes) -> None:
    np.save(folder / "identities.npy", identities)
    np.savez(folder / "probes.npz", mated=probes.mated, people=probes.people, strangers=probes.strangers)


def _dataset(name: str, folder: Path, make: Callable[[Path], None]) -> Dataset:
    seconds = {"make": _once(folder / "made", lambda: make(folder))}
    rows: FloatArray = np.load(folder / "rows.npy", mmap_mode="r")
    probes = read_probes(folder)

    def answer() -> None:
        best_rows, best_scores = _exact(rows, probes.both())
        np.savez(folder / "truth.npz", rows=best_rows, scores=best_scores)

    seconds["exact"] = _once(folder / "answered", answer)
    with np.load(folder / "truth.npz") as saved:
        truth = Truth(saved["rows"], saved["scores"])
    return Dataset(name, folder, rows, np.load(folder / "identities.npy"), probes, truth, seconds)


def _once(mark: Path, make: Callable[[], None]) -> float:
    """Seconds that `make` took, now or in the run that left the mark."""
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        make()
        mark.write_text(str(time.perf_counter() - started))
    return float(mark.read_text())


def read_probes(folder: Path) -> Probes:
    """The probes of a dataset's folder."""
    with np.load(folder / "probes.npz") as saved:
        return Probes(saved["mated"], saved["people"], saved["strangers"])


def _exact(rows: FloatArray, probes: FloatArray) -> tuple[RowArray, FloatArray]:
    """The TRUTH_K best rows of each probe and their scores, by a matrix product of one block of rows after another."""
    best_rows = np.zeros((len(probes), 0), dtype=np.int64)
    best_scores = np.zeros((len(probes), 0), dtype=np.float32)
    for block in blocks(len(rows), _BLOCK):
        scores = probes @ rows[block].T
        near = np.argpartition(-scores, min(TRUTH_K, scores.shape[1]) - 1, axis=1)[:, :TRUTH_K]
        best_rows = np.concatenate([best_rows, near + block.start], axis=1)
        best_scores = np.concatenate([best_scores, np.take_along_axis(scores, near, axis=1)], axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :TRUTH_K]
        best_rows = np.take_along_axis(best_rows, order, axis=1)
        best_scores = np.take_along_axis(best_scores, order, axis=1)
    return best_rows, best_scores
