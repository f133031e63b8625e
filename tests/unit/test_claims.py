"""Claims at one replica: all or none, until they are given back, end, or the shard has another primary."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.claims import MAX_HOLD_S, Claims, keepers_of
from coordinator.types import ShardConfig
from shard.keys import template_keys
from shard.types import KeyArray

CONFIG = ShardConfig("g", 0, 7, "a", ("a", "b"), ())
OF_B = replace(CONFIG, primary="b", in_sync=("b", "a"))
HOLD_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def keys(*numbers: int) -> KeyArray:
    return np.array(numbers, np.uint64)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claims(clock: Clock) -> Claims:
    return Claims(clock)


def test_ids_are_claimed_all_or_none(claims: Claims) -> None:
    assert claims.take(b"one", keys(1, 2), HOLD_S)
    assert not claims.take(b"two", keys(2, 3), HOLD_S)
    assert claims.take(b"three", keys(3), HOLD_S)
    assert claims.give_back(b"one")
    assert not claims.take(b"two", keys(2, 3), HOLD_S)
    assert claims.give_back(b"three")
    assert claims.take(b"two", keys(2, 3), HOLD_S)


def test_a_claim_is_made_again_and_given_back_once(claims: Claims) -> None:
    assert [claims.take(b"one", keys(1), HOLD_S) for _ in range(2)] == [True, True]
    assert [claims.give_back(b"one") for _ in range(2)] == [True, False]
    assert not claims.give_back(b"never made")


def test_a_claim_ends_by_itself_and_its_claimant_is_told(claims: Claims, clock: Clock) -> None:
    assert claims.take(b"one", keys(1), HOLD_S)
    clock.now += HOLD_S / 2
    assert claims.take(b"one", keys(1), HOLD_S), "which makes it no longer"
    clock.now += HOLD_S / 2
    assert claims.take(b"two", keys(1), HOLD_S)
    assert not claims.give_back(b"one")
    assert claims.give_back(b"two")


def test_no_claim_holds_for_ever(claims: Claims, clock: Clock) -> None:
    assert claims.take(b"one", keys(1), float("inf"))
    clock.now += MAX_HOLD_S
    assert claims.take(b"two", keys(1), HOLD_S)


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        (CONFIG, replace(CONFIG, epoch=8, in_sync=("a",)), True),
        (CONFIG, replace(CONFIG, epoch=9), False),  # somebody else may have been primary in between
        (CONFIG, replace(OF_B, epoch=8), False),
        (OF_B, replace(CONFIG, epoch=8), False),
        (None, CONFIG, False),
    ],
    ids=["a backup is left out", "an epoch is missing", "deposed", "made primary", "the first"],
)
def test_claims_hold_while_nobody_else_is_primary(
    claims: Claims, before: ShardConfig | None, after: ShardConfig, holds: bool
) -> None:
    assert claims.take(b"one", keys(1), HOLD_S)
    claims.follow(before, after, "a")
    assert claims.give_back(b"one") == holds


def test_every_id_has_one_keeper_and_shards_keep_about_as_many() -> None:
    ids = template_keys([f"id-{i}" for i in range(6_000)])
    keepers = keepers_of(ids, 3)
    assert np.array_equal(keepers, [int(key) % 3 for key in ids])
    assert np.bincount(keepers).min() > 1_800
