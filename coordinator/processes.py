"""What runs inside the actors: a shard host with its data port, and the coordinator.

Methods return an `Outcome` instead of raising, so that an error keeps its class and message on the way. What cannot be
opened when a process starts is tried again at the next call: Ray gives up on an actor whose constructor raises.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.actors import Actor, ActorName
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.dataplane.server import DataServer
from coordinator.host import ShardHost
from coordinator.messages import ControlRequest
from coordinator.outcome import Outcome, outcome_of
from coordinator.ray_runtime import RayRuntime
from shard.errors import HomeLocked, InvalidParameter, ShardClosed
from shard.index import use_kernel

log = logging.getLogger("facegrid.actors")

LOCK_WAIT_S = 10.0
"""A restarted host waits this long for its directory: the process before it may not be quite gone."""
COORDINATOR_METHODS = ("hosts", "gallery", "galleries", "create_gallery", "drop_gallery", "train", "train_if_due")


class ShardHostProcess:
    """One shard host and its data port."""

    def __init__(self, name: str, directory: str, secret: bytes, bind: str, kernel: str | None) -> None:
        """bind: address of the data port. kernel: SIMD kernel by name, or None for the fastest."""
        self._name, self._directory = name, Path(directory)
        self._secret, self._bind, self._kernel = secret, bind, kernel
        self._opening = threading.Lock()
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
                self._host = _open_host(self._name, self._directory, time.monotonic() + LOCK_WAIT_S)
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


def _open_host(name: str, directory: Path, until: float) -> ShardHost:
    while True:
        try:
            return ShardHost(name, directory)
        except HomeLocked:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


class CoordinatorProcess:
    """The coordinator of a home, over the hosts' actors."""

    def __init__(self, catalog_path: str, hosts: Mapping[str, ActorName], secret: bytes) -> None:
        """hosts: the hosts' actors by host name. secret: the cluster's."""
        self._catalog_path = Path(catalog_path)
        self._hosts, self._secret = hosts, secret
        self._opening = threading.Lock()
        self._runtime: RayRuntime | None = None
        self._coordinator: Coordinator | None = None
        logging.basicConfig(level=logging.INFO)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        """Call a public method of the Coordinator, which is opened at the first call."""
        if method not in COORDINATOR_METHODS:
            error = InvalidParameter(f"the coordinator has {', '.join(COORDINATOR_METHODS)}; got {method!r}")
            return Outcome(code=error.code, message=str(error))
        return outcome_of(lambda: getattr(self._open(), method)(*args, **kwargs), f"coordinator.{method}")

    def open(self) -> Outcome:
        """Open the coordinator now: what was left half done is finished, every shard is opened."""
        return outcome_of(lambda: self._open() and None, "the coordinator")

    def health(self) -> Outcome:
        """Process id."""
        return Outcome(os.getpid())

    def close(self) -> Outcome:
        """Close the catalog and the connections; the hosts are their owner's. Idempotent."""
        return outcome_of(self._close, "the coordinator")

    def _open(self) -> Coordinator:
        with self._opening:
            if self._runtime is None:
                actors = {name: Actor.find(where) for name, where in self._hosts.items()}
                self._runtime = RayRuntime(actors, self._secret)
            if self._coordinator is None:
                self._coordinator = Coordinator(Catalog(self._catalog_path), self._runtime)
            return self._coordinator

    def _close(self) -> None:
        with self._opening:
            if self._coordinator is not None:
                self._coordinator.close()
            if self._runtime is not None:
                self._runtime.close()
