"""What a tenant has, counted where it is. Limits are `Quotas.check`'s to hold, by whoever takes requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.tenant_types import Usage

if TYPE_CHECKING:
    from cluster.api import Cluster


def usage(grid: Cluster, tenant: str) -> Usage:
    """Galleries, templates and bytes of files of a tenant, of one replica of each shard; UnknownTenant.

    Asks the shards of every gallery: for a check before each enrollment, keep the answer for a moment.
    """
    found = [gallery.stats() for gallery in grid.galleries(tenant)]
    return Usage(len(found), sum(stats.templates for stats in found), sum(stats.disk_bytes for stats in found))
