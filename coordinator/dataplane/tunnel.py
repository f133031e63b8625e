"""`Tunnel`: TLS between a socket and one of this package's protocols, to which it is the transport.

asyncio has TLS of its own; this one can tell a plain peer what is expected (a client that waits for the greeting says
nothing that asyncio could refuse), names what went wrong, and is the same on every loop. The protocol is connected
before the tunnel is up, so that its limits and timers count from the start; what it writes waits until then.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from coordinator.dataplane.tls import named
from shard.errors import FacegridError, ProtocolError

READ_BYTES = 256 << 10
WRITE_BYTES = 256 << 10
"""Encrypted at a time, so that a large frame is not in memory once more."""


def channel_of(transport: asyncio.BaseTransport) -> bytes:
    """`Tunnel.channel`; b"" without TLS."""
    return transport.channel if isinstance(transport, Tunnel) else b""


class Tunnel(asyncio.Protocol, asyncio.Transport):
    """One end of a connection. All methods run in the loop's thread."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        context: ssl.SSLContext,
        where: str,
        *,
        is_server: bool,
        in_the_clear: Callable[[bytes], FacegridError | None] | None = None,
    ) -> None:
        """where: the other end, for messages. in_the_clear: what the first bytes mean if they are not of TLS."""
        super().__init__()
        self.has_heard = False
        """Whether the other end sent anything at all."""
        self.plain: asyncio.Transport
        """The socket itself, for what is said in the clear to an end that has no tunnel."""
        self._inner = inner
        self._in_the_clear = in_the_clear
        self._where = where
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._is_up = False
        self._waiting: list[bytes] = []
        self._failure: FacegridError | None = None

    # Below it: the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self.plain = cast(asyncio.Transport, transport)
        self._inner.connection_made(self)
        if not self.plain.is_closing():
            self._received(b"")

    def data_received(self, data: bytes) -> None:
        """Bytes of TLS."""
        if not self.has_heard and self._in_the_clear is not None:
            error = self._in_the_clear(data)
            if error is not None:
                self.fail(error)
        self.has_heard = True
        if self._failure is None:
            self._received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the protocol, and why if it was TLS that failed."""
        self._inner.connection_lost(self._failure or error)

    def eof_received(self) -> bool | None:
        """Frames say how long they are: an end of the stream needs no signature."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """The other end does not read."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._inner.resume_writing()

    def fail(self, error: FacegridError) -> None:
        """Close; the protocol is told the error."""
        self._failure = self._failure or error
        self.plain.close()

    def _received(self, data: bytes) -> None:
        try:
            self._incoming.write(data)
            if not self._is_up:
                self._shake_hands()
            read = self._read() if self._is_up else b""
        except ssl.SSLError as error:
            self._flush()  # an alert, which tells the other end why
            self.fail(named(error, self._where))
            return
        self._flush()
        if read:
            self._inner.data_received(read)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self._is_up = True
        waiting, self._waiting = self._waiting, []
        self.writelines(waiting)

    def _read(self) -> bytes:
        parts = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.plain.write(self._outgoing.read())

    @property
    def channel(self) -> bytes:
        """What both ends of this connection, and of no other, know: the client's Finished message. Once it is up.

        It is an HMAC over all of the handshake, certificates too, under a key of its Diffie-Hellman exchange (RFC 8446,
        4.4.4). RFC 9266's exporter would be the standard's choice, and is not in Python's ssl.
        """
        found = self._tls.get_channel_binding("tls-unique")
        if not found:
            raise ProtocolError(f"{self._where}: TLS gives nothing to tell its connection by")
        return found

    # Above it: a transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send, once the tunnel is up. Dropped once it closes: OpenSSL raises after a failure."""
        if self._failure is not None or self.plain.is_closing():
            return
        if not self._is_up:
            self._waiting.append(bytes(data))
            return
        try:
            with memoryview(data) as view:
                for first in range(0, len(view), WRITE_BYTES):
                    self._tls.write(view[first : first + WRITE_BYTES])
                    self._flush()
        except ssl.SSLError as error:
            self.fail(named(error, self._where))

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """As `write`, of the parts together."""
        self.write(b"".join(parts))

    def pause_reading(self) -> None:
        """Take no more from the socket."""
        self.plain.pause_reading()

    def resume_reading(self) -> None:
        """Take from it again."""
        self.plain.resume_reading()

    def close(self) -> None:
        """Send what was written, then close."""
        self.plain.close()

    def abort(self) -> None:
        """Close at once."""
        self.plain.abort()

    def is_closing(self) -> bool:
        """Whether it is closing or closed."""
        return self.plain.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the socket's transport."""
        return self.plain.get_extra_info(name, default)
