"""Actors of one kind beside an open home, told apart by number: taken over, started, asked how they are, replaced.

How many there should be, where, and which of them is to go is for who has the group to say: `gateways.py` and
`embedder_group.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from coordinator.actor_names import numbered_title
from coordinator.actors import HEALTH, Actor, Pending, numbered
from coordinator.kept import installed_version
from coordinator.ray_cluster import RayCluster
from coordinator.threads import attempt
from shard.errors import FacegridError, HostUnavailable

SCAN_S = 2.0
"""Pause between two looks at nodes and actors."""
ANSWER_S = 2.0
"""How long actors may take to say how they are."""
_LOG = logging.getLogger("facegrid.actors")


class Saying(Protocol):
    """What an actor says of itself, whatever its kind."""

    @property
    def version(self) -> str:
        """Of Facegrid, where it runs."""

    @property
    def revision(self) -> str:
        """Of what it was started with: see `revision_of`."""


S = TypeVar("S", bound=Saying)


@dataclass(slots=True)
class Member(Generic[S]):
    """An actor of a group. number: of its title. is_ours: this process has started it, and not taken it over.

    said: what it said last. silent_since: monotonic, None while it answers. going: what `let_go` has begun, and until
    when it may take.
    """

    number: int
    actor: Actor
    is_ours: bool
    silent_since: float | None
    said: S | None = None
    going: tuple[Pending, float] | None = None

    @property
    def says(self) -> S | None:
        """What it said when it was asked last; None if it did not answer."""
        return self.said if self.silent_since is None else None


class ActorGroup(Generic[S]):
    """The actors of one kind of an open home."""

    def __init__(self, ray: RayCluster, kind: str, revision: str) -> None:
        """Take over those that another process has left running. revision: what new ones are started with."""
        self._ray, self._kind, self.revision = ray, kind, revision
        self._members: dict[int, Member[S]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        for number, where in numbered(ray.running(), kind):
            with contextlib.suppress(HostUnavailable):
                self._members[number] = Member(number, Actor.find(where), False, time.monotonic())

    @property
    def members(self) -> list[Member[S]]:
        """Those there are, by number, which is oldest first."""
        return sorted(self._members.values(), key=lambda one: one.number)

    def start(self, spawn: Callable[[str], Actor]) -> Member[S]:
        """Another one, under the first number that is free; `spawn` starts the actor, given its title."""
        number = next(free for free in itertools.count() if free not in self._members)
        self._members[number] = Member(number, spawn(numbered_title(self._kind, number)), True, time.monotonic())
        return self._members[number]

    def ask(self) -> None:
        """Have each say how it is; of those that do not, what they said last stays."""
        asked = [(one, one.actor.begin("state", group=HEALTH)) for one in self.members]
        until = time.monotonic() + ANSWER_S
        for one, pending in asked:
            try:
                one.said = pending.result(max(0.0, until - time.monotonic()))
                one.silent_since = None
            except FacegridError:
                if one.silent_since is None:
                    one.silent_since = time.monotonic()
                    _LOG.warning("%s does not answer", one.actor.title)

    def is_outdated(self, one: Member[S]) -> bool:
        """Whether it said that it is of another version, or has other settings, than a new one would.

        Never of those that this process has started: they run the code of their node, which starting them again would
        not change.
        """
        if one.is_ours or one.said is None:
            return False
        return (one.said.version, one.said.revision) != (installed_version(), self.revision)

    def replace(self, one: Member[S], method: str, *args: object, limit_s: float) -> None:
        """Let go one that is outdated; the caller starts another one."""
        _LOG.warning("%s is of another version, or has other settings: it is replaced", one.actor.title)
        self.let_go(one, method, *args, limit_s=limit_s)

    def let_go(self, one: Member[S], method: str, *args: object, limit_s: float) -> None:
        """Call a method in which it comes to its end. It keeps its number until `end_gone`."""
        one.going = one.actor.begin(method, *args), time.monotonic() + limit_s

    def end_gone(self) -> list[Member[S]]:
        """End those that were let go and have come to their end, or had so long; they are members no more."""
        gone = [one for one in self.members if one.going is not None and _is_over(*one.going)]
        for one in gone:
            self.end(one)
        return gone

    def end(self, one: Member[S]) -> None:
        """End it at once."""
        del self._members[one.number]
        self._ray.end(one.actor)

    def look_after(self, scan: Callable[[], None], pause_s: float) -> None:
        """Have a thread call scan again and again, whatever it raises, until `close`, or the home's."""
        name = f"facegrid-{self._kind}s"
        self._thread = threading.Thread(target=self._scan_on, args=(scan, pause_s), name=name, daemon=True)
        self._thread.start()
        self._ray.before_close(self.close)

    def close(self) -> None:
        """Look after them no more; they go on. Idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _scan_on(self, scan: Callable[[], None], pause_s: float) -> None:
        while not self._ended.wait(pause_s):
            attempt(scan, f"{self._kind}s could not be looked after", _LOG)


def _is_over(end: Pending, until: float) -> bool:
    return end.has_ended(0.0) or time.monotonic() > until
