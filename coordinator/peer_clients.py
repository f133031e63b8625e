"""`PeerClients`: how a shard host in a process of its own reaches the other hosts: over the data plane."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.tls import TlsContexts
from coordinator.messages import DataRequest, Reply
from shard.errors import HostUnavailable, ShardClosed


class PeerClients:
    """Implements `coordinator.peers.Peers`. Knows nobody until `locate` was called; thread-safe."""

    def __init__(self, host: str, secret: bytes, tls: TlsContexts | None = None) -> None:
        """host: the one that asks, for messages. secret: the cluster's. tls: None for plain connections."""
        self._host, self._secret, self._tls = host, secret, tls
        self._lock = threading.Lock()
        self._loop: ClientLoop | None = None
        self._clients: dict[str, DataClient] = {}
        self._is_closed = False

    def locate(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Take note of where hosts are; a connection to where one was is broken."""
        with self._lock:
            if self._is_closed:
                raise ShardClosed(f"shard host {self._host} is closed")
            if self._loop is None:
                self._loop = ClientLoop(use_uvloop=True)
            for name, address in addresses.items():
                known = self._clients.get(name)
                if name == self._host or (known is not None and known.address == tuple(address)):
                    continue
                if known is not None:
                    known.close()
                self._clients[name] = DataClient(name, (address[0], address[1]), self._secret, self._loop, self._tls)

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        """Send a data request; see `coordinator.runtime.Runtime.submit`."""
        client = self._clients.get(host)
        if client is None:
            raise HostUnavailable(f"shard host {self._host} has not been told where {host!r} is")
        return client.submit(request, deadline)

    def close(self) -> None:
        """Break the connections. Idempotent."""
        with self._lock:
            self._is_closed = True
            for client in self._clients.values():
                client.close()
            if self._loop is not None:
                self._loop.close()
                self._loop = None
