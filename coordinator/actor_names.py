"""What the actors of a home are called on Ray, and the resources by which nodes offer to run them.

Every title here is part of what one version leaves running for the next: a title that is changed is an actor that is
not found again.
"""

from __future__ import annotations

NAMESPACE_PREFIX = "facegrid-"
"""Of the namespace of a home's actors; its id follows."""
COORDINATOR = "the coordinator"
"""The title of a home's coordinator, by which other processes find it."""
HOST = "shard host"
"""What the titles of shard hosts begin with; the host's name follows."""
HOST_RESOURCE = "facegrid_host_"
"""Resource by which a node offers to be a shard host; the host's name follows."""
GATEWAY = "gateway"
"""What the titles of gateways begin with; a number follows."""
GATEWAY_RESOURCE = "facegrid_gateway"
"""Resource of which a gateway takes one, where nodes offer it."""
EMBEDDER = "embedder"
"""What the titles of embedders begin with; a number follows."""
EMBEDDER_RESOURCE = "facegrid_embedder"
"""Resource of which an embedder takes one, where nodes are followed."""
CONTROL_RESOURCE = "facegrid_control"
"""Resource by which a node offers to run the coordinator; where none does, it is on the node that opened the home."""


def namespace_of(home_id: str) -> str:
    """Where the actors of a home are."""
    return f"{NAMESPACE_PREFIX}{home_id}"


def host_title(name: str) -> str:
    """The title of a shard host's actor, by which each process of a home finds it."""
    return f"{HOST} {name}"


def numbered_title(kind: str, number: int) -> str:
    """The title of one of several actors of a kind."""
    return f"{kind} {number}"


def number_of(title: str, kind: str) -> int | None:
    """Its number; None for a title of another kind."""
    word, _, number = title.rpartition(" ")
    return int(number) if word == kind and number.isdecimal() else None
