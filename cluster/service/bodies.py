"""Bodies of requests: read within their limits of size and time, inflated, and counted for as long as they are held.

What all requests together hold is bounded, and what one tenant's do; small bodies are let through, so that nobody's
searches wait for somebody's uploads.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from cluster.service.problems import HttpProblem, malformed

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
SMALL_BYTES = 64 << 10
"""A body up to this size is not counted; connections are bounded, and so is what such bodies come to."""
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may be. Sizes in bytes, times in seconds."""

    body_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    """Of all requests that are held at once, as sent and inflated. One tenant's may be half of it."""
    body_s: float = 30.0
    deadline_s: float = 60.0


class Gone(Exception):
    """The caller closed the connection before the body was complete."""


class Held:
    """Bytes of one request's body that count, until `release`."""

    __slots__ = ("_bodies", "_flow", "_size")

    def __init__(self, bodies: Bodies, flow: str) -> None:
        self._bodies, self._flow, self._size = bodies, flow, 0

    def grow(self, size: int) -> None:
        """It has this many bytes now, at least; HttpProblem 503 if there is no room for them."""
        if size > max(self._size, SMALL_BYTES):
            self._bodies.take(self._flow, size - self._size)
            self._size = size

    def release(self) -> None:
        """The request was answered. Idempotent."""
        if self._size:
            self._bodies.take(self._flow, -self._size)
            self._size = 0


class Bodies:
    """All bodies of one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: dict[str, int] = {}
        self.bytes = 0
        """Held now."""

    def take(self, flow: str, size: int) -> None:
        """Count bytes of a tenant, or fewer of them; HttpProblem 503."""
        own = self._held.get(flow, 0) + size
        most = self._limits.bodies_bytes
        if size > 0 and (self.bytes + size > most or own > max(most // 2, self._limits.body_bytes)):
            raise HttpProblem(503, "service_busy", "other large requests are being read; try again", is_retryable=True)
        self.bytes += size
        if own:
            self._held[flow] = own
        else:
            del self._held[flow]

    async def read(self, headers: dict[bytes, bytes], receive: Receive, held: Held) -> bytes:
        """The body, inflated. HttpProblem: 400, 408 if it takes too long, 413, 415, 503. Gone."""
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or len(stated) > 19:
            raise malformed("Content-Length: expected a number")
        if int(stated) > self._limits.body_bytes:
            raise self._too_large()
        held.grow(int(stated))
        body = await self._in_time(receive, held)
        encoding = headers.get(b"content-encoding", b"").strip().lower()
        if encoding in (b"", b"identity"):
            return body
        if encoding != b"gzip":
            raise HttpProblem(415, "unsupported_media_type", "Content-Encoding: expected gzip or none")
        return self._inflated(body, held)

    async def _in_time(self, receive: Receive, held: Held) -> bytes:
        """What asyncio.timeout does, at a tenth of its cost."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "requests are tasks"
        is_late = False

        def end() -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        timer = loop.call_later(self._limits.body_s, end)
        try:
            return await self._read(receive, held)
        except asyncio.CancelledError:
            if not is_late:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            late = f"the body took longer than {self._limits.body_s:g} s"
            raise HttpProblem(408, "request_timeout", late) from None
        finally:
            timer.cancel()

    async def _read(self, receive: Receive, held: Held) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            size += len(part)
            if size > self._limits.body_bytes:
                raise self._too_large()
            held.grow(size)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflated(self, body: bytes, held: Held) -> bytes:
        """In steps, so that what a small body claims to be is counted before there is memory for it."""
        inflater, parts, size, rest = zlib.decompressobj(wbits=31), list[bytes](), 0, body
        while not inflater.eof:
            try:
                part = inflater.decompress(rest, _STEP)
            except zlib.error as error:
                raise malformed(f"body: expected gzip, got {error}") from None
            if not part and not inflater.eof:
                raise malformed("body: expected one whole gzip stream")
            parts.append(part)
            rest, size = inflater.unconsumed_tail, size + len(part)
            if size > self._limits.body_bytes:
                raise self._too_large()
            held.grow(len(body) + size)
        if inflater.unused_data:
            raise malformed("body: expected one whole gzip stream")
        return b"".join(parts)

    def _too_large(self) -> HttpProblem:
        return HttpProblem(413, "request_too_large", f"body: expected at most {self._limits.body_bytes} bytes")
