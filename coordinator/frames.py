"""Frames of the data plane: which messages may travel, how they are tagged, and how a byte stream is cut.

A frame is a little-endian u32 length and u32 CRC-32 of its body, then the body: msgpack of
`[version, kind, entries]`. A request entry is `[id, budget_ms, [tag, fields]]`, a reply entry
`[id, [tag, fields]]`. Tags are given once and never reused. Decoding is strict (see `codec.py`): anything else than
a well-formed frame is a ProtocolError, after which the connection cannot go on. No sockets here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from coordinator.codec import Codec, Reader, pack, pack_array_header, read, struct_codec
from coordinator.messages import (
    AbsorbRequest,
    AmendReply,
    AmendRequest,
    BeaconReply,
    BeaconRequest,
    ClaimReply,
    ClaimRequest,
    DataRequest,
    DeleteReply,
    DeleteRequest,
    DigestReply,
    DigestRequest,
    Done,
    EnrollRequest,
    ExportMovedRequest,
    ExportRequest,
    FlushRequest,
    GiveBackReply,
    GiveBackRequest,
    HealthReply,
    HealthRequest,
    IdentitiesReply,
    IdentitiesRequest,
    ListReply,
    ListRequest,
    MoveOutRequest,
    PointRequest,
    ProgressReply,
    RecordsReply,
    RecordsRequest,
    RenameRequest,
    ReplicateRequest,
    Reply,
    RestartRequest,
    RowsReply,
    RowsRequest,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from shard.errors import FacegridError, ProtocolError, error_from_code
from shard.export import ExportedRows, ShardPoint
from shard.types import EnrollReceipt

PROTOCOL_VERSION = 3
MAX_FRAME_BYTES = 160 << 20
"""Longest body: the largest search (MAX_PROBES of MAX_DIM float32, 128 MiB) and what surrounds it."""
MAX_MESSAGE_BYTES = MAX_FRAME_BYTES - 64
"""Longest single message: a frame with nothing else in it."""
HEADER = struct.Struct("<II")

Body: TypeAlias = bytes | bytearray | memoryview

_REQUESTS, _REPLIES = 1, 2
_ERROR_TAG = 0
_REQUEST_TAGS: dict[int, type[Any]] = {
    1: SearchRequest,
    2: EnrollRequest,
    3: DeleteRequest,
    4: RecordsRequest,
    5: IdentitiesRequest,
    6: FlushRequest,
    7: StatsRequest,
    10: ReplicateRequest,
    11: AbsorbRequest,
    12: RestartRequest,
    13: RowsRequest,
    14: DigestRequest,
    15: BeaconRequest,
    16: HealthRequest,
    40: PointRequest,
    41: ExportRequest,
    42: ExportMovedRequest,
    50: ListRequest,
    51: AmendRequest,
    52: RenameRequest,
    53: MoveOutRequest,
    54: ClaimRequest,
    55: GiveBackRequest,
}
_REPLY_TAGS: dict[int, type[Any]] = {
    1: SearchReply,
    2: EnrollReceipt,
    3: DeleteReply,
    4: RecordsReply,
    5: IdentitiesReply,
    6: Done,
    7: StatsReply,
    10: ProgressReply,
    13: RowsReply,
    14: DigestReply,
    15: BeaconReply,
    16: HealthReply,
    40: ShardPoint,
    41: ExportedRows,
    50: ListReply,
    51: AmendReply,
    54: ClaimReply,
    55: GiveBackReply,
}
_REQUEST_CODECS = {tag: struct_codec(cls) for tag, cls in _REQUEST_TAGS.items()}
_REPLY_CODECS = {tag: struct_codec(cls) for tag, cls in _REPLY_TAGS.items()}
_ENCODERS = {cls: (tag, _REQUEST_CODECS[tag]) for tag, cls in _REQUEST_TAGS.items()}
_ENCODERS |= {cls: (tag, _REPLY_CODECS[tag]) for tag, cls in _REPLY_TAGS.items()}


def encode_message(message: DataRequest | Reply) -> bytes:
    """One request or reply, to be put in a frame.

    ProtocolError if it is no data-plane message, holds a value of the wrong type, or is over MAX_MESSAGE_BYTES.
    """
    try:
        tag, codec = _ENCODERS[type(message)]
    except KeyError:
        raise ProtocolError(f"{type(message).__name__} does not travel over the data plane") from None
    packed = pack([tag, codec.encode(message)])
    if len(packed) > MAX_MESSAGE_BYTES:
        raise ProtocolError(
            f"{type(message).__name__} takes {len(packed)} bytes; a message has at most {MAX_MESSAGE_BYTES}: "
            "send fewer rows, or ask for fewer candidates"
        )
    return packed


def encode_error(error: FacegridError) -> bytes:
    """An error as its stable code and its message; `error_from_code` rebuilds it at the other end."""
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return pack([_ERROR_TAG, [error.code, text[:65_536]]])


def request_frame(entries: Sequence[tuple[int, int, bytes]]) -> list[bytes]:
    """Buffers of one frame of (request id, milliseconds left, encoded message). Together within MAX_FRAME_BYTES."""
    return _frame(_REQUESTS, [(b"\x93" + pack(key) + pack(budget), message) for key, budget, message in entries])


def reply_frame(entries: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """Buffers of one frame of (request id, encoded reply or error). Together within MAX_FRAME_BYTES."""
    return _frame(_REPLIES, [(b"\x92" + pack(key), message) for key, message in entries])


def decode_requests(frame: Frame) -> list[tuple[int, int, DataRequest]]:
    """(request id, milliseconds left, request) of a frame. ProtocolError for anything malformed."""
    entries: list[tuple[int, int, DataRequest]] = read(
        frame.verified(), lambda reader: _entries(reader, _REQUESTS, _request_entry)
    )
    return entries


def decode_replies(frame: Frame) -> list[tuple[int, Reply | FacegridError]]:
    """(request id, reply or the host's error) of a frame. ProtocolError for anything malformed."""
    entries: list[tuple[int, Reply | FacegridError]] = read(
        frame.verified(), lambda reader: _entries(reader, _REPLIES, _reply_entry)
    )
    return entries


class Frame(NamedTuple):
    """A frame as received, its checksum not yet verified: large ones are verified where they are decoded."""

    body: Body
    crc: int

    def verified(self) -> Body:
        """The body. ProtocolError if it is not what was sent."""
        crc = zlib.crc32(self.body)
        if crc != self.crc:
            raise ProtocolError(
                f"checksum of a frame of {len(self.body)} bytes: expected {self.crc:08x}, got {crc:08x}"
            )
        return self.body


class FrameSplitter:
    """Cuts a byte stream into frame bodies; holds at most one unfinished frame.

    `limit` is the longest body accepted: an announcement above it is refused before its bytes are kept.
    """

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes received of the unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Frames completed by `data`. ProtocolError for a length of 0 or above the limit."""
        if not self._buffer:
            frames, rest = self._cut(data)
            self._buffer += memoryview(data)[rest:]
            return frames
        self._buffer += data
        if len(self._buffer) < self._wanted():
            return []
        # A fresh buffer: frames are views of the old one.
        whole, self._buffer = self._buffer, bytearray()
        frames, rest = self._cut(whole)
        self._buffer += memoryview(whole)[rest:]
        return frames

    def _wanted(self) -> int:
        if len(self._buffer) < HEADER.size:
            return HEADER.size
        return HEADER.size + self._length(self._buffer, 0)[0]

    def _cut(self, data: bytes | bytearray) -> tuple[list[Frame], int]:
        view, at = memoryview(data), 0
        frames: list[Frame] = []
        while len(view) - at >= HEADER.size:
            length, crc = self._length(view, at)
            end = at + HEADER.size + length
            if end > len(view):
                break
            frames.append(Frame(view[at + HEADER.size : end], crc))
            at = end
        return frames, at

    def _length(self, data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
        length, crc = HEADER.unpack_from(data, at)
        if not 1 <= length <= self._limit:
            raise ProtocolError(f"a frame of {length} bytes was announced; expected 1 to {self._limit}")
        return length, crc


def _frame(kind: int, entries: list[tuple[bytes, bytes]]) -> list[bytes]:
    head = b"\x93" + pack(PROTOCOL_VERSION) + pack(kind) + pack_array_header(len(entries))
    buffers = [head, *(part for entry in entries for part in entry)]
    length, crc = 0, 0
    for part in buffers:
        length += len(part)
        crc = zlib.crc32(part, crc)
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are sent")
    return [HEADER.pack(length, crc), *buffers]


def _entries(reader: Reader, kind: int, entry: Any) -> list[Any]:
    reader.expect(3, "frame")
    version, got = _number(reader, "frame version"), _number(reader, "frame kind")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"frame of protocol version {version}; this end speaks {PROTOCOL_VERSION}")
    if got != kind:
        raise ProtocolError(f"frame of kind {got} where {kind} was expected")
    return [entry(reader) for _ in range(reader.count("frame entries"))]


def _request_entry(reader: Reader) -> tuple[int, int, Any]:
    reader.expect(3, "request entry")
    key, budget_ms = _number(reader, "request id"), _number(reader, "request budget")
    return key, budget_ms, _message(reader, _REQUEST_CODECS)


def _reply_entry(reader: Reader) -> tuple[int, Any]:
    reader.expect(2, "reply entry")
    return _number(reader, "request id"), _message(reader, _ANSWER_CODECS)


def _message(reader: Reader, codecs: dict[int, Codec]) -> Any:
    reader.expect(2, "message")
    tag = _number(reader, "message tag")
    if tag not in codecs:
        raise ProtocolError(f"unknown message tag {tag}; this end knows {sorted(codecs)}")
    return codecs[tag].decode(reader)


def _number(reader: Reader, where: str) -> int:
    value = reader.item()
    if type(value) is not int or value < 0:
        raise ProtocolError(f"{where}: expected a number from 0 up, got {type(value).__name__}")
    return value


def _decode_error(reader: Reader) -> FacegridError:
    reader.expect(2, "error")
    code, message = reader.item(), reader.item()
    if type(code) is not str or type(message) is not str:
        raise ProtocolError(f"error: expected two strings, got {type(code).__name__}, {type(message).__name__}")
    return error_from_code(code, message)


def _refuse(_: Any) -> Any:
    raise ProtocolError("errors are encoded by encode_error")


_ERROR_CODEC = Codec(_refuse, _decode_error)
_ANSWER_CODECS = _REPLY_CODECS | {_ERROR_TAG: _ERROR_CODEC}
