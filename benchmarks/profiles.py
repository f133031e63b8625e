"""What is known of two embedders: the numbers that `EmbeddingModel` makes embeddings of, and of people's photos.

Owns only calibrated constants, found on real embeddings as `docs/synthetic.md` tells; no real embedding is among them.
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
    failures, failure_energy: share of photos where something failed (alignment, label), and how much log E that adds.
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
    failures: float
    failure_energy: float
    sessions: int
    session_share: float


EDGEFACE = Profile(
    name="edgeface_xs_512",
    dim=512,
    rank=192,
    person_spectrum=(
        100.0,
        96.67,
        83.15,
        83.12,
        73.58,
        73.26,
        68.34,
        68.03,
        57.42,
        54.94,
        54.69,
        54.58,
        48.96,
        46.27,
        41.82,
        38.33,
        0.68,
    ),
    residual_spectrum=(
        100.0,
        96.13,
        86.77,
        83.29,
        75.86,
        72.9,
        69.78,
        66.0,
        65.63,
        54.15,
        51.41,
        43.67,
        43.55,
        34.99,
        31.97,
        31.2,
        12.49,
    ),
    turn=1.0,
    mean_norm=0.1083,
    groups=150,
    group_share=0.2769,
    log_energy=-0.39,
    energy_person=0.34,
    energy_photo=0.05,
    energy_tail=0.36,
    failures=0.003,
    failure_energy=4.0,
    sessions=4,
    session_share=0.6253,
)

MOBILEFACENET = Profile(
    name="mobilefacenet_512",
    dim=512,
    rank=144,
    person_spectrum=(
        100.0,
        86.43,
        85.49,
        75.17,
        63.16,
        53.6,
        41.88,
        37.11,
        32.78,
        32.26,
        24.4,
        20.04,
        16.92,
        10.88,
        5.94,
        4.68,
        0.29,
    ),
    residual_spectrum=(
        100.0,
        93.21,
        90.25,
        89.25,
        85.89,
        72.64,
        71.21,
        60.24,
        50.81,
        47.31,
        41.11,
        34.16,
        25.62,
        20.94,
        17.66,
        13.74,
        7.58,
    ),
    turn=0.7,
    mean_norm=0.0819,
    groups=100,
    group_share=0.3233,
    log_energy=-0.56,
    energy_person=0.24,
    energy_photo=0.2,
    energy_tail=0.41,
    failures=0.0035,
    failure_energy=4.0,
    sessions=4,
    session_share=0.6532,
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
