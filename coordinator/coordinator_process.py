"""What runs inside the coordinator's actor. Errors travel and opening is repeated as in `host_process.py`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.actors import Actor, ActorName
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.outcome import Outcome, outcome_of
from coordinator.ray_runtime import RayRuntime
from shard.errors import InvalidParameter

METHODS = (
    "hosts", "gallery", "galleries", "create_gallery", "drop_gallery", "train", "train_if_due", "drift", "rollouts",
    "roll_back", "resume_rollouts", "report",
)  # fmt: skip


class CoordinatorProcess:
    """The coordinator of a home, over the hosts' actors."""

    def __init__(self, catalog: str | Path, hosts: Mapping[str, ActorName], secret: bytes) -> None:
        """catalog: its URL or SQLite file. hosts: the hosts' actors by host name. secret: the cluster's."""
        self._where = catalog
        self._hosts, self._secret = hosts, secret
        self._opening = threading.Lock()
        self._runtime: RayRuntime | None = None
        self._coordinator: Coordinator | None = None
        logging.basicConfig(level=logging.INFO)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        """Call a public method of the Coordinator, which is opened at the first call."""
        if method not in METHODS:
            error = InvalidParameter(f"the coordinator has {', '.join(METHODS)}; got {method!r}")
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
                self._coordinator = Coordinator(Catalog(self._where), self._runtime)
            return self._coordinator

    def _close(self) -> None:
        with self._opening:
            if self._coordinator is not None:
                self._coordinator.close()
            if self._runtime is not None:
                self._runtime.close()
