"""The data port of one shard host: authenticates peers, queues their requests within bounds, sends the replies.

Sockets live in one loop thread; the host's work is done by workers of each kind of request, so that a slow
fsync delays no search. Knows `ShardHost.execute`, not what it does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, cast

from coordinator.dataplane.batching import Job, Worker
from coordinator.dataplane.handshake import ANSWER_BYTES, ServerHandshake, checked_secret
from coordinator.dataplane.kinds import THREADS, kind_of
from coordinator.dataplane.loop import LoopThread, tune
from coordinator.dataplane.tls import TlsContexts
from coordinator.dataplane.tunnel import Tunnel, channel_of
from coordinator.frames import (
    Frame,
    FrameSplitter,
    decode_requests,
    encode_error,
    reply_frame,
)
from coordinator.messages import DataRequest, Reply
from shard.errors import FacegridError, HostBusy, HostUnavailable, ProtocolError, TlsMismatch

log = logging.getLogger("facegrid.dataplane")

Address: TypeAlias = tuple[str, int]

SOFT_FRAME_BYTES = 1 << 20
"""Replies that are ready together share a frame up to this size."""
LARGE_FRAME_BYTES = 1 << 20
"""A frame from this size on is decoded beside the loop, while its connection is not read."""


class Host(Protocol):
    """What the server needs of a shard host: thread-safe, synchronous, raises FacegridError."""

    def execute(self, request: DataRequest, /) -> Reply:
        """Carry out one request."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one server. Above `max_queued` requests or `max_queued_bytes` waiting, a request gets HostBusy.

    hello_s: a client that has not begun TLS within it, where TLS is expected, is told so.
    """

    max_connections: int = 1_024
    max_handshakes: int = 64
    handshake_s: float = 5.0
    hello_s: float = 2.0
    idle_s: float = 600.0
    max_queued: int = 16_384
    max_queued_bytes: int = 512 << 20


class DataServer:
    """Serves `host` on `bind`:`port` (0: any free port) until `close`."""

    def __init__(
        self,
        host: Host,
        secret: bytes,
        bind: str = "127.0.0.1",
        port: int = 0,
        *,
        limits: ServerLimits | None = None,
        use_uvloop: bool = False,
        tls: TlsContexts | None = None,
        name: str | None = None,
    ) -> None:
        """secret: the cluster's, at least 16 bytes. tls: None for plain connections. name: the host's; clients that
        mean another one are refused, none if None. HostUnavailable if the port cannot be bound.
        """
        self.secret = checked_secret(secret)
        self.name = name
        self._tls = tls
        self.limits = limits or ServerLimits()
        self.peers: set[Peer] = set()
        self._queued = 0
        self._queued_bytes = 0
        self._is_closed = False
        self._server: asyncio.Server | None = None
        self._thread = LoopThread("facegrid-data", use_uvloop=use_uvloop)
        self._workers = {
            kind: Worker(f"facegrid-{kind}", host.execute, self._done, threads) for kind, threads in THREADS.items()
        }
        try:
            server = self._server = self._thread.run(self._listen(bind, port))
        except OSError as error:
            self.close()
            raise HostUnavailable(f"the data port {bind}:{port} cannot be bound: {error}") from error
        host_name, bound = server.sockets[0].getsockname()[:2]
        self.address: Address = (host_name, bound)

    def close(self) -> None:
        """Refuse new work, let the calls in progress end, break the connections. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        # Stopped before the connections break: what a client is told has failed is not begun afterwards.
        for worker in self._workers.values():
            worker.stop()
        if self._server is not None:
            self._thread.run(self._stop(self._server))
        for worker in self._workers.values():
            worker.join()
        self._thread.close()

    def is_full(self) -> bool:
        """Whether another connection is one too many. Unproven ones have a bound of their own."""
        unproven = sum(not peer.is_proven for peer in self.peers)
        return len(self.peers) >= self.limits.max_connections or unproven >= self.limits.max_handshakes

    def admit(self, peer: Peer, entries: list[tuple[int, int, DataRequest]], size: int) -> None:
        """Queue the requests of one frame, each at its share of the frame's size, or answer HostBusy."""
        now, share = time.monotonic(), size // max(len(entries), 1) + 1
        for key, budget_ms, request in entries:
            if self._queued >= self.limits.max_queued or self._queued_bytes + share > self.limits.max_queued_bytes:
                peer.send([(key, self._busy())])
                continue
            self._queued += 1
            self._queued_bytes += share
            peer.outstanding += 1
            self._workers[kind_of(request)].put(Job(peer, key, request, now + budget_ms / 1_000, share))

    def _busy(self) -> bytes:
        return encode_error(HostBusy(f"{self._queued} requests of {self._queued_bytes} bytes wait at this host"))

    def _done(self, results: list[tuple[Job[Peer], bytes]]) -> None:
        self._thread.call(self._reply, results)

    def _reply(self, results: list[tuple[Job[Peer], bytes]]) -> None:
        by_peer: defaultdict[Peer, list[tuple[int, bytes]]] = defaultdict(list)
        for job, reply in results:
            self._queued -= 1
            self._queued_bytes -= job.size
            job.origin.outstanding -= 1
            by_peer[job.origin].append((job.key, reply))
        for peer, replies in by_peer.items():
            peer.send(replies)

    async def _listen(self, bind: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: self._accepted(loop), bind, port)
        self._sweep(loop)
        return server

    def _accepted(self, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
        peer = Peer(self, loop)
        return peer if self._tls is None else Tunnel(peer, self._tls.server(), "the client", is_server=True)

    async def _stop(self, server: asyncio.Server) -> None:
        server.close()
        for peer in tuple(self.peers):
            peer.abort("the host is closing")

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has been silent for `idle_s`; also a peer that does not take its replies."""
        before = time.monotonic() - self.limits.idle_s
        for peer in tuple(self.peers):
            if peer.last_active < before and (peer.outstanding == 0 or peer.is_choked):
                peer.abort("idle")
        loop.call_later(self.limits.idle_s / 4, self._sweep, loop)


class Peer(asyncio.Protocol):
    """One connection: handshake, then frames. All methods run in the loop's thread."""

    def __init__(self, server: DataServer, loop: asyncio.AbstractEventLoop) -> None:
        self.is_proven = False
        self.is_choked = False
        self.outstanding = 0
        self.last_active = time.monotonic()
        self._server = server
        self._loop = loop
        self._handshake = ServerHandshake(server.secret, is_full=server.is_full(), host=server.name)
        self._timer: asyncio.TimerHandle | None = None
        self._answer = bytearray()
        self._splitter = FrameSplitter()
        self._is_decoding = False
        self._waiting: list[Frame] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; refuse when full."""
        self._transport = cast(asyncio.Transport, transport)
        self._name = transport.get_extra_info("peername")
        tune(transport)
        if self._handshake.is_full:
            log.warning("refused %s: the connections are used up", self._name)
            # In the clear, since a tunnel is more than such a client is worth.
            (transport.plain if isinstance(transport, Tunnel) else self._transport).write(self._handshake.greeting)
            self._transport.close()
            return
        self._transport.write(self._handshake.greeting)
        self._server.peers.add(self)
        self._timer = self._loop.call_later(self._server.limits.handshake_s, self._expire_handshake)
        if isinstance(transport, Tunnel):
            self._loop.call_later(self._server.limits.hello_s, self._expect_tls, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the peer; replies still to come for it are dropped by `send`."""
        self._server.peers.discard(self)
        if isinstance(error, FacegridError):
            log.warning("refused %s: %s: %s", self._name, error.code, error)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake, then of frames."""
        self.last_active = time.monotonic()
        if self not in self._server.peers:
            return
        try:
            if not self.is_proven:
                data = self._prove(data)
            if data:
                self._take(self._splitter.feed(data))
        except ProtocolError as error:
            self.abort(str(error))

    def eof_received(self) -> None:
        """The client is done: close."""

    def pause_writing(self) -> None:
        """The client does not take its replies: take no more requests from it."""
        self.is_choked = True
        self._gate()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.is_choked = False
        self.last_active = time.monotonic()
        self._gate()

    def send(self, replies: list[tuple[int, bytes]]) -> None:
        """Send replies, as few frames as their sizes allow; a connection that is gone drops them."""
        if self not in self._server.peers or self._transport.is_closing():
            return
        batch: list[tuple[int, bytes]] = []
        size = 0
        for key, reply in replies:
            if batch and size + len(reply) > SOFT_FRAME_BYTES:
                self._transport.writelines(reply_frame(batch))
                batch, size = [], 0
            batch.append((key, reply))
            size += len(reply) + 16
        self._transport.writelines(reply_frame(batch))
        self.last_active = time.monotonic()

    def abort(self, why: str) -> None:
        """Break the connection, nothing more is read or sent."""
        log.warning("closed the connection of %s: %s", self._name, why)
        self._server.peers.discard(self)
        self._transport.abort()

    def _prove(self, data: bytes) -> bytes:
        self._answer += data
        if len(self._answer) < ANSWER_BYTES:
            return b""
        rest = bytes(self._answer[ANSWER_BYTES:])
        refused, verdict = self._handshake.verdict(bytes(self._answer[:ANSWER_BYTES]), channel_of(self._transport))
        if self._timer is not None:
            self._timer.cancel()
        self._answer.clear()
        self._transport.write(verdict)
        if refused is not None:
            log.warning("refused %s: %s: %s", self._name, refused.code, refused)
            self._server.peers.discard(self)
            self._transport.close()
            return b""
        self.is_proven = True
        return rest

    def _expect_tls(self, tunnel: Tunnel) -> None:
        """A client that waits for a greeting in the clear would wait for ever: tell it what is expected."""
        if not tunnel.has_heard and not tunnel.is_closing():
            tunnel.plain.write(self._handshake.tls_is_expected())
            tunnel.fail(TlsMismatch("the client does not begin TLS, which data_certificate of this end asks for"))

    def _expire_handshake(self) -> None:
        self.abort(f"no handshake within {self._server.limits.handshake_s} s")

    def _take(self, frames: list[Frame]) -> None:
        self._waiting += frames
        while self._waiting and not self._is_decoding:
            frame = self._waiting.pop(0)
            if len(frame.body) >= LARGE_FRAME_BYTES:
                self._is_decoding = True
                self._gate()
                decoding = self._loop.run_in_executor(None, decode_requests, frame)
                decoding.add_done_callback(partial(self._decoded, len(frame.body)))
            else:
                self._server.admit(self, decode_requests(frame), len(frame.body))

    def _decoded(self, size: int, done: asyncio.Future[list[tuple[int, int, DataRequest]]]) -> None:
        self._is_decoding = False
        if self not in self._server.peers or done.cancelled():
            return
        try:
            self._server.admit(self, done.result(), size)
            self._take([])
        except ProtocolError as error:
            self.abort(str(error))
            return
        self._gate()

    def _gate(self) -> None:
        if self._transport.is_closing():
            return
        if self.is_choked or self._is_decoding:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
