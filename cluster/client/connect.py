"""How a client is made: `connect` for blocking calls, `connect_async` for asyncio."""

from __future__ import annotations

import ssl

from cluster.client.address import checked_address
from cluster.client.aio import AsyncRemoteCluster
from cluster.client.remote import RemoteCluster
from cluster.client.retry import RetryPolicy
from cluster.client.transport import AsyncTransport, Options, Transport


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
    """A service's galleries, with the API of an open home. Nothing is sent yet.

    url: `https://host[:port][/prefix]`. api_key: as the service gave it out; refused over plain http to another machine
    unless allow_insecure. timeout_s: how long one answer may take, but of verbs that work through a whole gallery.
    verify: how the service's certificate is checked: by the usual list, by a file or folder of PEM certificates, or by
    a context; False trusts anybody. retry: when calls are sent again. proxy: URL of an HTTP proxy; the environment's is
    not used. Redirects are not followed. Raises InvalidParameter.
    """
    options = Options(
        timeout_s=timeout_s,
        retry=retry or RetryPolicy(),
        verify=verify,
        proxy=proxy,
        max_connections=max_connections,
        max_response_bytes=max_response_bytes,
    )
    return RemoteCluster(Transport(checked_address(url, api_key, allow_insecure=allow_insecure), options))


def connect_async(
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
    """As `connect`, for asyncio: `async with AsyncCluster.connect(url, key) as grid`. Its verbs are coroutines."""
    options = Options(
        timeout_s=timeout_s,
        retry=retry or RetryPolicy(),
        verify=verify,
        proxy=proxy,
        max_connections=max_connections,
        max_response_bytes=max_response_bytes,
    )
    return AsyncRemoteCluster(AsyncTransport(checked_address(url, api_key, allow_insecure=allow_insecure), options))
