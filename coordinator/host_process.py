"""What runs inside the actor of a shard host: the host and its data port.

Methods return an `Outcome` instead of raising, so that an error keeps its class and message on the way. What cannot be
opened when the process starts is tried again at the next call: Ray gives up on an actor whose constructor raises. No
catalog here: its SQL library would double the time that each host takes to start.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from coordinator.dataplane.server import DataServer
from coordinator.host import ShardHost
from coordinator.messages import ControlRequest
from coordinator.outcome import Outcome, outcome_of
from coordinator.peer_clients import PeerClients
from coordinator.peers import Leases
from shard.errors import HomeLocked, ShardClosed
from shard.index import use_kernel

log = logging.getLogger("facegrid.actors")

LOCK_WAIT_S = 10.0
"""A restarted host waits this long for its directory: the process before it may not be quite gone."""


class ShardHostProcess:
    """One shard host and its data port."""

    def __init__(
        self, name: str, directory: str, secret: bytes, bind: str, kernel: str | None, open_shards: int | None
    ) -> None:
        """bind: address of the data port. kernel: SIMD kernel by name, or None for the fastest. open_shards: at a time;
        as many as this process's limit of open files allows if None.
        """
        self._name, self._directory = name, Path(directory)
        self._secret, self._bind, self._kernel, self._open_shards = secret, bind, kernel, open_shards
        self._opening = threading.Lock()
        self._peers = PeerClients(name, secret)
        self._host: ShardHost | None = None
        self._server: DataServer | None = None
        self._is_closed = False
        logging.basicConfig(level=logging.INFO)
        outcome = outcome_of(self._open, f"shard host {name}")
        if outcome.code is not None:
            log.error("shard host %s did not open: %s", name, outcome.message)

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
            if self._host is None:
                if self._kernel is not None:
                    use_kernel(self._kernel)
                self._host = self._open_host(time.monotonic() + LOCK_WAIT_S)
            if self._server is None:
                self._server = DataServer(self._host, self._secret, self._bind, use_uvloop=True)
                log.info("shard host %s serves %s at %s:%d", self._name, self._directory, *self._server.address)
            return self._host, self._server

    def _close(self) -> None:
        with self._opening:
            self._is_closed = True
            if self._server is not None:
                self._server.close()
            if self._host is not None:
                self._host.close()
            self._peers.close()

    def _open_host(self, until: float) -> ShardHost:
        while True:
            try:
                leases = Leases(self._name)
                return ShardHost(self._name, self._directory, self._peers, leases=leases, open_shards=self._open_shards)
            except HomeLocked:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
