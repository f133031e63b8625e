"""`RayRuntime`: the shard hosts of a home that run as Ray actors. Data over the data plane, control as actor calls.

Used in the driver and, with the same actors, inside the coordinator's. An actor that Ray restarted has another port:
a call that fails with HostUnavailable makes the next one ask for the address first, beside the caller's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from coordinator.actors import HEALTH, Actor, share
from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.tls import TlsContexts, TlsFiles, tls_contexts
from coordinator.messages import ControlRequest, DataRequest, Reply
from shard.errors import DeadlineExceeded, FacegridError, HostUnavailable, ShardClosed

_LOG = logging.getLogger(__name__)
REFRESH_S = 5.0
"""The longest that a call waits for the address of a host that is restarting; its deadline may end it earlier."""
RETRY_S = 0.1
"""Pause before asking an actor again that is restarting."""
PATIENCE_S = 1.0
"""After this long a control request that is not answered makes its host be asked whether it is there at all."""
ALIVE_S = 5.0
"""How long it may take to say so."""


class RayRuntime:
    """Implements `coordinator.runtime.Runtime`. Closing it closes the connections; the actors are RayCluster's."""

    def __init__(self, actors: Mapping[str, Actor], secret: bytes, tls: TlsFiles | None = None) -> None:
        """secret: the cluster's. tls: None for plain connections. InvalidCertificate."""
        self._secret, self._tls = secret, tls_contexts(tls)
        self._loop = ClientLoop(use_uvloop=True)
        self._links = {name: HostLink(name, actors[name], secret, self._loop, self._tls) for name in sorted(actors)}
        self._is_closed = False

    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts, sorted."""
        return tuple(self._links)

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        """Send a data request over the data plane; see `Runtime.submit`."""
        self._check_open()
        link = self._links.get(host)
        if link is None:
            return _failed(self._unknown(host))
        return link.submit(request, deadline)

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where the data ports are, of the hosts that have been reached."""
        links = self._links.items()
        return {name: address for name, link in links if (address := link.address) is not None}

    def add(self, name: str, actor: Actor) -> None:
        """Reach another host too."""
        self._check_open()
        self._links = dict(
            sorted({**self._links, name: HostLink(name, actor, self._secret, self._loop, self._tls)}.items())
        )

    def reach(self, timeout_s: float = REFRESH_S) -> None:
        """Begin to ask hosts where they are, ahead of the first request; one that does not say so is asked then."""
        deadline = time.monotonic() + timeout_s
        for link in self._links.values():
            link.reach(deadline)

    def remove(self, name: str) -> None:
        """Reach a host no more; what is in flight to it fails with HostUnavailable or ShardClosed."""
        links = dict(self._links)
        gone = links.pop(name, None)
        self._links = links
        if gone is not None:
            gone.close()

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        """Carry out control requests in parallel; a message object that goes to several hosts is shipped once.

        One may take as long as it likes while its host is alive. HostUnavailable once the host does not say that it is:
        the request may be carried out still, if the host goes on.
        """
        self._check_open()
        links = self._links  # as of now: hosts come and go
        times: dict[int, int] = {}
        for host, request in calls:
            if host not in links:
                raise self._unknown(host)
            times[id(request)] = times.get(id(request), 0) + 1
        shared = {id(request): share(request) for _, request in calls if times[id(request)] > 1}
        pending = [links[host].actor.begin("execute", shared.get(id(r), r)) for host, r in calls]
        replies: list[Reply] = []
        failures: list[FacegridError] = []
        # Every call is waited for before the first failure is raised: nothing goes on behind the caller's back.
        for (host, _), call in zip(calls, pending, strict=True):
            try:
                while not call.has_ended(PATIENCE_S):
                    links[host].actor.call("health", group=HEALTH, timeout_s=ALIVE_S)
                replies.append(call.result())
            except FacegridError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return replies

    def close(self) -> None:
        """Close the connections; what is in flight fails with ShardClosed. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            for link in self._links.values():
                link.close()
            self._loop.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ShardClosed("the cluster was closed")

    def _unknown(self, host: str) -> HostUnavailable:
        return HostUnavailable(f"no shard host {host!r}; this cluster has {', '.join(self._links)}")


class HostLink:
    """The data client of one host, made anew when the host's address may have changed."""

    def __init__(self, name: str, actor: Actor, secret: bytes, loop: ClientLoop, tls: TlsContexts | None) -> None:
        self.actor = actor
        self._tls = tls
        self._name = name
        self._secret = secret
        self._loop = loop
        self._lock = threading.Lock()
        self._client: DataClient | None = None
        self._is_stale = True
        self._queued = 0
        self._closing = threading.Event()
        # One thread, so that calls which wait for the address keep their order.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"facegrid-link-{name}")

    @property
    def address(self) -> tuple[str, int] | None:
        """Of the host's data port when it was asked last."""
        client = self._client
        return None if client is None else client.address

    def submit(self, request: DataRequest, deadline: float) -> Future[Reply]:
        """Send now where the address is known, else as soon as the actor has told it; ShardClosed after `close`."""
        with self._lock:
            if self._closing.is_set():
                return _failed(self._closed())
            client = self._client
            if client is None or self._is_stale or self._queued:
                self._queued += 1
                future: Future[Reply] = Future()
                future.set_running_or_notify_cancel()
                self._pool.submit(self._refresh_and_send, request, deadline, future)
                return future
        try:
            sent = client.submit(request, deadline)
        except ShardClosed as error:  # closed meanwhile
            return _failed(error)
        sent.add_done_callback(lambda done: self._note(client, done))
        return sent

    def reach(self, deadline: float) -> None:
        """Begin to ask the actor for its address, if that is not known and nobody asks."""
        with self._lock:
            if self._client is None and not self._queued and not self._closing.is_set():
                self._queued += 1
                self._pool.submit(self._reach, deadline)

    def _reach(self, deadline: float) -> None:
        try:
            self._fresh_client(deadline)
        except FacegridError as error:
            _LOG.info("shard host %s: %s", self._name, error)  # told to whoever sends it something
        finally:
            with self._lock:
                self._queued -= 1

    def close(self) -> None:
        """Close the client; waits for a question to the actor that is under way, REFRESH_S at most."""
        with self._lock:  # so that nobody is about to hand something to the pool
            self._closing.set()
        self._pool.shutdown()
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _refresh_and_send(self, request: DataRequest, deadline: float, future: Future[Reply]) -> None:
        try:
            client = self._fresh_client(deadline)
            sent = client.submit(request, deadline)
        except FacegridError as error:
            future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - a bug must not have the caller wait for ever
            _LOG.exception("unexpected failure of the connection to shard host %s", self._name)
            future.set_exception(FacegridError(f"internal error of the connection to {self._name!r}: {error!r}"))
        else:
            sent.add_done_callback(lambda done: self._note(client, done))
            sent.add_done_callback(lambda done: _copy(done, future))
        finally:
            with self._lock:
                self._queued -= 1

    def _fresh_client(self, deadline: float) -> DataClient:
        """The client at the address that the actor tells now. In the link's own thread."""
        with self._lock:
            if self._client is not None and not self._is_stale:
                return self._client
        address = self._ask_address(min(deadline, time.monotonic() + REFRESH_S))
        with self._lock:
            self._is_stale = False
            if self._client is None or self._client.address != address:
                if self._client is not None:
                    self._client.close()
                self._client = DataClient(self._name, address, self._secret, self._loop, self._tls)
            return self._client

    def _ask_address(self, until: float) -> tuple[str, int]:
        """Asking is repeatable, and Ray refuses calls to an actor while it restarts one: ask until it answers."""
        while not self._closing.is_set():
            left = until - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"the deadline passed before shard host {self._name!r} was asked")
            try:
                address: tuple[str, int] = self.actor.call("data_address", group=HEALTH, timeout_s=left)
            except HostUnavailable:
                if time.monotonic() + RETRY_S >= until:
                    raise
                self._closing.wait(RETRY_S)
            else:
                return address
        raise self._closed()

    def _closed(self) -> ShardClosed:
        return ShardClosed(f"the connection to shard host {self._name!r} was closed")

    def _note(self, client: DataClient, done: Future[Reply]) -> None:
        if isinstance(done.exception(), HostUnavailable):
            with self._lock:
                self._is_stale = self._is_stale or client is self._client


def _failed(error: FacegridError) -> Future[Reply]:
    future: Future[Reply] = Future()
    future.set_exception(error)
    return future


def _copy(done: Future[Reply], future: Future[Reply]) -> None:
    error = done.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
