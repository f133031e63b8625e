"""Ends the actors of a home that ran detached, in order, so that each closes its files.

Needs no more than the home's id: whoever opened the home may be gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from coordinator.actor_names import COORDINATOR, HOST, namespace_of
from coordinator.actors import Actor, ActorName, RaySession
from shard.errors import FacegridError, HostUnavailable

JOIN_S = 30.0
CLOSE_S = 30.0
"""How long actors of a kind may take to close before their processes are ended; acknowledged writes are durable."""
_LOG = logging.getLogger(__name__)


def stop_home(address: str, home_id: str, *, close_s: float = CLOSE_S) -> list[str]:
    """End the detached actors of a home on the Ray cluster at host:port; their titles, in the order of their end.

    Gateways and whatever else joined first, then the coordinator, so that it takes no shard host for lost, then the
    hosts. One that does not close within `close_s` is ended all the same. Raises ClusterNotReady if nothing answers at
    the address, HostUnavailable if Ray does not let go of an actor.
    """
    session = RaySession.join(address, namespace_of(home_id), timeout_s=JOIN_S)
    try:
        return [title for some in _in_order(session.detached()) for title in _end(some, close_s)]
    finally:
        session.close()


def _in_order(running: Sequence[ActorName]) -> list[list[ActorName]]:
    hosts = [where for where in running if where.title.startswith(f"{HOST} ")]
    coordinator = [where for where in running if where.title == COORDINATOR]
    return [[where for where in running if where not in (*hosts, *coordinator)], coordinator, hosts]


def _end(some: Sequence[ActorName], close_s: float) -> list[str]:
    """Close these side by side, then end their processes; HostUnavailable, at last, for one that Ray does not let go.

    One that has ended by itself meanwhile is not among them.
    """
    until = time.monotonic() + close_s
    actors = [actor for where in some if (actor := Actor.seek(where)) is not None]
    closing = [(actor, actor.begin("close")) for actor in actors]
    failures = []
    for actor, call in closing:
        try:
            call.result(max(0.1, until - time.monotonic()))
        except FacegridError as error:
            _LOG.warning("%s did not close in order: %s", actor.title, error)
        try:
            actor.kill()
        except HostUnavailable as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return [actor.title for actor in actors]
