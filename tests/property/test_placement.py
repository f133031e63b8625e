"""Placement and balancing, whatever the galleries, hosts and loads."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.placement import Move, balance_moves, is_level, place_replicas, place_shards
from coordinator.types import ShardConfig

HOSTS = [f"host-{i}" for i in range(7)]
GALLERY_IDS = st.text("0123456789abcdef", min_size=1, max_size=16)


@st.composite
def clusters(draw: st.DrawFn) -> list[ShardConfig]:
    """Shards of two galleries, of one to four replicas each, anywhere on seven hosts; some of them joining."""
    crowd = draw(st.integers(1, len(HOSTS)))
    configs = []
    for number in range(draw(st.integers(0, 24))):
        hosts = draw(st.lists(st.sampled_from(HOSTS[:crowd]), min_size=1, max_size=4, unique=True))
        in_sync = hosts[: draw(st.integers(1, len(hosts)))]
        joining = tuple(hosts[len(in_sync) :])
        configs.append(ShardConfig(f"g{number % 2}", number // 2, 1, in_sync[0], tuple(in_sync), joining))
    return configs


def holders(config: ShardConfig) -> set[str]:
    return {*config.in_sync, *config.joining}


def load_of(configs: list[ShardConfig]) -> Counter[str]:
    return Counter(host for config in configs for host in holders(config))


def carried_out(configs: list[ShardConfig], moves: list[Move]) -> dict[tuple[str, int], set[str]]:
    """Where the replicas are after the moves, each checked as it is made."""
    placed = {(config.gallery_id, config.shard): holders(config) for config in configs}
    for move in moves:
        hosts = placed[move.gallery_id, move.shard]
        assert move.source in hosts
        assert move.target not in hosts
        hosts.remove(move.source)
        hosts.add(move.target)
    return placed


@given(GALLERY_IDS, st.integers(0, 40), st.integers(1, 7), st.integers(0, 9))
def test_hosts_of_equal_load_stay_equal_in_replicas_and_primaries(
    gallery_id: str, shards: int, replicas: int, held: int
) -> None:
    placed = place_replicas(gallery_id, shards, replicas, dict.fromkeys(HOSTS, held))
    assert len(placed) == shards
    assert all(len(hosts) == len(set(hosts)) == replicas for hosts in placed)
    for counts in (Counter(host for hosts in placed for host in hosts), Counter(hosts[0] for hosts in placed)):
        given_each = [counts[host] for host in HOSTS]
        assert max(given_each) - min(given_each) <= 1


@given(GALLERY_IDS, st.integers(0, 30), st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 20), min_size=3))
def test_placement_levels_any_load_and_does_not_depend_on_its_order(
    gallery_id: str, shards: int, load: dict[str, int]
) -> None:
    placed = place_replicas(gallery_id, shards, 3, load)
    assert placed == place_replicas(gallery_id, shards, 3, dict(reversed(load.items())))
    after = Counter(load) + Counter(host for hosts in placed for host in hosts)
    # A host that was given a replica was among the three least loaded: only two others may have less by more than one.
    for hosts in placed:
        for host in hosts:
            assert sum(after[other] < after[host] - 1 for other in load) <= 2
    assert place_replicas(gallery_id, shards, 1, load) == tuple(
        (host,) for host in place_shards(gallery_id, shards, load)
    )


@given(st.lists(st.sampled_from(list(combinations(HOSTS[:5], 2))), max_size=8))
def test_no_other_choice_of_primaries_is_more_even(pairs: list[tuple[str, str]]) -> None:
    from coordinator.placement import _spread_primaries

    chosen = Counter(_spread_primaries(pairs))
    best = min(
        (sum(count**2 for count in Counter(pair[bits >> i & 1] for i, pair in enumerate(pairs)).values()))
        for bits in range(2 ** len(pairs))
    )
    assert sum(count**2 for count in chosen.values()) == best


@given(clusters(), st.sets(st.sampled_from(HOSTS)))
def test_moves_empty_hosts_and_level_the_others(configs: list[ShardConfig], eligible: set[str]) -> None:
    moves = balance_moves(configs, eligible, load_of(configs))
    assert {move.target for move in moves} <= eligible
    placed = carried_out(configs, moves)
    # In any order: no source is another's target, of one shard.
    assert carried_out(configs, moves[::-1]) == placed
    for config in configs:
        after = placed[config.gallery_id, config.shard]
        assert len(after) == len(holders(config))
        # What could not leave had nowhere to go.
        assert after <= eligible or eligible <= after
    if all(len(holders(config)) <= len(eligible) for config in configs):
        counts = Counter(host for hosts in placed.values() for host in hosts)
        mean = sum(counts.values()) / len(eligible) if eligible else 0
        assert all(abs(counts[host] - mean) <= 1 for host in eligible)


@given(clusters())
def test_no_fewer_moves_would_level_hosts(configs: list[ShardConfig]) -> None:
    load = load_of(configs)
    mean = sum(load.values()) / len(HOSTS)
    too_many = sum(max(0, load[host] - math.floor(mean + 1)) for host in HOSTS)
    too_few = sum(max(0, math.ceil(mean - 1) - load[host]) for host in HOSTS)
    assert len(balance_moves(configs, HOSTS, load)) == max(too_many, too_few)


@given(clusters(), st.sets(st.sampled_from(HOSTS), min_size=1))
def test_a_second_plan_has_nothing_to_do(configs: list[ShardConfig], eligible: set[str]) -> None:
    placed = carried_out(configs, balance_moves(configs, eligible, load_of(configs)))
    after = [
        ShardConfig(gallery_id, shard, 2, min(hosts), tuple(sorted(hosts)), ())
        for (gallery_id, shard), hosts in placed.items()
    ]
    assert balance_moves(after, eligible, load_of(after)) == []


@given(clusters(), st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 30)))
def test_replicas_that_are_not_listed_weigh_and_stay(configs: list[ShardConfig], others: dict[str, int]) -> None:
    load = load_of(configs) + Counter(others)
    moves = balance_moves(configs, HOSTS, load)
    carried_out(configs, moves)
    after = load + Counter(move.target for move in moves)
    after.subtract(move.source for move in moves)
    assert sum(after[host] ** 2 for host in HOSTS) <= sum(load[host] ** 2 for host in HOSTS)
    assert moves == balance_moves(configs[::-1], HOSTS[::-1], dict(reversed(load.items())))


@given(clusters(), st.sets(st.sampled_from(HOSTS), min_size=1))
def test_level_hosts_have_no_moves(configs: list[ShardConfig], eligible: set[str]) -> None:
    placed = carried_out(configs, balance_moves(configs, eligible, load_of(configs)))
    for hosts_of in ({(c.gallery_id, c.shard): holders(c) for c in configs}, placed):
        now = [
            ShardConfig(gallery_id, shard, 2, min(hosts), tuple(sorted(hosts)), ())
            for (gallery_id, shard), hosts in hosts_of.items()
        ]
        if is_level(eligible, load_of(now)):
            assert balance_moves(now, eligible, load_of(now)) == []
        elif all(hosts <= eligible for hosts in hosts_of.values()):
            counts = [load_of(now)[host] for host in eligible]
            assert max(counts) - sum(counts) / len(counts) > 1 or sum(counts) / len(counts) - min(counts) > 1
