"""The synthetic gallery against the real embeddings it imitates, and against itself in other block sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.difficulty import Difficulty, identification
from benchmarks.face_statistics import Statistics, measure, read_labelled
from benchmarks.synthetic import EDGEFACE, LFW_LONG_TAIL, MOBILEFACENET, Profile, SyntheticGallery
from benchmarks.synthetic_report import difficulty
from shard.errors import InvalidParameter

PROFILES = pytest.mark.parametrize("profile", [EDGEFACE, MOBILEFACENET], ids=lambda profile: str(profile.name))

# statistics.json of the calibration data, in the order of `measure`; test_constants_are_the_published_ones compares.
REAL: dict[str, Statistics] = {
    "edgeface_xs_512": {
        "genuine 1 5 25 50 75 95 99 %": (0.259, 0.396, 0.539, 0.622, 0.697, 0.79, 0.85),
        "genuine mean std": (0.61, 0.125),
        "impostor 50 99 99.9 99.99 %": (0.008, 0.193, 0.262, 0.322),
        "impostor mean std": (0.0092, 0.0763),
        "templates dims 90 95 99 %": (153, 170, 187),
        "templates participation, effective rank": (126.6, 162.6),
        "means dims 90 95 99 %": (156, 172, 187),
        "means participation, effective rank": (167.2, 178.2),
        "residuals dims 90 95 99 %": (148, 167, 186),
        "residuals participation, effective rank": (151.4, 168.5),
        "residual norm 5 50 95 99 %": (0.46, 0.585, 0.758, 0.855),
        "norm of overall mean": (0.113,),
    },
    "mobilefacenet_512": {
        "genuine 1 5 25 50 75 95 99 %": (0.266, 0.43, 0.582, 0.664, 0.735, 0.818, 0.868),
        "genuine mean std": (0.649, 0.125),
        "impostor 50 99 99.9 99.99 %": (0.005, 0.249, 0.338, 0.416),
        "impostor mean std": (0.0068, 0.0982),
        "templates dims 90 95 99 %": (103, 119, 139),
        "templates participation, effective rank": (84.5, 111.6),
        "means dims 90 95 99 %": (105, 121, 139),
        "means participation, effective rank": (104.1, 120.8),
        "residuals dims 90 95 99 %": (102, 118, 139),
        "residuals participation, effective rank": (104.3, 120.0),
        "residual norm 5 50 95 99 %": (0.421, 0.551, 0.732, 0.865),
        "norm of overall mean": (0.102,),
    },
}

# (absolute, relative) tolerance of each statistic, for every entry alike or one by one.
TOLERANCES: dict[str, Sequence[tuple[float, float]]] = {
    "genuine 1 5 25 50 75 95 99 %": [(0.03, 0)] * 7,
    "genuine mean std": [(0.015, 0)] * 2,
    "impostor 50 99 99.9 99.99 %": [(0.01, 0), (0.02, 0), (0.02, 0), (0.03, 0)],
    "impostor mean std": [(0.005, 0)] * 2,
    "templates dims 90 95 99 %": [(0, 0.06)] * 3,
    "templates participation, effective rank": [(0, 0.1)] * 2,
    "means dims 90 95 99 %": [(0, 0.06)] * 3,
    "means participation, effective rank": [(0, 0.1)] * 2,
    "residuals dims 90 95 99 %": [(0, 0.06)] * 3,
    "residuals participation, effective rank": [(0, 0.1)] * 2,
    "residual norm 5 50 95 99 %": [(0.03, 0)] * 4,
    "norm of overall mean": [(0.025, 0)],
}
# Neither is in statistics.json; both are of the real embeddings, by `measure` and `difficulty`.
LOG_ENERGY_SKEW = {"edgeface_xs_512": 0.63, "mobilefacenet_512": 0.69}
RANK_1 = {"edgeface_xs_512": 0.986, "mobilefacenet_512": 0.973}


@cache
def lfw_like(profile: Profile) -> SyntheticGallery:
    return SyntheticGallery(profile, len(LFW_LONG_TAIL), LFW_LONG_TAIL, seed=1)


@cache
def measured(profile: Profile) -> Statistics:
    gallery = lfw_like(profile)
    return measure(*gallery.rows(0, len(gallery)))


@cache
def synthetic_difficulty(profile: Profile) -> Difficulty:
    gallery = lfw_like(profile)
    return difficulty(*gallery.rows(0, len(gallery)))


@PROFILES
@pytest.mark.parametrize("statistic", TOLERANCES)
def test_statistic_is_the_real_one(profile: Profile, statistic: str) -> None:
    real, made = REAL[profile.name][statistic], measured(profile)[statistic]
    for place, (absolute, relative) in enumerate(TOLERANCES[statistic]):
        assert made[place] == pytest.approx(real[place], abs=absolute, rel=relative), (statistic, place, made, real)


@PROFILES
def test_few_photos_are_much_worse(profile: Profile) -> None:
    *_, skew = measured(profile)["log energy std, of persons' means, skew"]
    assert skew == pytest.approx(LOG_ENERGY_SKEW[profile.name], abs=0.25)


@PROFILES
def test_identification_is_as_hard_as_on_real_faces(profile: Profile) -> None:
    assert synthetic_difficulty(profile).rank1 == pytest.approx(RANK_1[profile.name], abs=0.015)


@pytest.mark.data
@PROFILES
def test_constants_are_the_published_ones(profile: Profile, data_dir: Path) -> None:
    published = json.loads((data_dir / "lfw" / "statistics.json").read_text())[profile.name]
    real = REAL[profile.name]
    assert real["genuine 1 5 25 50 75 95 99 %"] == tuple(published["genuine_percentiles_1_5_25_50_75_95_99"])
    assert real["genuine mean std"] == tuple(published["genuine_mean_std"])
    assert real["impostor 50 99 99.9 99.99 %"] == tuple(published["impostor_percentiles_50_99_999_9999"])
    assert real["impostor mean std"] == tuple(published["impostor_mean_std"])
    assert real["residual norm 5 50 95 99 %"] == tuple(published["within_identity_norm_percentiles_5_50_95_99"])
    assert real["norm of overall mean"] == (published["norm_of_overall_mean"],)
    for ours, theirs in (
        ("templates", "all_templates"),
        ("means", "identity_means"),
        ("residuals", "within_identity"),
    ):
        spectrum = published[theirs]
        assert real[f"{ours} dims 90 95 99 %"] == tuple(spectrum["dims_90_95_99"])
        assert real[f"{ours} participation, effective rank"] == (
            spectrum["participation_ratio"],
            spectrum["effective_rank"],
        )


@pytest.mark.data
@PROFILES
def test_measuring_the_real_embeddings_gives_the_published_statistics(profile: Profile, data_dir: Path) -> None:
    """The lines that judge the generator are right: on the real embeddings they give what was published."""
    real = measure(*read_labelled(data_dir / "lfw", profile.name))
    for statistic, values in REAL[profile.name].items():
        # Random pairs were drawn anew; what is not sampled agrees to the printed digits.
        sampled = statistic.startswith(("genuine", "impostor"))
        assert real[statistic] == pytest.approx(values, abs=0.012 if sampled else 0.051), statistic


@pytest.mark.data
@PROFILES
def test_real_and_synthetic_identification_side_by_side(profile: Profile, data_dir: Path) -> None:
    real = difficulty(*read_labelled(data_dir / "lfw", profile.name))
    made = synthetic_difficulty(profile)
    print(f"\n{profile.name}\n  real      {real}\n  synthetic {made}")
    assert made.rank1 == pytest.approx(real.rank1, abs=0.015)
    assert made.rank5 == pytest.approx(real.rank5, abs=0.01)
    assert 1 / 3 < made.hamming_ranks[2] / real.hamming_ranks[2] < 3


def test_rows_are_the_same_in_every_block_size_and_range() -> None:
    gallery = SyntheticGallery(EDGEFACE, 700, 15, seed=3)
    whole, people = gallery.rows(0, len(gallery))
    assert whole.shape == (10_500, 512)
    assert whole.dtype == np.float32
    assert people.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for block_rows in (999, 4096, 20_000):
        blocks = list(gallery.blocks(block_rows))
        assert max(len(rows) for rows, _ in blocks) == min(block_rows, len(gallery))
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in blocks]), whole)
        np.testing.assert_array_equal(np.concatenate([numbers for _, numbers in blocks]), people)
    rows, numbers = gallery.rows(4095, 4098)
    np.testing.assert_array_equal(rows, whole[4095:4098])
    np.testing.assert_array_equal(numbers, people[4095:4098])


def test_far_rows_need_none_before_them() -> None:
    gallery = SyntheticGallery(MOBILEFACENET, 10_000_000_000, seed=1)
    rows, people = gallery.rows(9_999_999_990, 10_000_000_000)
    np.testing.assert_array_equal(people, np.arange(9_999_999_990, 10_000_000_000))
    assert abs((rows @ rows.T)[np.triu_indices(10, 1)]).max() < 0.6


@pytest.mark.parametrize("counts", [1, 20, (3, 1, 2), LFW_LONG_TAIL], ids=["one", "twenty", "cycle", "lfw"])
def test_people_have_the_photos_asked_for(counts: int | tuple[int, ...]) -> None:
    gallery = SyntheticGallery(EDGEFACE, 4_001, counts)
    cycle = (counts,) if isinstance(counts, int) else counts
    expected = np.repeat(np.arange(4_001), [cycle[i % len(cycle)] for i in range(4_001)])
    assert len(gallery) == len(expected)
    _, people = gallery.rows(max(0, len(gallery) - 5_000), len(gallery))
    np.testing.assert_array_equal(people, expected[-5_000:])


def test_photos_of_one_person_are_alike_and_no_two_are_the_same() -> None:
    rows, people = SyntheticGallery(EDGEFACE, 10, 20, seed=5).rows(0, 200)
    scores = rows @ rows.T
    same = people[:, None] == people
    off_diagonal = ~np.eye(200, dtype=bool)
    assert np.median(scores[same & off_diagonal]) > 0.5
    assert np.median(scores[~same]) < 0.1
    assert scores[off_diagonal].max() < 0.99


def test_a_seed_gives_the_same_gallery_and_another_seed_other_people() -> None:
    first, _ = SyntheticGallery(EDGEFACE, 300, seed=7).rows(0, 300)
    again, _ = SyntheticGallery(EDGEFACE, 300, seed=7).rows(0, 300)
    other, _ = SyntheticGallery(EDGEFACE, 300, seed=8).rows(0, 300)
    np.testing.assert_array_equal(first, again)
    assert np.median(np.einsum("ij,ij->i", first, other)) < 0.1


def test_probes_are_new_photos_of_enrolled_people() -> None:
    gallery = SyntheticGallery(EDGEFACE, 5_000, seed=9)
    rows, people = gallery.rows(0, 5_000)
    probes, numbers = gallery.probes(600, seed=1)
    found = identification(rows, people, probes, numbers)
    assert found.rank1 > 0.95
    assert (probes @ rows.T).max() < 0.999
    np.testing.assert_array_equal(gallery.probes(600, seed=1)[0], probes)
    np.testing.assert_array_equal(gallery.probes(300, seed=1)[0], probes[:300])
    assert not np.array_equal(gallery.probes(600, seed=2)[1], numbers)


def test_non_mated_probes_are_nobody_in_the_gallery() -> None:
    gallery = SyntheticGallery(EDGEFACE, 3_000, seed=9)
    rows, _ = gallery.rows(0, 3_000)
    strangers = gallery.non_mated(500, seed=1)
    np.testing.assert_array_equal(gallery.non_mated(200, seed=1), strangers[:200])
    best_of_strangers = (strangers @ rows.T).max(axis=1)
    best_of_others = (rows[:500] @ rows.T - 2 * np.eye(500, 3_000, dtype=np.float32)).max(axis=1)
    assert np.median(best_of_strangers) == pytest.approx(np.median(best_of_others), abs=0.01)
    assert abs((strangers @ strangers.T)[np.triu_indices(500, 1)].mean()) < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SyntheticGallery(EDGEFACE, 0), "identities: expected at least 1, got 0"),
        (lambda: SyntheticGallery(EDGEFACE, 5, 0), "at least 1 photo"),
        (lambda: SyntheticGallery(EDGEFACE, 5, ()), "at least 1 photo"),
        (lambda: SyntheticGallery(EDGEFACE, 5, seed=-1), "seed: expected"),
        (lambda: SyntheticGallery(EDGEFACE, 5).rows(0, 6), "got 0 and 6"),
        (lambda: SyntheticGallery(EDGEFACE, 5).rows(3, 3), "got 3 and 3"),
        (lambda: next(SyntheticGallery(EDGEFACE, 5).blocks(0)), "block_rows: expected at least 1, got 0"),
        (lambda: SyntheticGallery(EDGEFACE, 5).probes(0), "n: expected at least 1"),
        (lambda: SyntheticGallery(EDGEFACE, 5).non_mated(1, seed=2**64), "seed: expected"),
    ],
)
def test_bad_parameters_are_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidParameter, match=message.replace("*", r"\*")):
        call()
