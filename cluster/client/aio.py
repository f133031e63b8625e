"""`AsyncRemoteCluster`: the twin of `RemoteCluster` for asyncio; the same verbs, as coroutines.

async with AsyncCluster.connect("https://faces.example.org", key) as grid:
    staff = await grid.gallery("acme/staff")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from cluster.client.aio_gallery import AsyncRemoteGallery
from cluster.client.aio_jobs import AsyncRemoteJobs
from cluster.client.aio_snapshots import AsyncRemoteSnapshots
from cluster.client.aio_tenants import AsyncRemoteTenants
from cluster.client.call import Operation, T
from cluster.client.operations import fleet as _fleet
from cluster.client.operations import galleries as _galleries
from cluster.client.operations import photos as _photos
from cluster.client.transport import AsyncTransport
from cluster.faces.decode import ImageSource
from cluster.results import HostStatus, ShardReplicas, Verification
from coordinator.tenant_types import Usage
from coordinator.types import ReplicaErasure


class AsyncRemoteCluster:
    """A connection to a service. Use with `async with`, or await `close`. For one event loop.

    Nothing is sent before the first verb. Errors are those of `cluster.Cluster`; besides, each verb may raise
    HostUnavailable, DeadlineExceeded and ProtocolError for what becomes of connections, and AccessError for keys.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        """Made by `AsyncCluster.connect`."""
        self._transport = transport

    def __repr__(self) -> str:
        return f"AsyncRemoteCluster({self.url!r})"

    async def _run(self, operation: Operation[T]) -> T:
        return await self._transport.run(operation)

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._transport.base

    @property
    def tenants(self) -> AsyncRemoteTenants:
        """Tenants, their keys and their audit log; needs an operator's key, or one with the scope `admin`."""
        return AsyncRemoteTenants(self._transport)

    @property
    def jobs(self) -> AsyncRemoteJobs:
        """Batch jobs: submitted, followed, cancelled and resumed; their results."""
        return AsyncRemoteJobs(self._transport)

    @property
    def snapshots(self) -> AsyncRemoteSnapshots:
        """Snapshots of galleries, in the store that the service's operator has set."""
        return AsyncRemoteSnapshots(self._transport)

    async def whoami(self) -> dict[str, Any]:
        """Whose key is in use and what it may do, as the service says it; Unauthenticated."""
        return await self._run(_fleet.whoami())

    async def gallery(
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
    ) -> AsyncRemoteGallery:
        """As `Cluster.gallery`; what is not given when one is made is as the service has it set."""
        wanted = {
            "shards": shards,
            "dim": dim,
            "code_bits": code_bits,
            "embedder": embedder,
            "replicas": replicas,
            "min_in_sync": min_in_sync,
        }
        return AsyncRemoteGallery(self._transport, await self._run(_galleries.gallery(name, wanted, create=create)))

    async def usage(self, tenant: str) -> Usage:
        """How many galleries, templates and bytes a tenant has; needs an operator's key or its scope `admin`."""
        return await self._run(_fleet.usage(tenant))

    async def galleries(self, tenant: str | None = None) -> list[AsyncRemoteGallery]:
        """Every gallery that the key may see, by name; tenant: those of one tenant."""
        return [AsyncRemoteGallery(self._transport, found) for found in await self._run(_galleries.galleries(tenant))]

    async def drop(self, name: str) -> None:
        """As `Cluster.drop`."""
        await self._run(_galleries.drop(name))

    async def verify(self, a: ImageSource, b: ImageSource, *, threshold: float | None = None) -> Verification:
        """As `Cluster.verify`, by the service's face pipeline."""
        return await self._run(_photos.verify_images(a, b, threshold))

    async def hosts(self) -> list[HostStatus]:
        """As `Cluster.hosts`, as the service sees them; needs an operator's key."""
        return await self._run(_fleet.hosts())

    async def replicas(self) -> list[ShardReplicas]:
        """As `Cluster.replicas`; needs an operator's key."""
        return await self._run(_fleet.replicas())

    async def erasure_report(self, gallery: str | None = None) -> list[ReplicaErasure]:
        """As `Cluster.erasure_report`: of one gallery, or of all that the key may see."""
        names = [found.name for found in await self.galleries()] if gallery is None else [gallery]
        return [one for name in names for one in await self._run(_galleries.erasure_report(name))]

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncRemoteCluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
