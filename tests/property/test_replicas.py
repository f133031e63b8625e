"""Whom to ask, against the greedy choice written plainly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from coordinator.replicas import choose_hosts

HOSTS = "abcdefg"
OPTIONS = st.dictionaries(st.integers(0, 20), st.lists(st.sampled_from(HOSTS), max_size=3, unique=True))


def greedy(options: Mapping[int, Sequence[str]], load: Mapping[str, int], turn: int) -> dict[str, tuple[int, ...]]:
    left = {shard: hosts for shard, hosts in options.items() if hosts}
    names = sorted({host for hosts in left.values() for host in hosts})
    place = {name: (number - turn) % len(names) for number, name in enumerate(names)}
    chosen: dict[str, tuple[int, ...]] = {}
    while left:
        held: dict[str, list[int]] = {}
        for shard, hosts in left.items():
            for host in hosts:
                held.setdefault(host, []).append(shard)
        best = min(held, key=lambda name: ((load[name] + 1) / len(held[name]), place[name]))
        chosen[best] = tuple(held[best])
        left = {shard: hosts for shard, hosts in left.items() if shard not in held[best]}
    return chosen


@given(OPTIONS, st.fixed_dictionaries({host: st.integers(0, 5) for host in HOSTS}), st.integers(0, 100))
def test_next_comes_the_host_with_the_least_load_for_each_shard(
    options: dict[int, list[str]], load: dict[str, int], turn: int
) -> None:
    chosen = choose_hosts(options, load.__getitem__, turn)
    assert list(chosen.items()) == list(greedy(options, load, turn).items())
