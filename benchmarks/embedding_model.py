"""The random model of face embeddings: turns a `Profile` and random generators into people and photos of them.

In a latent space of `rank` dimensions that a fixed orthonormal basis carries into `dim`:

    template = unit(mean + person + sqrt(E) * residual)

`person` is normal with a decaying spectrum, partly shared by people of one look-alike group; `residual` is normal with
another spectrum whose axes are turned away from the person's, partly shared by photos of one session; the energy E of a
photo is heavy-tailed: a few photos are much worse. `docs/synthetic.md` tells how each number was found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.profiles import Profile
from shard.types import FloatArray, RowArray

Matrix = npt.NDArray[np.float64]
_WORLD_SEED = 0xFACE
"""Basis, group centres and mean belong to the embedder, not to a gallery: every gallery of a profile shares them."""


@dataclass(frozen=True, slots=True)
class People:
    """n people, all float32: latents (n, rank), log-energy offsets (n,), unit-variance sessions (n, sessions, rank)."""

    latents: FloatArray
    log_energies: FloatArray
    sessions: FloatArray

    def __getitem__(self, rows: RowArray) -> People:
        return People(self.latents[rows], self.log_energies[rows], self.sessions[rows])

    @staticmethod
    def joined(parts: list[People]) -> People:
        """All people of `parts`, in their order."""
        columns = ([getattr(part, name) for part in parts] for name in ("latents", "log_energies", "sessions"))
        return People(*(np.concatenate(column) for column in columns))


class EmbeddingModel:
    """The arrays that a profile stands for: spectra, residual axes, group centres, mean and basis; all float32."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        rng = np.random.default_rng((_WORLD_SEED, profile.dim, profile.rank))
        self.person_scale = np.sqrt(_spectrum(profile.person_spectrum, profile.rank)).astype(np.float32)
        residual_scale = np.sqrt(_spectrum(profile.residual_spectrum, profile.rank))
        axes = _turned_axes(rng.standard_normal((profile.rank, profile.rank)), profile.turn)
        self.residual_map = (residual_scale[:, None] * axes).astype(np.float32)
        direction = rng.standard_normal(profile.rank)
        self.mean = (profile.mean_norm * direction / np.linalg.norm(direction)).astype(np.float32)
        self.group_centres = rng.standard_normal((profile.groups, profile.rank), dtype=np.float32)
        basis, _ = np.linalg.qr(rng.standard_normal((profile.dim, profile.rank)))
        self.basis = np.ascontiguousarray(basis.T, dtype=np.float32)

    def people(self, rng: np.random.Generator, n: int) -> People:
        """n new people."""
        profile = self.profile
        groups = rng.integers(0, profile.groups, n)
        latents = rng.standard_normal((n, profile.rank), dtype=np.float32)
        latents *= np.float32(np.sqrt(1 - profile.group_share))
        latents += np.float32(np.sqrt(profile.group_share)) * self.group_centres[groups]
        latents *= self.person_scale
        log_energies = rng.standard_normal(n, dtype=np.float32) * np.float32(profile.energy_person)
        sessions = rng.standard_normal((n, profile.sessions, profile.rank), dtype=np.float32)
        return People(latents, log_energies, sessions)

    def photos(self, rng: np.random.Generator, people: People) -> FloatArray:
        """One new photo of each person: (n, dim) float32 of unit norm."""
        residuals = self._residuals(rng, people)
        residuals *= np.exp(self._log_energies(rng, people) / 2)[:, None]
        residuals += people.latents
        residuals += self.mean
        residuals /= np.linalg.norm(residuals, axis=1, keepdims=True)
        embeddings: FloatArray = residuals @ self.basis
        return embeddings

    def _residuals(self, rng: np.random.Generator, people: People) -> FloatArray:
        n = len(people.latents)
        session = people.sessions[np.arange(n), rng.integers(0, self.profile.sessions, n)]
        shared = np.float32(self.profile.session_share) * rng.random((n, 1), dtype=np.float32)
        own = rng.standard_normal(session.shape, dtype=np.float32)
        residuals: FloatArray = (np.sqrt(1 - shared) * own + np.sqrt(shared) * session) @ self.residual_map
        return residuals

    def _log_energies(self, rng: np.random.Generator, people: People) -> FloatArray:
        profile, n = self.profile, len(people.latents)
        spread = np.float32(profile.energy_photo) * rng.standard_normal(n, dtype=np.float32)
        tail = np.float32(profile.energy_tail) * (rng.standard_exponential(n, dtype=np.float32) - 1)
        tail += np.float32(profile.failure_energy) * (rng.random(n, dtype=np.float32) < profile.failures)
        log_energies: FloatArray = np.float32(profile.log_energy) + people.log_energies + spread + tail
        return log_energies


def _spectrum(knots: tuple[float, ...], rank: int) -> Matrix:
    values: Matrix = np.interp(np.linspace(0, len(knots) - 1, rank), np.arange(len(knots)), knots)
    return values / float(values.sum())


def _turned_axes(noise: Matrix, turn: float) -> Matrix:
    """The rotation nearest to a blend of the identity and `noise`, a square normal matrix."""
    left, _, right = np.linalg.svd((1 - turn) * np.eye(len(noise)) + turn * noise / np.sqrt(len(noise)))
    turned: Matrix = left @ right
    return turned
