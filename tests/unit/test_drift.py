"""The drift metric: small for more of the same, large for templates of another kind, deaf to who has many photos."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.synthetic import EDGEFACE, MOBILEFACENET, SyntheticGallery
from coordinator.training import GallerySizes, is_drift_due, is_training_due
from shard.drift import CodeStatistics, Drift, code_statistics, measure_drift
from shard.model import SearchModel
from shard.training import train
from shard.types import FloatArray


@pytest.fixture(scope="module")
def faces() -> FloatArray:
    return SyntheticGallery(EDGEFACE, 6_000, seed=1).rows(0, 6_000)[0]


@pytest.fixture(scope="module")
def model(faces: FloatArray) -> SearchModel:
    return train(faces[:4_000], code_bits=512)


@pytest.fixture(scope="module")
def trained(faces: FloatArray, model: SearchModel) -> CodeStatistics:
    return code_statistics(model, faces[:4_000])


def unit(rows: FloatArray) -> FloatArray:
    scaled: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@pytest.mark.parametrize("rows", [300, 2_000])
def test_more_of_the_same_is_no_drift(
    faces: FloatArray, model: SearchModel, trained: CodeStatistics, rows: int
) -> None:
    assert measure_drift(model, trained, faces[4_000 : 4_000 + rows]).score < 0.4


@pytest.mark.parametrize(("people", "photos"), [(100, 20), (10, 50)])
def test_a_few_people_with_many_photos_are_no_drift(
    model: SearchModel, trained: CodeStatistics, people: int, photos: int
) -> None:
    rows = SyntheticGallery(EDGEFACE, people, photos, seed=7).rows(0, people * photos)[0]
    shares = (rows @ model.projection > model.thresholds).mean(axis=0)
    naive = float(np.sqrt(np.mean((shares - trained.balance) ** 2)))
    drift = measure_drift(model, trained, rows)
    assert drift.score < 0.6
    assert drift.shift < naive / 2, "chance is taken out"


def test_another_embedders_templates_are_drift(model: SearchModel, trained: CodeStatistics) -> None:
    others = SyntheticGallery(MOBILEFACENET, 1_000, seed=1).rows(0, 1_000)[0]
    assert measure_drift(model, trained, others).score > 2


def test_rows_that_lean_to_one_side_are_drift(faces: FloatArray, model: SearchModel, trained: CodeStatistics) -> None:
    side = unit(np.random.default_rng(1).normal(size=(1, 512)))
    drifts = [measure_drift(model, trained, unit(faces[4_000:] + lean * side)) for lean in (0.2, 0.4, 0.8)]
    shifts = [drift.shift for drift in drifts]
    assert shifts == sorted(shifts)
    assert drifts[-1].score > 1


def test_rows_with_noise_where_no_code_looks_are_drift(
    faces: FloatArray, model: SearchModel, trained: CodeStatistics
) -> None:
    noise = np.random.default_rng(0).normal(size=(2_000, 512)) / np.sqrt(512)
    drift = measure_drift(model, trained, unit(faces[4_000:] + noise))
    assert drift.loss > 0.1
    assert drift.shift < 0.05


def test_statistics_are_the_same_in_blocks_and_at_once(
    faces: FloatArray, model: SearchModel, trained: CodeStatistics
) -> None:
    values = faces[:4_000] @ model.projection - model.thresholds
    np.testing.assert_allclose(trained.balance, (values > 0).mean(axis=0), atol=1e-3)
    distances = np.linalg.norm(faces[:4_000] - model.mean, axis=1)
    assert trained.captured == pytest.approx(np.abs(values).sum(axis=1).mean() / distances.mean(), rel=1e-4)


def test_when_a_training_is_due() -> None:
    drifted, steady = Drift(0.2, 0.0, 500), Drift(0.02, 0.05, 500)
    assert (drifted.score, steady.score) == (2.0, 0.5)
    assert not is_training_due(999, None)
    assert is_training_due(1_000, None)
    assert is_training_due(8_000, 1_000)
    assert not is_training_due(7_999, 1_000)
    assert not is_training_due(7_999, 1_000, steady)
    assert is_training_due(7_999, 1_000, drifted)
    assert not is_training_due(10_000_000, 1_000_000)
    assert is_training_due(1_000_000, 1_000_000, drifted)


@pytest.mark.parametrize(
    ("templates", "lsns", "due"),
    [
        (1_000, (5, 5), False),
        (1_299, (5, 5), False),
        (1_300, (5, 5), True),
        (700, (5, 5), True),
        (1_000, (5, 305), True),
    ],
)
def test_when_a_look_at_drift_is_due(templates: int, lsns: tuple[int, ...], due: bool) -> None:
    assert is_drift_due(GallerySizes({"a": templates}, lsns), 1_000, (5, 5)) == due
