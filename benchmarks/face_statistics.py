"""Statistics of labelled embeddings: what a generator has to reproduce, and how hard the search is.

Owns the definitions behind `statistics.json` of the calibration data, so that real and synthetic embeddings are
measured by the same lines; `benchmarks.synthetic_report` prints both side by side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shard.types import FloatArray, RowArray

Spectrum = npt.NDArray[np.float64]
Statistics = dict[str, tuple[float, ...]]

MIN_RESIDUAL_PHOTOS = 5
"""Residuals are taken from people with at least this many photos: the mean of fewer hides too much of them."""
MIN_QUALITY_PHOTOS = 10
"""A photo's energy is estimated against the rest of its person's photos, of which there must be enough."""
MAX_GENUINE_PAIRS = 45
"""Genuine pairs drawn of one person, so that the few with hundreds of photos do not decide."""
IMPOSTOR_ROWS = 3_000


def measure(embeddings: FloatArray, identities: RowArray, *, seed: int = 0) -> Statistics:
    """Every statistic of (n, dim) unit float32 embeddings whose people are `identities` (n,), by name."""
    rng = np.random.default_rng(seed)
    _, people, photos = np.unique(identities, return_inverse=True, return_counts=True)
    means = identity_means(embeddings, people, photos)
    several = photos[people] >= MIN_RESIDUAL_PHOTOS
    residuals = embeddings[several] - means[people[several]]
    genuine = genuine_scores(embeddings, people, photos, rng)
    impostor = impostor_scores(embeddings, people, rng)
    table: Statistics = {
        "genuine 1 5 25 50 75 95 99 %": _percentiles(genuine, 1, 5, 25, 50, 75, 95, 99),
        "genuine mean std": (float(genuine.mean()), float(genuine.std())),
        "impostor 50 99 99.9 99.99 %": _percentiles(impostor, 50, 99, 99.9, 99.99),
        "impostor mean std": (float(impostor.mean()), float(impostor.std())),
    }
    for name, vectors in (("templates", embeddings), ("means", means), ("residuals", residuals)):
        values = spectrum(vectors)
        table[f"{name} dims 90 95 99 %"] = tuple(float(dims_for(values, share)) for share in (0.90, 0.95, 0.99))
        table[f"{name} participation, effective rank"] = (participation_ratio(values), effective_rank(values))
    table["residual norm 5 50 95 99 %"] = _percentiles(np.linalg.norm(residuals, axis=1), 5, 50, 95, 99)
    energies, by_person = log_energies(embeddings, people, photos)
    table["log energy 1 5 25 50 75 95 99 %"] = _percentiles(energies, 1, 5, 25, 50, 75, 95, 99)
    table["log energy std, of persons' means, skew"] = (float(energies.std()), float(by_person.std()), skew(energies))
    table["norm of overall mean"] = (float(np.linalg.norm(embeddings.mean(axis=0))),)
    return table


def identity_means(embeddings: FloatArray, people: RowArray, photos: RowArray) -> npt.NDArray[np.float64]:
    """Mean embedding of each person (not normalised), from rows of people numbered 0 to len(photos) - 1."""
    starts = np.cumsum(photos) - photos
    sums = np.add.reduceat(embeddings[np.argsort(people, kind="stable")], starts, axis=0, dtype=np.float64)
    means: npt.NDArray[np.float64] = sums / photos[:, None]
    return means


def genuine_scores(
    embeddings: FloatArray, people: RowArray, photos: RowArray, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Scores of pairs of photos of one person, at most MAX_GENUINE_PAIRS drawn of each."""
    order = np.argsort(people, kind="stable")
    scores = []
    for rows in np.split(order, np.cumsum(photos)[:-1]):
        own = embeddings[rows] @ embeddings[rows].T
        pairs = own[np.triu_indices(len(rows), 1)]
        few = len(pairs) <= MAX_GENUINE_PAIRS
        scores.append(pairs if few else rng.choice(pairs, MAX_GENUINE_PAIRS, replace=False))
    return np.concatenate(scores)


def log_energies(
    embeddings: FloatArray, people: RowArray, photos: RowArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """log of residual over person energy of each photo, and its mean by person, of those with MIN_QUALITY_PHOTOS.

    A photo's mean score with the person's others is cos(photo, person) times the mean of those cosines, and
    tan**2 of the first is the energy. Unlike the norm of a residual, this does not saturate for the worst photos.
    """
    order = np.argsort(people, kind="stable")
    found = []
    for rows in np.split(order, np.cumsum(photos)[:-1]):
        if len(rows) < MIN_QUALITY_PHOTOS:
            continue
        own = (embeddings[rows] @ embeddings[rows].T).astype(np.float64)
        others = (own.sum(axis=1) - 1) / (len(rows) - 1)
        cosines = (others / np.sqrt(others.mean())).clip(0.05, 0.995)
        found.append(np.log(cosines**-2 - 1))
    return np.concatenate(found), np.array([one.mean() for one in found])


def impostor_scores(embeddings: FloatArray, people: RowArray, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Scores between photos of different people among IMPOSTOR_ROWS rows, every photo counting alike."""
    rows = rng.choice(len(embeddings), min(IMPOSTOR_ROWS, len(embeddings)), replace=False)
    left, right = np.triu_indices(len(rows), 1)
    apart = people[rows[left]] != people[rows[right]]
    scores: FloatArray = (embeddings[rows] @ embeddings[rows].T)[left[apart], right[apart]]
    return scores


def spectrum(vectors: npt.NDArray[np.floating]) -> Spectrum:
    """Share of the variance along each principal axis, descending, summing to 1."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    values: Spectrum = np.linalg.eigvalsh(centred.T @ centred)[::-1].clip(0)
    return values / float(values.sum())


def dims_for(values: Spectrum, share: float) -> int:
    """Principal axes that hold `share` of the variance."""
    return int(np.searchsorted(np.cumsum(values), share)) + 1


def participation_ratio(values: Spectrum) -> float:
    """1 over the sum of squared variance shares."""
    return float(1 / (values**2).sum())


def effective_rank(values: Spectrum) -> float:
    """Exponential of the entropy of the variance shares (Roy & Vetterli, EUSIPCO 2007)."""
    positive = values[values > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def skew(values: npt.NDArray[np.float64]) -> float:
    """Third standardised moment of `values` without the half per cent at either end."""
    low, high = np.percentile(values, (0.5, 99.5))
    inner = values[(values >= low) & (values <= high)]
    return float((((inner - inner.mean()) / inner.std()) ** 3).mean())


def _percentiles(values: npt.NDArray[np.floating], *at: float) -> tuple[float, ...]:
    return tuple(np.percentile(values, at).tolist())


def read_labelled(folder: Path, name: str) -> tuple[FloatArray, RowArray]:
    """Embeddings NAME.npy of `folder`, as (n, dim) unit float32, and the number of each row's identity (n,) int64."""
    embeddings = np.load(folder / f"{name}.npy").astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = (folder / "identities.txt").read_text(encoding="utf-8").split("\n")[: len(embeddings)]
    return embeddings, np.unique(labels, return_inverse=True)[1].astype(np.int64)
