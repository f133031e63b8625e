"""Properties of the SearchModel's bytes and of its bounds, on random inputs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard.errors import CorruptData
from shard.model import SearchModel
from shard.training import MIN_TRAIN, train

recall_strategy = st.floats(0.01, 0.99999)


@cache
def model() -> SearchModel:
    rows = np.random.default_rng(0).standard_normal((2 * MIN_TRAIN, 64)).astype(np.float32)
    return train(rows / np.linalg.norm(rows, axis=1, keepdims=True), code_bits=256)


@given(recall_strategy, recall_strategy, st.integers(0, 2**32 - 1))
def test_a_higher_recall_lets_more_through(recall: float, higher: float, seed: int) -> None:
    recall, higher = sorted((recall, higher))
    probes = np.random.default_rng(seed).standard_normal((3, 64)).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    narrow, wide = model().query(probes, recall).bounds, model().query(probes, higher).bounds
    assert (wide[:, [0, 2]] <= narrow[:, [0, 2]]).all()
    assert (wide[:, [1, 3]] == narrow[:, [1, 3]]).all()
    assert (wide[:, [1, 3]] >= 0).all()


@given(st.data())
def test_one_changed_byte_anywhere_is_found(data: st.DataObject) -> None:
    stored = bytearray(model().to_bytes())
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptData, match="search model"):
        SearchModel.from_bytes(bytes(stored))


@given(st.binary(max_size=200))
def test_other_bytes_are_never_a_model(data: bytes) -> None:
    with pytest.raises(CorruptData, match="search model"):
        SearchModel.from_bytes(data)
