"""Which replica of each shard to ask. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace


def choose_hosts(
    options: Mapping[int, Sequence[str]], load: Callable[[str], int], turn: int = 0
) -> dict[str, tuple[int, ...]]:
    """Host to the shards to ask it for, each shard once; a shard without options is left out.

    options: shard to the hosts that may be asked for it. load: requests a host has unanswered. Greedy: next comes the
    host with the least load for each shard it would take, so that few hosts are asked and busy ones last. `turn` says
    who is first among equals; a caller that counts it up spreads its requests.
    """
    held: dict[str, list[int]] = {}
    for shard, hosts in options.items():
        for host in hosts:
            held.setdefault(host, []).append(shard)
    names = sorted(held)
    place = {name: (number - turn) % len(names) for number, name in enumerate(names)}
    loads = {name: load(name) + 1 for name in names}
    # What a host would take only ever shrinks, so its place in the heap is at worst too early: then it is put back.
    heap = [(loads[name] / len(held[name]), place[name], name) for name in names]
    heapify(heap)
    chosen: dict[str, tuple[int, ...]] = {}
    taken: set[int] = set()
    while heap:
        _, _, name = heap[0]
        rest = [shard for shard in held[name] if shard not in taken]
        if len(rest) == len(held[name]):
            chosen[name] = tuple(rest)
            taken.update(rest)
        held[name] = rest if name not in chosen else []
        if held[name]:
            heapreplace(heap, (loads[name] / len(rest), place[name], name))
        else:
            heappop(heap)
    return chosen
