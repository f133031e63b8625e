"""Codes of the open tail are those that sealing would make, and nothing of them is left behind."""

from pathlib import Path

import numpy as np
import pytest

from shard import sealing, segments
from shard.model import SearchModel
from shard.shard import Shard
from shard.training import train
from tests.faces_like import batch_of, unit_rows

DIM = 64
MODEL = train(unit_rows(1_200, DIM, seed=3), code_bits=256)


def create(directory: Path) -> Shard:
    return Shard.create(directory, dim=DIM, load_model={MODEL.model_id: MODEL}.__getitem__)


def stored_codes(shard: Shard) -> np.ndarray:
    parts = []
    for row in shard._store.segments():
        crc = shard._store.codes_crc(row.segment, MODEL.model_id)
        assert row.is_sealed
        assert crc is not None
        parts.append(shard.files(row).read_codes(MODEL.model_id, row.rows, MODEL.code_bytes, crc))
    return np.concatenate(parts)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that sealing had to encode from floats, a number for each time."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)  # 1,024 rows
    counts: list[int] = []
    real = sealing.encode_rows

    def counting(model: SearchModel, floats: np.ndarray) -> np.ndarray:
        counts.append(len(floats))
        return real(model, floats)

    monkeypatch.setattr(sealing, "encode_rows", counting)
    return counts


@pytest.mark.parametrize("sizes", [[2_500], [10, 1_014, 1_024, 5], [700, 700, 700]])
def test_sealing_takes_the_codes_of_the_enrollment(tmp_path: Path, encoded: list[int], sizes: list[int]) -> None:
    rows = unit_rows(sum(sizes), DIM, seed=1)
    with create(tmp_path / "s") as shard:
        shard.activate(MODEL)
        for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            shard.enroll(batch_of(rows[first : first + size], first=int(first)))
        shard.flush()
        assert encoded == []
        np.testing.assert_array_equal(stored_codes(shard), MODEL.encode(rows))
    assert list(tmp_path.rglob("*.tmp")) == []


def test_codes_of_an_activation_are_kept_for_sealing(tmp_path: Path, encoded: list[int]) -> None:
    rows = unit_rows(900, DIM, seed=1)
    with create(tmp_path / "s") as shard:
        shard.enroll(batch_of(rows[:500]))
        shard.activate(MODEL)
        shard.enroll(batch_of(rows[500:], first=500))
        shard.flush()
        assert encoded == []
        np.testing.assert_array_equal(stored_codes(shard), MODEL.encode(rows))


def test_a_reopened_tail_is_encoded_from_its_floats(tmp_path: Path, encoded: list[int]) -> None:
    rows = unit_rows(900, DIM, seed=1)
    with create(tmp_path / "s") as shard:
        shard.activate(MODEL)
        shard.enroll(batch_of(rows[:500]))
    assert list(tmp_path.rglob("*.tmp")) == []
    with create(tmp_path / "s") as shard:
        shard.enroll(batch_of(rows[500:], first=500))
        shard.flush()
        assert encoded == [500, 900]  # on opening, and on sealing
        np.testing.assert_array_equal(stored_codes(shard), MODEL.encode(rows))
