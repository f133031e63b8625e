"""Finds the numbers of a `Profile` from real embeddings: `python -m benchmarks.calibrate FOLDER NAME`.

Owns the fitting, which is rerun by hand when an embedder is added; nothing else imports it. It alternates two steps:
the two spectra are scaled by what the measured spectra of a synthetic gallery of the same shape miss, and the scalars
take a Gauss-Newton step towards the score and residual-norm percentiles. Both compare galleries of one shape (the same
number of photos of each person), so that the sampling bias of every statistic is in both sides and cancels.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from pprint import pprint
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.face_statistics import (
    MIN_RESIDUAL_PHOTOS,
    genuine_scores,
    identity_means,
    impostor_scores,
    log_energies,
    read_labelled,
    spectrum,
)
from benchmarks.profiles import EDGEFACE, LFW_LONG_TAIL, MOBILEFACENET, Profile
from benchmarks.synthetic import SyntheticGallery
from shard.types import FloatArray, RowArray

Vector = npt.NDArray[np.float64]

KNOTS = 17
SCALARS = ("log_energy", "energy_person", "energy_photo", "energy_tail", "session_share", "group_share", "mean_norm")
LOW = np.array([-2.0, 0.02, 0.02, 0.02, 0.0, 0.0, 0.0])
HIGH = np.array([1.0, 0.8, 0.8, 0.8, 0.98, 0.9, 0.4])
STEPS = np.array([0.05, 0.04, 0.04, 0.04, 0.1, 0.05, 0.02])
SEEDS = (101, 102)


def targets(embeddings: FloatArray, identities: RowArray) -> tuple[Vector, Vector, Vector]:
    """Scalars to fit (see the lines below), spectrum of the identity means, spectrum of the residuals."""
    rng = np.random.default_rng(0)
    _, people, photos = np.unique(identities, return_inverse=True, return_counts=True)
    means = identity_means(embeddings, people, photos)
    several = photos[people] >= MIN_RESIDUAL_PHOTOS
    residuals = embeddings[several] - means[people[several]]
    genuine = genuine_scores(embeddings, people, photos, rng)
    single = embeddings[np.unique(people, return_index=True)[1]]
    # One photo a person, the tail that a large gallery is made of; below, by photo, as the statistics have it.
    impostor = (single @ single.T)[np.triu_indices(len(single), 1)]
    energies, by_person = log_energies(embeddings, people, photos)
    scalars = np.concatenate(
        [
            # Log-energies are on a wider scale than scores.
            np.percentile(energies, [1, 5, 25, 50, 75, 95, 99]) / 10,
            [by_person.std() / 10],
            np.percentile(genuine, [1, 5, 25, 50, 75, 95, 99]),
            np.percentile(np.linalg.norm(residuals, axis=1), [5, 50, 95, 99]),
            np.percentile(impostor, [50, 99, 99.9, 99.99]),
            np.percentile(impostor_scores(embeddings, people, rng), [99, 99.9, 99.99]),
            [np.linalg.norm(single.mean(axis=0))],
        ]
    )
    return scalars, spectrum(means), spectrum(residuals)


def synthetic_targets(profile: Profile) -> tuple[Vector, Vector, Vector]:
    """`targets` of galleries shaped as the real one, averaged over SEEDS."""
    galleries = [SyntheticGallery(profile, len(LFW_LONG_TAIL), LFW_LONG_TAIL, seed=seed) for seed in SEEDS]
    found = [targets(*gallery.rows(0, len(gallery))) for gallery in galleries]
    scalars, means, residuals = (np.mean(column, axis=0) for column in zip(*found, strict=True))
    return scalars, means, residuals


def fit_spectra(profile: Profile, real: tuple[Vector, Vector, Vector]) -> Profile:
    """`profile` with both spectra scaled by real over synthetic, at each knot."""
    _, means, residuals = synthetic_targets(profile)
    at = np.linspace(0, profile.rank - 1, KNOTS).round().astype(int)
    old_at = np.linspace(0, 1, len(profile.person_spectrum))

    def scaled(knots: tuple[float, ...], wanted: Vector, found: Vector) -> tuple[float, ...]:
        # An eigenvalue at the very edge says little; its neighbourhood says more.
        near = [slice(max(0, i - 2), min(profile.rank, i + 3)) for i in at]
        ratio = np.array([wanted[s].sum() / found[s].sum() for s in near])
        values = np.sort(np.interp(np.linspace(0, 1, KNOTS), old_at, knots) * ratio.clip(0.5, 2))[::-1]
        return tuple((values * 100 / values[0]).round(2).tolist())

    return dataclasses.replace(
        profile,
        person_spectrum=scaled(profile.person_spectrum, real[1], means),
        residual_spectrum=scaled(profile.residual_spectrum, real[2], residuals),
    )


def fit_scalars(profile: Profile, wanted: Vector) -> Profile:
    """`profile` after one Gauss-Newton step of its SCALARS towards `wanted`."""
    values = np.array([getattr(profile, name) for name in SCALARS])
    missing = wanted - synthetic_targets(profile)[0]
    slopes = np.empty((len(wanted), len(SCALARS)))
    for i, name in enumerate(SCALARS):
        nudge: dict[str, Any] = {name: float(values[i] + STEPS[i])}
        nudged = dataclasses.replace(profile, **nudge)
        slopes[:, i] = (synthetic_targets(nudged)[0] - (wanted - missing)) / STEPS[i]
    # Damped: a scalar that hardly matters must not run away.
    gram = slopes.T @ slopes
    step = np.linalg.solve(gram + 1e-3 * np.diag(np.diag(gram)) + 1e-6 * np.eye(len(gram)), slopes.T @ missing)
    fitted = np.clip(values + step.clip(-4 * STEPS, 4 * STEPS), LOW, HIGH).round(4)
    return dataclasses.replace(profile, **dict(zip(SCALARS, fitted.tolist(), strict=True)))


def calibrate(folder: Path, profile: Profile, rounds: int) -> Profile:
    """`profile` fitted to the labelled embeddings of that name in `folder`; prints what is still missing each round."""
    real = targets(*read_labelled(folder, profile.name))
    for _ in range(rounds):
        profile = fit_spectra(fit_spectra(profile, real), real)
        profile = fit_scalars(profile, real[0])
        print("missing:", (real[0] - synthetic_targets(profile)[0]).round(3).tolist(), flush=True)
    return profile


def main() -> None:
    """Fit one of the known profiles anew and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds NAME.npy (n, dim) and identities.txt, one line a row")
    parser.add_argument("name", choices=[EDGEFACE.name, MOBILEFACENET.name])
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    start = {profile.name: profile for profile in (EDGEFACE, MOBILEFACENET)}[given.name]
    pprint(calibrate(given.folder, start, given.rounds), width=120)


if __name__ == "__main__":
    main()
