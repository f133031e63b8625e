"""What runs inside the actor of a shard host: the host, its data port and its probe port.

Methods return an `Outcome` instead of raising, so that an error keeps its class and message on the way. What cannot be
opened when the process starts is tried again at the next call: Ray gives up on an actor whose constructor raises. No
catalog here: its SQL library would double the time that each host takes to start.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from coordinator.actors import node_address
from coordinator.dataplane.server import DataServer
from coordinator.dataplane.tls import TlsFiles, tls_contexts
from coordinator.host import ShardHost
from coordinator.host_state import state_of
from coordinator.messages import ControlRequest
from coordinator.outcome import Outcome, outcome_of
from coordinator.peer_clients import PeerClients
from coordinator.peers import Leases
from coordinator.probes import ProbeServer, Report
from shard.errors import FacegridError, HomeLocked, HostUnavailable, ShardClosed
from shard.index import use_kernel

log = logging.getLogger("facegrid.actors")

LOCK_WAIT_S = 10.0
"""A restarted host waits this long for its directory and its port: the process before it may not be quite gone."""
RETRY_S = 0.1

T = TypeVar("T")


class ShardHostProcess:
    """One shard host, its data port and its probe port."""

    def __init__(
        self,
        name: str,
        directory: str,
        secret: bytes,
        bind: str | None,
        kernel: str | None,
        open_shards: int | None,
        data_port: int = 0,
        probe_port: int | None = None,
        tls: TlsFiles | None = None,
        mark: str = "",
    ) -> None:
        """bind: address of the data port, that of the node which this runs on if None: a node that comes back may have
        another one. kernel: SIMD kernel by name, or None for the fastest. open_shards: at a time; as many as this
        process's limit of open files allows if None. data_port: 0 for any. probe_port: of probes, None for no port.
        tls: of the data plane, None for plain connections. mark: what its starter calls these arguments.

        These are kept: see coordinator/kept.py before you change them.
        """
        self._name, self._directory, self._mark = name, Path(directory), mark
        self._secret, self._bind, self._kernel, self._open_shards = secret, bind, kernel, open_shards
        self._data_port, self._probe_port, self._tls = data_port, probe_port, tls
        self._opening = threading.Lock()
        self._peers: PeerClients | None = None
        self._host: ShardHost | None = None
        self._server: DataServer | None = None
        self._probes: ProbeServer | None = None
        self._not_open = "it is being opened"
        self._is_closed = False
        logging.basicConfig(level=logging.INFO)
        outcome = outcome_of(self._open, f"shard host {name}")
        if outcome.code is not None:
            log.error("shard host %s did not open: %s", name, outcome.message)

    def mark(self) -> Outcome:
        """What its starter calls the arguments that it was started with."""
        return Outcome(self._mark)

    def execute(self, request: ControlRequest) -> Outcome:
        """Carry out a control request."""
        return outcome_of(lambda: self._open()[0].execute(request), f"shard host {self._name}")

    def data_address(self) -> Outcome:
        """(address, port) of the data port; the error that keeps the host from opening, if there is one."""
        return outcome_of(lambda: self._open()[1].address, f"shard host {self._name}")

    def health(self) -> Outcome:
        """Process id of a host that is open."""
        return outcome_of(lambda: self._open() and os.getpid(), f"shard host {self._name}")

    def close(self) -> Outcome:
        """Close the data port, then the shards; releases the directory. Idempotent."""
        return outcome_of(self._close, f"shard host {self._name}")

    def _open(self) -> tuple[ShardHost, DataServer]:
        with self._opening:
            if self._is_closed:
                raise ShardClosed(f"shard host {self._name} is closed")
            if self._host is not None and self._server is not None:
                return self._host, self._server
            try:
                return self._open_all(time.monotonic() + LOCK_WAIT_S)
            except FacegridError as error:
                self._not_open = f"{error.code}: {error}"
                raise

    def _open_all(self, until: float) -> tuple[ShardHost, DataServer]:
        bind = node_address() if self._bind is None else self._bind
        if self._probes is None and self._probe_port is not None:
            port = self._probe_port
            self._probes = _retried(lambda: ProbeServer(self._name, bind, port, self._report), until)
        tls = tls_contexts(self._tls)
        if self._peers is None:
            self._peers = PeerClients(self._name, self._secret, tls)
        peers = self._peers
        if self._kernel is not None:
            use_kernel(self._kernel)
        host = self._host = self._host or _retried(lambda: self._open_host(peers), until)
        # One that is not fixed is free, or nothing is.
        until = until if self._data_port else 0.0
        server = self._server = _retried(
            lambda: DataServer(host, self._secret, bind, self._data_port, use_uvloop=True, tls=tls, name=self._name),
            until,
        )
        log.info("shard host %s serves %s at %s:%d", self._name, self._directory, *server.address)
        return host, server

    def _open_host(self, peers: PeerClients) -> ShardHost:
        leases = Leases(self._name)
        return ShardHost(self._name, self._directory, peers, leases=leases, open_shards=self._open_shards)

    def _report(self) -> Report:
        """For probes: it takes no lock that opening or closing holds."""
        host = self._host
        if self._is_closed:
            return Report(("the host is closed",))
        if host is None or self._server is None:
            return Report((f"the host is not open: {self._not_open}",))
        state = state_of(host, self._directory)
        return Report(state.reasons, state)

    def _close(self) -> None:
        with self._opening:
            self._is_closed = True
            if self._server is not None:
                self._server.close()
            if self._host is not None:
                self._host.close()
            if self._peers is not None:
                self._peers.close()
            if self._probes is not None:
                self._probes.close()


def _retried(make: Callable[[], T], until: float) -> T:
    """What `make` gives, repeated while the process before this one has it still; `until` is of time.monotonic()."""
    while True:
        try:
            return make()
        except (HomeLocked, HostUnavailable):
            if time.monotonic() > until:
                raise
            time.sleep(RETRY_S)
