"""Drops the graph inputs of an ONNX file that are no inputs, working on the protobuf bytes.

Some quantised files (OpenCV Zoo's `int8bq`) list computed weights among the graph's inputs; onnxruntime then demands
a value for each. This walks the wire format just far enough to leave them out, so that the `onnx` package is not
needed. Owns that edit only; must not know which network it is or how it is run.
Source of the field numbers: onnx.proto3 (ModelProto.graph 7, GraphProto.input 11, ValueInfoProto.name 1).
"""

from __future__ import annotations

from collections.abc import Iterator

_MODEL_GRAPH = 7
_GRAPH_INPUT = 11
_VALUE_NAME = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def keep_input(model: bytes, name: str) -> bytes:
    """The same model with no graph input but `name`; the same bytes where it has no other.

    Raises ValueError where `model` is not a protobuf message or has no input of that name.
    """
    out = bytearray()
    for field, start, end, body in _fields(model):
        if field == _MODEL_GRAPH:
            graph = _keep_graph_input(model[body:end], name.encode())
            out += _tag(_MODEL_GRAPH) + _encode_varint(len(graph)) + graph
        else:
            out += model[start:end]
    return bytes(out)


def _keep_graph_input(graph: bytes, name: bytes) -> bytes:
    out = bytearray()
    found = False
    for field, start, end, body in _fields(graph):
        if field == _GRAPH_INPUT:
            if _value_name(graph[body:end]) != name:
                continue
            found = True
        out += graph[start:end]
    if not found:
        raise ValueError(f"the graph has no input {name.decode()!r}")
    return bytes(out)


def _value_name(value: bytes) -> bytes:
    for field, _start, end, body in _fields(value):
        if field == _VALUE_NAME:
            return value[body:end]
    raise ValueError("a graph input has no name")


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number, start, end, start of the payload) of each top-level field."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        body = at
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            length, body = _varint(message, at)
            at = body + length
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {start}")
        if at > len(message):
            raise ValueError(f"field {field} at byte {start} ends {at - len(message)} bytes past the end")
        yield field, start, at, body


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(message):
            raise ValueError("the message ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number longer than 10 bytes at byte {at}")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(field: int) -> bytes:
    return _encode_varint(field << 3 | _BYTES)
