"""One connection of a client and the calls that wait for it: connect, batch, match replies, fail what broke.

Everything here runs in the client's loop thread. A lane connects when there is something to send and again at the next
use after a break. At most FRAMES_IN_FLIGHT frames are unanswered; what gathers meanwhile goes out as one frame.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

from coordinator.dataplane.handshake import GREETING_BYTES, VERDICT_BYTES, ClientHandshake
from coordinator.dataplane.loop import tune
from coordinator.dataplane.tls import TlsContexts
from coordinator.dataplane.tunnel import Tunnel, channel_of
from coordinator.frames import Frame, FrameSplitter, decode_replies, request_frame
from coordinator.messages import Reply
from shard.errors import (
    DeadlineExceeded,
    FacegridError,
    HostBusy,
    HostUnavailable,
    ProtocolError,
    ShardClosed,
)

CONNECT_S = 5.0
"""Time to connect and prove the secret."""
IDLE_S = 240.0
"""After this long without use a connection is made anew, before the server (600 s) would close it under a request."""
FRAMES_IN_FLIGHT = 2
"""One that the host works on and one that waits there, so that it never idles for a round trip."""
MAX_WAITING = 16_384
MAX_WAITING_BYTES = 512 << 20
"""Bounds of what a lane keeps for a host that is slower than its callers; above them HostBusy."""
SOFT_FRAME_BYTES = 1 << 20
MAX_FRAME_ENTRIES = 1_024


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way. `deadline` is a time.monotonic() value."""

    future: Future[Reply]
    message: bytes
    deadline: float
    timer: asyncio.TimerHandle | None = None
    frame: SentFrame | None = None


@dataclass(slots=True, eq=False)
class SentFrame:
    """How many requests of a frame are unanswered."""

    unanswered: int


class Lane:
    """Calls of one kind to one host."""

    def __init__(
        self,
        where: str,
        address: tuple[str, int],
        secret: bytes,
        loop: asyncio.AbstractEventLoop,
        tls: TlsContexts | None = None,
        host: str = "",
    ) -> None:
        """where: names the host in messages. tls: None for plain connections. host: its name."""
        self.where = where
        self._host = host
        self._tls = tls
        self._address = address
        self._secret = secret
        self._loop = loop
        self._ids = itertools.count(1)
        self._waiting: deque[Call] = deque()
        self._waiting_bytes = 0
        self._sent: dict[int, Call] = {}
        self._frames = 0
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._last_used = 0.0
        self._is_closed = False

    def add(self, call: Call) -> None:
        """Let a call wait for its frame; `pump` sends it."""
        if self._is_closed:
            _settle(call, ShardClosed(f"the connection to {self.where} was closed"))
        elif len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(call.message) > MAX_WAITING_BYTES:
            _settle(call, HostBusy(f"{len(self._waiting)} requests wait for {self.where}"))
        else:
            call.timer = self._loop.call_later(max(0.0, call.deadline - time.monotonic()), self._expire, call)
            self._waiting.append(call)
            self._waiting_bytes += len(call.message)

    def pump(self) -> None:
        """Send what waits, as far as the window and the socket allow; connect first if need be."""
        if self._wire is not None and self._frames == 0 and time.monotonic() - self._last_used > IDLE_S:
            self._wire.transport.abort()
            self._wire = None
        if self._wire is None:
            if self._waiting and self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
            return
        while self._waiting and self._frames < FRAMES_IN_FLIGHT and not self._wire.is_choked:
            self._send_frame(self._wire)

    def close(self) -> None:
        """Fail everything with ShardClosed and break the connection."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        self.broken(self._wire, ShardClosed(f"the connection to {self.where} was closed"))

    def replies(self, frame: Frame) -> None:
        """Hand the replies of a frame to their callers. ProtocolError for one that nobody asked for."""
        for key, reply in decode_replies(frame):
            call = self._sent.pop(key, None)
            if call is None or call.frame is None:
                raise ProtocolError(f"{self.where} answered request {key}, which it was not sent")
            call.frame.unanswered -= 1
            self._frames -= call.frame.unanswered == 0
            _settle(call, reply)
        self.pump()

    def fail(self, error: FacegridError) -> None:
        """Fail all that was sent or waits, and break the connection; the next call makes another."""
        self.broken(self._wire, error)

    def broken(self, wire: Wire | None, error: FacegridError) -> None:
        """The connection is gone: fail all that was sent or waits, each with an error of its own."""
        if wire is not self._wire and not self._is_closed:
            return
        self._wire, self._frames = None, 0
        calls = [*self._sent.values(), *self._waiting]
        self._sent.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        for call in calls:
            _settle(call, type(error)(str(error)))
        if wire is not None:
            wire.transport.abort()

    async def _connect(self) -> None:
        wire = Wire(self, ClientHandshake(self._secret, self.where, self._host), self._loop)
        try:
            await asyncio.wait_for(self._open(wire), CONNECT_S)
        except FacegridError as error:
            self._refused(wire, error)
        except (OSError, asyncio.TimeoutError) as error:
            reason = str(error) or f"no answer within {CONNECT_S:g} s"
            self._refused(wire, HostUnavailable(f"{self.where} cannot be reached: {reason}"))
        else:
            self._connecting = None
            self._wire, self._frames, self._last_used = wire, 0, time.monotonic()
            self.pump()

    async def _open(self, wire: Wire) -> None:
        protocol: asyncio.Protocol = wire
        if self._tls is not None:
            context, said = self._tls.client(), wire.handshake.in_the_clear
            protocol = Tunnel(wire, context, self.where, is_server=False, in_the_clear=said)
        await self._loop.create_connection(lambda: protocol, *self._address)
        await wire.proven
        if wire.transport.is_closing():
            raise ConnectionResetError("closed right after the handshake")

    def _refused(self, wire: Wire, error: FacegridError) -> None:
        self._connecting = None
        wire.abort()
        self.broken(None, error)

    def _send_frame(self, wire: Wire) -> None:
        entries: list[tuple[int, int, bytes]] = []
        frame, size, now = SentFrame(0), 0, time.monotonic()
        while self._waiting and len(entries) < MAX_FRAME_ENTRIES:
            if entries and size + len(self._waiting[0].message) > SOFT_FRAME_BYTES:
                break
            call = self._waiting.popleft()
            self._waiting_bytes -= len(call.message)
            if call.future.done():
                continue
            key = next(self._ids)
            entries.append((key, max(1, int((call.deadline - now) * 1_000)), call.message))
            size += len(call.message)
            call.frame, call.message = frame, b""
            self._sent[key] = call
        if entries:
            frame.unanswered = len(entries)
            self._frames += 1
            self._last_used = now
            wire.transport.writelines(request_frame(entries))

    def _expire(self, call: Call) -> None:
        """The future fails now; the call stays in `_sent` so that its late reply is known and dropped."""
        if not call.future.done():
            call.future.set_exception(DeadlineExceeded(f"{self.where} did not answer within the deadline"))


class Wire(asyncio.Protocol):
    """The socket of a lane: handshake, then frames."""

    def __init__(self, lane: Lane, handshake: ClientHandshake, loop: asyncio.AbstractEventLoop) -> None:
        self.is_choked = False
        self.proven: asyncio.Future[None] = loop.create_future()
        self._lane = lane
        self.handshake = handshake
        self._expected = GREETING_BYTES
        self._is_greeted = False
        self._buffer = b""
        self._splitter = FrameSplitter()
        self._loop = loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the greeting."""
        self.transport = cast(asyncio.Transport, transport)
        tune(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the lane's calls."""
        if not isinstance(error, FacegridError):
            error = HostUnavailable(f"{self._lane.where} closed the connection{f': {error}' if error else ''}")
        self._fail(error)

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake, then of frames."""
        try:
            if not self.proven.done():
                data = self._prove(data)
            for frame in self._splitter.feed(data):
                self._lane.replies(frame)
        except FacegridError as error:
            self._fail(error)

    def pause_writing(self) -> None:
        """The host does not read: send no more frames."""
        self.is_choked = True

    def resume_writing(self) -> None:
        """The host reads again."""
        self.is_choked = False
        self._lane.pump()

    def abort(self) -> None:
        """Break the connection, if there is one."""
        if hasattr(self, "transport"):
            self.transport.abort()

    def _prove(self, data: bytes) -> bytes:
        self._buffer += data
        if not self._is_greeted and len(self._buffer) >= GREETING_BYTES:
            channel = channel_of(self.transport)
            self.transport.write(self.handshake.answer(self._buffer[:GREETING_BYTES], channel))
            self._is_greeted, self._buffer = True, self._buffer[GREETING_BYTES:]
        if not self._is_greeted or len(self._buffer) < VERDICT_BYTES:
            return b""
        self.handshake.check(self._buffer[:VERDICT_BYTES])
        rest, self._buffer = self._buffer[VERDICT_BYTES:], b""
        self.proven.set_result(None)
        return rest

    def _fail(self, error: FacegridError) -> None:
        if self.proven.done():
            self._lane.broken(self, error)
        else:
            self.proven.set_exception(error)


def _settle(call: Call, reply: Reply | FacegridError) -> None:
    if call.timer is not None:
        call.timer.cancel()
    if call.future.done():
        return
    if isinstance(reply, FacegridError):
        call.future.set_exception(reply)
    else:
        call.future.set_result(reply)
