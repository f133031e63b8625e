"""An asyncio loop in a thread of its own: where sockets of the data plane live.

Knows threads and loops, nothing of frames or hosts.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shard.errors import MissingExtra, ShardClosed

T = TypeVar("T")

_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 20_000))
"""A peer that vanished without a word is noticed in about 20 to 25 seconds; deadlines are what bounds a call."""


class LoopThread:
    """Runs a loop until `close`. With `use_uvloop`, MissingExtra if uvloop is not installed."""

    def __init__(self, name: str, *, use_uvloop: bool = False) -> None:
        self.loop = _uvloop() if use_uvloop else asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call in the loop's thread, soon. ShardClosed after `close`."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError as error:
            raise ShardClosed(f"the data plane thread {self._thread.name} was closed") from error

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop from another thread and wait for its result. ShardClosed after `close`."""
        if not self._thread.is_alive():
            coroutine.close()
            raise ShardClosed(f"the data plane thread {self._thread.name} was closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    @property
    def is_running(self) -> bool:
        """Whether it was not closed."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop the loop, join the thread, close what is left. Idempotent."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            _wind_down(self.loop)
            self.loop.close()


def tune(transport: asyncio.BaseTransport) -> None:
    """No delay for small frames, and probes for a peer that is gone."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _uvloop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError as error:
        raise MissingExtra("uvloop is not installed; pip install 'facegrid[cluster]'") from error
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _wind_down(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
