"""The filter over template keys: never a miss, few false finds, nothing before it is filled."""

from pathlib import Path

import numpy as np

from shard.keys import template_keys
from shard.seen import SeenKeys
from shard.shard import Shard
from shard.types import KeyArray
from tests.faces_like import batch_of, unit_rows


def ids_and_keys(prefix: str, n: int) -> tuple[list[str], KeyArray]:
    ids = [f"{prefix}{i}" for i in range(n)]
    return ids, template_keys(ids)


def test_before_it_is_filled_everything_may_be_there() -> None:
    ids, keys = ids_and_keys("a", 10)
    seen = SeenKeys()
    seen.add(keys[:5])
    maybe, maybe_keys = seen.among(ids, keys)
    assert list(maybe) == ids
    np.testing.assert_array_equal(maybe_keys, keys)


def test_what_was_added_is_found_and_few_others() -> None:
    stored, stored_keys = ids_and_keys("a", 20_000)
    later, later_keys = ids_and_keys("b", 20_000)
    others, other_keys = ids_and_keys("c", 20_000)
    seen = SeenKeys()
    seen.prepare([stored_keys[:7], stored_keys[7:]])
    assert seen.among(others, other_keys)[0] != others
    for begin in range(0, len(later), 1_000):  # it is made larger on the way
        seen.prepare([stored_keys, later_keys[:begin]])
        seen.add(later_keys[begin : begin + 1_000])
    for ids, keys in ((stored, stored_keys), (later, later_keys)):
        found, found_keys = seen.among(ids, keys)
        assert list(found) == ids
        np.testing.assert_array_equal(found_keys, keys)
    false_finds = len(seen.among(others, other_keys)[0])
    assert 0 < false_finds < len(others) * 0.03


def test_a_reopened_shard_knows_its_ids(tmp_path: Path) -> None:
    def create() -> Shard:
        return Shard.create(tmp_path / "s", dim=64, load_model={}.__getitem__)

    with create() as shard:
        shard.enroll(batch_of(unit_rows(20, 64, seed=1), prefix="a"))
        shard.flush()
        shard.enroll(batch_of(unit_rows(20, 64, seed=2), prefix="b"))
    with create() as shard:
        receipt = shard.enroll(batch_of(unit_rows(20, 64, seed=2), prefix="b"), skip_existing=True)
        assert (receipt.enrolled, receipt.skipped) == (0, 20)
        assert shard.existing(["a3", "b4", "c5"]) == {"a3", "b4"}
        assert shard.delete(template_ids=["a3"]) == 1
        assert shard.existing(["a3", "b4", "c5"]) == {"b4"}
        assert shard.enroll(batch_of(unit_rows(4, 64, seed=1), prefix="a"), skip_existing=True).enrolled == 1
