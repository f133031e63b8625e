"""Msgpack form of the frozen dataclasses that travel, derived from their field types.

Owns one generic encoder and one strict, schema-driven decoder. The decoder reads item by item what the schema names
and nothing else: nothing nested deeper or of another type is ever built, and no array is allocated for a count that
the remaining bytes cannot hold. It must not know which messages exist (`frames.py` lists them), sockets or hosts.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from shard.errors import ProtocolError

ARRAY_EXT = 1
"""Msgpack extension code of an array."""
MAX_ITEMS = 1 << 20
"""The most entries of one tuple."""
MAX_ARRAY_NDIM = 3

_ARRAY_HEADER = struct.Struct("<BBHIII")
"""dtype code, number of dimensions, zero, three sizes (unused ones zero). 16 bytes, so that the values are aligned."""
_DTYPE_CODES: dict[str, int] = {"float32": 1, "uint64": 2, "int64": 3, "uint8": 4}
_LEAVES = (int, float, bool, str, bytes)


@dataclass(frozen=True, slots=True)
class Codec:
    """How one type is packed and read back.

    `encode` gives what msgpack packs natively; `decode` reads exactly one value. Both raise ProtocolError.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Reader], Any]


class Reader:
    """The items of one msgpack body, one at a time.

    Containers are entered by `array_header` only, so a container where the schema wants a value is refused by
    msgpack before it is built.
    """

    __slots__ = ("_size", "_unpacker", "array_header", "item")

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._size = len(body)
        self._unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=True, max_buffer_size=max(self._size, 1), max_array_len=0, max_map_len=0
        )
        self._unpacker.feed(body)
        self.item: Callable[[], Any] = self._unpacker.unpack
        self.array_header: Callable[[], int] = self._unpacker.read_array_header

    def count(self, where: str) -> int:
        """Enter an array of any length and return it; every entry takes at least one byte of what is left."""
        count = self.array_header()
        left = self._size - self._unpacker.tell()
        if count > left or count > MAX_ITEMS:
            raise ProtocolError(f"{where}: {count} entries announced; at most {min(left, MAX_ITEMS)} are possible here")
        return count

    def expect(self, count: int, where: str) -> None:
        """Enter an array that must have `count` entries."""
        got = self.array_header()
        if got != count:
            raise ProtocolError(f"{where}: expected {count} fields, got {got}")

    def finish(self) -> None:
        """Refuse bytes after the last item."""
        if self._unpacker.tell() != self._size:
            raise ProtocolError(f"{self._size - self._unpacker.tell()} bytes after the end of the message")


def pack(value: Any) -> bytes:
    """Msgpack of what a Codec's `encode` returned. ProtocolError for a value outside msgpack's range."""
    try:
        packed: bytes = msgpack.Packer(buf_size=4096).pack(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise ProtocolError(f"message cannot be encoded: {error}") from error
    return packed


def pack_array_header(count: int) -> bytes:
    """What precedes the entries of an array of `count`, packed one by one."""
    header: bytes = msgpack.Packer(buf_size=16).pack_array_header(count)
    return header


def read(body: bytes | bytearray | memoryview, parse: Callable[[Reader], Any]) -> Any:
    """What `parse` makes of the whole body. ProtocolError, and nothing else, for bytes that it does not accept."""
    reader = Reader(body)
    try:
        value = parse(reader)
        reader.finish()
    except (msgpack.UnpackException, ValueError, OverflowError) as error:
        raise ProtocolError(f"malformed message: {type(error).__name__} {error}") from error
    return value


def struct_codec(cls: type[Any]) -> Codec:
    """A dataclass as the array of its fields, in the order of their definition."""
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    codecs = [codec_for(hints[name], f"{cls.__name__}.{name}") for name in fields]
    encoders = [(name, codec.encode) for name, codec in zip(fields, codecs, strict=True)]
    decoders = [codec.decode for codec in codecs]

    def encode(value: Any) -> list[Any]:
        if type(value) is not cls:
            raise ProtocolError(f"expected {cls.__name__}, got {type(value).__name__}")
        return [encode_field(getattr(value, name)) for name, encode_field in encoders]

    def decode(reader: Reader) -> Any:
        reader.expect(len(decoders), cls.__name__)
        return cls(*[decode_field(reader) for decode_field in decoders])

    return Codec(encode, decode)


def codec_for(hint: Any, where: str) -> Codec:
    """The codec of a field's type. TypeError, at import, for a type that cannot travel."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _LEAVES:
        return _leaf((hint,), where)
    if origin in (typing.Union, types.UnionType) and all(arg in (*_LEAVES, type(None)) for arg in args):
        return _leaf(args, where)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _sequence(args[0], where)
    if origin is np.ndarray:
        return _array(np.dtype(typing.get_args(args[1])[0]), where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return struct_codec(hint)
    raise TypeError(f"{where}: {hint!r} has no wire form")


def _leaf(allowed: tuple[type, ...], where: str) -> Codec:
    names = " or ".join(kind.__name__ for kind in allowed)

    def check(value: Any) -> Any:
        if type(value) not in allowed:
            raise ProtocolError(f"{where}: expected {names}, got {type(value).__name__}")
        return value

    return Codec(check, lambda reader: check(reader.item()))


def _sequence(hint: Any, where: str) -> Codec:
    if hint in _LEAVES or typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _leaf_sequence(hint, where)
    entry = codec_for(hint, f"{where}[]")

    def encode(values: Any) -> list[Any]:
        return [entry.encode(value) for value in _checked_tuple(values, where)]

    def decode(reader: Reader) -> Any:
        return tuple([entry.decode(reader) for _ in range(reader.count(where))])

    return Codec(encode, decode)


def _leaf_sequence(hint: Any, where: str) -> Codec:
    """Ids and labels come in tens of thousands: types are checked by sets, not one by one."""
    allowed = frozenset(typing.get_args(hint) or (hint,))
    names = " or ".join(sorted(kind.__name__ for kind in allowed))

    def check(values: Any) -> Any:
        if not allowed.issuperset(map(type, values)):
            wrong = next(type(value).__name__ for value in values if type(value) not in allowed)
            raise ProtocolError(f"{where}[]: expected {names}, got {wrong}")
        return values

    def decode(reader: Reader) -> Any:
        item = reader.item
        return check(tuple([item() for _ in range(reader.count(where))]))

    return Codec(lambda values: check(_checked_tuple(values, where)), decode)


def _checked_tuple(values: Any, where: str) -> Any:
    if type(values) is not tuple:
        raise ProtocolError(f"{where}: expected tuple, got {type(values).__name__}")
    if len(values) > MAX_ITEMS:
        raise ProtocolError(f"{where}: {len(values)} entries; at most {MAX_ITEMS} travel in one message")
    return values


def _array(dtype: np.dtype[Any], where: str) -> Codec:
    code = _DTYPE_CODES[dtype.name]
    wire = dtype.newbyteorder("<")

    def encode(value: Any) -> msgpack.ExtType:
        if not isinstance(value, np.ndarray) or value.dtype != dtype or not 1 <= value.ndim <= MAX_ARRAY_NDIM:
            got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ProtocolError(
                f"{where}: expected a {dtype.name} array of 1 to {MAX_ARRAY_NDIM} dimensions, got {got}"
            )
        if max(value.shape) >= 2**32:
            raise ProtocolError(f"{where}: shape {value.shape} does not fit 32 bits")
        header = _ARRAY_HEADER.pack(code, value.ndim, 0, *value.shape, *(0,) * (MAX_ARRAY_NDIM - value.ndim))
        raw = np.ascontiguousarray(value, dtype=wire).reshape(-1).view(np.uint8)
        return msgpack.ExtType(ARRAY_EXT, b"".join((header, raw.data)))

    def decode(reader: Reader) -> Any:
        value = reader.item()
        if type(value) is not msgpack.ExtType or value.code != ARRAY_EXT:
            raise ProtocolError(f"{where}: expected a {dtype.name} array, got {type(value).__name__}")
        return _array_from(value.data, code, wire, where)

    return Codec(encode, decode)


def _array_from(data: bytes, code: int, wire: np.dtype[Any], where: str) -> np.ndarray[Any, np.dtype[Any]]:
    if len(data) < _ARRAY_HEADER.size:
        raise ProtocolError(f"{where}: an array of {len(data)} bytes is shorter than its header")
    got_code, ndim, zero, *sizes = _ARRAY_HEADER.unpack_from(data)
    if got_code != code or zero != 0:
        raise ProtocolError(f"{where}: expected dtype code {code} and zero, got {got_code} and {zero}")
    if not 1 <= ndim <= MAX_ARRAY_NDIM or any(sizes[ndim:]):
        raise ProtocolError(f"{where}: {ndim} dimensions with sizes {sizes}")
    count = math.prod(sizes[:ndim])
    needed, got = count * wire.itemsize, len(data) - _ARRAY_HEADER.size
    if got != needed:
        raise ProtocolError(f"{where}: shape {tuple(sizes[:ndim])} needs {needed} bytes, got {got}")
    flat = np.frombuffer(data, wire, offset=_ARRAY_HEADER.size) if count else np.empty(0, wire)
    array = flat.reshape(sizes[:ndim])
    return array if array.flags.aligned else array.copy()
