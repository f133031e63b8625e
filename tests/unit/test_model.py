"""The SearchModel: encoding against NumPy, bytes, hash, bounds; and training's checks and determinism."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from functools import cache

import numpy as np
import pytest

from shard.calibration import MISS_GRID, calibrate, error_quantiles
from shard.errors import CorruptData, FormatTooNew, InvalidEmbedding, InvalidParameter, NotEnoughData
from shard.itq import fit
from shard.model import SearchModel
from shard.training import MIN_TRAIN, NEIGHBOURS, measure, stranger_limit, train
from shard.types import FloatArray


def embeddings(rows: int, dim: int, seed: int = 0, carrying: int = 100) -> FloatArray:
    """Unit rows whose variance lies, falling slowly, in `carrying` random directions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, min(carrying, dim))))[0]
    values = (rng.standard_normal((rows, basis.shape[1])) * np.linspace(2, 1, basis.shape[1])) @ basis.T
    values += 0.01 * rng.standard_normal((rows, dim)) + 0.01
    unit: FloatArray = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return unit


@cache
def small_model(dim: int = 64, code_bits: int = 256) -> SearchModel:
    return train(embeddings(MIN_TRAIN, dim), code_bits=code_bits)


@pytest.mark.parametrize(("dim", "code_bits"), [(64, 128), (64, 1024), (128, 256), (512, 512), (2048, 256)])
def test_trains_at_every_dimension_with_bits_that_are_balanced(dim: int, code_bits: int) -> None:
    model = small_model(dim, code_bits)
    assert (model.projection.shape, model.planes) == ((dim, code_bits), code_bits // 128)
    bits = np.unpackbits(model.encode(embeddings(2_000, dim, seed=1)), axis=1)
    shares = bits.mean(axis=0)
    assert shares.min() > 0.35
    assert shares.max() < 0.65


def test_encode_packs_plane_by_plane_what_numpy_says() -> None:
    model, rows = small_model(), embeddings(300, 64, seed=2)
    codes = model.encode(rows)
    assert (codes.dtype, codes.shape, codes.flags.c_contiguous) == (np.uint8, (300, 32), True)
    margin = rows.astype(np.float64) @ model.projection.astype(np.float64) - model.thresholds
    sure = np.abs(margin) > 1e-6
    for bit in (0, 7, 8, 127, 128, 255):
        got = codes[:, bit // 8] >> (7 - bit % 8) & 1
        assert (got == (margin[:, bit] > 0))[sure[:, bit]].all()


def test_a_row_alone_differs_at_most_where_its_value_is_at_the_threshold() -> None:
    model, rows = small_model(), embeddings(200, 64, seed=3)
    together = np.unpackbits(model.encode(rows), axis=1)
    alone = np.unpackbits(np.concatenate([model.encode(row[None]) for row in rows]), axis=1)
    margin = np.abs(rows.astype(np.float64) @ model.projection.astype(np.float64) - model.thresholds)
    assert margin[together != alone].max(initial=0.0) < 1e-6


def test_encode_of_no_rows_is_no_codes() -> None:
    assert small_model().encode(np.empty((0, 64), np.float32)).shape == (0, 32)


@pytest.mark.parametrize("bad", [np.zeros((2, 63), np.float32), np.zeros(64, np.float32), np.zeros((2, 64))])
def test_encode_refuses_another_shape_or_dtype(bad: FloatArray) -> None:
    with pytest.raises(InvalidEmbedding, match=r"expected \(n, 64\) float32, got"):
        small_model().encode(bad)


def test_training_is_deterministic_for_a_seed() -> None:
    sample = embeddings(MIN_TRAIN, 64)
    assert train(sample, code_bits=256).to_bytes() == small_model().to_bytes()
    assert train(sample, code_bits=256, seed=1).model_id != small_model().model_id


def changed(model: SearchModel) -> dict[str, SearchModel]:
    """The model with each part of its content changed a little."""
    table = model.calibration
    projection, mean = model.projection.copy(), model.mean.copy()
    projection[5, 7] = np.nextafter(projection[5, 7], np.float32(1))
    mean[3] = np.nextafter(mean[3], np.float32(1))
    parts: dict[str, object] = {"projection": projection, "mean": mean, "trained_on": model.trained_on + 1}
    for name in ("slope", "offset", "quantiles"):
        values = getattr(table, name).copy()
        values.flat[0] += 1e-9
        parts[f"calibration.{name}"] = dataclasses.replace(table, **{name: values})
    parts["calibration.knee"] = dataclasses.replace(table, knee=table.knee + 1e-9)
    parts["calibration.probes"] = dataclasses.replace(table, probes=table.probes + 1)
    copies = {}
    for name, value in parts.items():
        kwargs = {field.name: getattr(model, field.name) for field in dataclasses.fields(model) if field.init}
        copies[name] = SearchModel(**{**kwargs, name.split(".")[0]: value})
    return copies


def test_any_change_of_content_changes_the_id() -> None:
    ids = {name: model.model_id for name, model in changed(small_model()).items()}
    assert len({small_model().model_id, *ids.values()}) == len(ids) + 1
    assert all(len(model_id) == 32 for model_id in ids.values())


def query_of(model: SearchModel, probes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    query = model.query(probes, 0.99)
    return query.values, query.lists, query.bounds, query.knee


def test_bytes_round_trip() -> None:
    model = small_model()
    again = SearchModel.from_bytes(model.to_bytes())
    assert again.to_bytes() == model.to_bytes()
    assert again.model_id == model.model_id
    assert np.array_equal(again.encode(embeddings(50, 64, seed=4)), model.encode(embeddings(50, 64, seed=4)))
    probes = embeddings(5, 64, seed=6)
    for left, right in zip(query_of(again, probes), query_of(model, probes), strict=True):
        assert np.array_equal(left, right)


def test_a_later_format_version_is_named() -> None:
    preamble = struct.pack("<8sHHI", b"FGMODEL\n", 3, 0, 100)
    with pytest.raises(FormatTooNew, match="format 3, this Facegrid reads up to 2"):
        SearchModel.from_bytes(preamble + struct.pack("<I", zlib.crc32(preamble)) + b"whatever comes")


def test_an_earlier_format_version_is_named() -> None:
    preamble = struct.pack("<8sHHI", b"FGMODEL\n", 1, 0, 100)
    with pytest.raises(CorruptData, match="format 1 was never released"):
        SearchModel.from_bytes(preamble + struct.pack("<I", zlib.crc32(preamble)) + b"whatever comes")


def test_a_model_of_a_larger_sample_has_lists() -> None:
    model, rows = train(embeddings(3_000, 64), code_bits=256), embeddings(500, 64, seed=2)
    assert (small_model().lists, model.lists, model.code_bytes) == (0, 64, 34)
    codes = model.encode(rows)
    values = rows.astype(np.float64) @ model.projection[:, :128] - model.thresholds[:128]
    assert (codes[:, 32:].copy().view("<u2")[:, 0] == np.argmax(values @ model.centroids.T, axis=1)).mean() > 0.99
    again = SearchModel.from_bytes(model.to_bytes())
    assert np.array_equal(again.encode(rows), codes)
    np.testing.assert_allclose(again.query(rows, 0.9).lists, values @ model.centroids.T, atol=2e-3)


@pytest.mark.parametrize("keep", [0, 7, 20, 60, -1])
def test_truncated_bytes_are_corrupt(keep: int) -> None:
    with pytest.raises(CorruptData, match="search model"):
        SearchModel.from_bytes(small_model().to_bytes()[:keep])


def test_a_model_whose_arrays_do_not_fit_is_refused() -> None:
    model = small_model()
    with pytest.raises(InvalidParameter, match=r"projection: expected \(64, 512\) float32, got \(64, 256\)"):
        SearchModel(64, 512, model.mean, model.projection, model.centroids, model.calibration, 1_000)
    with pytest.raises(InvalidParameter, match=r"centroids: expected \(3, 128\) float32, got \(3, 64\)"):
        SearchModel(64, 256, model.mean, model.projection, np.zeros((3, 64), np.float32), model.calibration, 1_000)
    with pytest.raises(ValueError, match="read-only"):
        model.projection[0, 0] = 0


def test_training_refuses_what_it_cannot_use() -> None:
    sample = embeddings(MIN_TRAIN, 64)
    broken = sample.copy()
    broken[17, 3] = np.nan
    with pytest.raises(NotEnoughData, match="at least 1000 templates, got 999"):
        train(sample[:-1])
    with pytest.raises(NotEnoughData, match="all but equal"):
        train(np.repeat(sample[:1], MIN_TRAIN, axis=0))
    with pytest.raises(InvalidEmbedding, match="row 17"):
        train(broken)
    with pytest.raises(InvalidEmbedding, match="unit"):
        train(sample * np.float32(2))
    with pytest.raises(InvalidEmbedding, match="float32"):
        train(sample.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="code_bits"):
        train(sample, code_bits=100)
    with pytest.raises(InvalidParameter, match="dim"):
        train(sample[:, :32].copy())


def test_bits_stay_where_there_is_variance() -> None:
    rows = embeddings(3_000, 256, carrying=40)
    _, projection = fit(rows, 256, np.random.default_rng(0))
    noise = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][60:]
    assert np.abs(noise @ projection).max() < 0.1
    assert np.allclose(np.linalg.norm(projection, axis=0), 1, atol=1e-4)


def test_a_query_has_the_projections_and_their_bounds() -> None:
    model, probes = small_model(), embeddings(40, 64, seed=7)
    query = model.query(probes, 0.99)
    values = probes.astype(np.float64) @ model.projection - model.thresholds
    assert (query.values.dtype, query.bounds.dtype, query.bounds.shape) == (np.float32, np.float32, (40, 6))
    # Weights have 8 bits: a value is off by a part in 256 at most, and by far less on the whole.
    most = np.abs(probes) @ np.abs(model.projection) / 256
    assert (np.abs(query.values - values) <= most).all()
    assert np.abs(query.values - values).mean() < 2e-3 * np.abs(values).mean()
    # The bound of a cosine is the line at that cosine, less the error that is allowed for.
    table, norms = model.calibration, np.linalg.norm(values, axis=1)
    error = np.interp(-np.log(0.01 / 3), -np.log(MISS_GRID), table.quantiles[2])
    least = norms * (table.offset[2] + table.slope[2] * (0.4 - probes @ model.mean) + error)
    np.testing.assert_allclose(query.bounds[:, 4] + 0.4 * query.bounds[:, 5], least, rtol=2e-3)


@pytest.mark.parametrize("recall", [0.0, 1.0, -1.0, float("nan")])
def test_a_query_refuses_a_recall_out_of_range(recall: float) -> None:
    with pytest.raises(InvalidParameter, match="recall: expected a number between 0 and 1"):
        small_model().query(embeddings(1, 64), recall)


def test_a_query_refuses_another_shape_or_dtype() -> None:
    with pytest.raises(InvalidEmbedding, match=r"probes: expected \(n, 64\) float32"):
        small_model().query(np.zeros((2, 65), np.float32), 0.9)


def test_measured_is_the_line_through_the_nearest_pairs() -> None:
    model, rows = small_model(), embeddings(1_500, 64, seed=5)
    table = measure(rows, model.mean, model.projection, model.centroids)
    bits = np.unpackbits(model.encode(rows), axis=1).astype(np.float64) * 2 - 1
    values = rows.astype(np.float64) @ model.projection - model.thresholds
    cosines = rows.astype(np.float64) @ rows.T
    np.fill_diagonal(cosines, -2)
    cosines[cosines > stranger_limit(rows)] = -2
    nearest = np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]
    x = np.take_along_axis(cosines, nearest, axis=1) - (rows @ model.mean)[:, None]
    for stage, width in ((1, 128), (2, 256)):
        agreement = np.take_along_axis(values[:, :width] @ bits[:, :width].T, nearest, axis=1)
        y = agreement / np.linalg.norm(values[:, :width], axis=1, keepdims=True)
        slope, offset = np.polyfit(x.ravel(), y.ravel(), 1)
        assert (table.slope[stage], table.offset[stage]) == pytest.approx((slope, offset), rel=1e-3)
    assert table.probes == 1_500


def test_stranger_limit_is_not_moved_by_mates() -> None:
    rows = embeddings(2_000, 128, carrying=128)
    with_mates = rows.copy()
    with_mates[1_000:1_010] = with_mates[:10]  # one pair in a hundred
    assert stranger_limit(with_mates) == pytest.approx(stranger_limit(rows), rel=0.15)


def test_the_error_widens_as_misses_grow_rarer() -> None:
    errors = np.random.default_rng(0).normal(size=100_000)
    quantiles = error_quantiles(errors, probes=10_000)
    assert (np.diff(quantiles) < 0).all()
    counted = [i for i, misses in enumerate(MISS_GRID) if misses >= 2e-4]
    for i in counted:
        assert (errors < quantiles[i]).mean() <= MISS_GRID[i]
    # Too few errors to count the rarest misses: a normal tail goes on, wider than the true one.
    few = error_quantiles(errors[:2_000], probes=10_000)
    assert (errors < few[-1]).mean() <= 5e-5


def test_a_line_that_falls_is_taken_for_a_flat_one() -> None:
    rng = np.random.default_rng(1)
    cosines = rng.random((100, 20), dtype=np.float32)
    table = calibrate(cosines, np.zeros(100, np.float32), np.stack([-cosines, cosines]))
    assert table.slope.tolist() == [0.0, pytest.approx(1.0, abs=1e-6)]
