"""Error rates of scores: against counting, against simulation, and refused where the sample is too small."""

import dataclasses
import statistics

import numpy as np
import pytest

from coordinator.error_rates import (
    ImpostorScores,
    carried,
    equal_error_rate,
    error_table,
    operating_points,
    threshold_at_rate,
    wilson,
)
from coordinator.gallery_calibration import Calibration, measured
from shard.errors import CorruptData, InvalidParameter, NotEnoughData
from tests.faces_like import unit_rows

N = 300


@pytest.fixture(scope="module")
def templates() -> np.ndarray:  # type: ignore[type-arg]
    return unit_rows(N, 64, seed=3)


@pytest.fixture(scope="module")
def impostors(templates) -> ImpostorScores:  # type: ignore[no-untyped-def]
    return ImpostorScores(templates)


@pytest.fixture(scope="module")
def pairs(templates) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    """The oracle: every pair's score, once."""
    return (templates @ templates.T)[np.triu_indices(N, 1)].astype(np.float64)


GENUINE = np.clip(np.random.default_rng(0).normal(0.7, 0.15, 400), -1, 1)


def calibration(top: np.ndarray, *, size: int = 10_000, seed: int = 1) -> Calibration:  # type: ignore[type-arg]
    facts = {"embedder": "e", "labelled": 1, "identities": 10**9, "left_out": 0, "samples": 100, "seed": seed}
    few = ImpostorScores(unit_rows(120, 64, seed=4))
    return measured(GENUINE, few, top, gallery_size=size, created_at=0.0, **facts)


def test_fmr_is_the_share_of_pairs_from_the_threshold_on(impostors, pairs) -> None:  # type: ignore[no-untyped-def]
    thresholds = np.array([-0.5, 0.0, 0.2, 0.4, 0.99])
    rates, worth = impostors.rates(thresholds)
    np.testing.assert_allclose(rates, [(pairs >= t).mean() for t in thresholds], atol=1e-4)
    assert (worth <= impostors.pairs * (1 + 1e-9)).all()
    assert impostors.pairs == len(pairs)
    np.testing.assert_allclose(impostors.highest(50), np.sort(pairs)[::-1][:50], atol=1e-6)


def test_pairs_that_share_templates_are_worth_less_than_independent_ones() -> None:
    """Templates of 50 clusters: over repeated samples the FMR spreads as `worth` says, and not as the pairs say."""
    rng = np.random.default_rng(5)
    centres = unit_rows(50, 64, seed=6)

    def sample() -> ImpostorScores:
        rows = centres[rng.integers(0, 50, 100) ** 2 // 50] + 0.05 * rng.normal(size=(100, 64))
        return ImpostorScores((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))

    found = [sample().rates(np.array([0.5])) for _ in range(200)]
    rates, worth = (np.array([each[i][0] for each in found]) for i in (0, 1))
    spread = rates.mean() * (1 - rates.mean()) / rates.var()
    assert spread < 100 * 99 / 4, "the case shows nothing"
    assert 0.5 < np.median(worth) / spread < 2


def test_fnmr_counts_genuine_scores_below_the_threshold(impostors) -> None:  # type: ignore[no-untyped-def]
    table = error_table(GENUINE, impostors)
    np.testing.assert_allclose(table.fnmr, [(t > GENUINE).mean() for t in table.thresholds])
    assert (np.diff(table.thresholds) > 0).all()
    assert (np.diff(table.fmr) <= 0).all()
    assert (table.fnmr_interval[:, 0] <= table.fnmr).all()
    assert (table.fnmr_interval[:, 1] >= table.fnmr).all()
    assert (table.fmr_interval[:, 0] <= table.fmr + 1e-12).all()
    assert (table.fmr_interval[:, 1] >= table.fmr - 1e-12).all()


def test_error_rates_are_equal_at_the_eer(impostors, pairs) -> None:  # type: ignore[no-untyped-def]
    eer, threshold = equal_error_rate(GENUINE, impostors)
    assert abs((pairs >= threshold).mean() - (threshold > GENUINE).mean()) < 0.01
    assert eer == pytest.approx((threshold > GENUINE).mean(), abs=0.01)


def test_a_threshold_is_given_only_where_three_errors_are_expected(impostors) -> None:  # type: ignore[no-untyped-def]
    points = operating_points(GENUINE, impostors)
    assert [p.target_fmr for p in points] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    for point in points:
        assert (point.threshold is not None) == (point.comparisons >= point.needed)
        assert point.needed == pytest.approx(3 / point.target_fmr, abs=1)
        if point.fmr is not None:
            assert point.fmr <= point.target_fmr * 1.01
            assert point.fmr_interval[0] < point.fmr < point.fmr_interval[1]
    assert points[0].threshold is not None
    assert points[-1].threshold is None


def test_wilson_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    for rate, trials in ((0.3, 50), (0.02, 400), (0.005, 2_000)):
        bounds = wilson(rng.binomial(trials, rate, 4_000), trials)
        assert ((bounds[:, 0] <= rate) & (rate <= bounds[:, 1])).mean() > 0.92
    assert wilson(0, 100)[1] == pytest.approx(0.037, abs=1e-3)  # a little above the rule of 3


def test_a_new_score_reaches_the_threshold_as_rarely_as_asked() -> None:
    rng = np.random.default_rng(8)
    reached = []
    for _ in range(2_000):
        ordered = np.sort(rng.normal(size=99))[::-1]
        threshold = threshold_at_rate(ordered, 99, 0.05)
        assert threshold is not None
        reached.append(rng.normal() >= threshold)
    assert np.mean(reached) == pytest.approx(0.05, abs=0.015)
    assert threshold_at_rate(ordered, 99, 0.009) is None


def test_fpir_is_carried_to_larger_galleries_by_the_maximum() -> None:
    """Independent scores: the maximum of N. What is carried from 1,000 agrees with what is measured at 5,000."""
    rng = np.random.default_rng(9)
    small = rng.normal(0, 0.1, (4_000, 1_000)).max(axis=1)
    large = rng.normal(0, 0.1, (2_000, 5_000)).max(axis=1)
    found = calibration(small, size=1_000)
    for target in (0.05, 0.2, 0.5):
        threshold = found.threshold_for_fpir(target, 5_000)
        there = float((large >= threshold).mean())
        assert there == pytest.approx(target, abs=4 * np.sqrt(target * (1 - target) * (1 / 2_000 + 5 / 4_000)))
        low, high = found.fpir_interval(threshold, 5_000)
        assert low <= there <= high
        low, high = found.threshold_interval(target, 5_000)
        assert low <= threshold <= high
    assert carried(0.1, 1.0) == pytest.approx(0.1)


def test_what_is_carried_up_errs_to_the_safe_side_where_probes_differ() -> None:
    """Half of the probes look like many people. Carried up FPIR is too high, never too low, and within the interval."""
    rng = np.random.default_rng(10)

    def maxima(n: int, size: int) -> np.ndarray:  # type: ignore[type-arg]
        scale = np.where(rng.random(n) < 0.5, 0.05, 0.1)
        # The maximum of `size` uniform scores, taken to a normal-like tail.
        return scale * np.sqrt(-2 * np.log(1 - rng.random(n) ** (1 / size)))

    found, large = calibration(maxima(5_000, 1_000), size=1_000), maxima(20_000, 10_000)
    for threshold in (0.34, 0.36, 0.40):
        there = float((large >= threshold).mean())
        assert found.fpir_at(threshold, 10_000) > there
        assert found.fpir_interval(threshold, 10_000)[0] < there


def test_targets_below_what_the_searches_support_are_refused() -> None:
    found = calibration(np.random.default_rng(0).random(999))
    lowest = found.lowest_fpir()
    assert lowest == pytest.approx(3 / 999)
    assert found.fpir_at(found.threshold_for_fpir(lowest)) <= 3 / 999
    with pytest.raises(NotEnoughData, match=r"0\.001 at 10,000 .* 3,000 .* 999 are worth 998, enough for 0\.003"):
        found.threshold_for_fpir(0.001)
    with pytest.raises(NotEnoughData):
        found.threshold_for_fpir(0.003, 20_000)
    assert found.threshold_for_fpir(0.0031, 9_000) > 0
    low, high = found.threshold_interval(lowest)
    assert low < found.threshold_for_fpir(lowest) <= high == 1.0


def test_probes_that_may_find_each_other_are_worth_half() -> None:
    """Scores of 400 templates among each other: FPIR spreads over repeated samples as the intervals say."""
    rng = np.random.default_rng(3)
    hits, inside = [], []
    for seed in range(150):
        scores = rng.normal(size=(400, 400))
        scores = np.maximum(scores, scores.T)
        np.fill_diagonal(scores, -9)
        top = scores.max(axis=1)
        made = calibration(top, size=400)
        one = dataclasses.replace(made, identities=400, seed=seed)
        hits.append((top >= 3.9).mean())
        low, high = one.fpir_interval(3.9)
        inside.append((low, high))
        assert one.worth == 200
        assert made.worth == pytest.approx(400)
    truth = np.mean(hits)
    assert np.mean([low <= truth <= high for low, high in inside]) > 0.9


@pytest.mark.parametrize("target", [0, 1, -0.1, float("nan"), True, "0.1", None])
def test_a_target_is_a_rate(target) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidParameter, match="target_fpir"):
        calibration(np.random.default_rng(0).random(500)).threshold_for_fpir(target)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "9"])
def test_a_size_is_a_number_of_templates(n) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidParameter, match="n: expected"):
        calibration(np.random.default_rng(0).random(500)).fpir_at(0.5, n)


def test_it_is_stale_when_the_gallery_has_changed_much() -> None:
    found = calibration(np.random.default_rng(0).random(500), size=1_000)
    assert found.stale_reason("e", 1_500) is None
    assert "2,000" in str(found.stale_reason("e", 2_000))
    assert found.stale_reason("e", 400) is not None
    assert "embedder" in str(found.stale_reason("other", 1_000))


def test_json_holds_all_of_it() -> None:
    found = calibration(np.random.default_rng(0).random(500))
    again = Calibration.from_json(found.to_json(), where="here")
    assert again.to_json() == found.to_json()
    assert again.points == found.points
    assert again.check == found.check is not None
    np.testing.assert_array_equal(again.top_scores, found.top_scores)
    for damaged in ("", "{}", "[]", found.to_json().replace('"version": 1', '"version": 9')):
        with pytest.raises(CorruptData, match="here: no readable calibration"):
            Calibration.from_json(damaged, where="here")


@pytest.mark.parametrize("size", [240, 5_000, 1_000_000])
def test_a_calibration_checks_itself_in_the_gallery_of_its_probes(size: int) -> None:
    """Independent scores: what is carried down is what is measured there, however much larger the gallery is."""
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(1_000, 1_024)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rng.random((1_000,)) ** (1 / size)  # the maximum of `size` uniform scores, then to the scale of a cosine
    top = np.array([statistics.NormalDist(0, 1 / 32).inv_cdf(min(u, 1 - 1e-12)) for u in scores])
    facts = {"embedder": None, "labelled": 1, "identities": 10**9, "left_out": 0, "samples": 100, "seed": 0}
    found = measured(GENUINE, ImpostorScores(rows), top, gallery_size=size, created_at=0.0, **facts)
    if size < 2 * 999:
        assert found.check is None
        return
    assert found.check is not None
    assert found.check.templates == 999
    assert 0 < found.check.carried <= 0.11
    low, high = found.check.interval
    assert low <= found.check.measured <= high
    allowed = 3 * np.sqrt(found.check.carried * (1 - found.check.carried) / 500)
    assert found.check.measured == pytest.approx(found.check.carried, abs=allowed)
