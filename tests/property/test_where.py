"""Filters against an evaluator that is plain enough to trust by reading, on random metadata; and in a shard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shard import filters
from shard.compaction import compact
from shard.errors import UnknownModel
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.types import EnrollBatch, SearchParams
from shard.where import canonical, predicate
from tests.faces_like import unit_rows

NAMES = ["a", "b", "ü"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e300, 2**53, 2**53 + 1, 2**70]),
    st.sampled_from(["", "a", "b", "1", "true", "ü", "𝄞"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
METADATA = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)
FIELDS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join)
ORDERED = st.one_of(st.integers(-2, 2), st.sampled_from([0.5, 1e300, 2**53 + 1, "", "a", "ü"]))
OPERATORS = st.one_of(
    st.tuples(st.sampled_from(["eq", "ne"]), SCALARS),
    st.tuples(st.sampled_from(["gt", "gte", "lt", "lte"]), ORDERED),
    st.tuples(st.just("in"), st.lists(SCALARS, min_size=1, max_size=3)),
    st.tuples(st.just("exists"), st.booleans()),
)
CONDITIONS = st.dictionaries(
    FIELDS, SCALARS | st.lists(OPERATORS, min_size=1, max_size=2).map(dict), min_size=1, max_size=2
)
WHERE = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.dictionaries(
            st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=1
        ),
        inner.map(lambda part: {"not": part}),
        st.builds(lambda left, right: {**left, "not": right}, CONDITIONS, inner),
    ),
    max_leaves=6,
)


def kind(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}
    return names.get(type(value), "other")


def same(a: Any, b: Any) -> bool:
    return kind(a) == kind(b) != "other" and a == b


def plain(where: dict[str, Any], data: Any) -> bool:
    return all(plain_entry(key, value, data) for key, value in where.items())


def plain_entry(key: str, value: Any, data: Any) -> bool:
    if key == "and":
        return all(plain(part, data) for part in value)
    if key == "or":
        return any(plain(part, data) for part in value)
    if key == "not":
        return not plain(value, data)
    found, is_there = data, True
    for name in key.split("."):
        is_there = is_there and isinstance(found, dict) and name in found
        found = found[name] if is_there else None
    conditions = value if isinstance(value, dict) else {"eq": value}
    return all(plain_condition(operator, wanted, found, is_there) for operator, wanted in conditions.items())


def plain_condition(operator: str, wanted: Any, found: Any, is_there: bool) -> bool:
    if operator == "exists":
        return is_there == wanted
    if operator == "ne":
        return not (is_there and same(found, wanted))
    if not is_there:
        return False
    if operator == "eq":
        return same(found, wanted)
    if operator == "in":
        return any(same(found, one) for one in wanted)
    if kind(found) != kind(wanted):
        return False
    return {"gt": found > wanted, "gte": found >= wanted, "lt": found < wanted, "lte": found <= wanted}[operator]


@settings(max_examples=400)
@given(where=WHERE, data=METADATA)
def test_a_filter_says_what_it_says_plainly(where: dict[str, Any], data: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(data))
    assert predicate(canonical(where))(stored) == plain(where, stored)


@settings(max_examples=30)
@given(
    wheres=st.lists(WHERE, min_size=1, max_size=3),
    steps=st.lists(
        st.one_of(
            st.lists(st.tuples(st.none() | METADATA, st.sampled_from([None, "ann", "bob"])), min_size=1, max_size=20),
            st.sets(st.integers(0, 60), min_size=1, max_size=9),
            st.just("compact"),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_a_shard_searches_among_those_that_meet_it(wheres: list[dict[str, Any]], steps: list[Any]) -> None:
    """Filters are asked for again after every step, so that what is kept of them is met with rows that came since."""
    with tempfile.TemporaryDirectory(prefix="facegrid-where-") as directory:
        kept: dict[str, tuple[dict[str, Any] | None, str | None]] = {}
        with Shard.create(Path(directory) / "shard", dim=64, load_model=no_model) as shard:
            for number, step in enumerate(steps):
                take(shard, kept, number, step)
                for where in wheres:
                    for people in ((), ("ann", "nobody")):
                        assert_found(shard, kept, where, people)


def no_model(model_id: str) -> SearchModel:
    raise UnknownModel(model_id)


def take(shard: Shard, kept: dict[str, Any], number: int, step: Any) -> None:
    if step == "compact":
        compact(shard)
    elif isinstance(step, set):
        doomed = [name for i, name in enumerate(sorted(kept)) if i in step]
        assert shard.delete(template_ids=doomed) == len(doomed)
        for name in doomed:
            del kept[name]
    else:
        names = [f"t{number}-{i}" for i in range(len(step))]
        data = tuple(None if one is None else json.dumps(one).encode() for one, _ in step)
        rows = unit_rows(len(step), 64, seed=number)
        shard.enroll(EnrollBatch(rows, tuple(names), tuple(person for _, person in step), data))
        kept.update(zip(names, step, strict=True))


def assert_found(shard: Shard, kept: dict[str, Any], where: dict[str, Any], people: tuple[str, ...]) -> None:
    params = SearchParams(k=200, exact=True, identities=people, where=canonical(where))
    found = search_shards([shard], unit_rows(2, 64, seed=99), params)
    expected = {
        name
        for name, (data, person) in kept.items()
        if (not people or person in people) and plain(where, json.loads(json.dumps(data or {})))
    }
    for names in found.template_ids:
        assert sorted(names) == sorted(expected)


def test_evaluated_rows_are_not_evaluated_again(tmp_path: Path) -> None:
    with Shard.create(tmp_path / "shard", dim=64, load_model=no_model) as shard:
        where, reads = canonical({"n": {"lt": 5}}), []
        own = shard._filters._store.templates_between
        shard._filters._store.templates_between = lambda first, last: reads.append((first, last)) or own(first, last)
        for begin, end in ((0, 11), (11, 13), (13, 13)):
            if end > begin:
                shard.enroll(batch(range(begin, end)))
            bits = np.unpackbits(shard.filter((), where), bitorder="little")[:end]
            assert bits.tolist() == [n < 5 for n in range(end)]
        assert reads == [(0, 11), (8, 13)]


def test_few_filters_are_kept(tmp_path: Path) -> None:
    with Shard.create(tmp_path / "shard", dim=64, load_model=no_model) as shard:
        shard.enroll(batch(range(9)))
        for n in range(3 * filters.KEPT_FILTERS):
            shard.filter((), canonical({"n": n}))
        assert len(shard._filters._kept) == filters.KEPT_FILTERS


def batch(numbers: range) -> EnrollBatch:
    n = len(numbers)
    metadata = tuple(b'{"n":%d}' % i for i in numbers)
    return EnrollBatch(unit_rows(n, 64, seed=numbers.start), tuple(f"t{i}" for i in numbers), (None,) * n, metadata)
