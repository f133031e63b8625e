"""Which replica of each shard to ask. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


def choose_hosts(
    options: Mapping[int, Sequence[str]], load: Callable[[str], int], turn: int = 0
) -> dict[str, tuple[int, ...]]:
    """Host to the shards to ask it for, each shard once; a shard without options is left out.

    options: shard to the hosts that may be asked for it. load: requests a host has unanswered. Greedy: next comes the
    host with the least load for each shard it would take, so that few hosts are asked and busy ones last. `turn` says
    who is first among equals; a caller that counts it up spreads its requests.
    """
    left = {shard: hosts for shard, hosts in options.items() if hosts}
    names = sorted({host for hosts in left.values() for host in hosts})
    place = {name: (number - turn) % len(names) for number, name in enumerate(names)}
    loads = {name: load(name) + 1 for name in names}
    chosen: dict[str, tuple[int, ...]] = {}
    while left:
        held: dict[str, list[int]] = {}
        for shard, hosts in left.items():
            for host in hosts:
                held.setdefault(host, []).append(shard)
        best = min(held, key=lambda name: (loads[name] / len(held[name]), place[name]))
        chosen[best] = tuple(held[best])
        for shard in held[best]:
            del left[shard]
    return chosen
