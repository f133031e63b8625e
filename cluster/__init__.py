"""What a user touches: `Cluster` and its galleries, the face pipeline, the command line.

from cluster import Cluster
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.client import RemoteCluster, RemoteGallery
    from cluster.entry import AsyncCluster
    from cluster.gallery import Gallery
    from coordinator.tenant_types import Quotas
    from shard.errors import FacegridError

__all__ = ["AsyncCluster", "Cluster", "FacegridError", "Gallery", "Quotas", "RemoteCluster", "RemoteGallery"]

_HOMES = {
    "AsyncCluster": "cluster.entry",
    "Cluster": "cluster.entry",
    "FacegridError": "shard.errors",
    "Gallery": "cluster.gallery",
    "Quotas": "coordinator.tenant_types",
    "RemoteCluster": "cluster.client",
    "RemoteGallery": "cluster.client",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, so that `facegrid --help` does not wait for the engine."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
