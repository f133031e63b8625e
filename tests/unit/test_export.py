"""One shard's rows for a snapshot: pieces of bounded size, fingerprints, and what happens when rows are moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.frames import (
    FrameSplitter,
    decode_replies,
    decode_requests,
    encode_message,
    reply_frame,
    request_frame,
)
from coordinator.messages import DataRequest, ExportMovedRequest, ExportRequest, PointRequest, Reply
from shard import export as export_module
from shard.compaction import compact
from shard.errors import InvalidParameter
from shard.export import FIRST_KEY, ExportedRows, MovedRange, RowRange, SegmentPoint, ShardPoint
from shard.segments import segment_capacity
from shard.shard import Shard
from shard.types import EnrollBatch, FloatArray, RowArray
from tests.faces_like import batch_of, unit_rows

DIM = 64


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[Shard]:
    def no_model(model_id: str) -> None:
        raise AssertionError(model_id)

    with Shard.create(tmp_path / "shard", dim=DIM, load_model=no_model) as opened:  # type: ignore[arg-type]
        yield opened


def whole(shard: Shard, segment: int = 1) -> RowRange:
    point = shard.point(0)
    found = next(s for s in point.segments if s.segment == segment)
    return RowRange(segment, found.first_row, found.first_row + found.rows, point.lsn)


def test_rows_come_with_the_labels_and_floats_they_were_enrolled_with(shard: Shard) -> None:
    rows = unit_rows(100, DIM, seed=1)
    metadata = tuple(b"{}" if i % 2 else None for i in range(100))
    batch = EnrollBatch(rows, tuple(f"t{i}" for i in range(100)), ("p",) * 50 + (None,) * 50, metadata)
    shard.enroll(batch)
    shard.delete(template_ids=["t3", "t99"])
    wanted = whole(shard)
    found = shard.export(wanted, b"")
    live = [i for i in range(100) if i not in (3, 99)]
    assert found.rows.tolist() == live
    assert found.floats.tobytes() == rows[live].tobytes()
    assert found.template_ids == tuple(f"t{i}" for i in live)
    assert found.identities == tuple(batch.identities[i] for i in live)
    assert found.metadata == tuple(metadata[i] for i in live)
    assert set(found.lsns.tolist()) == {1}
    assert (found.end, found.fingerprint, found.is_unchanged) == (100, b"", False)


def test_what_is_written_after_the_moment_is_left_out(shard: Shard) -> None:
    shard.enroll(batch_of(unit_rows(10, DIM, seed=1)))
    point = shard.point(5)
    assert point == ShardPoint(5, 1, 10, (SegmentPoint(1, 0, 10, None),), (0,), (1,))
    shard.enroll(batch_of(unit_rows(10, DIM, seed=2), first=10))
    assert len(shard.export(RowRange(1, 0, 20, point.lsn), b"").rows) == 10


def test_a_sealed_segment_has_a_fingerprint_that_changes_with_it(shard: Shard) -> None:
    shard.enroll(batch_of(unit_rows(50, DIM, seed=1)))
    assert shard.export(whole(shard), b"").fingerprint == b""
    shard.flush()
    first = shard.export(whole(shard), b"")
    assert len(first.fingerprint) == 32
    same = shard.export(whole(shard), first.fingerprint)
    assert (same.is_unchanged, same.fingerprint, len(same.rows), same.floats.shape) == (
        True,
        first.fingerprint,
        0,
        (0, DIM),
    )
    # Later writes elsewhere change nothing of it.
    shard.enroll(batch_of(unit_rows(5, DIM, seed=2), first=50))
    assert shard.export(whole(shard), first.fingerprint).is_unchanged
    shard.delete(template_ids=["t7"])
    changed = shard.export(whole(shard), first.fingerprint)
    assert not changed.is_unchanged
    assert changed.fingerprint != first.fingerprint
    assert len(changed.rows) == 49


def test_a_piece_is_bounded_in_rows_and_in_labels(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(unit_rows(100, DIM, seed=1))
    shard.enroll(replace(batch, metadata=tuple(b"x" * 1_000 for _ in range(100))))
    monkeypatch.setattr(export_module, "MAX_EXPORT_ROWS", 30)
    assert shard.export(whole(shard), b"").end == 30
    monkeypatch.setattr(export_module, "MAX_EXPORT_FLOAT_BYTES", 20 * DIM * 4)
    assert shard.export(whole(shard), b"").end == 20
    monkeypatch.setattr(export_module, "MAX_EXPORT_LABEL_BYTES", 5_100)
    wanted, ids = whole(shard), []
    while wanted.begin < wanted.end:
        piece = shard.export(wanted, b"")
        assert 1 <= len(piece.rows) <= 5
        ids += piece.template_ids
        wanted = replace(wanted, begin=piece.end)
    assert ids == [f"t{i}" for i in range(100)]
    monkeypatch.setattr(export_module, "MAX_EXPORT_LABEL_BYTES", 1)
    assert shard.export(whole(shard), b"").end == 1, "one row always fits"


def test_rows_of_every_segment(shard: Shard) -> None:
    capacity = segment_capacity(DIM)
    rows = unit_rows(capacity + 10, DIM, seed=1)
    shard.enroll(batch_of(rows))
    point = shard.point(0)
    assert [(s.segment, s.first_row, s.rows) for s in point.segments] == [(1, 0, capacity), (2, capacity, 10)]
    found = shard.export(whole(shard, 2), b"")
    assert found.floats.tobytes() == rows[capacity:].tobytes()
    with pytest.raises(InvalidParameter, match="rows to export"):
        shard.export(RowRange(1, 0, capacity + 1, point.lsn), b"")
    with pytest.raises(InvalidParameter, match="no segment 3"):
        shard.export(RowRange(3, 0, 1, point.lsn), b"")


def moved(shard: Shard, point: ShardPoint) -> list[ExportedRows]:
    """Everything that was moved since the point."""
    pieces = [shard.export_moved(MovedRange(point.rows, point.lsn, FIRST_KEY))]
    while pieces[-1].end != FIRST_KEY:
        assert pieces[-1].end > (pieces[-2].end if len(pieces) > 1 else FIRST_KEY)
        pieces.append(shard.export_moved(MovedRange(point.rows, point.lsn, pieces[-1].end)))
    return pieces


def test_what_compaction_moves_is_found_after_the_point(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(100, DIM, seed=1)
    batch = batch_of(rows)
    shard.enroll(replace(batch, metadata=tuple(b"x" * i for i in range(100))))
    point, wanted = shard.point(0), whole(shard)
    assert [len(piece.rows) for piece in moved(shard, point)] == [0], "nothing was"
    shard.enroll(batch_of(unit_rows(10, DIM, seed=2), first=200))
    shard.delete(template_ids=["t3"])
    assert compact(shard).moved == 109
    assert compact(shard).moved == 0
    shard.delete(template_ids=["t4"])
    assert compact(shard).moved == 108
    assert len(shard.export(wanted, b"").rows) == 0, "its segment was dropped"
    assert shard.export(wanted, b"").end == wanted.end
    for most, most_bytes in ((8_192, 16 << 20), (7, 16 << 20), (8_192, 60), (1, 1)):
        monkeypatch.setattr(export_module, "MAX_EXPORT_ROWS", most)
        monkeypatch.setattr(export_module, "MAX_EXPORT_LABEL_BYTES", most_bytes)
        pieces = moved(shard, point)
        found = {t: (piece, i) for piece in pieces for i, t in enumerate(piece.template_ids)}
        assert sum(len(piece.rows) for piece in pieces) == len(found) == 98
        assert all(len(piece.rows) <= most and (np.diff(piece.rows) > 0).all() for piece in pieces)
        assert found.keys() == set(batch.template_ids) - {"t3", "t4"}, "and nothing of after the point"
        for template_id, (piece, i) in found.items():
            number = int(template_id[1:])
            assert piece.floats[i].tobytes() == rows[number].tobytes()
            assert piece.metadata[i] == b"x" * number
            assert piece.lsns[i] == 1
    later = shard.point(0)
    assert [len(piece.rows) for piece in moved(shard, later)] == [0]
    assert sum(segment.rows for segment in later.segments) == 108


def test_a_segment_that_is_dropped_between_labels_and_floats_gives_nothing(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.enroll(batch_of(unit_rows(20, DIM, seed=1)))
    shard.delete(template_ids=["t3"])
    wanted, gather = whole(shard), Shard.gather

    def compact_first(self: Shard, rows: RowArray) -> FloatArray:
        with monkeypatch.context() as patch:
            patch.setattr(Shard, "gather", gather)
            compact(shard)
        return gather(self, rows)

    monkeypatch.setattr(Shard, "gather", compact_first)
    assert len(shard.export(wanted, b"").rows) == 0
    monkeypatch.undo()
    (piece,) = moved(shard, ShardPoint(0, wanted.max_lsn, 20, (), (), ()))
    assert len(piece.rows) == 19


def test_some_of_a_piece(shard: Shard) -> None:
    rows = unit_rows(10, DIM, seed=1)
    shard.enroll(batch_of(rows, identity="p"))
    found = shard.export(whole(shard), b"")
    assert found.take(range(10)) is found
    some = found.take([2, 5])
    assert (some.rows.tolist(), some.template_ids, some.identities) == ([2, 5], ("t2", "t5"), ("p", "p"))
    assert some.floats.tobytes() == rows[[2, 5]].tobytes()
    assert len(found.take([]).rows) == 0


def test_a_tail_that_grows_or_is_sealed_meanwhile_is_no_rewriting(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.enroll(batch_of(unit_rows(20, DIM, seed=1)))
    wanted, export_rows = whole(shard), export_module.export_rows

    def grow_and_seal(*args: object) -> ExportedRows:
        found = export_rows(*args)  # type: ignore[arg-type]
        shard.enroll(batch_of(unit_rows(5, DIM, seed=2), first=20))
        shard.flush()
        return found

    monkeypatch.setattr("shard.shard.export_rows", grow_and_seal)
    assert len(shard.export(wanted, b"").rows) == 20


def requested(message: DataRequest) -> DataRequest:
    (frame,) = FrameSplitter().feed(b"".join(request_frame([(7, 250, encode_message(message))])))
    return decode_requests(frame)[0][2]


def replied(message: Reply) -> object:
    (frame,) = FrameSplitter().feed(b"".join(reply_frame([(7, encode_message(message))])))
    return decode_replies(frame)[0][1]


def test_messages_of_exports_survive_the_wire(shard: Shard) -> None:
    for request in (
        PointRequest("g", 3, 9),
        ExportRequest("g", 3, 1, RowRange(2, 2**40, 2**40 + 5, 2**50), b""),
        ExportRequest("g", 3, 1, RowRange(2, 0, 5, 7), bytes(range(32))),
        ExportMovedRequest("g", 3, 1, MovedRange(2**40, 2**50, FIRST_KEY)),
    ):
        assert requested(request) == request
    segments = (SegmentPoint(1, 0, 5, b"crc"), SegmentPoint(2, 5, 1, None))
    for point in (ShardPoint(0, 9, 6, segments, (1, 4), (1, 7)), ShardPoint(3, 0, 0, (), (), ())):
        assert replied(point) == point
    shard.enroll(batch_of(unit_rows(20, DIM, seed=1), identity="p"))
    shard.flush()
    sent = shard.export(whole(shard), b"")
    for exported in (sent, shard.export(whole(shard), sent.fingerprint)):
        back = replied(exported)
        assert isinstance(back, ExportedRows)
        assert back.floats.tobytes() == exported.floats.tobytes()
        assert back.floats.shape == exported.floats.shape
        assert back.rows.tolist() == exported.rows.tolist()
        assert back.lsns.tolist() == exported.lsns.tolist()
        for name in ("end", "fingerprint", "is_unchanged", "template_ids", "identities", "metadata"):
            assert getattr(back, name) == getattr(exported, name)
