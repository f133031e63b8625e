"""Whether a gateway should get requests: has it reached the control plane, is it leaving, when was it asked last.

A gateway that was ready once stays so while the control plane is away: queries go from it to the shard hosts, and every
gateway loses the control plane at the same moment, so that a probe which failed then would take them all away. So it is
not ready before it has what queries need of the control plane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shard.errors import FacegridError

FIRST_S, AGAIN_S = 2.0, 0.5
"""How long the control plane may take to answer a probe: before it has answered once, and after that."""
HANGS_S = 10.0
"""After how long a question without an answer is given up, and another one asked."""
PROBES = frozenset(("/livez", "/readyz", "/healthz", "/metrics"))
"""Paths that say nothing of whether clients still come."""


class Readiness:
    """What a readiness probe is told of the control plane. For one event loop."""

    def __init__(self, look: Callable[[], object], *, has_to_learn: bool = False) -> None:
        """look: asks the control plane something small; blocks, and raises FacegridError where it is away.

        has_to_learn: whether an answer is not enough, and somebody says `has_learned`.
        """
        self._look, self.has_to_learn = look, has_to_learn
        self._looking: asyncio.Task[None] | None = None
        self._began = 0.0
        self.was_ready = False
        """Whether the control plane has answered since the process started, and what is to be learned was."""

    def has_learned(self) -> None:
        """What queries need of the control plane is here."""
        self.was_ready = True

    async def is_control_there(self) -> bool:
        """Whether the control plane answers now. Probes of the same moment ask once."""
        if self._looking is None or self._looking.done() or time.monotonic() - self._began > HANGS_S:
            self._looking, self._began = asyncio.create_task(self._ask()), time.monotonic()
            self._looking.add_done_callback(_seen)
        looking = self._looking
        await asyncio.wait((looking,), timeout=AGAIN_S if self.was_ready else FIRST_S)
        if not looking.done():
            return False
        error = looking.exception()
        if error is not None and not isinstance(error, FacegridError):
            raise error
        return error is None

    async def _ask(self) -> None:
        await asyncio.to_thread(self._look)
        self.was_ready = self.was_ready or not self.has_to_learn


class Traffic:
    """Requests of clients, without probes: how many are under way, and when the last one came."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = 0
        self._last = clock()

    def came(self) -> None:
        """A request. In the event loop."""
        self._under_way += 1
        self._last = self._clock()

    def went(self) -> None:
        """It was answered, or its caller has gone. In the event loop."""
        self._under_way -= 1
        self._last = self._clock()

    def quiet_s(self) -> float:
        """Seconds without any request; 0 while one is under way. From any thread."""
        return 0.0 if self._under_way else self._clock() - self._last


def _seen(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled():
        looking.exception()  # told to whoever waits; nobody may
