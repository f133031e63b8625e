"""A Facegrid service as a Python API, with NumPy, httpx and msgpack only: `Cluster.connect`, `AsyncCluster.connect`."""

from __future__ import annotations

from cluster.client.aio import AsyncRemoteCluster
from cluster.client.aio_gallery import AsyncRemoteGallery
from cluster.client.aio_jobs import AsyncRemoteJobs
from cluster.client.connect import connect, connect_async
from cluster.client.gallery import RemoteGallery
from cluster.client.jobs import RemoteJobs
from cluster.client.remote import RemoteCluster
from cluster.client.retry import RetryPolicy
from cluster.client.tenants import RemoteTenants

__all__ = [
    "AsyncRemoteCluster",
    "AsyncRemoteGallery",
    "AsyncRemoteJobs",
    "RemoteCluster",
    "RemoteGallery",
    "RemoteJobs",
    "RemoteTenants",
    "RetryPolicy",
    "connect",
    "connect_async",
]
