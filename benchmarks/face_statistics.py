"""Statistics of labelled embeddings: what a generator has to reproduce, and how hard the search is.

Owns the definitions behind `statistics.json` of the calibration data, so that real and synthetic embeddings are
measured by the same lines. `python -m benchmarks.face_statistics` prints both side by side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shard.types import FloatArray, RowArray

Spectrum = npt.NDArray[np.float64]
Statistics = dict[str, tuple[float, ...]]

MIN_RESIDUAL_PHOTOS = 5
"""Residuals are taken from people with at least this many photos: the mean of fewer hides too much of them."""
MAX_GENUINE_PAIRS = 45
"""Genuine pairs drawn of one person, so that the few with hundreds of photos do not decide."""
IMPOSTOR_PAIRS = 4_000_000


def measure(embeddings: FloatArray, identities: RowArray, *, seed: int = 0) -> Statistics:
    """Every statistic of (n, dim) unit float32 embeddings whose people are `identities` (n,), by name."""
    rng = np.random.default_rng(seed)
    _, people, photos = np.unique(identities, return_inverse=True, return_counts=True)
    means = np.zeros((len(photos), embeddings.shape[1]))
    np.add.at(means, people, embeddings)
    means /= photos[:, None]
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
    table["norm of overall mean"] = (float(np.linalg.norm(embeddings.mean(axis=0))),)
    return table


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


def impostor_scores(embeddings: FloatArray, people: RowArray, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Scores of IMPOSTOR_PAIRS random pairs of rows, less those of one person."""
    left, right = rng.integers(0, len(embeddings), (2, IMPOSTOR_PAIRS))
    apart = people[left] != people[right]
    left, right = left[apart], right[apart]
    step = 100_000
    return np.concatenate(
        [
            np.einsum("ij,ij->i", embeddings[left[at : at + step]], embeddings[right[at : at + step]])
            for at in range(0, len(left), step)
        ]
    )


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


def _percentiles(values: npt.NDArray[np.floating], *at: float) -> tuple[float, ...]:
    return tuple(np.percentile(values, at).tolist())
