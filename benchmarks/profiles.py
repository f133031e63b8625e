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
    person_spectrum=(
        100.0,
        84.73,
        73.1,
        71.28,
        60.99,
        58.46,
        52.71,
        51.59,
        44.73,
        42.09,
        40.66,
        39.67,
        35.29,
        32.46,
        28.69,
        25.35,
        1.55,
    ),
    residual_spectrum=(
        100.0,
        86.89,
        83.14,
        77.96,
        77.83,
        74.96,
        71.72,
        64.8,
        62.57,
        53.38,
        49.59,
        41.73,
        41.69,
        34.39,
        30.98,
        29.27,
        11.99,
    ),
    turn=1.0,
    mean_norm=0.1118,
    groups=500,
    group_share=0.3268,
    log_energy=-0.3592,
    energy_person=0.3335,
    energy_photo=0.04,
    energy_tail=0.4216,
    sessions=4,
    session_share=0.6076,
)

MOBILEFACENET = Profile(
    name="mobilefacenet_512",
    dim=512,
    rank=144,
    person_spectrum=(
        100.0,
        81.03,
        67.67,
        58.88,
        50.06,
        42.16,
        33.27,
        28.45,
        24.66,
        23.68,
        18.18,
        14.91,
        12.43,
        8.2,
        4.81,
        3.56,
        0.48,
    ),
    residual_spectrum=(
        100.0,
        92.28,
        89.86,
        85.28,
        83.7,
        75.58,
        72.01,
        61.18,
        51.35,
        47.22,
        41.05,
        34.19,
        25.91,
        21.06,
        17.86,
        13.81,
        7.58,
    ),
    turn=0.7,
    mean_norm=0.0833,
    groups=500,
    group_share=0.4091,
    log_energy=-0.5698,
    energy_person=0.1554,
    energy_photo=0.2034,
    energy_tail=0.4544,
    sessions=4,
    session_share=0.6707,
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
