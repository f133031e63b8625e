"""Which answers of a read count. Pure bookkeeping over groups of shards; knows no hosts and no requests.

Every request is for one group of shards. A group is only ever asked again as a whole or in parts, so the groups of a
read form a forest: two of them are one within the other, or apart. Whichever answers come, those that count are chosen
so that none is within another, and every shard is in one of them at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from shard.errors import DeadlineExceeded, FacegridError


class Group:
    """Shards that were asked for together, and the parts that were asked for again. `parts` cover all its shards."""

    __slots__ = ("parent", "parts", "reply", "shards")

    def __init__(self, shards: tuple[int, ...], parent: Group | None) -> None:
        self.shards = shards
        self.parent = parent
        self.parts: list[Group] = []
        self.reply: Any = None


class Attempt:
    """One request under way. group: None once the read is over. patience_s: how long it may take before it is late;
    hedge_at, late_at: time.monotonic() values, infinite where nothing is to be done then."""

    __slots__ = ("began", "group", "hedge_at", "host", "is_late", "late_at", "patience_s")

    def __init__(self, group: Group, host: str, began: float) -> None:
        self.group: Group | None = group
        self.host = host
        self.began = began
        self.patience_s = math.inf
        self.hedge_at = math.inf
        self.late_at = math.inf
        self.is_late = False


class Progress:
    """What is answered, under way and lost of one read."""

    def __init__(self, shards: int, asked: Sequence[int] | None = None) -> None:
        """shards: how many the gallery has. asked: those that the read is about, all of them if None."""
        self.asked = range(shards) if asked is None else asked
        self.open = len(self.asked)
        """Shards that have neither an answer nor failed."""
        self.errors: dict[int, FacegridError] = {}
        """An error of each shard that met one, answered since or not."""
        self.failures: dict[int, FacegridError] = {}
        """The error of each shard that nothing more is expected of."""
        self._groups: list[Group] = []
        self._answered: set[int] = set()
        # For each shard the requests that may bring its answer, and how many of them are late.
        self._under_way = [0] * shards
        self._late = [0] * shards

    # Groups

    def add(self, shards: tuple[int, ...]) -> Group:
        """A group that is within no other; the shards are in none yet."""
        group = Group(shards, None)
        self._groups.append(group)
        return group

    def split(self, leaf: Group, pieces: Sequence[tuple[int, ...]]) -> list[Group]:
        """The groups to ask for pieces of a leaf; the leaf itself where there is one piece and it is the whole.

        Shards of the leaf that are in no piece become a group of their own.
        """
        if not pieces:
            return []
        if len(pieces) == 1 and len(pieces[0]) == len(leaf.shards):
            return [leaf]
        parts = [Group(piece, leaf) for piece in pieces]
        taken = {shard for piece in pieces for shard in piece}
        rest = tuple([shard for shard in leaf.shards if shard not in taken])
        leaf.parts = [*parts, Group(rest, leaf)] if rest else parts
        return parts

    def leaves(self, group: Group) -> Iterator[Group]:
        """The parts of a group that have no parts; itself if it has none."""
        if not group.parts:
            yield group
            return
        for part in group.parts:
            yield from self.leaves(part)

    def leaf_of(self, shard: int) -> Group:
        """The smallest group that the shard is in."""
        group = next(group for group in self._groups if shard in group.shards)
        return next(leaf for leaf in self.leaves(group) if shard in leaf.shards)

    # Of a leaf: its shards were always asked for together, so what holds for one of them holds for all.

    def is_settled(self, leaf: Group) -> bool:
        """It is answered or has failed."""
        shard = leaf.shards[0]
        return shard in self._answered or shard in self.failures

    def is_answered(self, group: Group) -> bool:
        """Every shard of the group, which need not be a leaf, is answered."""
        return self._answered.issuperset(group.shards)

    def is_under_way(self, leaf: Group) -> bool:
        """Some request may bring its answer, or it needs none."""
        return self._under_way[leaf.shards[0]] > 0 or self.is_settled(leaf)

    def is_hedged(self, leaf: Group) -> bool:
        """More than one request may bring its answer."""
        return self._under_way[leaf.shards[0]] > 1

    def is_hopeful(self, leaf: Group) -> bool:
        """Some request that is not late may bring its answer."""
        return self._under_way[leaf.shards[0]] > self._late[leaf.shards[0]]

    # Requests

    def sent(self, group: Group) -> None:
        """A request for the group is under way."""
        for shard in group.shards:
            self._under_way[shard] += 1

    def late(self, group: Group) -> None:
        """One of its requests is late."""
        for shard in group.shards:
            self._late[shard] += 1

    def ended(self, group: Group, *, was_late: bool) -> None:
        """One of its requests was answered or failed."""
        for shard in group.shards:
            self._under_way[shard] -= 1
            self._late[shard] -= was_late

    def answer(self, group: Group, reply: Any) -> None:
        """Take an answer. One that answers no open shard is dropped, and so are those within it."""
        fresh = [shard for shard in group.shards if shard not in self._answered]
        if not fresh:
            return
        group.reply = reply
        self._answered.update(fresh)
        for shard in fresh:
            if self.failures.pop(shard, None) is None:
                self.open -= 1

    def note(self, group: Group, error: FacegridError) -> None:
        """A request for the group failed. What may be cured by time says more than what may not: it was not the last
        replica that failed for good."""
        for shard in group.shards:
            if error.is_retryable or shard not in self.errors:
                self.errors[shard] = error

    def fail(self, leaf: Group) -> None:
        """Nothing more is expected for these shards."""
        for shard in leaf.shards:
            if shard not in self._answered and shard not in self.failures:
                self.failures[shard] = self.errors[shard]
                self.open -= 1

    def expire(self, waiting: Sequence[tuple[Group, str]]) -> None:
        """The deadline passed. waiting: groups under way and the hosts that did not answer."""
        hosts: dict[int, list[str]] = {}
        for group, host in waiting:
            for shard in group.shards:
                hosts.setdefault(shard, []).append(host)
        for shard in self.asked:
            if shard not in self._answered and shard not in self.failures:
                names = " and ".join(repr(name) for name in sorted(set(hosts.get(shard, ()))))
                self.failures[shard] = DeadlineExceeded(
                    f"shard host {names} did not answer for shard {shard} within the deadline"
                    if names
                    else f"the deadline passed before shard {shard} could be asked again: {self.errors.get(shard)}"
                )
        self.open = 0

    def replies(self) -> list[tuple[tuple[int, ...], Any]]:
        """The answers that count, each with its shards, in the order of the first shard."""
        found: list[tuple[tuple[int, ...], Any]] = []
        for group in self._groups:
            _collect(group, found)
        return sorted(found, key=lambda pair: pair[0][0])


def _collect(group: Group, found: list[tuple[tuple[int, ...], Any]]) -> None:
    if group.reply is not None:
        found.append((group.shards, group.reply))
        return
    for part in group.parts:
        _collect(part, found)
