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
from coordinator.messages import DataRequest, ExportRequest, PointReply, PointRequest, Reply
from shard import export as export_module
from shard.errors import InvalidParameter, StaleRoute
from shard.export import ExportedRows, RowRange, SegmentPoint, ShardPoint
from shard.segments import segment_capacity
from shard.shard import Shard
from shard.types import EnrollBatch
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
    assert point == ShardPoint(5, 1, (SegmentPoint(1, 0, 10, None),))
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
    with pytest.raises(StaleRoute, match="no segment 3"):
        shard.export(RowRange(3, 0, 1, point.lsn), b"")


def test_a_segment_that_is_rewritten_meanwhile_is_named(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    shard.enroll(batch_of(unit_rows(20, DIM, seed=1)))
    shard.flush()
    gather = shard.index.gather

    def rewrite(rows: np.ndarray) -> np.ndarray:
        with shard._store.transaction() as db:
            db.execute("UPDATE segments SET floats_crc = ? WHERE segment = 1", (b"anew",))
        return gather(rows)

    class Rewriting:
        dim = DIM

    Rewriting.gather = staticmethod(rewrite)  # type: ignore[attr-defined]
    monkeypatch.setattr(shard, "index", Rewriting())
    with pytest.raises(StaleRoute, match="rewritten"):
        shard.export(whole(shard), b"")


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
        PointRequest("g", (0, 3)),
        ExportRequest("g", 3, RowRange(2, 2**40, 2**40 + 5, 2**50), b""),
        ExportRequest("g", 3, RowRange(2, 0, 5, 7), bytes(range(32))),
    ):
        assert requested(request) == request
    reply = PointReply(
        (ShardPoint(0, 9, (SegmentPoint(1, 0, 5, b"crc"), SegmentPoint(2, 5, 1, None))), ShardPoint(3, 0, ()))
    )
    assert replied(reply) == reply
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
