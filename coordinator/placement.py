"""Which shard a template belongs to, and which hosts the replicas of a shard go to. Pure: no I/O, no clock.

Rendezvous hashing (Thaler & Ravishankar 1998): each shard draws a weight from the key and the highest wins, so that
all templates of an identity share a shard and no table of keys is needed. `shards_of` and `rendezvous` are part of the
storage format: changing them loses templates, so a golden test holds them. Where replicas are is in the catalog, so how
hosts are chosen may change; the same arguments give the same answer on every machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.types import ShardConfig
from shard.errors import ClusterNotReady, InvalidParameter
from shard.keys import template_keys

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WEIGHTS_AT_ONCE = 1 << 20
_TAKEN = np.iinfo(np.int64).max


def shards_of(identities: Sequence[str | None], template_ids: Sequence[str], shards: int) -> npt.NDArray[np.int64]:
    """(n,) int64 shard numbers: by identity, or by template id where there is none."""
    labels = [
        f"t:{template_id}" if identity is None else f"i:{identity}"
        for identity, template_id in zip(identities, template_ids, strict=True)
    ]
    return rendezvous(labels, [f"shard:{i}" for i in range(shards)])


def rendezvous(labels: Sequence[str], places: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n,) int64: for each label the number of the place with the highest weight; ties go to the lower number."""
    keys = template_keys(labels)
    seeds = _mix(template_keys(places))
    winners = np.zeros(len(keys), np.int64)
    best = np.zeros(len(keys), np.uint64)
    # Some places at a time: weights of a large batch for thousands of shards at once would take gigabytes.
    step = max(1, _WEIGHTS_AT_ONCE // max(1, len(keys)))
    for start in range(0, len(seeds), step):
        weights = _mix(keys ^ seeds[start : start + step, np.newaxis])
        leaders = np.argmax(weights, axis=0)
        highest = np.take_along_axis(weights, leaders[np.newaxis], axis=0)[0]
        is_better = highest > best
        winners[is_better], best[is_better] = leaders[is_better] + start, highest[is_better]
    return winners


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(31))
        return mixed


def place_shards(gallery_id: str, shards: int, load: Mapping[str, int]) -> tuple[str, ...]:
    """A host for each shard of a new gallery that has one replica of each; see `place_replicas`."""
    return tuple(hosts[0] for hosts in place_replicas(gallery_id, shards, 1, load))


def place_replicas(gallery_id: str, shards: int, replicas: int, load: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """For each shard of a new gallery the hosts of its replicas, all different, the primary first.

    load: host name to the number of replicas it holds now. Each replica goes to a host that has the fewest, ties by
    rendezvous so that galleries spread out; the primaries of the gallery are spread as evenly as those places allow.
    Raises ClusterNotReady where there are fewer hosts than replicas, InvalidParameter for less than one replica.
    """
    if replicas < 1:
        raise InvalidParameter(f"replicas: expected at least 1, got {replicas}")
    if len(load) < replicas:
        present = ", ".join(sorted(load)) or "none"
        raise ClusterNotReady(f"{replicas} replicas of a shard need {replicas} hosts; {len(load)} present: {present}")
    held = _Held(load)
    placed = []
    for shard in range(shards):
        hosts: list[int] = []
        for _ in range(replicas):
            hosts.append(held.take(f"{gallery_id}:{shard}", hosts))
        placed.append([held.names[host] for host in hosts])
    spread = zip(_spread_primaries(placed), placed, strict=True)
    return tuple((primary, *(host for host in hosts if host != primary)) for primary, hosts in spread)


class _Held:
    """How many replicas each host holds, and whose turn is next. Hosts are numbered in the order of their names.

    Kept as arrays: a gallery of thousands of shards on a thousand hosts asks tens of thousands of times.
    """

    def __init__(self, load: Mapping[str, int]) -> None:
        self.names = sorted(load)
        self._held = np.array([load[name] for name in self.names], np.int64)
        self._seeds = _mix(template_keys(self.names))

    def take(self, label: str, taken: Sequence[int]) -> int:
        """The host with the fewest that is not among `taken`, ties by rendezvous; it holds one more from now on."""
        held = self._held.copy()
        held[list(taken)] = _TAKEN
        among = np.flatnonzero(held == held.min())
        host = int(among[np.argmax(_mix(template_keys([label]) ^ self._seeds[among]))])
        self._held[host] += 1
        return host


def spare_host(config: ShardConfig, load: Mapping[str, int], eligible: Collection[str]) -> str | None:
    """Where to put a new replica of a shard: the least loaded eligible host that has none of it; None if all have one.

    load: host name to the number of replicas it holds now, 0 where it is not named. Ties by rendezvous.
    """
    free = set(eligible).difference(config.in_sync, config.joining)
    return _least_loaded(f"{config.gallery_id}:{config.shard}", load, free) if free else None


def _least_loaded(label: str, load: Mapping[str, int], among: Collection[str]) -> str:
    least = min(load.get(host, 0) for host in among)
    candidates = sorted(host for host in among if load.get(host, 0) == least)
    return candidates[int(rendezvous([label], candidates)[0])]


def _spread_primaries(placed: Sequence[Sequence[str]]) -> list[str]:
    """For each shard one of its hosts, so that no other choice gives the hosts more even numbers of primaries.

    First each shard takes the host that leads the fewest. Then, while shards can be passed on along a path from a host
    that leads two more than the one at the path's end, they are: that no such path is left means that it is optimal
    (Harvey, Ladner, Lovász & Tamir 2006, "Semi-matchings for bipartite graphs").
    """
    leads = dict.fromkeys(sorted({host for hosts in placed for host in hosts}), 0)
    primaries = []
    for hosts in placed:
        first = min(hosts, key=lambda host: leads[host])
        leads[first] += 1
        primaries.append(first)
    while path := _relieving_path(placed, primaries, leads):
        for shard, host in path:
            leads[primaries[shard]] -= 1
            leads[host] += 1
            primaries[shard] = host
    return primaries


def _relieving_path(
    placed: Sequence[Sequence[str]], primaries: Sequence[str], leads: Mapping[str, int]
) -> list[tuple[int, str]]:
    """Which shards to give which primary, so that one host leads one less and another, two below it, one more."""
    shards_led: dict[str, list[int]] = {host: [] for host in leads}
    for shard, host in enumerate(primaries):
        shards_led[host].append(shard)
    came_from: dict[str, tuple[str, int] | None] = {}
    # From what a busier host has reached in vain nothing leads to a host that is low enough for one less busy either.
    for busiest in sorted(leads, key=lambda host: -leads[host]):
        if busiest in came_from:
            continue
        came_from[busiest] = None
        queue = deque([busiest])
        while queue:
            host = queue.popleft()
            if leads[host] <= leads[busiest] - 2:
                path = []
                while (step := came_from[host]) is not None:
                    path.append((step[1], host))
                    host = step[0]
                return path
            for shard in shards_led[host]:
                for other in placed[shard]:
                    if other not in came_from:
                        came_from[other] = (host, shard)
                        queue.append(other)
    return []


@dataclass(frozen=True, slots=True)
class Move:
    """A replica of a shard that should leave `source` for `target`, which has none."""

    gallery_id: str
    shard: int
    source: str
    target: str


def is_level(eligible: Collection[str], load: Mapping[str, int]) -> bool:
    """Whether `balance_moves` can have nothing to do, by the load alone: all on eligible hosts, each near the mean."""
    held = [load.get(host, 0) for host in set(eligible)]
    total, count = sum(held), len(held)
    is_elsewhere = any(shards for host, shards in load.items() if host not in eligible)
    return not is_elsewhere and all(total - count <= shards * count <= total + count for shards in held)


def balance_moves(configs: Sequence[ShardConfig], eligible: Collection[str], load: Mapping[str, int]) -> list[Move]:
    """The few moves that empty all hosts that are not eligible and bring each eligible one within one of the mean.

    configs: shards whose replicas may be moved; those that join count as replicas. load: host name to the number of
    replicas it holds now, those of `configs` included (`Catalog.shards_per_host`). No target has a replica of the shard
    before the moves, and no replica moves twice, so that they may be carried out in any order or side by side. A shard
    with more replicas than there are eligible hosts keeps the rest where they are. To level hosts, a follower is moved
    rather than a primary. Sorted by gallery and shard.
    """
    before = {(config.gallery_id, config.shard): {*config.in_sync, *config.joining} for config in configs}
    plan = _Plan(
        {shard: set(hosts) for shard, hosts in before.items()},
        {(config.gallery_id, config.shard): config.primary for config in configs},
        sorted(set(eligible)),
        load,
    )
    plan.drain()
    plan.level()
    moves = []
    for (gallery_id, shard), hosts in sorted(before.items()):
        after = plan.hosts_of[gallery_id, shard]
        # Equally many: a replica is never added or given up, only moved.
        pairs = zip(sorted(hosts - after), sorted(after - hosts), strict=True)
        moves += [Move(gallery_id, shard, source, target) for source, target in pairs]
    return moves


_Shard = tuple[str, int]


class _Plan:
    """Where the replicas will be. Only the difference to where they are is carried out."""

    def __init__(
        self,
        hosts_of: dict[_Shard, set[str]],
        primary_of: Mapping[_Shard, str],
        eligible: Sequence[str],
        load: Mapping[str, int],
    ) -> None:
        self.hosts_of = hosts_of
        self._primary_of = primary_of
        self._shards_on: dict[str, set[_Shard]] = {host: set() for host in eligible}
        for shard, hosts in hosts_of.items():
            for host in hosts & self._shards_on.keys():
                self._shards_on[host].add(shard)
        self._held = {host: max(load.get(host, 0), len(shards)) for host, shards in self._shards_on.items()}

    def drain(self) -> None:
        """Put every replica that is not on an eligible host on the least loaded one that has none of its shard."""
        for shard, hosts in sorted(self.hosts_of.items()):
            for source in sorted(hosts - self._held.keys()):
                free = self._held.keys() - hosts
                if free:
                    self._move(shard, source, _least_loaded(f"{shard[0]}:{shard[1]}", self._held, free))

    def level(self) -> None:
        """Take from the fullest and give to the emptiest until all are within one of the mean, or nothing helps."""
        while (step := self._next_step()) is not None:
            self._move(*step)

    def _next_step(self) -> tuple[_Shard, str, str] | None:
        total, count = sum(self._held.values()), len(self._held)
        by_load = sorted(self._held, key=lambda host: (self._held[host], host))
        for source in reversed(by_load):
            for target in by_load:
                is_off = self._held[source] * count > total + count or self._held[target] * count < total - count
                if not is_off or self._held[source] < self._held[target] + 2:
                    break
                movable = self._shards_on[source] - self._shards_on[target]
                if movable:
                    return min(movable, key=lambda shard: (self._primary_of[shard] == source, shard)), source, target
        return None

    def _move(self, shard: _Shard, source: str, target: str) -> None:
        self.hosts_of[shard].remove(source)
        self.hosts_of[shard].add(target)
        self._shards_on[target].add(shard)
        self._held[target] += 1
        if source in self._held:
            self._shards_on[source].remove(shard)
            self._held[source] -= 1
