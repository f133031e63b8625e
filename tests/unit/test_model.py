"""The SearchModel: encoding against NumPy, bytes, hash, survivors; and training's checks and determinism."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from functools import cache

import numpy as np
import pytest

from shard.calibration import FULL_FLOOR, HEAD_FLOOR, Calibration, RankSample, allowed_misses, calibrate, cheapest
from shard.errors import CorruptData, FormatTooNew, InvalidEmbedding, InvalidParameter, NotEnoughData
from shard.itq import fit
from shard.model import SearchModel
from shard.training import MIN_TRAIN, measure_ranks, stranger_limit, train
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
    projection, thresholds = model.projection.copy(), model.thresholds.copy()
    projection[5, 7] = np.nextafter(projection[5, 7], np.float32(1))
    thresholds[3] = np.nextafter(thresholds[3], np.float32(1))
    parts: dict[str, object] = {"projection": projection, "thresholds": thresholds, "trained_on": model.trained_on + 1}
    for name in ("rows", "ks", "recalls", "survivors_head", "survivors_full"):
        values = getattr(table, name).copy()
        values.flat[0] += values.dtype.type(0.5 if name == "recalls" else 1)
        parts[f"calibration.{name}"] = dataclasses.replace(table, **{name: values})
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


def test_bytes_round_trip() -> None:
    model = small_model()
    again = SearchModel.from_bytes(model.to_bytes())
    assert again.to_bytes() == model.to_bytes()
    assert again.model_id == model.model_id
    assert np.array_equal(again.encode(embeddings(50, 64, seed=4)), model.encode(embeddings(50, 64, seed=4)))
    assert again.survivors(10_000, 3, 0.99) == model.survivors(10_000, 3, 0.99)


def test_a_later_format_version_is_named() -> None:
    preamble = struct.pack("<8sHHI", b"FGMODEL\n", 2, 0, 100)
    with pytest.raises(FormatTooNew, match="format 2, this Facegrid reads up to 1"):
        SearchModel.from_bytes(preamble + struct.pack("<I", zlib.crc32(preamble)) + b"whatever comes")


@pytest.mark.parametrize("keep", [0, 7, 20, 60, -1])
def test_truncated_bytes_are_corrupt(keep: int) -> None:
    with pytest.raises(CorruptData, match="search model"):
        SearchModel.from_bytes(small_model().to_bytes()[:keep])


def test_a_model_whose_arrays_do_not_fit_is_refused() -> None:
    model = small_model()
    with pytest.raises(InvalidParameter, match=r"projection: expected \(64, 512\) float32, got \(64, 256\)"):
        SearchModel(64, 512, model.projection, model.thresholds, model.calibration, 1_000)
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
    projection, _ = fit(rows, 256, np.random.default_rng(0))
    noise = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][60:]
    assert np.abs(noise @ projection).max() < 0.1
    assert np.allclose(np.linalg.norm(projection, axis=0), 1, atol=1e-4)


def test_stranger_limit_is_not_moved_by_mates() -> None:
    rows = embeddings(2_000, 128, carrying=128)
    with_mates = rows.copy()
    with_mates[1_000:1_010] = with_mates[:10]  # one pair in a hundred
    assert stranger_limit(with_mates) == pytest.approx(stranger_limit(rows), rel=0.15)


def test_measured_ranks_are_those_of_a_full_sort() -> None:
    rows = embeddings(1_200, 64, seed=5)
    codes = small_model().encode(rows)
    sample = measure_ranks(rows, codes)[-1]
    limit = stranger_limit(rows)
    bits = np.unpackbits(codes, axis=1).astype(np.int32)
    for probe in (0, 5, 1_199):
        scores = rows @ rows[probe]
        scores[(scores > limit) | (np.arange(1_200) == probe)] = -2
        nearest = int(scores.argmax())
        for got, width in ((sample.head, 128), (sample.full, 256)):
            distances = (bits[:, :width] != bits[probe, :width]).sum(axis=1)
            others = np.delete(distances, probe)
            nearer, equal = (others < distances[nearest]).sum(), (others == distances[nearest]).sum()
            assert got[probe, 0] == nearer + (equal + 1) / 2


def test_allowed_misses_is_the_largest_count_that_still_proves_the_rate() -> None:
    assert allowed_misses(500, 0.001) is None
    for probes, rate in ((4_000, 0.001), (4_000, 0.1), (10_000, 0.01)):
        misses = allowed_misses(probes, rate)
        assert misses is not None
        draws = np.random.default_rng(0).binomial(probes, rate, 20_000)
        assert (draws <= misses).mean() < 0.11
        assert (draws <= misses + 1).mean() > 0.05


def test_cheapest_loses_no_more_pairs_than_allowed() -> None:
    rng = np.random.default_rng(0)
    head, full = (np.ceil(rng.lognormal(4, 2, 5_000)).astype(np.float32) for _ in range(2))
    for misses in (0, 1, 50, 500):
        keep_head, keep_full = cheapest(head, full, misses)
        assert ((head > keep_head) | (full > keep_full)).sum() <= misses


def table() -> Calibration:
    rng = np.random.default_rng(0)
    samples = []
    for rows in (500, 2_000, 8_000):
        full = np.clip(rng.lognormal(2, 1.5, (4_000, 10)), 1, rows).astype(np.float32)
        samples.append(RankSample(rows, np.minimum(full * 8, rows), full))
    return calibrate(samples)


def test_survivors_keep_the_measured_pairs() -> None:
    calibration = table()
    head, full = calibration.survivors(8_000, 1, 0.99)
    assert HEAD_FLOOR <= head < 8_000
    assert FULL_FLOOR <= full < head
    assert calibration.survivors(0, 1, 0.99) == (0, 0)
    assert calibration.survivors(50, 10, 0.99) == (50, 50)
    assert calibration.survivors(10**7, 1, 0.99999) == (10**7, 10**7)


@pytest.mark.parametrize(("rows", "k", "recall"), [(-1, 1, 0.9), (10, 0, 0.9), (10, 1, 0.0), (10, 1, 1.0)])
def test_survivors_refuse_what_is_out_of_range(rows: int, k: int, recall: float) -> None:
    with pytest.raises(InvalidParameter, match="expected"):
        small_model().survivors(rows, k, recall)
