"""Groups against labels, and what each threshold would give: examples done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.dedup.analysis import analyse, valley
from cluster.dedup.evaluation import agreement
from shard.errors import InvalidParameter
from shard.join import Pairs


def test_agreement_by_hand() -> None:
    """Groups {a a b} {b} of people a, a, b, b: pairs within groups aa ab ab, of people aa bb."""
    found = agreement(np.array([0, 0, 0, 1]), np.array([7, 7, 9, 9]))
    assert found.pair_precision == pytest.approx(1 / 3)
    assert found.pair_recall == pytest.approx(1 / 2)
    assert found.pair_f == pytest.approx(0.4)
    assert found.bcubed_precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
    assert found.bcubed_recall == pytest.approx((1 + 1 + 1 / 2 + 1 / 2) / 4)


def test_bcubed_of_the_literature() -> None:
    """Bagga and Baldwin's example: people of 5, 2 and 5, and a response that joins the second to one of the others."""
    truth = np.array([0] * 5 + [1] * 2 + [2] * 5)
    found = agreement(np.array([0] * 5 + [1] * 7), truth)
    assert found.bcubed_precision == pytest.approx(0.762, abs=5e-4)
    assert found.bcubed_recall == 1
    other = agreement(np.array([0] * 5 + [1] * 2 + [0] * 5), truth)
    assert other.bcubed_precision == pytest.approx(0.583, abs=5e-4)


def test_faces_in_no_group_are_alone() -> None:
    found = agreement(np.array([-1, -1, -1]), np.array([0, 0, 1]))
    assert (found.pair_precision, found.pair_recall) == (1, 0)
    assert (found.bcubed_precision, found.bcubed_recall) == (1, pytest.approx(2 / 3))
    assert found.pair_f == 0


def test_perfect_groups_agree() -> None:
    found = agreement(np.array([3, 3, 5, -1]), np.array([0, 0, 1, 2]))
    assert (found.pair_f, found.bcubed_f) == (1, 1)


@pytest.mark.parametrize(("groups", "labels"), [([], []), ([0], [0, 1])])
def test_agreement_of_nothing_is_refused(groups: list[int], labels: list[int]) -> None:
    with pytest.raises(InvalidParameter):
        agreement(np.array(groups, np.int64), np.array(labels, np.int64))


def test_analysis_by_hand() -> None:
    """Rows 10-11 at 0.9, 12-13 at 0.75, 11-12 at 0.55, 10-11 of the same group; 20-21 below the floor."""
    pairs = Pairs(np.array([11, 20, 10, 12]), np.array([12, 21, 11, 13]), np.array([0.55, 0.2, 0.9, 0.75], np.float32))
    found = analyse(pairs, floor=0.5, step=0.1)
    assert found.thresholds.tolist() == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert found.histogram.tolist() == [1, 0, 1, 0, 1]
    assert found.pairs.tolist() == [3, 2, 2, 1, 1]
    assert found.groups.tolist() == [1, 2, 2, 1, 1]
    assert found.faces.tolist() == [4, 4, 4, 2, 2]
    assert found.largest.tolist() == [4, 2, 2, 2, 2]
    assert found.suggestion is None
    rows = found.summary()["thresholds"]
    assert rows[0] == {"threshold": 0.5, "pairs_in_step": 1, "pairs": 3, "groups": 1, "faces": 4, "largest": 4}


def test_a_score_at_a_threshold_counts_there() -> None:
    """The join compares float32 scores; so do we."""
    scores = np.array([0.3, 0.31, 0.57], np.float32)
    found = analyse(Pairs(np.arange(3), np.arange(3) + 10, scores), floor=0.3)
    assert found.histogram[[0, 1, 27]].tolist() == [1, 1, 1]


def test_the_order_of_pairs_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    left = rng.integers(0, 500, 2_000)
    pairs = Pairs(left, left + rng.integers(1, 400, 2_000), rng.uniform(0.2, 1, 2_000).astype(np.float32))
    mixed = rng.permutation(2_000)
    again = Pairs(pairs.left[mixed], pairs.right[mixed], pairs.scores[mixed])
    assert analyse(pairs, floor=0.2).summary() == analyse(again, floor=0.2).summary()


def test_a_valley_between_strangers_and_people_is_suggested() -> None:
    thresholds = np.round(0.2 + 0.01 * np.arange(80), 2)
    strangers = 1e6 * np.exp(-((thresholds - 0.05) ** 2) / 0.01)
    people = 2_000 * np.exp(-((thresholds - 0.65) ** 2) / 0.02)
    found = valley(thresholds, (strangers + people).astype(np.int64))
    assert found is not None
    assert 0.3 < found < 0.42


@pytest.mark.parametrize(
    "histogram", [np.zeros(80), 1e6 * np.exp(-np.arange(80) / 5), np.full(80, 1_000), 100 * np.arange(80)]
)
def test_no_valley_no_suggestion(histogram: np.ndarray) -> None:  # type: ignore[type-arg]
    assert valley(np.round(0.2 + 0.01 * np.arange(80), 2), histogram.astype(np.int64)) is None


@pytest.mark.parametrize(("floor", "step"), [(1.0, 0.01), (0.3, 0.0), (-2.0, 0.1)])
def test_an_analysis_that_cannot_be_is_refused(floor: float, step: float) -> None:
    empty = np.zeros(0, np.int64)
    with pytest.raises(InvalidParameter):
        analyse(Pairs(empty, empty, np.zeros(0, np.float32)), floor=floor, step=step)
