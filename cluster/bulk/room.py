"""`Room`: what a tenant's quotas leave for a job's templates, counted now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster.tenancy import usage
from coordinator.names import tenant_name
from coordinator.tenant_types import Usage

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.gallery import Gallery

COUNT_S = 10.0
"""How old a count of what the tenant has may be: it asks the shards of all its galleries."""


class Room:
    """Room for templates of one gallery."""

    def __init__(self, cluster: Cluster, gallery: Gallery) -> None:
        self._cluster, self._tenant = cluster, tenant_name(gallery.name)
        self._template_bytes = 4 * gallery.dim
        self._at, self._held = -COUNT_S, Usage(0, 0, 0)

    def take(self, templates: int) -> None:
        """Count so many more; QuotaExceeded, with nothing counted, if the tenant may not have them."""
        tenant = self._cluster.tenants.get(self._tenant)
        if tenant.quotas.templates is None and tenant.quotas.bytes is None:
            return
        if time.monotonic() - self._at > COUNT_S:
            self._at, self._held = time.monotonic(), usage(self._cluster, self._tenant)
        size = templates * self._template_bytes
        held = self._held
        tenant.quotas.check(self._tenant, held, templates=templates, size=size)
        self._held = Usage(held.galleries, held.templates + templates, held.bytes + size)
