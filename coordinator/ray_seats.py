"""Where the shard hosts of a home go: what the nodes of a Ray cluster offer, and what is missing.

A node offers to hold shards by a custom resource `facegrid_host_<name>`; one host actor is pinned to each such node by
a little of it. A cluster that we start ourselves has no such nodes: its hosts are host-0, host-1, ... on this machine.
Names are what placement stores, so a node that comes back under the same name brings its shards.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.actor_names import HOST_RESOURCE
from coordinator.actors import RaySession
from shard.errors import ClusterNotReady, InvalidParameter

PIN = 0.001
"""How much of its node's resource an actor takes: several homes can share the nodes."""
_LOG = logging.getLogger(__name__)
LOOK_S = 1.0
"""Pause between two looks for nodes that a detached home waits for."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a host goes: its node's address now, where its data port is bound, what pins it, which node that is now."""

    address: str
    bind: str | None
    resources: dict[str, float] | None
    node_id: str = ""


def own_seats(home: Path, shard_hosts: int | None, known: Sequence[str], needed: Sequence[str]) -> dict[str, Seat]:
    """Host name to its place on a cluster that this process started; ClusterNotReady if a needed host has none."""
    fresh = [f"host-{i}" for i in range(shard_hosts or 1)]
    lost = sorted(name for name in needed if name not in fresh and not (home / "hosts" / name).is_dir())
    if lost:
        raise ClusterNotReady(
            f"shards of this home are on hosts {', '.join(lost)}, which have no directory below {home / 'hosts'};"
            f" join the Ray cluster whose nodes offer {', '.join(HOST_RESOURCE + name for name in lost)}"
        )
    there = [name for name in known if (home / "hosts" / name).is_dir()]
    return {name: Seat("127.0.0.1", "127.0.0.1", None) for name in sorted({*fresh, *there})}


def awaited_seats(
    session: RaySession, wanted: Collection[str], *, patience_s: float, timeout_s: float, may_be_none: bool
) -> dict[str, Seat]:
    """What the nodes of a detached home offer, which come and go by themselves: once every host that is wanted is
    there, but after `patience_s` without those that are not.

    ClusterNotReady if after `timeout_s` there is no host at all, unless `may_be_none`, or two nodes offer to be one: a
    node that was killed is listed for a while beside the one that replaces it.
    """
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began + LOOK_S
        try:
            seats = offered_seats(session) if may_be_none else needed_seats(session, ())
        except ClusterNotReady:
            if waited_s > timeout_s:
                raise
        else:
            lacking = sorted(set(wanted) - seats.keys())
            if lacking and waited_s > patience_s:
                _LOG.warning(
                    "no node offers to be shard host %s; going on without what only it has", ", ".join(lacking)
                )
            if not lacking or waited_s > patience_s:
                return seats
        time.sleep(LOOK_S)


def needed_seats(session: RaySession, needed: Collection[str]) -> dict[str, Seat]:
    """Host name to its place on the nodes; ClusterNotReady if a needed host has none, or if there is no host at all."""
    seats = offered_seats(session)
    missing = sorted(set(needed) - set(seats))
    if missing or not seats:
        wanted = missing or ["<name>"]
        raise ClusterNotReady(
            f"no live node of the Ray cluster at {session.address} offers"
            f" {', '.join(HOST_RESOURCE + name for name in wanted)}; hosts present: {', '.join(seats) or 'none'}."
            f" Start the node with: ray start --resources '{{\"{HOST_RESOURCE}{wanted[0]}\": 1}}'"
        )
    return seats


def offered_seats(session: RaySession) -> dict[str, Seat]:
    """Host name to the place that a live node offers; ClusterNotReady for a bad name, or one that two nodes offer."""
    seats: dict[str, Seat] = {}
    for node in session.nodes():
        for resource in node.resources:
            if not resource.startswith(HOST_RESOURCE):
                continue
            name = resource.removeprefix(HOST_RESOURCE)
            if not _NAME.fullmatch(name):
                raise ClusterNotReady(
                    f"node {node.address} offers {resource!r}; a host name has lower-case letters, digits and '-'"
                )
            if name in seats:
                raise ClusterNotReady(f"two nodes offer {resource!r}: {seats[name].address} and {node.address}")
            seats[name] = seat_of(name, node.address, node.node_id)
    return dict(sorted(seats.items()))


def seat_of(name: str, address: str = "", node_id: str = "") -> Seat:
    """The place on the node that offers to be this host, whichever that is and when it comes."""
    return Seat(address, None, {f"{HOST_RESOURCE}{name}": PIN}, node_id)


def check_ports(seats: Mapping[str, Seat], data_port: int, probe_port: int | None) -> None:
    """InvalidParameter if hosts that share an address would have to share a port."""
    by_address: dict[str, str] = {}
    for name, seat in seats.items():
        other = by_address.setdefault(seat.address, name)
        for setting, port in (("data_port", data_port), ("probe_port", probe_port)):
            if other != name and port:
                raise InvalidParameter(
                    f"{setting}: expected none where shard hosts share an address, got {port};"
                    f" {other} and {name} are both at {seat.address}"
                )
