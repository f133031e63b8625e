"""Repairs two faults of ONNX files quantised in blocks, working on the protobuf bytes.

OpenCV Zoo's `int8bq` files (a) list computed weights among the graph's inputs, so that onnxruntime demands a value for
each, and (b) give a `block_size` to weights that have one scale only, which onnxruntime refuses when it runs. Both are
mistakes of bookkeeping: the weights are whole. This walks the wire format just far enough to leave the faulty fields
out, so that the `onnx` package is not needed. Owns those edits only; must not know what the network is or who runs it.
Source of the field numbers: onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 4, 5
_TENSOR_DIMS, _TENSOR_NAME = 1, 8
_VALUE_NAME = _ATTRIBUTE_NAME = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def repaired(model: bytes, input_name: str | None) -> bytes:
    """The same model without the two faults; the same bytes where it has neither.

    input_name: the graph's one true input; None leaves the inputs as they are. Raises ValueError where `model` is not
    a protobuf message or its graph has no input of that name.
    """
    out = bytearray()
    for field, start, end, body in _fields(model):
        if field == _MODEL_GRAPH:
            graph = _repaired_graph(model[body:end], None if input_name is None else input_name.encode())
            out += _delimited(_MODEL_GRAPH, graph)
        else:
            out += model[start:end]
    return bytes(out)


def _repaired_graph(graph: bytes, input_name: bytes | None) -> bytes:
    single = _single_valued(graph)
    out = bytearray()
    found = input_name is None
    for field, start, end, body in _fields(graph):
        if field == _GRAPH_INPUT and input_name is not None:
            if _text(graph[body:end], _VALUE_NAME) != input_name:
                continue
            found = True
        if field == _GRAPH_NODE and b"block_size" in graph[body:end]:
            out += _delimited(_GRAPH_NODE, _repaired_node(graph[body:end], single))
        else:
            out += graph[start:end]
    if not found:
        raise ValueError(f"the graph has no input {input_name!r}")
    return bytes(out)


def _single_valued(graph: bytes) -> frozenset[bytes]:
    """Names of the initialisers that hold one number."""
    names = set()
    for field, _start, end, body in _fields(graph):
        if field == _GRAPH_INITIALIZER and _holds_one(graph[body:end]):
            names.add(_text(graph[body:end], _TENSOR_NAME))
    return frozenset(names)


def _holds_one(tensor: bytes) -> bool:
    """Whether the dimensions are () or (1,). A scale of (1, 1, 1, 1) is a true block scale and keeps its size."""
    dims = bytearray()
    for field, start, end, body in _fields(tensor):
        if field == _TENSOR_DIMS:
            # Dimensions come packed (one run of bytes) or one by one; either way each is a varint, and 1 is one byte.
            is_packed = tensor[start] & 7 == _BYTES
            dims += tensor[body if is_packed else start + 1 : end]
    return bytes(dims) in (b"", b"\x01")


def _repaired_node(node: bytes, single: frozenset[bytes]) -> bytes:
    inputs = [node[body:end] for field, _start, end, body in _fields(node) if field == _NODE_INPUT]
    is_faulty = _text(node, _NODE_OP) == b"DequantizeLinear" and len(inputs) > 1 and inputs[1] in single
    return b"".join(
        node[start:end]
        for field, start, end, body in _fields(node)
        if not (is_faulty and field == _NODE_ATTRIBUTE and _text(node[body:end], _ATTRIBUTE_NAME) == b"block_size")
    )


def _text(message: bytes, wanted: int) -> bytes:
    for field, _start, end, body in _fields(message):
        if field == wanted:
            return message[body:end]
    raise ValueError(f"a message of {len(message)} bytes lacks its field {wanted}")


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


def _delimited(field: int, payload: bytes) -> bytes:
    return _encode_varint(field << 3 | _BYTES) + _encode_varint(len(payload)) + payload
