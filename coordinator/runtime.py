"""Where shard hosts run: in this process (`LocalRuntime`) or as Ray actors (`coordinator.actors.RayRuntime`).

The router and the coordinator speak to hosts through `Runtime` alone, so the same code serves one machine and many.
Nothing here looks at what a request means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from coordinator.host import ShardHost
from coordinator.messages import ControlRequest, DataRequest, EnrollRequest, Reply
from coordinator.open_shards import default_limit
from shard.errors import DeadlineExceeded, HostUnavailable, ShardClosed

SMALL_ROWS = 256
"""Rows of a batch that are written in less time than their sync takes."""
SMALL_WRITES = 16
"""Small batches written at once in this process."""


class Runtime(Protocol):
    """The shard hosts of one home, by name."""

    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts, sorted; stable over restarts, since placement is stored by host name."""

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        """Send a data request; `deadline` is a time.monotonic() value.

        The future raises the host's FacegridError, HostUnavailable when the connection is refused or breaks, or
        DeadlineExceeded. HostUnavailable at once for a name that is not among `hosts()`.
        """

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        """Carry out control requests in parallel; replies in the order of `calls`. Raises the first failure."""

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where the hosts reach each other, as far as it is known; nothing where they are in one process."""

    def close(self) -> None:
        """Stop the hosts; nothing acknowledged is lost. Later calls raise ShardClosed. Idempotent."""


class LocalRuntime:
    """All hosts of a home in this process, no server. Enrollments run on a thread for each core, those of one shard in
    order; everything else runs in the caller's thread.

    Every host directory below `<home>/hosts` is opened, so a home written by a Ray cluster on one machine opens here.
    """

    def __init__(self, hosts_dir: Path, names: Sequence[str], *, open_shards: int | None = None) -> None:
        """names: the hosts to open or create below `hosts_dir`; HomeLocked if another process has one of them.

        open_shards: of each host at a time; as many as this process's limit of open files allows if None.
        """
        self._hosts: dict[str, ShardHost] = {}
        self._is_closed = False
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix=f"facegrid-write-{i}") for i in range(_cores())]
        self._writers = ThreadPoolExecutor(SMALL_WRITES, thread_name_prefix="facegrid-write")
        limit = default_limit(len(names)) if open_shards is None else open_shards
        try:
            for name in sorted(names):
                self._hosts[name] = ShardHost(name, hosts_dir / name, self, open_shards=limit)
        except BaseException:
            self.close()
            raise

    def hosts(self) -> tuple[str, ...]:
        """Names of the hosts, sorted."""
        return tuple(self._hosts)

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        """Run the request: a search now, in the caller's thread, since it uses all cores by itself.

        One that has begun is not cut short at the deadline; one whose deadline has passed is not begun.
        """
        future: Future[Reply] = Future()
        try:
            if isinstance(request, EnrollRequest):
                return self._lane(request).submit(self._execute, host, request, deadline)
            future.set_result(self._execute(host, request, deadline))
        except Exception as error:  # noqa: BLE001 - handed to the caller by the future, as a remote host would
            future.set_exception(error)
        return future

    def _lane(self, request: EnrollRequest) -> ThreadPoolExecutor:
        """Large batches take turns on a thread for each core; small ones run together, and share commits."""
        if self._is_closed:
            raise ShardClosed("the shard hosts of this process are closed")
        if len(request.batch) <= SMALL_ROWS:
            return self._writers
        return self._lanes[request.shard % len(self._lanes)]

    def locate(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """The hosts are all here."""

    def addresses(self) -> dict[str, tuple[str, int]]:
        """They need none."""
        return {}

    def _execute(self, host: str, request: DataRequest, deadline: float) -> Reply:
        if deadline <= time.monotonic():
            raise DeadlineExceeded(f"the deadline passed before shard host {host!r} was asked")
        return self._host(host).execute(request)

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        """Carry out the requests one after another."""
        return [self._host(host).execute(request) for host, request in calls]

    def close(self) -> None:
        """Finish the enrollments under way, then close every host. Idempotent."""
        self._is_closed = True
        for pool in (*self._lanes, self._writers):
            pool.shutdown()
        for host in self._hosts.values():
            host.close()

    def _host(self, name: str) -> ShardHost:
        try:
            return self._hosts[name]
        except KeyError:
            raise HostUnavailable(f"no shard host {name!r}; this home has {', '.join(self._hosts)}") from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
