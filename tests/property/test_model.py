"""Properties of the SearchModel's bytes and of its survivors, on random inputs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.errors import CorruptData
from shard.model import SearchModel
from shard.training import MIN_TRAIN, train
from shard.types import MAX_K

rows_strategy = st.integers(0, 10**8)
k_strategy = st.integers(1, MAX_K)
recall_strategy = st.floats(0.5, 0.99999)


@cache
def model() -> SearchModel:
    rows = np.random.default_rng(0).standard_normal((2 * MIN_TRAIN, 64)).astype(np.float32)
    return train(rows / np.linalg.norm(rows, axis=1, keepdims=True), code_bits=256)


@settings(deadline=None)  # the machine may be busy
@given(rows_strategy, rows_strategy, k_strategy, k_strategy, recall_strategy, recall_strategy)
def test_survivors_rise_with_rows_k_and_recall(
    rows: int, more_rows: int, k: int, more_k: int, recall: float, more_recall: float
) -> None:
    (rows, more_rows), (k, more_k) = sorted((rows, more_rows)), sorted((k, more_k))
    recall, more_recall = sorted((recall, more_recall))
    head, full = model().survivors(rows, k, recall)
    assert min(k, rows) <= full <= head <= rows
    for args in ((more_rows, k, recall), (rows, more_k, recall), (rows, k, more_recall)):
        more_head, more_full = model().survivors(*args)
        assert more_head >= head
        assert more_full >= full


@settings(deadline=None)  # the machine may be busy
@given(st.data())
def test_one_changed_byte_anywhere_is_found(data: st.DataObject) -> None:
    stored = bytearray(model().to_bytes())
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptData, match="search model"):
        SearchModel.from_bytes(bytes(stored))


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=200))
def test_other_bytes_are_never_a_model(data: bytes) -> None:
    with pytest.raises(CorruptData, match="search model"):
        SearchModel.from_bytes(data)
