"""Bodies: JSON and msgpack in and out, and arrays in both.

In JSON an array of embeddings is a list of lists of numbers. In msgpack it is {"shape": [n, dim], "data": bytes} with
little-endian float32, which is read without a copy. Values are checked by the models of `schemas`, not here.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import orjson

from cluster.service.problems import HttpProblem, malformed
from shard.errors import InvalidEmbedding
from shard.types import FloatArray

JSON, MSGPACK = "application/json", "application/msgpack"
IMAGES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
MAX_VALUES = 6_000_000
"""Values of one body, in lists and objects: a small value in a body may take thirty times its bytes as an object. More
than 64 MiB of JSON have of floats that are written out."""
_SURELY_FEW = 1 << 20
_NUMBERS = {int, float}


def content_type(value: bytes | None) -> str:
    """The media type without its parameters, in lower case; JSON where none is stated."""
    return JSON if not value else value.split(b";", 1)[0].strip().lower().decode("latin-1")


def decode(body: bytes, kind: str) -> dict[str, Any]:
    """The object that a body holds. HttpProblem 400 for what cannot be read, 415 for another media type."""
    if kind == JSON:
        # Every value but the first of a list follows a comma; those in texts are few.
        if len(body) > _SURELY_FEW and body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
            raise _too_many()
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise malformed(f"body: expected JSON, got {error}") from None
    elif kind in (MSGPACK, "application/x-msgpack"):
        value = _unpack(body)
    else:
        raise HttpProblem(415, "unsupported_media_type", f"expected {JSON} or {MSGPACK}, got {kind!r:.80}")
    if not isinstance(value, dict):
        raise malformed(f"body: expected an object, got {type(value).__name__}")
    return value


def _unpack(body: bytes) -> Any:
    left = MAX_VALUES

    def counted(values: Any) -> Any:
        nonlocal left
        left -= len(values) + 1
        if left < 0:
            raise _too_many()
        return values

    try:
        return msgpack.unpackb(
            body, raw=False, strict_map_key=True, max_ext_len=0, max_array_len=MAX_VALUES, max_map_len=MAX_VALUES,
            list_hook=counted, object_hook=counted,
        )  # fmt: skip
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise malformed(f"body: expected msgpack, got {type(error).__name__}: {error}") from None


def _too_many() -> HttpProblem:
    return malformed(f"body: expected at most {MAX_VALUES} values; send long arrays as msgpack")


def floats(value: Any, *, what: str) -> FloatArray:
    """An array from a body, (n, d) float32: a list of lists, one list for one row, or the msgpack form.

    Raises InvalidEmbedding. NaN, Inf and zero rows pass; who uses it checks them.
    """
    if isinstance(value, dict):
        return _packed_floats(value, what)
    if not isinstance(value, list) or not value:
        raise InvalidEmbedding(f"{what}: expected a list of lists of numbers, got {_shown(value)}")
    rows = value if isinstance(value[0], list) else [value]
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    for position, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != width or not width:
            raise InvalidEmbedding(f"{what}: expected rows of {width} numbers, row {position} is {_shown(row)}")
        if not _NUMBERS.issuperset(map(type, row)):  # asked first: of texts NumPy makes an array as wide as the longest
            raise InvalidEmbedding(f"{what}: expected lists of numbers, row {position} has values that are none")
    with np.errstate(over="ignore"):
        found: FloatArray = np.array(rows, np.float64).astype(np.float32)
    return found


def _packed_floats(value: dict[str, Any], what: str) -> FloatArray:
    shape, data = value.get("shape"), value.get("data")
    if (
        set(value) != {"shape", "data"}
        or not isinstance(data, bytes)
        or not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(type(size) is int and 0 < size <= 1 << 24 for size in shape)
    ):
        raise InvalidEmbedding(f'{what}: expected {{"shape": [n, dim], "data": bytes}}, got {_shown(value)}')
    rows, width = (1, shape[0]) if len(shape) == 1 else shape
    if len(data) != rows * width * 4:
        raise InvalidEmbedding(
            f"{what}: shape {shape} is {rows * width * 4} bytes of little-endian float32, got {len(data)}"
        )
    return np.frombuffer(data, "<f4").reshape(rows, width)


def packed(array: FloatArray) -> dict[str, Any]:
    """An array for a msgpack body."""
    return {"shape": list(array.shape), "data": np.ascontiguousarray(array, "<f4").tobytes()}


def encode(value: Any, kind: str) -> bytes:
    """A body of plain values and NumPy arrays, in the media type that the caller asked for."""
    if kind == MSGPACK:
        data: bytes = msgpack.packb(value, default=_packable)
        return data
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:  # metadata that the library stored may have whole numbers of any size, and be deep
        return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":")).encode()


def _packable(value: Any) -> Any:
    if isinstance(value, int):  # msgpack has none so large
        return float(value) if value.bit_length() < 1024 else str(value)
    if isinstance(value, np.ndarray):
        return packed(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"cannot be packed: {type(value).__name__}")


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")


def accepted(value: bytes | None) -> str:
    """The media type of the answer: msgpack where it is asked for by name, else JSON."""
    return MSGPACK if value is not None and MSGPACK.encode() in value.lower() else JSON


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return f"{type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r:.40}"
