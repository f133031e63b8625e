"""A runtime of real shard hosts in this process, in front of which a test refuses, holds or spoils requests."""

from __future__ import annotations

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from coordinator.host import ShardHost
from coordinator.messages import ControlRequest, DataRequest, Reply
from shard.errors import FacegridError, StaleRoute

Fault = Callable[[Any], FacegridError | None]
"""The error that a host answers a request with, None for none."""


@dataclass
class Held:
    """A request that the test answers when it likes."""

    host: str
    request: Any
    future: Future[Reply]


class FaultyRuntime:
    """Implements `coordinator.runtime.Runtime`. What is neither held nor spoilt is answered at once by the host."""

    def __init__(self, hosts: Mapping[str, ShardHost]) -> None:
        self._hosts = dict(hosts)
        self._lock = threading.Lock()
        self.faults: dict[str, Fault] = {}
        self.holding: set[str] = set()
        self.epochs: dict[tuple[str, int], int] = {}
        """Epoch of a host's shard, where it has another than the first; the hosts are in the first one all the time."""
        self.sent: list[tuple[str, Any]] = []
        self.held: list[Held] = []
        self.on_submit: Callable[[str, Any], None] = lambda host, request: None

    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted(self._hosts))

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        return [self._hosts[host].execute(request) for host, request in calls]

    def addresses(self) -> dict[str, tuple[str, int]]:
        return {}

    def close(self) -> None:
        """The hosts are the test's."""

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        future: Future[Reply] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self.sent.append((host, request))
            is_held = host in self.holding
            if is_held:
                self.held.append(Held(host, request, future))
        if not is_held:
            self.answer(Held(host, request, future))
        self.on_submit(host, request)
        return future

    def answer(self, one: Held) -> None:
        """What the host answers now."""
        try:
            one.future.set_result(self._execute(one.host, one.request))
        except FacegridError as error:
            one.future.set_exception(error)

    def release(self, host: str) -> None:
        """Answer what was held of a host so far."""
        with self._lock:
            mine = [one for one in self.held if one.host == host]
            self.held = [one for one in self.held if one.host != host]
        for one in mine:
            self.answer(one)

    def fail(self, host: str, error: FacegridError) -> None:
        """Fail what was held of a host so far."""
        with self._lock:
            mine = [one for one in self.held if one.host == host]
            self.held = [one for one in self.held if one.host != host]
        for one in mine:
            one.future.set_exception(error)

    def asked(self) -> dict[str, list[tuple[int, ...]]]:
        """Host to the shards of its requests, in order."""
        found: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
        for host, request in self.sent:
            found[host].append(request.shards)
        return dict(found)

    def _execute(self, host: str, request: Any) -> Reply:
        fault = self.faults.get(host)
        error = fault(request) if fault is not None else None
        if error is not None:
            raise error
        for shard, epoch in zip(request.shards, getattr(request, "epochs", ()), strict=False):
            has = self.epochs.get((host, shard), 1)
            if has != epoch:
                raise StaleRoute(f"{host} has shard {shard} in epoch {has}, not {epoch}")
        if getattr(request, "epochs", ()):
            request = dataclasses.replace(request, epochs=(0,) * len(request.epochs))
        return self._hosts[host].execute(request)
