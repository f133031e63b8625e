"""A service in this process, a way to it that loses answers, and an asyncio client that is used like the other one."""

from __future__ import annotations

import asyncio
import http.client
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.api import Cluster
from cluster.client import AsyncRemoteCluster
from cluster.service.gateway import Gateway
from cluster.service.serve import Listen, Service


@contextmanager
def serving(
    grid: Cluster, *, certificate: Path | None = None, key: Path | None = None, snapshot_store: str | None = None
) -> Iterator[str]:
    """The service on an open home, with TLS if it has a certificate; its URL."""
    pems = [None if path is None else str(path) for path in (certificate, key)]
    service = Service(Gateway(grid, snapshot_store=snapshot_store), Listen(port=0, certificate=pems[0], key=pems[1]))
    listens = threading.Event()
    thread = threading.Thread(target=service.run, kwargs={"ready": listens.set}, name="service")
    thread.start()
    try:
        assert listens.wait(30), "the service did not begin to listen"
        yield service.url
    finally:
        service.stop()
        thread.join()


class Lossy:
    """A proxy that has requests carried out and then loses as many answers as it is told to."""

    def __init__(self, url: str) -> None:
        self.left = 0
        self.seen: list[tuple[str, str, str | None]] = []
        proxy = self
        upstream = urlsplit(url)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                proxy.seen.append((self.command, self.path, self.headers.get("idempotency-key")))
                connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if proxy.left > 0:
                    proxy.left -= 1
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="lossy")
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Awaited:
    """Something of the asyncio client, used as if it were the blocking one: its verbs are awaited elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wrapped: Any) -> None:
        self._loop, self._wrapped = loop, wrapped

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        return self._called(found) if callable(found) else self._given(found)

    def _called(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            result = verb(*given, **named)
            if inspect.isasyncgen(result):
                return iter(self._wait(_listed(result)))
            return self._given(self._wait(result))

        return call

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def _given(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._given(one) for one in value]
        is_client = type(value).__module__.startswith("cluster.client.aio")
        return Awaited(self._loop, value) if is_client else value

    def __len__(self) -> int:
        return int(self._wait(self._wrapped.count()))

    def __bool__(self) -> bool:
        return True

    def __contains__(self, identity: object) -> bool:
        return bool(self._wait(self._wrapped.contains(identity)))


async def _listed(values: Any) -> list[Any]:
    return [one async for one in values]


@contextmanager
def awaited(make: Callable[[], AsyncRemoteCluster]) -> Iterator[Awaited]:
    """An asyncio client on a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    client = make()
    try:
        yield Awaited(loop, client)
    finally:
        asyncio.run_coroutine_threadsafe(client.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
