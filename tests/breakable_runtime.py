"""A runtime of real shard hosts in this process that can be killed, started again, and cut off from each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from coordinator.host import ShardHost
from coordinator.messages import ControlRequest, DataRequest, Reply
from coordinator.peers import Leases
from shard.errors import DeadlineExceeded, FacegridError, HostUnavailable

OUTSIDE = "outside"
"""Where routers and the coordinator are, as a place that hosts can be cut off from."""


class _Way:
    """How one host, or the outside, reaches the hosts."""

    def __init__(self, runtime: BreakableRuntime, start: str) -> None:
        self._runtime, self._start = runtime, start

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        return self._runtime.send(self._start, host, request, deadline)

    def locate(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """They are all here."""


class BreakableRuntime:
    """Implements `coordinator.runtime.Runtime`; with leases, as hosts on machines of their own have them."""

    def __init__(
        self, directory: Path, names: Sequence[str], *, has_leases: bool = True, open_shards: int | None = None
    ) -> None:
        self._directory, self._names, self._has_leases = directory, tuple(names), has_leases
        self._open_shards = open_shards
        self._hosts: dict[str, ShardHost] = {}
        self._ending: dict[str, threading.Thread] = {}
        self.cut: set[tuple[str, str]] = set()
        """(from, to) of messages that get lost."""
        self.on_send = lambda start, host, request: None
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a host that is not running."""
        if name in self._ending:
            self._ending.pop(name).join()  # the directory's lock is its last
        leases = Leases(name) if self._has_leases else None
        self._hosts[name] = ShardHost(
            name, self._directory / name, _Way(self, name), leases=leases, open_shards=self._open_shards
        )

    def kill(self, name: str) -> None:
        """End a host without asking it: what it was doing is not finished for anybody."""
        self._ending[name] = threading.Thread(target=self._hosts.pop(name).close, daemon=True)
        self._ending[name].start()

    def isolate(self, *names: str) -> None:
        """Cut these hosts off from everything but each other."""
        others = {*self._names, OUTSIDE} - set(names)
        self.cut |= {(a, b) for a in names for b in others} | {(b, a) for a in names for b in others}

    def heal(self) -> None:
        """Nothing is cut off any more."""
        self.cut.clear()

    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted(self._names))

    def host(self, name: str) -> ShardHost:
        """A host that is running."""
        return self._hosts[name]

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        return self.send(OUTSIDE, host, request, deadline)

    def send(self, start: str, host: str, request: DataRequest, deadline: float) -> Future[Reply]:
        """Carry out a request in a thread of its own, as another machine would, unless it gets lost."""
        future: Future[Reply] = Future()
        future.set_running_or_notify_cancel()
        self.on_send(start, host, request)
        if (start, host) in self.cut:
            self._expire(future, deadline, f"{host} is cut off from {start}")
        elif host not in self._hosts:
            future.set_exception(HostUnavailable(f"{host} is not running"))
        else:
            threading.Thread(target=self._run, args=(start, host, request, deadline, future), daemon=True).start()
        return future

    def _run(self, start: str, host: str, request: DataRequest, deadline: float, future: Future[Reply]) -> None:
        try:
            reply = self._hosts[host].execute(request)
        except KeyError:
            future.set_exception(HostUnavailable(f"{host} is not running"))
        except FacegridError as error:
            self._answer(start, host, future, deadline, error)
        else:
            self._answer(start, host, future, deadline, reply)

    def _answer(
        self, start: str, host: str, future: Future[Reply], deadline: float, answer: Reply | FacegridError
    ) -> None:
        if (host, start) in self.cut:
            self._expire(future, deadline, f"the answer of {host} to {start} was lost")
        elif isinstance(answer, FacegridError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _expire(self, future: Future[Reply], deadline: float, why: str) -> None:
        timer = threading.Timer(
            max(0.0, min(deadline - time.monotonic(), 5.0)), lambda: future.set_exception(DeadlineExceeded(why))
        )
        timer.daemon = True
        timer.start()

    def addresses(self) -> dict[str, tuple[str, int]]:
        return {}

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        replies = []
        for host, request in calls:
            if (OUTSIDE, host) in self.cut or (host, OUTSIDE) in self.cut or host not in self._hosts:
                raise HostUnavailable(f"{host} cannot be reached")
            replies.append(self._hosts[host].execute(request))
        return replies

    def close(self) -> None:
        while self._hosts:
            self._hosts.popitem()[1].close()
