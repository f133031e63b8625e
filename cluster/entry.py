"""The doors: `Cluster` opens a home in this process or connects to a service; `AsyncCluster` connects for asyncio.

Neither door loads what lies behind the other: a client of a service needs no engine, and an engine no HTTP client.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.api import Cluster as OpenCluster
    from cluster.client import AsyncRemoteCluster, RemoteCluster, RetryPolicy


class Cluster:
    """Where galleries are. `cluster.api.Cluster`, an open home, is a subclass."""

    @classmethod
    def open(cls, home: str | Path | None = None, *, runtime: str | None = None, **settings: Any) -> OpenCluster:
        """Open a home directory, creating it where there is none; see `cluster.api.Cluster.open`."""
        from cluster.api import Cluster as OpenCluster

        return OpenCluster.open(home, runtime=runtime, **settings)

    @staticmethod
    def connect(
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        verify: bool | str | ssl.SSLContext = True,
        retry: RetryPolicy | None = None,
        proxy: str | None = None,
        allow_insecure: bool = False,
        max_connections: int = 32,
        max_response_bytes: int = 256 << 20,
    ) -> RemoteCluster:
        """A service's galleries, with the API of an open home; see `cluster.client.connect`."""
        from cluster.client import connect

        return connect(
            url,
            api_key,
            timeout_s=timeout_s,
            verify=verify,
            retry=retry,
            proxy=proxy,
            allow_insecure=allow_insecure,
            max_connections=max_connections,
            max_response_bytes=max_response_bytes,
        )


class AsyncCluster:
    """A service for asyncio: `async with AsyncCluster.connect(url, key) as grid`."""

    @staticmethod
    def connect(
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        verify: bool | str | ssl.SSLContext = True,
        retry: RetryPolicy | None = None,
        proxy: str | None = None,
        allow_insecure: bool = False,
        max_connections: int = 32,
        max_response_bytes: int = 256 << 20,
    ) -> AsyncRemoteCluster:
        """As `Cluster.connect`; the verbs are coroutines. Nothing is sent yet."""
        from cluster.client import connect_async

        return connect_async(
            url,
            api_key,
            timeout_s=timeout_s,
            verify=verify,
            retry=retry,
            proxy=proxy,
            allow_insecure=allow_insecure,
            max_connections=max_connections,
            max_response_bytes=max_response_bytes,
        )
