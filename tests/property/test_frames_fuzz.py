"""Frames under random messages and hostile bytes: an equal object or a ProtocolError, nothing else."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import msgpack
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.frames import (
    PROTOCOL_VERSION,
    Frame,
    FrameSplitter,
    decode_replies,
    decode_requests,
    encode_message,
    reply_frame,
    request_frame,
)
from coordinator.messages import (
    AbsorbRequest,
    AmendReply,
    AmendRequest,
    BeaconReply,
    BeaconRequest,
    DeleteReply,
    DeleteRequest,
    DigestReply,
    Done,
    EnrollRequest,
    FlushRequest,
    HealthRequest,
    IdentitiesReply,
    IdentitiesRequest,
    ListReply,
    ListRequest,
    MoveOutRequest,
    ProgressReply,
    RecordsReply,
    RecordsRequest,
    RenameRequest,
    ReplicateRequest,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from shard.errors import ProtocolError
from shard.log import Changes, Entry, Position, SegmentState
from shard.types import (
    CandidateBatch,
    EnrollBatch,
    EnrollReceipt,
    IdentityCount,
    SearchParams,
    ShardStats,
    TemplateRecord,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COUNT = st.integers(0, 2**63 - 1)
SHARDS = st.lists(st.integers(0, 999), max_size=4).map(tuple)
EPOCHS = st.lists(COUNT, max_size=4).map(tuple)
TEXTS = st.lists(TEXT, max_size=4).map(tuple)


def floats(rows: int) -> st.SearchStrategy[np.ndarray]:
    return st.tuples(st.integers(0, 9), st.integers(0, 2**32 - 1)).map(
        lambda drawn: np.random.default_rng(drawn[1]).standard_normal((rows, drawn[0])).astype(np.float32)
    )


def tuples_of(strategy: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=size, max_size=size).map(tuple)


def enroll_batches(rows: int) -> st.SearchStrategy[EnrollBatch]:
    return st.builds(
        EnrollBatch,
        floats(rows),
        tuples_of(TEXT, rows),
        tuples_of(st.none() | TEXT, rows),
        tuples_of(st.none() | st.binary(max_size=9), rows),
    )


def candidate_batches(rows: int) -> st.SearchStrategy[CandidateBatch]:
    return floats(rows).flatmap(
        lambda scores: st.builds(
            CandidateBatch,
            st.just(scores),
            st.integers(0, 2**64 - 1).map(lambda key: np.full(scores.shape, key, np.uint64)),
            tuples_of(TEXTS, rows),
            tuples_of(st.lists(st.none() | TEXT, max_size=3).map(tuple), rows),
        )
    )


ROWS = st.integers(0, 4)
PARAMS = st.builds(SearchParams, st.integers(1, 1000), st.floats(0, 1), st.booleans(), where=st.binary(max_size=9))
IDS = st.binary(max_size=16)
NUMBERS = st.lists(COUNT, max_size=4).map(lambda values: np.array(values, np.int64))
POSITIONS = st.builds(Position, COUNT, COUNT, COUNT)
SEGMENTS = st.builds(SegmentState, COUNT, COUNT, COUNT, COUNT, st.booleans(), st.booleans(), IDS)
ENTRIES = st.builds(
    Entry,
    COUNT, COUNT, st.sampled_from(["append", "bury", "move", "amend", "depart"]), IDS, st.floats(0, 1e10), COUNT,
    ROWS.flatmap(enroll_batches), NUMBERS, COUNT, COUNT, COUNT,
)  # fmt: skip


def changes(rows: int) -> st.SearchStrategy[Changes]:
    return st.builds(
        Changes,
        POSITIONS, st.booleans(), st.booleans(), COUNT, floats(rows), NUMBERS, tuples_of(TEXT, rows),
        tuples_of(st.none() | TEXT, rows), tuples_of(st.none() | st.binary(max_size=9), rows), NUMBERS, NUMBERS,
        NUMBERS, NUMBERS, st.lists(SEGMENTS, max_size=3).map(tuple), NUMBERS, NUMBERS,
        st.lists(IDS, max_size=2).map(tuple), NUMBERS.map(lambda values: np.stack([values] * 3, axis=1)),
    )  # fmt: skip


REQUESTS = st.one_of(
    st.builds(SearchRequest, TEXT, SHARDS, ROWS.flatmap(floats), PARAMS, EPOCHS),
    st.builds(EnrollRequest, TEXT, COUNT, COUNT, IDS, ROWS.flatmap(enroll_batches), st.booleans()),
    st.builds(DeleteRequest, TEXT, SHARDS, EPOCHS, IDS, TEXTS, TEXTS),
    st.builds(
        AmendRequest,
        TEXT,
        SHARDS,
        EPOCHS,
        IDS,
        TEXTS,
        st.lists(st.none() | st.binary(max_size=9), max_size=3).map(tuple),
    ),
    st.builds(RenameRequest, TEXT, COUNT, COUNT, IDS, TEXT, TEXT, COUNT),
    st.builds(MoveOutRequest, TEXT, COUNT, COUNT, IDS, TEXT, TEXTS, st.floats(0, 1e3), COUNT),
    st.builds(RecordsRequest, TEXT, SHARDS, TEXTS, EPOCHS),
    st.builds(IdentitiesRequest, TEXT, SHARDS, TEXT, COUNT, EPOCHS),
    st.builds(ListRequest, TEXT, SHARDS, TEXT, COUNT, st.none() | TEXT, EPOCHS),
    st.builds(FlushRequest, TEXT, SHARDS, EPOCHS),
    st.builds(StatsRequest, TEXT, SHARDS, EPOCHS),
    st.builds(ReplicateRequest, TEXT, COUNT, COUNT, st.lists(ENTRIES, max_size=3).map(tuple)),
    st.builds(AbsorbRequest, TEXT, COUNT, COUNT, ROWS.flatmap(changes)),
    st.builds(BeaconRequest, TEXT, COUNT, TEXTS, SHARDS, EPOCHS),
    st.builds(HealthRequest, TEXT, SHARDS),
)
RECORDS = st.builds(TemplateRecord, TEXT, st.none() | TEXT, st.none() | st.binary(max_size=9), COUNT)
STATS = st.builds(ShardStats, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, st.none() | TEXT)
REPLIES = st.one_of(
    st.builds(SearchReply, ROWS.flatmap(candidate_batches), SHARDS, st.none() | TEXT, st.booleans()),
    st.builds(EnrollReceipt, COUNT, COUNT, COUNT),
    st.builds(DeleteReply, COUNT, st.booleans()),
    st.builds(AmendReply, COUNT, st.booleans()),
    st.builds(RecordsReply, st.lists(RECORDS, max_size=3).map(tuple)),
    st.builds(IdentitiesReply, st.lists(st.builds(IdentityCount, TEXT, COUNT), max_size=3).map(tuple)),
    st.builds(ListReply, TEXTS),
    st.builds(StatsReply, st.lists(STATS, max_size=3).map(tuple)),
    st.builds(Done),
    st.builds(ProgressReply, POSITIONS, COUNT),
    st.builds(DigestReply, POSITIONS, st.lists(SEGMENTS, max_size=3).map(tuple), COUNT, COUNT),
    st.builds(BeaconReply, st.booleans(), SHARDS),
)


def plain(value: Any) -> Any:
    """Comparable by ==, arrays bit by bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value):
        return type(value), [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    return value


@given(st.lists(st.tuples(COUNT, COUNT, REQUESTS), max_size=3), st.integers(1, 50))
def test_requests_survive_the_wire_in_any_pieces(entries: list[tuple[int, int, Any]], step: int) -> None:
    data = b"".join(request_frame([(key, budget, encode_message(message)) for key, budget, message in entries]))
    splitter = FrameSplitter()
    (frame,) = [frame for at in range(0, len(data), step) for frame in splitter.feed(data[at : at + step])]
    assert [plain(entry) for entry in decode_requests(frame)] == [plain(entry) for entry in entries]


@given(st.lists(st.tuples(COUNT, REPLIES), max_size=3))
def test_replies_survive_the_wire(entries: list[tuple[int, Any]]) -> None:
    data = b"".join(reply_frame([(key, encode_message(message)) for key, message in entries]))
    (frame,) = FrameSplitter().feed(data)
    assert [plain(entry) for entry in decode_replies(frame)] == [plain(entry) for entry in entries]


def decoded(frame: Frame) -> list[Any] | None:
    """What the bytes say, None where they are refused; any other exception fails the test."""
    for decode in (decode_requests, decode_replies):
        try:
            return list(decode(frame))
        except ProtocolError:
            continue
    return None


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bodies_are_refused_or_mean_something_stable(body: bytes) -> None:
    decoded(Frame(body, zlib.crc32(body)))


@given(st.binary(max_size=200))
def test_random_streams_are_refused_or_wait_for_more(data: bytes) -> None:
    try:
        found = FrameSplitter().feed(data)
    except ProtocolError:
        return
    assert all(decoded(frame) is None for frame in found)


@given(REQUESTS, st.data())
def test_truncated_bodies_are_refused(message: Any, data: st.DataObject) -> None:
    body = b"".join(request_frame([(1, 1, encode_message(message))]))[8:]
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    assert decoded(Frame(cut, zlib.crc32(cut))) is None


@given(REQUESTS, st.data())
@settings(max_examples=300)
def test_a_flipped_bit_is_never_taken_for_the_message(message: Any, data: st.DataObject) -> None:
    """Through the splitter the checksum catches it; past the checksum, the decoder raises nothing but ProtocolError."""
    sent = bytearray(b"".join(request_frame([(1, 1, encode_message(message))])))
    at = data.draw(st.integers(0, len(sent) * 8 - 1))
    sent[at // 8] ^= 1 << at % 8
    try:
        frames = FrameSplitter().feed(bytes(sent))
    except ProtocolError:
        return
    assert all(decoded(frame) is None for frame in frames)
    body = bytes(sent[8:])
    decoded(Frame(body, zlib.crc32(body)))


JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | TEXT
    | st.binary(max_size=30)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=40)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=12,
)


@given(st.integers(0, 2), st.integers(0, 8), st.lists(JSONISH, max_size=5))
@settings(max_examples=300)
def test_well_formed_msgpack_of_the_wrong_shape_is_refused(kind: int, tag: int, fields: list[Any]) -> None:
    for entries in ([[1, 1, [tag, fields]]], [[1, [tag, fields]]]):
        body = msgpack.packb([PROTOCOL_VERSION, kind, entries])
        decoded(Frame(body, zlib.crc32(body)))
