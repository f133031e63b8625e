"""How the hosts of a home reach each other, and the leases by which each knows that the others count on it.

A replica that was cut off must stop answering before the others go on without it. So a host may answer reads of a
shard only while every other host in sync has lately said that it counts on this one (`Leases.may_read`); and a host
that takes up a configuration without another writes nothing until what it has said to that one has run out
(`Leases.granted_until`).
Hosts of one process cannot be cut off from each other and have no leases.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Protocol, TypeVar

from coordinator.messages import BeaconReply, BeaconRequest, DataRequest, Reply
from coordinator.types import ShardConfig
from shard.errors import FacegridError, HostUnavailable, ProtocolError
from shard.keys import template_keys

LEASE_S = 3.0
"""How long a host counts on another after it last said so."""
BEACON_S = 0.5
"""Pause between two questions to one host."""
SOON_S = 0.05
"""Pause before a host is asked again that has not been told yet what this one has been told."""
DRIFT = 0.1
"""How much clocks of two machines may run apart, as a share of the lease."""

ReplyT = TypeVar("ReplyT", bound=Reply)
Shard = tuple[str, int]


class Peers(Protocol):
    """The other hosts, by name."""

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        """Send a data request; see `coordinator.runtime.Runtime.submit`."""

    def locate(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Take note of where hosts are: host name to address and port of its data port."""


def ask(peers: Peers, host: str, request: DataRequest, kind: type[ReplyT], timeout_s: float) -> ReplyT:
    """Ask another host and wait. Raises its FacegridError, HostUnavailable or DeadlineExceeded."""
    future = peers.submit(host, request, deadline=time.monotonic() + timeout_s)
    try:
        reply = future.result(timeout_s + 1.0)
    except FutureTimeout:
        raise HostUnavailable(f"shard host {host!r} did not answer within {timeout_s:g} s") from None
    if not isinstance(reply, kind):
        raise ProtocolError(f"expected a {kind.__name__} of shard host {host!r}, got {type(reply).__name__}")
    return reply


class Leases:
    """What this host was granted by others, and what it granted them. Thread-safe."""

    def __init__(self, host: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._host, self._clock = host, clock
        self._lock = threading.Lock()
        self._started = clock()
        self._until: dict[tuple[str, str, int], float] = {}
        self._heard: set[str] = set()
        """Hosts that leases were ever had of."""
        self._digests: dict[str, int] = {}
        """Of each host's shared shards, until a configuration changes."""
        self._granted: dict[str, float] = {}
        self._configs: dict[Shard, ShardConfig] = {}
        self._begun: dict[Shard, float] = {}
        self._members: dict[Shard, frozenset[str]] = {}

    def configure(self, config: ShardConfig, admitted: Iterable[str] = ()) -> None:
        """Take note of a shard's configuration; leases of the one before are void.

        admitted: hosts that are about to be in sync; this one needs their leases too. It needs nobody's where it has no
        part in the configuration.
        """
        key = (config.gallery_id, config.shard)
        with self._lock:
            before = self._configs.get(key)
            self._configs[key] = config
            if before is None or before.epoch != config.epoch or not self._members[key].issuperset(admitted):
                self._begun[key] = self._clock()
            is_member = self._host in (*config.in_sync, *config.joining)
            self._members[key] = frozenset((*config.in_sync, *admitted) if is_member else ()) - {self._host}
            if before is not None and before.epoch != config.epoch:
                for host in self._heard:
                    self._until.pop((host, *key), None)
            self._digests.clear()

    def forget(self, shard: Shard) -> None:
        """The shard is not here any more."""
        with self._lock:
            self._configs.pop(shard, None)
            self._begun.pop(shard, None)
            self._members.pop(shard, None)
            self._digests.clear()

    def may_read(self, config: ShardConfig) -> bool:
        """Whether every other host in sync counts on this one still."""
        now, key = self._clock(), (config.gallery_id, config.shard)
        return all(self._until.get((host, *key), 0.0) > now for host in self._members.get(key, ()))

    def unheard(self, config: ShardConfig) -> frozenset[str]:
        """Hosts in sync that have not counted on this one for LEASE_S: reads are refused on their account."""
        key, now = (config.gallery_id, config.shard), self._clock()
        with self._lock:
            members, first = self._members.get(key, frozenset()), self._begun.get(key, now) + LEASE_S
        return frozenset(host for host in members if max(self._until.get((host, *key), 0.0), first) < now)

    def granted_until(self, hosts: Iterable[str], *, since_start: bool = False) -> float:
        """When the last grants to these hosts run out: what they think they may answer is over then; see `left_s`.

        since_start: what the process before this one granted counts too; nobody knows it, so it was at its very end.
        """
        with self._lock:
            until = max((self._granted.get(host, 0.0) for host in hosts), default=0.0)
            if since_start:
                until = max(until, self._started + LEASE_S * (1 + DRIFT))
            return until

    def left_s(self, moment: float) -> float:
        """Seconds until a moment that `granted_until` told; not above 0 once it is over."""
        return moment - self._clock()

    def grant(self, request: BeaconRequest) -> BeaconReply:
        """Count on a host for what it named, as far as its configurations are not out of date."""
        with self._lock:
            if not request.galleries:
                if request.digest != self._digest(request.host):
                    return BeaconReply(False, ())
                stale: tuple[int, ...] = ()
            else:
                named = zip(request.galleries, request.shards, request.epochs, strict=True)
                stale = tuple(i for i, (g, s, epoch) in enumerate(named) if not self._is_shared(g, s, epoch))
            self._granted[request.host] = self._clock() + LEASE_S * (1 + DRIFT)
            return BeaconReply(True, stale)

    def _is_shared(self, gallery_id: str, shard: int, epoch: int) -> bool:
        config = self._configs.get((gallery_id, shard))
        return config is not None and config.epoch == epoch

    def renew(self, host: str, question: Callable[[BeaconRequest], BeaconReply]) -> bool:
        """Ask a host to count on this one; with all shards by name only where the two think differently.

        Returns whether it does so for all that the two share.
        """
        sent = self._clock()
        with self._lock:
            shared = self._shared(host)
            digest = self._digest(host)
        reply = question(BeaconRequest(self._host, digest, (), (), ()))
        stale: set[int] = set()
        if not reply.is_granted and shared:
            sent = self._clock()
            galleries, shards, epochs = zip(*((c.gallery_id, c.shard, c.epoch) for c in shared), strict=True)
            reply = question(BeaconRequest(self._host, digest, galleries, shards, epochs))
            stale = set(reply.stale)
        with self._lock:
            for number, config in enumerate(shared):
                current = self._configs.get((config.gallery_id, config.shard))
                if number not in stale and current is not None and current.epoch == config.epoch:
                    self._heard.add(host)
                    self._until[host, config.gallery_id, config.shard] = sent + LEASE_S
        return not stale

    def partners(self) -> set[str]:
        """Hosts that this one needs leases of."""
        with self._lock:
            return {host for members in self._members.values() for host in members}

    def _shared(self, host: str) -> list[ShardConfig]:
        return [self._configs[key] for key in sorted(self._members) if host in self._members[key]]

    def _digest(self, host: str) -> int:
        """Under the lock."""
        if host not in self._digests:
            labels = [f"{config.gallery_id}/{config.shard}/{config.epoch}" for config in self._shared(host)]
            self._digests[host] = int(template_keys(labels).sum() & (2**63 - 1)) if labels else 0
        return self._digests[host]


class Beacons:
    """A thread that keeps the leases of one host alive."""

    def __init__(self, leases: Leases, peers: Peers) -> None:
        self._leases, self._peers = leases, peers
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._wake: dict[str, threading.Event] = {}

    def start_for(self, hosts: Sequence[str]) -> None:
        """Ask these hosts now and from now on, each beside the others: one that is silent delays none."""
        with self._lock:
            for host in hosts:
                if host in self._threads:
                    self._wake[host].set()
                elif not self._closing.is_set():
                    self._wake[host] = threading.Event()
                    thread = threading.Thread(target=self._run, args=(host,), name=f"facegrid-beacon-{host}")
                    thread.daemon = True
                    self._threads[host] = thread
                    thread.start()

    def _run(self, host: str) -> None:
        while not self._closing.is_set():
            is_whole = True
            if host in self._leases.partners():
                # What fails lets the lease run out, which is what it is for.
                with contextlib.suppress(FacegridError):
                    is_whole = self._leases.renew(
                        host, lambda question: ask(self._peers, host, question, BeaconReply, LEASE_S / 2)
                    )
            self._wake[host].wait(BEACON_S if is_whole else SOON_S)
            self._wake[host].clear()

    def close(self) -> None:
        """End the threads."""
        self._closing.set()
        for wake in self._wake.values():
            wake.set()
        for thread in self._threads.values():
            thread.join()
