"""Filters on metadata: a small language in JSON, its canonical form, and how it is evaluated.

    {"site": "north", "age": {"gte": 18, "lt": 65}, "or": [{"vip": true}, {"badge.kind": {"in": ["a", "b"]}}]}

Several keys of an object have to hold together. Values compare as JSON has them: true is no number, "1" is not 1, and
1 is 1.0. A field that is missing, or is a list or an object, has no value: it meets `ne`, and `exists` if it is there,
and nothing else. Pure: knows no shard, no rows, no storage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from shard.errors import InvalidParameter

MAX_CONDITIONS = 64
MAX_DEPTH = 8
"""Objects of conditions within each other."""
MAX_FIELD_BYTES = 256
MAX_VALUES = 1_024
"""Values of one `in`."""
MAX_WHERE_BYTES = 65_536
"""Longest canonical form."""
OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "exists")

Predicate = Callable[[Mapping[str, Any]], bool]
"""Whether a template's metadata, {} for none, meets the filter."""
_Scalar = str | int | float | bool | None
_MISSING: Final = object()


def canonical(where: object) -> bytes:
    """The filter as it travels: UTF-8 JSON, keys sorted. InvalidParameter, with the place, for what is no filter."""
    _Parser().whole(where, "where", 1)
    try:
        data = json.dumps(where, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidParameter(f"where: not representable as JSON: {error}") from None
    if len(data) > MAX_WHERE_BYTES:
        raise InvalidParameter(f"where: expected at most {MAX_WHERE_BYTES} bytes of JSON, got {len(data)}")
    return data


@lru_cache(maxsize=256)
def predicate(where: bytes) -> Predicate:
    """What a canonical form says; InvalidParameter if it is none."""
    if len(where) > MAX_WHERE_BYTES:
        raise InvalidParameter(f"where: expected at most {MAX_WHERE_BYTES} bytes of JSON, got {len(where)}")
    try:
        parsed = json.loads(where)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"where: expected JSON: {error}") from None
    return _Parser().whole(parsed, "where", 1)


class _Parser:
    """Checks one filter and compiles it; counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def whole(self, value: object, at: str, depth: int) -> Predicate:
        """A condition: an object of fields and of `and`, `or`, `not`."""
        if not isinstance(value, Mapping) or not value:
            raise InvalidParameter(f"{at}: expected an object with at least one condition, got {value!r:.80}")
        if depth > MAX_DEPTH:
            raise InvalidParameter(f"{at}: expected conditions at most {MAX_DEPTH} deep")
        return _all([self._entry(key, inner, at, depth) for key, inner in value.items()])

    def _entry(self, key: object, value: object, at: str, depth: int) -> Predicate:
        if not isinstance(key, str):
            raise InvalidParameter(f"{at}: expected text as keys, got {key!r:.80}")
        if key == "not":
            inner = self.whole(value, f"{at}.not", depth + 1)
            return lambda data: not inner(data)
        if key in ("and", "or"):
            parts = self._list(value, f"{at}.{key}", depth)
            return _all(parts) if key == "and" else _any(parts)
        return self._field(key, value, at)

    def _list(self, value: object, at: str, depth: int) -> list[Predicate]:
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidParameter(f"{at}: expected a list of at least one condition, got {value!r:.80}")
        return [self.whole(inner, f"{at}[{i}]", depth + 1) for i, inner in enumerate(value)]

    def _field(self, field: str, value: object, at: str) -> Predicate:
        path = _path(field, at)
        if not isinstance(value, Mapping):
            value = {"eq": value}
        if not value:
            raise InvalidParameter(f"{at}.{field}: expected an operator of {', '.join(OPERATORS)}, got none")
        return _all([self._condition(path, operator, given, f"{at}.{field}") for operator, given in value.items()])

    def _condition(self, path: tuple[str, ...], operator: object, given: object, at: str) -> Predicate:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InvalidParameter(f"where: expected at most {MAX_CONDITIONS} conditions")
        if operator not in OPERATORS:
            raise InvalidParameter(f"{at}: expected an operator of {', '.join(OPERATORS)}, got {operator!r:.80}")
        test = _test(str(operator), given, f"{at}.{operator}")
        return lambda data: test(_found(data, path))


def _path(field: str, at: str) -> tuple[str, ...]:
    """The keys that a dotted path goes through."""
    try:
        size = len(field.encode())
    except UnicodeEncodeError:
        raise InvalidParameter(f"{at}: field {field!r:.80} is not valid Unicode") from None
    path = tuple(field.split("."))
    if size > MAX_FIELD_BYTES or not all(path):
        raise InvalidParameter(
            f"{at}: expected a field of 1 to {MAX_FIELD_BYTES} bytes, names separated by dots, got {field!r:.80}"
        )
    return path


def _found(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = data
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _test(operator: str, given: object, at: str) -> Callable[[Any], bool]:
    """Whether a value that was found, or _MISSING, meets one operator."""
    if operator == "exists":
        if not isinstance(given, bool):
            raise InvalidParameter(f"{at}: expected true or false, got {given!r:.80}")
        return lambda value: (value is not _MISSING) is given
    if operator == "in":
        if not isinstance(given, (list, tuple)) or not 0 < len(given) <= MAX_VALUES:
            raise InvalidParameter(f"{at}: expected a list of 1 to {MAX_VALUES} values, got {given!r:.80}")
        wanted = frozenset(_tagged(_scalar(value, f"{at}[{i}]")) for i, value in enumerate(given))
        return lambda value: _is_scalar(value) and _tagged(value) in wanted
    scalar = _scalar(given, at)
    if operator in ("eq", "ne"):
        tagged, is_equal = _tagged(scalar), operator == "eq"
        return lambda value: (_is_scalar(value) and _tagged(value) == tagged) is is_equal
    return _comparison(operator, scalar, at)


def _comparison(operator: str, given: _Scalar, at: str) -> Callable[[Any], bool]:
    """Numbers with numbers, texts with texts by code points; nothing else has an order."""
    if isinstance(given, str):
        kinds: tuple[type, ...] = (str,)
    elif isinstance(given, (int, float)) and not isinstance(given, bool):
        kinds = (int, float)
    else:
        raise InvalidParameter(f"{at}: expected a number or a text to compare with, got {given!r:.80}")
    compare: dict[str, Callable[[Any], bool]] = {
        "gt": lambda value: bool(value > given),
        "gte": lambda value: bool(value >= given),
        "lt": lambda value: bool(value < given),
        "lte": lambda value: bool(value <= given),
    }
    holds = compare[operator]
    return lambda value: type(value) in kinds and holds(value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _tagged(value: _Scalar) -> tuple[bool, _Scalar]:
    """Equal for equal JSON values only: for Python true is 1."""
    return isinstance(value, bool), value


def _scalar(value: object, at: str) -> _Scalar:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidParameter(f"{at}: {value!r:.80} is not valid Unicode") from None
        return value
    raise InvalidParameter(f"{at}: expected a text, a finite number, true, false or null, got {value!r:.80}")


def _all(parts: list[Predicate]) -> Predicate:
    if len(parts) == 1:
        return parts[0]
    return lambda data: all(part(data) for part in parts)


def _any(parts: list[Predicate]) -> Predicate:
    if len(parts) == 1:
        return parts[0]
    return lambda data: any(part(data) for part in parts)
