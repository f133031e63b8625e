"""One connection of the service: uvicorn's protocol, and what it leaves unbounded.

A head that comes slowly or has no end, a body that nobody reads any more, a caller that takes no answer: each would
hold its connection, and memory, for as long as the caller likes, with no key.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 15.0
"""How long a request's line and headers may take, from the connection's or their own first byte."""
HEAD_BYTES = 64 << 10
"""Bytes of a head after which no more are read. `shell` refuses less than that with a reason."""
UNREAD_S = 5.0
"""How long a caller may go on sending a body after its request was refused."""
WRITE_S = 60.0
"""How long a caller may take nothing of an answer that waits for it."""


class Connection(HttpToolsProtocol):
    """As uvicorn has it, but for the bounds above. head_s is the class's, so that a service may have its own."""

    head_s = HEAD_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._has_begun = False  # a head has
        self._has_ended = False  # a request has, within the data that is being read: the rest of it may be a head's
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, not for long."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_s, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives the connection."""
        for timer in (self._head_timer, self._unread_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count a head that is not whole, and time it from its first byte."""
        begun = self._is_in_head
        super().data_received(data)
        if not self._is_in_head or self.transport.is_closing():
            return
        is_head = self._has_begun or not self._has_ended  # or it is what ended the request before
        if begun and not self._has_ended:
            self._head_bytes += len(data)
        self._has_ended = False
        if self._head_bytes > HEAD_BYTES:
            self.send_400_response("Request head too large.")
        elif is_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._close)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._has_begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What comes after the body is none: it would be one that nobody has checked."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_in_head = self._has_begun = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._is_in_head = self._has_ended = True
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answered; where the body was not read, the caller may end it, but not at leisure."""
        super().on_response_complete()
        if not self._is_in_head and not self.pipeline and self.cycle.response_complete:
            self._unread_timer = self.loop.call_later(UNREAD_S, self._close)

    def pause_writing(self) -> None:
        """The caller takes nothing."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
