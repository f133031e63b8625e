"""Run the service: one uvicorn on uvloop, in this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from cluster.service.app import build_app
from cluster.service.certificate import ServedCertificate
from cluster.service.connection import Connection
from cluster.service.gateway import Gateway
from coordinator.kept import kept
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.api import Cluster

_LOG = logging.getLogger(__name__)
GRACE_S = 10
"""How long requests under way may take when the service is stopped."""
KEEP_ALIVE_S = 75
SWITCH_S = 0.0005
MAX_CONNECTIONS = 4_096


@kept
@dataclass(frozen=True, slots=True)
class Listen:
    """Where the service listens. port 0: one that is free.

    certificate, key: PEM files, read again when they change; with them it speaks TLS.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: str | None = None
    key: str | None = None
    is_shared: bool = False
    """Whether other processes of this machine listen there too."""

    def tls(self) -> ServedCertificate | None:
        """What it shows; None without TLS. InvalidCertificate."""
        if self.certificate is None:
            return None
        return ServedCertificate(Path(self.certificate), Path(self.key or self.certificate))

    def bind(self) -> socket.socket:
        """The listening socket; InvalidParameter if it cannot be had."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        # Inherited by every connection: an answer is two small writes, and would wait for the peer's delayed ACK.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.is_shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            found.bind((self.host, self.port))
        except OSError as error:
            found.close()
            raise InvalidParameter(f"cannot listen on {self.host}:{self.port}: {error}") from None
        return found


class Service:
    """A gateway behind a socket. `run` blocks until `stop` is called, or a signal comes where it handles them."""

    def __init__(self, gateway: Gateway, listen: Listen) -> None:
        """InvalidCertificate, and InvalidParameter if it cannot listen there; the gateway is closed then."""
        self.gateway = gateway
        try:
            tls, self._socket = listen.tls(), listen.bind()
        except BaseException:
            gateway.close()
            raise
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.scheme = "http" if tls is None else "https"
        config = uvicorn.Config(
            build_app(gateway),
            loop="none",
            http=Connection,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=True,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            limit_concurrency=MAX_CONNECTIONS,
            backlog=1024,
        )
        config.load()
        if tls is not None:
            config.ssl = tls.context
            gateway.metrics.certificate.good_until = tls.good_until
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self.address
        return f"{self.scheme}://[{host}]:{port}" if ":" in host else f"{self.scheme}://{host}:{port}"

    def run(self, *, ready: Callable[[], None] | None = None) -> None:
        """Serve until stopped; ready is called once it listens. The gateway is closed then, the cluster is not."""
        # Threads hand the interpreter over ten times as often as by default: a query waits for each of them.
        sys.setswitchinterval(SWITCH_S)
        try:
            uvloop.run(self._serve(ready))
        finally:
            self.gateway.close()
            self._socket.close()

    async def _serve(self, ready: Callable[[], None] | None) -> None:
        task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not task.done():
            await asyncio.sleep(0.01)
        # What was made to serve stays for good: without this a full collection looks at all of it, and stops every
        # request for a tenth of a second, twice a second under load (benchmarks.service: p99 from 124 to 30 ms).
        gc.collect()
        gc.freeze()
        if ready is not None and not task.done():
            ready()
        await task

    def stop(self) -> None:
        """Answer what is under way, then return from `run`. From any thread."""
        self._server.should_exit = True


def stop_on_signals(service: Service) -> None:
    """SIGTERM and SIGINT stop the service in order. In the main thread only."""

    def stop(number: int, _: FrameType | None) -> None:
        _LOG.info("%s: answering what is under way, then stopping", signal.Signals(number).name)
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def serve(cluster: Cluster, listen: Listen, *, snapshot_store: str | None, ready: Callable[[Service], None]) -> None:
    """Serve an open cluster from the main thread until a signal, and run its jobs beside."""
    service = Service(Gateway(cluster, snapshot_store=snapshot_store), listen)
    stop_on_signals(service)
    cluster.jobs.start()
    service.run(ready=lambda: ready(service))
