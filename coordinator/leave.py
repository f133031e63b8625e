"""Have a shard host go away in order: what the node of a shard host runs before it stops.

    python -m coordinator.leave --address HOST:PORT --host NAME [--home-id ID] [--timeout SECONDS]

Others become primaries of what the host leads and go on without it; then the host closes its files. Nothing is copied:
the host is expected back. It needs the address of the Ray cluster and no secret, no home and no catalog, and imports
little, since a node that stops has little time. Prints one line of JSON and exits with 0 if the host has closed, with
1 if it has not: it may be stopped all the same, what was acknowledged is durable.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from coordinator.actor_names import COORDINATOR, NAMESPACE_PREFIX, host_title
from coordinator.actors import HEALTH, Actor, ActorName, RaySession
from coordinator.leave_program import ANSWER_S, TIMEOUT_S, options_of, run, session_of
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter, ShardClosed, StorageError

CLOSE_SHARE = 0.5
"""The part of the time that is kept for closing the host, whatever becomes of the coordinator."""
RETRY_S = 0.5
"""Pause before a coordinator that is away is looked for again."""
AWAY = (ClusterNotReady, HostUnavailable, ShardClosed, StorageError)
"""What a coordinator, or its database, that comes back may be the end of."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """missed: replicas that others go on without until the host is back; None if the coordinator did not decide so
    in time, and `fault` says why: it will when it notices that the host is silent.
    """

    host: str
    missed: int | None
    fault: str = ""


def leave(address: str, host: str, home_id: str | None = None, *, timeout_s: float = TIMEOUT_S) -> Left:
    """Hand over what a host leads, then close it. home_id: which home, where several have a host of that name.

    The host's process stays, closed, until its node ends; it serves again when it is started again. Raises
    ClusterNotReady if no such host runs on the Ray cluster at host:port, InvalidParameter if several do,
    HostUnavailable if it does not close in time.
    """
    until = time.monotonic() + timeout_s
    with contextlib.closing(session_of(address, timeout_s)) as session:
        actor = _host(session, address, host, home_id)
        left = _tell(session, actor.where, host, until - CLOSE_SHARE * timeout_s)
        actor.call("close", timeout_s=max(1.0, until - time.monotonic()))
        return left


def _host(session: RaySession, address: str, host: str, home_id: str | None) -> Actor:
    found = {where.namespace.removeprefix(NAMESPACE_PREFIX): where for where in session.named(host_title(host))}
    if home_id is not None:
        found = {name: where for name, where in found.items() if name == home_id}
    if len(found) > 1:
        raise InvalidParameter(f"home id: expected one of those with a host {host}: {', '.join(sorted(found))}")
    if not found:
        raise ClusterNotReady(f"no shard host {host} of {home_id or 'any home'} runs on the Ray cluster at {address}")
    return Actor.find(next(iter(found.values())))


def _tell(session: RaySession, where: ActorName, host: str, until: float) -> Left:
    """Have the coordinator go on without the host: the one that runs, or the one that comes in its place in time.

    Both may be on their way out at once, as in an upgrade. A host that closes untold is one that was killed: its
    partners wait for it, and with them whoever asks for their shards.
    """
    fault = ""
    while True:
        error: FacegridError = HostUnavailable("no coordinator is running")
        try:
            for coordinator in session.named(COORDINATOR):
                if (coordinator.namespace, coordinator.session) == (where.namespace, where.session):
                    return Left(host, _told(Actor.find(coordinator), host, until))
        except FacegridError as raised:
            error = raised
        if str(error) != fault:
            fault = str(error)
            _LOG.warning("the coordinator was not told that %s leaves: %s", host, fault)
        if not isinstance(error, AWAY) or time.monotonic() + RETRY_S >= until:
            return Left(host, None, fault)
        time.sleep(RETRY_S)


def _told(coordinator: Actor, host: str, until: float) -> int:
    """Replicas that others go on without, once it has decided so. It says first, and soon, whether it is there."""
    coordinator.call("health", group=HEALTH, timeout_s=max(0.1, min(ANSWER_S, until - time.monotonic())))
    missed: int = coordinator.call("call", "leave", (host,), {}, timeout_s=max(1.0, until - time.monotonic()))
    return missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit code."""
    parser = options_of("coordinator.leave", "Close a shard host in order.")
    parser.add_argument("--host", required=True, help="name of the shard host")
    parser.add_argument("--home-id", help="which home, where several have a host of that name")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return run(lambda: asdict(leave(given.address, given.host, given.home_id, timeout_s=given.timeout)))


if __name__ == "__main__":
    sys.exit(main())
