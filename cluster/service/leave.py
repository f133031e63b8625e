"""Have the gateway of this node go away in order: what a gateway's node runs before it stops.

    python -m cluster.service.leave --address HOST:PORT [--timeout SECONDS]

The gateway's /readyz says that it is leaving, requests go on until none has come for a while, then it closes. Needs the
address of the Ray cluster and no secret, no home and no catalog. Exits with 0 if the gateway has closed or the node has
none, with 1 if it has not closed in time: it may be stopped all the same, with the requests that are under way.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

from coordinator.actor_names import GATEWAY
from coordinator.actors import HEALTH, Actor, RaySession
from coordinator.leave_program import ANSWER_S, TIMEOUT_S, options_of, run, session_of
from shard.errors import HostUnavailable

QUIET_S = 5.0
"""Longer than it takes until clients and balancers have heard that it is not ready."""
CLOSE_S = 12.0
"""How long it may take to answer what is under way, and to close: longer than `serve.GRACE_S`."""


def leave(address: str, *, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Titles of the gateways of this process's node, each of which has left when this returns.

    Raises ClusterNotReady if no Ray cluster answers at host:port, HostUnavailable if a gateway does not close in time.
    """
    until = time.monotonic() + timeout_s
    with contextlib.closing(session_of(address, timeout_s)) as session:
        here = _gateways_here(session)
        limit_s = max(0.0, until - time.monotonic() - CLOSE_S)
        leaving = [actor.begin("leave", min(QUIET_S, limit_s), limit_s) for actor in here]
        for pending in leaving:
            pending.result(max(1.0, until - time.monotonic()))
        return [actor.title for actor in here]


def _gateways_here(session: RaySession) -> list[Actor]:
    """Those that answer. One that does not is of another node, or could not be asked to leave either."""
    asked = []
    for where in session.of_kind(GATEWAY):
        with contextlib.suppress(HostUnavailable):
            actor = Actor.find(where)
            asked.append((actor, actor.begin("state", group=HEALTH)))
    found, until = [], time.monotonic() + ANSWER_S
    for actor, pending in asked:
        with contextlib.suppress(HostUnavailable):
            if pending.result(max(0.0, until - time.monotonic())).node_id == session.here():
                found.append(actor)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit code."""
    given = options_of("cluster.service.leave", "Close a gateway in order.").parse_args(arguments)
    return run(lambda: {"left": leave(given.address, timeout_s=given.timeout)})


if __name__ == "__main__":
    sys.exit(main())
