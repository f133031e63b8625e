"""How a process finds a home that is open on Ray when it knows nothing but the Ray cluster's address."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from coordinator.actor_names import COORDINATOR, NAMESPACE_PREFIX
from coordinator.actors import HEALTH, Actor, ActorName, RaySession
from coordinator.attachment import Attachment
from shard.errors import ClusterNotReady, FacegridError, InvalidParameter

TIMEOUT_S = 30.0


@contextlib.contextmanager
def open_home(address: str, home_id: str | None = None) -> Iterator[Attachment]:
    """What it takes to join the home that is open on the Ray cluster at host:port; connected to it meanwhile.

    home_id: which, where several are open. The home's directory, with its secret, has to be on this machine.
    Raises ClusterNotReady if none is open there or its directory is not here, InvalidParameter if several are open.
    """
    session = RaySession.join(address, f"{NAMESPACE_PREFIX}jobs", timeout_s=TIMEOUT_S)
    try:
        coordinator = _coordinator(session, address, home_id)
        directory = coordinator.call("home", timeout_s=TIMEOUT_S)
        found = coordinator.where.namespace.removeprefix(NAMESPACE_PREFIX)
        secret = _secret(Path(directory), found, address)
        hosts = coordinator.call("host_actors", timeout_s=TIMEOUT_S)
        tls = coordinator.call("tls", timeout_s=TIMEOUT_S)
        yield Attachment(str(directory), coordinator.where, hosts, secret, tls)
    finally:
        session.close()


def _coordinator(session: RaySession, address: str, home_id: str | None) -> Actor:
    alive = [actor for where in session.named(COORDINATOR) if (actor := _answering(where)) is not None]
    homes = {actor.where.namespace.removeprefix(NAMESPACE_PREFIX): actor for actor in alive}
    if home_id is None and len(homes) > 1:
        raise InvalidParameter(f"home id: expected one of those open at {address}: {', '.join(sorted(homes))}")
    found = next(iter(homes.values()), None) if home_id is None else homes.get(home_id)
    if found is None:
        wanted = "no home is open" if home_id is None else f"the home {home_id} is not open"
        raise ClusterNotReady(
            f"{wanted} on the Ray cluster at {address}; those open: {', '.join(sorted(homes)) or '-'}"
        )
    return found


def _answering(where: ActorName) -> Actor | None:
    """The actor, unless it is one of a process that died."""
    try:
        actor = Actor.find(where)
        actor.call("health", group=HEALTH, timeout_s=TIMEOUT_S)
    except FacegridError:
        return None
    return actor


def _secret(directory: Path, home_id: str, address: str) -> bytes:
    try:
        is_here = json.loads((directory / "facegrid.json").read_bytes())["home_id"] == home_id
        secret = (directory / "cluster.secret").read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise ClusterNotReady(
            f"the home that is open at {address} is in {directory} of its node, which is not this one ({error});"
            " run this there: ray job submit --entrypoint-resources with a resource of that node"
        ) from error
    if not is_here:
        raise ClusterNotReady(f"{directory} of this node is another home than the one that is open at {address}")
    return secret
