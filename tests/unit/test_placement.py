import hashlib
from collections import Counter

import numpy as np
import pytest

from coordinator.placement import place_replicas, place_shards, rendezvous, shards_of, spare_host
from coordinator.types import ShardConfig
from shard.errors import ClusterNotReady, InvalidParameter


def test_an_identity_lives_in_one_shard_whatever_its_template_ids() -> None:
    shards = shards_of(["Ann"] * 50, [f"t{i}" for i in range(50)], 7)
    assert len(set(shards.tolist())) == 1


def test_templates_without_identity_spread_evenly() -> None:
    counts = Counter(shards_of([None] * 20_000, [f"t{i}" for i in range(20_000)], 7).tolist())
    assert sorted(counts) == list(range(7))
    assert max(counts.values()) < 1.1 * min(counts.values())


def test_an_identity_and_a_template_of_the_same_text_are_different_keys() -> None:
    names = [f"x{i}" for i in range(200)]
    assert (shards_of(names, names, 16) != shards_of([None] * 200, names, 16)).any()


def test_placement_is_part_of_the_storage_format() -> None:
    """Golden: another answer here means that templates on disk are looked for in the wrong shard."""
    names = ["Ann", "Bob", "Żaneta", "李雷", "e\u0301", "a" * 128]
    assert shards_of(names, names, 5).tolist() == GOLDEN_IDENTITIES
    assert shards_of([None] * 6, names, 5).tolist() == GOLDEN_TEMPLATES


GOLDEN_IDENTITIES = [4, 3, 1, 1, 2, 2]
GOLDEN_TEMPLATES = [2, 3, 3, 2, 2, 2]
GOLDEN_THOUSAND = "999c28f2370fc243"


def test_adding_a_place_moves_only_what_the_new_place_wins() -> None:
    labels = [f"l{i}" for i in range(5_000)]
    before = rendezvous(labels, ["a", "b", "c"])
    after = rendezvous(labels, ["a", "b", "c", "d"])
    moved = before != after
    assert (after[moved] == 3).all()
    assert 0.2 < np.mean(moved) < 0.3


def test_new_shards_go_to_the_least_loaded_hosts() -> None:
    placed = Counter(place_shards("g1", 9, {"a": 3, "b": 0, "c": 0}))
    assert placed == {"a": 1, "b": 4, "c": 4}


def test_small_galleries_spread_over_hosts() -> None:
    hosts = Counter(place_shards(f"g{i}", 1, dict.fromkeys("abcd", 0))[0] for i in range(400))
    assert set(hosts) == set("abcd")
    assert min(hosts.values()) > 60


@pytest.mark.parametrize(
    ("gallery_id", "load", "hosts"),
    [
        ("g1", {"a": 3, "b": 0, "c": 0}, "c b c b c b"),
        ("00" * 8, {"h0": 0, "h1": 0, "h2": 0}, "h0 h1 h2 h2 h0 h1 h1 h2"),
        ("5f", {"z": 1, "y": 2}, "z y z z y"),
    ],
)
def test_one_replica_is_placed_as_before_there_were_replicas(gallery_id: str, load: dict[str, int], hosts: str) -> None:
    expected = tuple(hosts.split())
    assert place_shards(gallery_id, len(expected), load) == expected
    assert place_replicas(gallery_id, len(expected), 1, load) == tuple((host,) for host in expected)


def test_replicas_of_a_shard_are_on_different_hosts_and_primaries_are_spread() -> None:
    placed = place_replicas("g1", 12, 2, dict.fromkeys("abcd", 0))
    assert all(len(set(hosts)) == 2 for hosts in placed)
    assert Counter(host for hosts in placed for host in hosts) == dict.fromkeys("abcd", 6)
    assert Counter(hosts[0] for hosts in placed) == dict.fromkeys("abcd", 3)


def test_too_few_hosts_for_the_replicas_are_named() -> None:
    with pytest.raises(ClusterNotReady, match="3 replicas of a shard need 3 hosts; 2 present: a, b"):
        place_replicas("g1", 4, 3, {"b": 0, "a": 7})
    with pytest.raises(ClusterNotReady, match="0 present: none"):
        place_replicas("g1", 4, 1, {})
    with pytest.raises(InvalidParameter, match="replicas"):
        place_replicas("g1", 4, 0, {"a": 0})


def test_a_spare_host_has_nothing_of_the_shard_and_the_least_of_others() -> None:
    config = ShardConfig("g1", 0, 5, "a", ("a", "b"), ("c",))
    load = {"a": 0, "b": 0, "c": 0, "d": 4, "e": 3, "f": 1}
    assert spare_host(config, load, "abcdef") == "f"
    assert spare_host(config, load, ["d", "e"]) == "e"
    assert spare_host(config, load, ["d", "new"]) == "new"
    assert spare_host(config, load, "abc") is None
    assert spare_host(config, load, "") is None


def test_spare_hosts_of_many_shards_are_spread() -> None:
    configs = [ShardConfig("g1", shard, 1, "a", ("a",), ()) for shard in range(200)]
    chosen = Counter(spare_host(config, {}, "abcd") for config in configs)
    assert set(chosen) == set("bcd")
    assert min(chosen.values()) > 40


def test_a_thousand_hosts_are_placed_evenly_and_the_same_as_ever() -> None:
    """Golden: another answer would lose nothing, replicas are in the catalog, but nobody should get it unawares."""
    placed = place_replicas("0123456789abcdef", 1_024, 2, {f"host-{i}": 0 for i in range(1_000)})
    held = Counter(host for hosts in placed for host in hosts)
    assert set(held.values()) == {2, 3}
    assert max(Counter(hosts[0] for hosts in placed).values()) == 2
    assert hashlib.sha256(repr(placed).encode()).hexdigest()[:16] == GOLDEN_THOUSAND
