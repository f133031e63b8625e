"""The client's end of the data plane: one `DataClient` for each shard host, all of a router's on one loop thread.

A client keeps a lane (one connection) each for searches, look-ups and writes, so that a large enrollment delays no
search. Requests that gather while frames are in flight travel together in the next. Nothing is ever sent twice: what
was in flight when a connection broke fails with HostUnavailable, and the caller decides. Knows no placement, no Ray.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import Future

from coordinator.dataplane.handshake import checked_secret
from coordinator.dataplane.kinds import KINDS, kind_of
from coordinator.dataplane.lane import Call, Lane
from coordinator.dataplane.loop import LoopThread
from coordinator.dataplane.tls import TlsContexts
from coordinator.frames import encode_message
from coordinator.messages import DataRequest, Reply
from shard.errors import DeadlineExceeded, HostUnavailable, ProtocolError, ShardClosed

log = logging.getLogger("facegrid.dataplane")


class ClientLoop:
    """The loop thread that all clients of a router share, and the inbox through which calls reach it."""

    def __init__(self, *, use_uvloop: bool = False) -> None:
        """MissingExtra if uvloop is asked for and not installed."""
        self.thread = LoopThread("facegrid-client", use_uvloop=use_uvloop)
        self._inbox: deque[tuple[Lane, Call]] = deque()
        self._is_scheduled = False

    def post(self, lane: Lane, call: Call) -> None:
        """Hand a call to its lane; wakes the loop once for all that gather until it runs."""
        self._inbox.append((lane, call))
        # Appended first and tested second, the loop clears the flag before it empties the inbox: none is left behind.
        if not self._is_scheduled:
            self._is_scheduled = True
            self.thread.call(self._drain)

    def close(self) -> None:
        """Stop the thread. Idempotent; close the clients first."""
        self.thread.close()

    def _drain(self) -> None:
        self._is_scheduled = False
        touched: dict[Lane, None] = {}
        while self._inbox:
            lane, call = self._inbox.popleft()
            lane.add(call)
            touched[lane] = None
        for lane in touched:
            try:
                lane.pump()
            except Exception as error:  # the calls to other hosts do not wait for what is wrong with this one
                log.exception("unexpected failure of the connection to %s", lane.where)
                lane.fail(HostUnavailable(f"the connection to {lane.where} failed: {type(error).__name__}"))


class DataClient:
    """Speaks to one shard host. Thread-safe; thousands of requests may be in flight."""

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        secret: bytes,
        loop: ClientLoop,
        tls: TlsContexts | None = None,
    ) -> None:
        """name: the host's; another one there is WrongHost. tls: None for plain connections. Connects on first use."""
        self.name = name
        self.address = address
        self._loop = loop
        self._is_closed = False
        checked_secret(secret)
        self._lanes = {
            kind: Lane(
                f"shard host {name!r} at {address[0]}:{address[1]}", address, secret, loop.thread.loop, tls, name
            )
            for kind in KINDS
        }

    def submit(self, request: DataRequest, deadline: float) -> Future[Reply]:
        """Send a request; `deadline` is a time.monotonic() value.

        The future raises the host's FacegridError; HostUnavailable when the connection is refused or breaks;
        CertificateRefused, TlsMismatch, WrongHost, AuthenticationFailed; HostBusy; DeadlineExceeded, after which a
        late reply is dropped; ProtocolError, with nothing sent, for a request over the frame limit. It cannot be
        cancelled. Raises ShardClosed after `close`.
        """
        if self._is_closed:
            raise ShardClosed(f"the connection to shard host {self.name!r} was closed")
        future: Future[Reply] = Future()
        future.set_running_or_notify_cancel()
        if deadline <= time.monotonic():
            future.set_exception(DeadlineExceeded(f"the deadline passed before shard host {self.name!r} was asked"))
            return future
        try:
            call = Call(future, encode_message(request), deadline)
        except ProtocolError as error:
            future.set_exception(error)
            return future
        self._loop.post(self._lanes[kind_of(request)], call)
        return future

    def close(self) -> None:
        """Break the connections; what is in flight fails with ShardClosed, soon. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for lane in self._lanes.values():
            self._loop.thread.call(lane.close)
