"""What runs inside the coordinator's actor. Errors travel and opening is repeated as in `host_process.py`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from coordinator.actors import Actor, ActorName, is_restarted
from coordinator.catalog import Catalog
from coordinator.coordinator import ERASURE_S, Coordinator
from coordinator.outcome import Outcome, outcome_of
from coordinator.ray_runtime import RayRuntime
from shard.errors import InvalidParameter

METHODS = (
    "hosts", "gallery", "galleries", "create_gallery", "drop_gallery", "train", "train_if_due", "drift", "rollouts",
    "roll_back", "resume_rollouts", "report", "drain", "undrain", "host_records", "replicas_left", "shard_configs",
    "erasure_report", "erase", "erase_due", "snapshots.active_model", "snapshots.begin_restore",
    "snapshots.restoring", "snapshots.finish_restore", "snapshots.abandon_restore", "snapshots.was_restored_from",
    "snapshots.remember", "snapshots.forget", "snapshots.made",
)  # fmt: skip
WATCH_S = 0.5
"""Pause between two rounds of looking after the hosts."""
RETRY_S = 1.0
"""Pause before a coordinator that was restarted tries again to open."""


class CoordinatorProcess:
    """The coordinator of a home, over the hosts' actors."""

    def __init__(
        self, catalog: str | Path, hosts: Mapping[str, ActorName], secret: bytes, erasure_s: float = ERASURE_S
    ) -> None:
        """catalog: its URL or SQLite file. hosts: the hosts' actors by host name. secret: the cluster's.

        erasure_s: see Coordinator.
        """
        self._erasure_s = erasure_s
        self._where = catalog
        self._hosts, self._secret = hosts, secret
        self._opening = threading.Lock()
        self._runtime: RayRuntime | None = None
        self._coordinator: Coordinator | None = None
        self._is_closed = threading.Event()
        logging.basicConfig(level=logging.INFO)
        if is_restarted():
            # Nobody may call for hours; the hosts have to be looked after.
            threading.Thread(target=self._open_again, name="facegrid-open", daemon=True).start()

    def _open_again(self) -> None:
        while not self._is_closed.is_set() and self.open().code is not None:
            self._is_closed.wait(RETRY_S)

    def add_host(self, name: str, where: ActorName) -> Outcome:
        """A host that has come since."""
        return outcome_of(lambda: self._add_host(name, where), "the coordinator")

    def _add_host(self, name: str, where: ActorName) -> None:
        self._hosts = {**self._hosts, name: where}
        self._open()
        if self._runtime is not None and name not in self._runtime.hosts():
            self._runtime.add(name, Actor.find(where))

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        """Call a public method of the Coordinator, which is opened at the first call."""
        if method not in METHODS:
            error = InvalidParameter(f"the coordinator has {', '.join(METHODS)}; got {method!r}")
            return Outcome(code=error.code, message=str(error))
        return outcome_of(lambda: attrgetter(method)(self._open())(*args, **kwargs), f"coordinator.{method}")

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
                catalog = Catalog(self._where)
                try:
                    coordinator = Coordinator(catalog, self._runtime, erasure_s=self._erasure_s)
                except BaseException:
                    catalog.close()
                    raise
                coordinator.watch(WATCH_S)
                self._coordinator = coordinator
            return self._coordinator

    def _close(self) -> None:
        self._is_closed.set()
        with self._opening:
            if self._coordinator is not None:
                self._coordinator.close()
            if self._runtime is not None:
                self._runtime.close()
