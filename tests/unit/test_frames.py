"""Frames: every message of the data plane survives the wire, and malformed bytes are named errors."""

from __future__ import annotations

import struct
import typing
import zlib

import msgpack
import numpy as np
import pytest

from coordinator import frames
from coordinator.frames import (
    MAX_FRAME_BYTES,
    Frame,
    FrameSplitter,
    decode_replies,
    decode_requests,
    encode_error,
    encode_message,
    reply_frame,
    request_frame,
)
from coordinator.messages import (
    CreateShard,
    DataRequest,
    Done,
    EnrollRequest,
    RecordsReply,
    SearchReply,
    SearchRequest,
    StatsRequest,
)
from shard.errors import FacegridError, ProtocolError, UnknownGallery, _subclasses
from shard.types import CandidateBatch, EnrollBatch, SearchParams, TemplateRecord

STATS = StatsRequest("g", (0, 1), (3, 4))
STATS_FIELDS = ["g", [0, 1], [3, 4]]


def framed(body: object) -> Frame:
    packed = body if isinstance(body, bytes) else msgpack.packb(body)
    return Frame(packed, zlib.crc32(packed))


def sent(message: DataRequest) -> DataRequest:
    (frame,) = FrameSplitter().feed(b"".join(request_frame([(7, 250, encode_message(message))])))
    ((key, budget_ms, decoded),) = decode_requests(frame)
    assert (key, budget_ms) == (7, 250)
    return decoded


def search(probes: np.ndarray) -> SearchRequest:
    return SearchRequest("acme/staff", (0, 3), probes, SearchParams(10, 0.99, False, 0.4, ("Ann", "Bob")), (5, 2**40))


def test_every_data_request_has_a_tag() -> None:
    assert set(frames._REQUEST_TAGS.values()) == set(typing.get_args(DataRequest))


def test_search_round_trip_is_aligned_and_contiguous() -> None:
    probes = np.arange(6 * 128, dtype=np.float32).reshape(6, 128)
    back = sent(search(probes))
    assert isinstance(back, SearchRequest)
    assert back.shards == (0, 3)
    assert back.params == SearchParams(10, 0.99, False, 0.4, ("Ann", "Bob"))
    assert back.probes.dtype == np.float32
    assert back.probes.flags.aligned
    assert back.probes.flags.c_contiguous
    np.testing.assert_array_equal(back.probes, probes)


def test_strided_array_is_sent_in_c_order() -> None:
    probes = np.arange(4 * 64, dtype=np.float32).reshape(64, 4).T
    back = sent(search(probes))
    assert isinstance(back, SearchRequest)
    np.testing.assert_array_equal(back.probes, probes)


def test_enroll_round_trip_keeps_none_and_bytes() -> None:
    batch = EnrollBatch(np.ones((2, 64), np.float32), ("a", "é"), (None, "Bob"), (b'{"x":1}', None))
    back = sent(EnrollRequest("g", 3, 7, b"op", batch, True))
    assert isinstance(back, EnrollRequest)
    assert back.batch.template_ids == ("a", "é")
    assert back.batch.identities == (None, "Bob")
    assert back.batch.metadata == (b'{"x":1}', None)
    assert back.skip_existing is True


def test_replies_round_trip() -> None:
    found = CandidateBatch(np.full((1, 2), np.nan, np.float32), np.zeros((1, 2), np.uint64), ((),), ((),))
    records = RecordsReply((TemplateRecord("t", None, None, 2**40), TemplateRecord("u", "Bob", b"{}", 0)))
    replies = [SearchReply(found, (1,)), records, Done()]
    entries = [(key, encode_message(reply)) for key, reply in enumerate(replies)]
    (frame,) = FrameSplitter().feed(b"".join(reply_frame(entries)))
    (_, back), (_, same), (_, done) = decode_replies(frame)
    assert isinstance(back, SearchReply)
    np.testing.assert_array_equal(back.candidates.scores, found.scores)
    assert back.candidates.template_ids == ((),)
    assert same == records
    assert done == Done()


@pytest.mark.parametrize("cls", _subclasses(FacegridError), ids=lambda cls: cls.code)
def test_errors_keep_class_and_message(cls: type[FacegridError]) -> None:
    (frame,) = FrameSplitter().feed(b"".join(reply_frame([(1, encode_error(cls("what came")))])))
    ((_, error),) = decode_replies(frame)
    assert type(error) is cls
    assert "what came" in str(error)


def test_error_message_with_a_lone_surrogate_travels() -> None:
    (frame,) = FrameSplitter().feed(b"".join(reply_frame([(1, encode_error(UnknownGallery("a\udc80b")))])))
    ((_, error),) = decode_replies(frame)
    assert "a\\udc80b" in str(error)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (CreateShard("g", 0, 128), "CreateShard does not travel"),
        (StatsRequest("g", [0, 1], ()), r"StatsRequest.shards: expected tuple, got list"),  # type: ignore[arg-type]
        (StatsRequest("g", ("0",), ()), r"StatsRequest.shards\[\]: expected int, got str"),  # type: ignore[arg-type]
        (StatsRequest("g", (True,), ()), r"expected int, got bool"),
        (StatsRequest("g", (2**64,), ()), r"cannot be encoded"),
        (StatsRequest("\udc80", (), ()), r"cannot be encoded"),
        (search(np.ones((1, 64))), r"SearchRequest.probes: expected a float32 array.*got float64 \(1, 64\)"),
        (search(np.full((), 1, np.float32)), r"of 1 to 3 dimensions, got float32 \(\)"),
    ],
)
def test_what_cannot_travel_is_refused_before_sending(message: DataRequest, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        encode_message(message)


def test_message_over_the_frame_limit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="send fewer rows"):
        encode_message(search(np.zeros((MAX_FRAME_BYTES // 4 // 2048 + 1, 2048), np.float32)))


def array(code: int, ndim: int, zero: int, sizes: tuple[int, int, int], raw: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, struct.pack("<BBHIII", code, ndim, zero, *sizes) + raw)


GOOD = array(1, 2, 0, (1, 2, 0), bytes(8))


def search_body(probes: object, **changed: object) -> list[object]:
    fields = {"gallery": "g", "shards": [0], "probes": probes, "params": [10, 0.9, False, None, [], b""], "epochs": [1]}
    fields |= changed
    return [3, 1, [[5, 100, [1, list(fields.values())]]]]


def test_hand_made_search_decodes() -> None:
    ((_, _, request),) = decode_requests(framed(search_body(GOOD)))
    assert isinstance(request, SearchRequest)
    assert request.probes.shape == (1, 2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "OutOfData"),
        ([1, 1, []], "protocol version 1; this end speaks 3"),
        ([3, 2, []], "kind 2 where 1"),
        ([3, 1], "frame: expected 3 fields, got 2"),
        ([3, 1, [], 0], "expected 3 fields, got 4"),
        ({"version": 1}, "malformed"),
        ([3, 1, [[5, 100, [99, []]]]], "unknown message tag 99"),
        ([3, 1, [[5, 100, [0, ["code", "text"]]]]], "unknown message tag 0"),
        ([3, 1, [[-5, 100, [7, STATS_FIELDS]]]], "request id: expected a number"),
        ([3, 1, [[True, 100, [7, STATS_FIELDS]]]], "request id: expected a number"),
        ([3, 1, [[5, 100, [7, ["g"]]]]], "StatsRequest: expected 3 fields, got 1"),
        ([3, 1, [[5, 100, [7, [b"g", [0], []]]]]], "StatsRequest.gallery_id: expected str, got bytes"),
        ([3, 1, [[5, 100, [7, ["g", [0.0], []]]]]], r"StatsRequest.shards\[\]: expected int, got float"),
        ([3, 1, [[5, 100, [7, ["g", [[[[1]]]], []]]]]], "exceeds max_array_len"),
        ([3, 1, [[5, 100, [7, ["g", [{}], []]]]]], "expected int, got dict"),
        ([3, 1, [[5, 100, [7, ["g", [msgpack.Timestamp(0)], []]]]]], "expected int, got Timestamp"),
        (msgpack.packb([3, 1, [[5, 100, [7, STATS_FIELDS]]]]) + b"\x00", "1 bytes after the end"),
        (b"\x93\x03\x01\xdd\xff\xff\xff\xff", "4294967295 entries announced"),
        (b"\x93\x03\x01\x91\x93\x05\x64\x92\x07\x93\xa1g\xdd\x10\x00\x00\x00", "268435456 entries announced"),
        (b"\x93\x03\x01\x91\x93\x05\x64\x92\x07\x93\xdb\xff\xff\xff\xff", "malformed"),
        (b"\x93\x03\x01\x91\x93\x05\x64\x92\x07\x93\xa2\xff\xff\x90", "UnicodeDecodeError"),
        (search_body(b"raw"), "expected a float32 array, got bytes"),
        (search_body(msgpack.ExtType(2, GOOD.data)), "expected a float32 array"),
        (search_body(msgpack.ExtType(1, b"short")), "shorter than its header"),
        (search_body(array(2, 2, 0, (1, 1, 0), bytes(8))), "expected dtype code 1 and zero, got 2"),
        (search_body(array(1, 2, 9, (1, 2, 0), bytes(8))), "got 1 and 9"),
        (search_body(array(1, 0, 0, (0, 0, 0), b"")), "0 dimensions"),
        (search_body(array(1, 4, 0, (1, 2, 1), bytes(8))), "4 dimensions"),
        (search_body(array(1, 2, 0, (1, 2, 5), bytes(8))), "2 dimensions with sizes"),
        (search_body(array(1, 2, 0, (1, 3, 0), bytes(8))), "needs 12 bytes, got 8"),
        (search_body(array(1, 2, 0, (2**32 - 1, 2**32 - 1, 0), bytes(8))), "needs 73786976260"),
        (search_body(array(1, 3, 0, (0, 2**32 - 1, 2**32 - 1), b"")), "malformed"),
        (search_body(GOOD, params=[10, 1, False, None, [], b""]), "SearchParams.recall: expected float, got int"),
        (search_body(GOOD, params=[10, 0.9, 0, None, [], b""]), "SearchParams.exact: expected bool, got int"),
        (
            search_body(GOOD, params=[10, 0.9, False, 1, [], b""]),
            "SearchParams.threshold: expected float or NoneType, got int",
        ),
        (
            search_body(GOOD, params=[10, 0.9, False, None, [4], b""]),
            r"SearchParams.identities\[\]: expected str, got int",
        ),
    ],
)
def test_malformed_bodies_are_named(body: object, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        decode_requests(framed(body))


def test_error_reply_of_wrong_types_is_refused() -> None:
    with pytest.raises(ProtocolError, match="error: expected two strings, got int, str"):
        decode_replies(framed([3, 2, [[1, [0, [404, "text"]]]]]))


def test_nothing_is_unpickled() -> None:
    """A pickle inside an extension type is bytes of an unknown kind, nothing more."""
    with pytest.raises(ProtocolError, match="expected a float32 array"):
        decode_requests(framed(search_body(msgpack.ExtType(80, b"cos\nsystem\n(S'false'\ntR."))))


def stream(count: int) -> bytes:
    return b"".join(b"".join(request_frame([(key, 1, encode_message(STATS))])) for key in range(count))


@pytest.mark.parametrize("step", [1, 3, 8, 64, 10_000])
def test_splitter_finds_the_same_frames_in_any_pieces(step: int) -> None:
    data, splitter = stream(5), FrameSplitter()
    cut = [frame for at in range(0, len(data), step) for frame in splitter.feed(data[at : at + step])]
    assert [decode_requests(frame)[0][0] for frame in cut] == [0, 1, 2, 3, 4]
    assert splitter.pending_bytes == 0


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_bad_length_is_refused_from_the_header_alone(length: int) -> None:
    splitter = FrameSplitter()
    with pytest.raises(ProtocolError, match=f"a frame of {length} bytes was announced"):
        splitter.feed(struct.pack("<II", length, 0))
    assert splitter.pending_bytes == 0


def test_flipped_bit_fails_the_checksum() -> None:
    data = bytearray(stream(1))
    data[-1] ^= 1
    (frame,) = FrameSplitter().feed(bytes(data))
    with pytest.raises(ProtocolError, match="checksum of a frame"):
        decode_requests(frame)
