"""`RemoteCluster`: a Facegrid service with the Python API of `cluster.Cluster`.

with Cluster.connect("https://faces.example.org", key) as grid:
    staff = grid.gallery("acme/staff")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from cluster.client.call import Operation, T
from cluster.client.gallery import RemoteGallery
from cluster.client.jobs import RemoteJobs
from cluster.client.operations import fleet as _fleet
from cluster.client.operations import galleries as _galleries
from cluster.client.operations import photos as _photos
from cluster.client.snapshots import RemoteSnapshots
from cluster.client.tenants import RemoteTenants
from cluster.client.transport import Transport
from cluster.faces.decode import ImageSource
from cluster.results import HostStatus, ShardReplicas, Verification
from coordinator.tenant_types import Usage
from coordinator.types import ReplicaErasure


class RemoteCluster:
    """A connection to a service. Use as a context manager, or call `close`. Thread-safe.

    Nothing is sent before the first verb. Errors are those of `cluster.Cluster`; besides, each verb may raise
    HostUnavailable, DeadlineExceeded and ProtocolError for what becomes of connections, and AccessError for keys.
    """

    def __init__(self, transport: Transport) -> None:
        """Made by `Cluster.connect`."""
        self._transport = transport

    def __repr__(self) -> str:
        return f"RemoteCluster({self.url!r})"

    def _run(self, operation: Operation[T]) -> T:
        return self._transport.run(operation)

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._transport.base

    @property
    def tenants(self) -> RemoteTenants:
        """Tenants, their keys and their audit log; needs an operator's key, or one with the scope `admin`."""
        return RemoteTenants(self._transport)

    @property
    def jobs(self) -> RemoteJobs:
        """Batch jobs: submitted, followed, cancelled and resumed; their results."""
        return RemoteJobs(self._transport)

    @property
    def snapshots(self) -> RemoteSnapshots:
        """Snapshots of galleries, in the store that the service's operator has set."""
        return RemoteSnapshots(self._transport)

    def whoami(self) -> dict[str, Any]:
        """Whose key is in use and what it may do, as the service says it; Unauthenticated."""
        return self._run(_fleet.whoami())

    def gallery(
        self,
        name: str,
        *,
        create: bool = False,
        shards: int | None = None,
        dim: int | None = None,
        code_bits: int | None = None,
        embedder: str | None = None,
        replicas: int | None = None,
        min_in_sync: int | None = None,
    ) -> RemoteGallery:
        """As `Cluster.gallery`; what is not given when one is made is as the service has it set."""
        wanted = {
            "shards": shards,
            "dim": dim,
            "code_bits": code_bits,
            "embedder": embedder,
            "replicas": replicas,
            "min_in_sync": min_in_sync,
        }
        return RemoteGallery(self._transport, self._run(_galleries.gallery(name, wanted, create=create)))

    def usage(self, tenant: str) -> Usage:
        """How many galleries, templates and bytes a tenant has; needs an operator's key or its scope `admin`."""
        return self._run(_fleet.usage(tenant))

    def galleries(self, tenant: str | None = None) -> list[RemoteGallery]:
        """Every gallery that the key may see, by name; tenant: those of one tenant."""
        return [RemoteGallery(self._transport, found) for found in self._run(_galleries.galleries(tenant))]

    def drop(self, name: str) -> None:
        """As `Cluster.drop`."""
        self._run(_galleries.drop(name))

    def verify(self, a: ImageSource, b: ImageSource, *, threshold: float | None = None) -> Verification:
        """As `Cluster.verify`, by the service's face pipeline."""
        return self._run(_photos.verify_images(a, b, threshold))

    def hosts(self) -> list[HostStatus]:
        """As `Cluster.hosts`, as the service sees them; needs an operator's key."""
        return self._run(_fleet.hosts())

    def replicas(self) -> list[ShardReplicas]:
        """As `Cluster.replicas`; needs an operator's key."""
        return self._run(_fleet.replicas())

    def erasure_report(self, gallery: str | None = None) -> list[ReplicaErasure]:
        """As `Cluster.erasure_report`: of one gallery, or of all that the key may see."""
        names = [found.name for found in self.galleries()] if gallery is None else [gallery]
        return [one for name in names for one in self._run(_galleries.erasure_report(name))]

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._transport.close()

    def __enter__(self) -> RemoteCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
