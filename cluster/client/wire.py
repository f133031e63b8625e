"""Bodies: JSON, and MessagePack with floats as raw bytes. What comes back is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

import msgpack  # type: ignore[import-untyped]
import numpy as np

from cluster.client.call import JSON, MSGPACK, Reply
from shard.errors import InvalidParameter, ProtocolError
from shard.types import FloatArray

T = TypeVar("T")

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "None": (type(None),),
}


def packed_floats(values: FloatArray) -> dict[str, Any]:
    """An array of float32 as MessagePack carries it: its shape and its bytes, little-endian, in C order."""
    return {"shape": list(values.shape), "data": np.ascontiguousarray(values, dtype="<f4").tobytes()}


def packed(document: Mapping[str, Any]) -> bytes:
    """The document as MessagePack; InvalidParameter for a value that it cannot carry."""
    try:
        return cast(bytes, msgpack.packb(dict(document), use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidParameter(f"not representable as MessagePack: {error}") from None


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """The document as JSON in UTF-8; InvalidParameter for a value that it cannot carry."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"not representable as JSON: {error}") from None


def document_of(reply: Reply) -> dict[str, Any]:
    """The body of an answer, which has to be one object; ProtocolError if it is not."""
    try:
        if reply.content_type == MSGPACK:
            found = msgpack.unpackb(reply.body, raw=False, strict_map_key=False)
        elif reply.content_type == JSON:
            found = json.loads(reply.body)
        else:
            raise ProtocolError(
                f"expected an answer of {JSON} or {MSGPACK}, got {reply.content_type or 'no content type'}; "
                "is this a Facegrid service?"
            )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the answer is no {reply.content_type}: {error}") from None
    if not isinstance(found, dict):
        raise ProtocolError(f"expected an object as the answer, got {type(found).__name__}")
    return found


def entry(document: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """A named value of an answer, of one of these types; ProtocolError if it is missing or of another type."""
    if name not in document:
        raise ProtocolError(f"the answer has no {name!r}, but {', '.join(sorted(map(repr, document))) or 'nothing'}")
    value = document[name]
    is_number = bool in kinds or not isinstance(value, bool)
    if not isinstance(value, kinds) or not is_number:
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ProtocolError(f"{name}: expected {expected} in the answer, got {type(value).__name__}")
    return value


def texts(values: Any, name: str, *, may_be_none: bool = False) -> tuple[Any, ...]:
    """A list of texts of an answer, some of them None if they may be; ProtocolError otherwise."""
    if not isinstance(values, list) or not all(isinstance(v, str) or (may_be_none and v is None) for v in values):
        raise ProtocolError(f"{name}: expected a list of texts in the answer")
    return tuple(values)


def floats(value: Any, name: str, ndim: int) -> FloatArray:
    """An array of an answer, float32 of so many dimensions; ProtocolError if bytes and shape do not agree."""
    if not isinstance(value, dict):
        raise ProtocolError(f"{name}: expected shape and data in the answer, got {type(value).__name__}")
    shape, data = entry(value, "shape", list), entry(value, "data", bytes)
    if len(shape) != ndim or not all(type(side) is int and side >= 0 for side in shape):
        raise ProtocolError(f"{name}: expected a shape of {ndim} numbers in the answer, got {shape!r:.80}")
    if len(data) != 4 * int(np.prod(shape, dtype=object)):
        raise ProtocolError(f"{name}: shape {shape} and {len(data)} bytes of float32 do not agree")
    found: FloatArray = np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    return found


def record(cls: type[T], document: Any, **given: Any) -> T:
    """A frozen dataclass of plain values from an object of an answer; ProtocolError where a value is missing or wrong.

    Keys that the class does not know are passed over: a newer service may say more. given: fields decoded elsewhere.
    """
    if not isinstance(document, dict):
        raise ProtocolError(f"{cls.__name__}: expected an object in the answer, got {type(document).__name__}")
    values = dict(given)
    for one in fields(cls):  # type: ignore[arg-type]  # T is always a dataclass
        if one.name in given:
            continue
        if one.name in document:
            values[one.name] = _checked(document[one.name], str(one.type), f"{cls.__name__}.{one.name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise ProtocolError(f"{cls.__name__}: the answer has no {one.name!r}")
    return cls(**values)


def records(cls: type[T], values: Any, name: str) -> list[T]:
    """A list of such objects."""
    if not isinstance(values, list):
        raise ProtocolError(f"{name}: expected a list in the answer, got {type(values).__name__}")
    return [record(cls, value) for value in values]


def _checked(value: Any, annotation: str, name: str) -> Any:
    """A value of an annotation of plain types, as they are in the dataclasses of results; others are taken as is."""
    if annotation == "tuple[str, ...]":
        return texts(value, name)
    if annotation == "tuple[float, ...]":
        if not isinstance(value, list) or not all(type(one) in (int, float) for one in value):
            raise ProtocolError(f"{name}: expected a list of numbers in the answer")
        return tuple(map(float, value))
    kinds = [kind for part in annotation.split(" | ") for kind in _KINDS.get(part, (object,))]
    is_wrong_bool = isinstance(value, bool) and bool not in kinds and object not in kinds
    if not isinstance(value, tuple(kinds)) or is_wrong_bool:
        raise ProtocolError(f"{name}: expected {annotation} in the answer, got {type(value).__name__}")
    return float(value) if "float" in annotation.split(" | ") and isinstance(value, int) else value


def listed(value: Sequence[str] | None) -> list[str] | None:
    """A sequence as a list, which both kinds of bodies can carry."""
    return None if value is None else list(value)
