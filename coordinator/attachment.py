"""How a process joins a home that another one opened on Ray: whom it has to reach, and the secret to prove."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.actors import Actor, ActorName
from coordinator.dataplane.tls import TlsFiles
from coordinator.kept import kept
from coordinator.ray_coordinator import RayCoordinator
from coordinator.ray_runtime import RayRuntime
from coordinator.threads import attempt
from shard.errors import HostUnavailable

LOOK_S = 2.0
"""Pause between two looks for shard hosts that have come."""
_LOG = logging.getLogger(__name__)


@kept
@dataclass(frozen=True, slots=True)
class Attachment:
    """home: its directory, for messages. hosts: the shard hosts' actors by host name, as of now. tls: of data."""

    home: str
    coordinator: ActorName
    hosts: Mapping[str, ActorName]
    secret: bytes = field(repr=False)
    tls: TlsFiles | None = None


class Attached:
    """Connections to the actors of a home. They stay whoever opened the home's to close."""

    def __init__(self, attachment: Attachment) -> None:
        """HostUnavailable if the coordinator is not running; hosts that are not there are reached when they come."""
        self._ended = threading.Event()
        self.coordinator = RayCoordinator(Actor.find(attachment.coordinator))
        self.runtime = RayRuntime(_found(attachment.hosts), attachment.secret, attachment.tls)
        self.runtime.reach()  # while Ray's control store is there: what is connected needs it no more
        self._looking = threading.Thread(target=self._look_on, name="facegrid-hosts", daemon=True)
        self._looking.start()

    def look(self) -> list[str]:
        """Reach shard hosts that have come since, and those no more that are gone for good; the names of the first."""
        known: Mapping[str, ActorName] = self.coordinator.actor.call("host_actors", timeout_s=LOOK_S)
        for name in set(self.runtime.hosts()) - known.keys():
            self.runtime.remove(name)
        fresh = _found({name: where for name, where in known.items() if name not in self.runtime.hosts()})
        for name, actor in fresh.items():
            self.runtime.add(name, actor)
        self.runtime.reach()
        return sorted(fresh)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._ended.set()
        self._looking.join()
        self.runtime.close()

    def _look_on(self) -> None:
        while not self._ended.wait(LOOK_S):
            attempt(self.look, "new shard hosts could not be looked for", _LOG, logging.INFO)


def _found(hosts: Mapping[str, ActorName]) -> dict[str, Actor]:
    found = {}
    for name, where in hosts.items():
        with contextlib.suppress(HostUnavailable):
            found[name] = Actor.find(where)
    return found
