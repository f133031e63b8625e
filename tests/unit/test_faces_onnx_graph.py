"""Repairing block-quantised graphs, on messages small enough to write by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.faces.onnx_graph import repaired


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field; numbers and payloads stay below 128 here."""
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def initialiser(name: bytes, dims: bytes) -> bytes:
    return field(5, field(1, dims) + field(8, name) + b"\x10\x01")


def dequantize(scale: bytes, *, op: bytes = b"DequantizeLinear", block: bool = True) -> bytes:
    attribute = field(5, field(1, b"block_size") + b"\x18\x40") if block else b""
    return field(1, field(1, b"x") + field(1, scale) + field(2, b"y") + field(4, op) + attribute)


def model(*parts: bytes) -> bytes:
    return b"\x08\x08" + field(7, b"".join(parts)) + field(8, b"opset")


DATA, WEIGHT = field(11, field(1, b"data")), field(11, field(1, b"w"))


def test_inputs_that_are_none_are_dropped() -> None:
    assert repaired(model(DATA, WEIGHT, dequantize(b"s", block=False)), "data") == model(
        DATA, dequantize(b"s", block=False)
    )
    assert repaired(model(DATA, WEIGHT), None) == model(DATA, WEIGHT)


@pytest.mark.parametrize("dims", [b"", b"\x01"])
def test_block_size_of_a_single_scale_is_dropped(dims: bytes) -> None:
    scale = initialiser(b"s", dims)
    assert repaired(model(scale, dequantize(b"s")), None) == model(scale, dequantize(b"s", block=False))


@pytest.mark.parametrize("dims", [b"\x40", b"\x01\x01\x01\x01"])
def test_block_size_of_true_blocks_stays(dims: bytes) -> None:
    whole = model(initialiser(b"s", dims), dequantize(b"s"))
    assert repaired(whole, None) == whole


def test_other_operators_keep_their_block_size() -> None:
    whole = model(initialiser(b"s", b""), dequantize(b"s", op=b"QuantizeLinear"))
    assert repaired(whole, None) == whole


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no input b'image'"):
        repaired(model(DATA), "image")
    with pytest.raises(ValueError, match="bytes past the end"):
        repaired(model(DATA)[:-3], "data")


@given(st.binary(max_size=60))
def test_garbage_is_a_value_error_or_itself(garbage: bytes) -> None:
    try:
        assert len(repaired(garbage, None)) <= len(garbage)
    except ValueError:
        return
