"""The filter language: what it says, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shard.errors import InvalidParameter
from shard.where import MAX_CONDITIONS, MAX_DEPTH, MAX_FIELD_BYTES, MAX_VALUES, MAX_WHERE_BYTES, canonical, predicate

DATA = {"site": "north", "age": 30, "vip": True, "none": None, "tags": ["a"], "badge": {"kind": "b", "no": 1.5}}


def meets(where: dict[str, Any], data: dict[str, Any] | None = None) -> bool:
    return predicate(canonical(where))(DATA if data is None else data)


@pytest.mark.parametrize(
    "where",
    [
        {"site": "north"},
        {"age": {"gte": 18, "lt": 65}},
        {"age": 30.0},
        {"vip": True},
        {"vip": {"ne": 1}},
        {"none": None},
        {"none": {"exists": True}},
        {"missing": {"exists": False}},
        {"missing": {"ne": "x"}},
        {"tags": {"exists": True}},
        {"tags": {"ne": "a"}},
        {"badge": {"exists": True}},
        {"badge.kind": {"in": ["a", "b"]}},
        {"badge.no": {"gt": 1, "lte": 1.5}},
        {"site": {"gt": "nor", "lt": "z"}},
        {"or": [{"site": "south"}, {"age": 30}]},
        {"and": [{"site": "north"}, {"not": {"age": {"lt": 30}}}]},
        {"site": "north", "not": {"vip": False}},
    ],
)
def test_it_holds(where: dict[str, Any]) -> None:
    assert meets(where)
    assert not meets({"not": where})


@pytest.mark.parametrize(
    "where",
    [
        {"age": "30"},
        {"age": True},
        {"vip": 1},
        {"vip": "true"},
        {"vip": {"gte": 0}},
        {"none": 0},
        {"none": {"lt": 1}},
        {"missing": None},
        {"missing": {"lt": 5}},
        {"missing.deeper": {"exists": True}},
        {"site.deeper": {"exists": True}},
        {"tags": "a"},
        {"tags.0": "a"},
        {"badge": {"in": ["b"]}},
        {"site": {"gt": 5}},
        {"age": {"in": [True, "30", None, 31]}},
        {"site": "north", "age": 31},
    ],
)
def test_it_does_not_hold(where: dict[str, Any]) -> None:
    assert not meets(where)


def test_numbers_compare_exactly() -> None:
    assert not meets({"n": 2**53}, {"n": 2**53 + 1})
    assert meets({"n": {"lt": 2**70 + 1}}, {"n": 2**70})
    assert meets({"n": 0}, {"n": -0.0})


def test_a_template_without_metadata_has_no_fields() -> None:
    assert meets({"a": {"exists": False}}, {})
    assert meets({"a": {"ne": 1}}, {})
    assert not meets({"a": None}, {})


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({}, "at least one condition"),
        ([], "at least one condition"),
        (None, "at least one condition"),
        ({"and": []}, "where.and: expected a list of at least one"),
        ({"or": {"a": 1}}, "where.or: expected a list"),
        ({"not": [{"a": 1}]}, "where.not: expected an object"),
        ({"or": [{"a": 1}, {}]}, r"where.or\[1\]: expected an object"),
        ({"a": {}}, "where.a: expected an operator"),
        ({"a": {"like": "x"}}, "where.a: expected an operator of eq.*'like'"),
        ({"a": [1]}, "where.a.eq: expected a text"),
        ({"a": {"eq": {"b": 1}}}, "where.a.eq: expected a text"),
        ({"a": {"in": []}}, "where.a.in: expected a list of 1 to"),
        ({"a": {"in": "abc"}}, "where.a.in: expected a list"),
        ({"a": {"in": [[1]]}}, r"where.a.in\[0\]"),
        ({"a": {"in": list(range(MAX_VALUES + 1))}}, "expected a list of 1 to"),
        ({"a": {"exists": 1}}, "expected true or false"),
        ({"a": {"gt": True}}, "expected a number or a text"),
        ({"a": {"lt": None}}, "expected a number or a text"),
        ({"a": float("nan")}, "finite"),
        ({"a": float("inf")}, "finite"),
        ({"a": "\ud800"}, "Unicode"),
        ({"\ud800": 1}, "Unicode"),
        ({"": 1}, "expected a field"),
        ({"a..b": 1}, "expected a field"),
        ({"a" * (MAX_FIELD_BYTES + 1): 1}, "expected a field"),
        ({1: 1}, "expected text as keys"),
        ({"or": [{"a": i} for i in range(MAX_CONDITIONS + 1)]}, "at most 64 conditions"),
        ({"a": "x" * MAX_WHERE_BYTES}, "at most 65536 bytes"),
        ({"a": b"x"}, "expected a text"),
    ],
)
def test_refusals_name_the_place(where: Any, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        canonical(where)


def nested(depth: int) -> dict[str, Any]:
    return {"a": 1} if depth == 1 else {"not": nested(depth - 1)}


def test_depth_is_limited() -> None:
    canonical(nested(MAX_DEPTH))
    with pytest.raises(InvalidParameter, match="8 deep"):
        canonical(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b'{"a":NaN}', b"\xff", b"[" * 100_000])
def test_what_travels_is_checked_again(data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        predicate(data)


def test_one_filter_has_one_form() -> None:
    assert canonical({"b": 1, "a": {"lt": 2, "gt": 1}}) == canonical({"a": {"gt": 1, "lt": 2}, "b": 1})
    assert json.loads(canonical({"ü": "𝄞"})) == {"ü": "𝄞"}
