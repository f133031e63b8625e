"""What is known of two embedders: the numbers that `EmbeddingModel` makes embeddings of, and of people's photos.

Owns only calibrated constants, found by `benchmarks.calibrate` on real embeddings; no real embedding is among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Profile:
    """An embedder's statistics. Spectra are variances at evenly spaced ranks, linear between them, scaled to sum 1.

    dim: of the embedding; rank: directions with variance. mean_norm: of the mean embedding, against a person of norm 1.
    turn: 1 turns the residuals' axes at random against the persons', 0 leaves them parallel.
    groups, group_share: look-alike groups, and the part of a person's variance that the group decides.
    log_energy: mean of log E; energy_person, energy_photo: normal spread of log E between people and between photos
    of one; energy_tail: scale of the one-sided exponential part (the worse photos).
    sessions, session_share: sessions a person was photographed in, and the most of a residual that its session decides
    (each photo: a uniform part of that).
    """

    name: str
    dim: int
    rank: int
    person_spectrum: tuple[float, ...]
    residual_spectrum: tuple[float, ...]
    turn: float
    mean_norm: float
    groups: int
    group_share: float
    log_energy: float
    energy_person: float
    energy_photo: float
    energy_tail: float
    sessions: int
    session_share: float


EDGEFACE = Profile(
    name="edgeface_xs_512",
    dim=512,
    rank=192,
    person_spectrum=(77.0, 65.0, 57.0, 43.5, 34.5, 28.6, 23.9, 19.1, 14.2, 8.9, 5.0),
    residual_spectrum=(40.6, 35.8, 32.6, 25.2, 20.2, 17.5, 15.1, 12.9, 11.0, 8.8, 7.4),
    turn=1.0,
    mean_norm=0.112,
    groups=500,
    group_share=0.1,
    log_energy=-0.48,
    energy_person=0.25,
    energy_photo=0.2,
    energy_tail=0.4,
    sessions=3,
    session_share=0.5,
)

MOBILEFACENET = Profile(
    name="mobilefacenet_512",
    dim=512,
    rank=144,
    person_spectrum=(145.6, 126.0, 112.5, 91.2, 70.0, 51.2, 38.0, 26.0, 18.0, 10.0, 4.0),
    residual_spectrum=(54.1, 50.0, 46.0, 40.3, 34.0, 27.9, 22.0, 17.0, 12.0, 8.0, 4.0),
    turn=0.7,
    mean_norm=0.085,
    groups=500,
    group_share=0.1,
    log_energy=-0.66,
    energy_person=0.25,
    energy_photo=0.2,
    energy_tail=0.4,
    sessions=3,
    session_share=0.5,
)

# fmt: off
_LFW_PHOTOS = ((1, 2688), (2, 528), (3, 201), (4, 114), (5, 72), (6, 41), (7, 25), (8, 23), (9, 14), (10, 7), (11, 10),
               (12, 9), (13, 6), (14, 6), (15, 8), (16, 4), (17, 6), (18, 3), (19, 4), (20, 3), (21, 5), (22, 3),
               (23, 1), (24, 3), (27, 1), (28, 2), (30, 3), (31, 2), (33, 2), (35, 2), (36, 1), (39, 3), (44, 1),
               (46, 1), (51, 1), (52, 1), (55, 1), (57, 1), (71, 1), (109, 1), (121, 1), (144, 1), (236, 1), (530, 1))
# fmt: on
"""(photos, people with that many) of the 3,812 people of the calibration set."""


def _lfw_counts() -> tuple[int, ...]:
    photos, people = np.array(_LFW_PHOTOS).T
    return tuple(np.random.default_rng(0).permutation(np.repeat(photos, people)).tolist())


LFW_LONG_TAIL = _lfw_counts()
"""Photos of each of 3,812 people, shuffled: most have one, one has 530. Pass it as `templates_per_identity`."""
