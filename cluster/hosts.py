"""Shard hosts as an administrator sees them: what each holds, emptying one, comparing replicas.

The coordinator decides and copies; here is what people ask of it, and the waiting. On Ray the coordinator looks after
the replicas by itself all the time; in this process it does so rarely, so that whoever waits drives it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from cluster.results import HostStatus, ShardReplicas
from coordinator.coordinator import Coordinator
from coordinator.ray_coordinator import RayCoordinator
from coordinator.router import Router
from coordinator.types import DRAINING, UP, HostRecord, ShardConfig
from shard.errors import ClusterNotReady, DeadlineExceeded, InvalidParameter

Progress = Callable[[int, int], None]
"""Gets replicas done and replicas in all."""
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
"""Pause between two rounds of waiting: it doubles while nothing changes."""


def statuses(coordinator: Coordinator | RayCoordinator, router: Router) -> list[HostStatus]:
    """Every host that was ever part of the home, by name."""
    configs = coordinator.shard_configs()
    primaries = Counter(config.primary for config in configs)
    observed = {health.host: health for health in router.health()}
    found = []
    for record in coordinator.host_records():
        health = observed.get(record.host)
        found.append(
            HostStatus(
                host=record.host,
                state=record.state,
                since=record.since,
                replicas=_held(configs, record.host),
                primaries=primaries[record.host],
                p95_ms=None if health is None else health.p95_ms,
                breaker=None if health is None else health.breaker,
                failures=None if health is None else health.failures,
                hedges=None if health is None else health.hedges,
            )
        )
    return found


def replicas(coordinator: Coordinator | RayCoordinator) -> list[ShardReplicas]:
    """Who holds each shard, by gallery and shard. Galleries that are created or dropped meanwhile may be left out."""
    configs = coordinator.shard_configs()
    routes = {route.gallery_id: route for route in coordinator.galleries()}
    found = [
        ShardReplicas(
            gallery=route.name,
            shard=config.shard,
            epoch=config.epoch,
            primary=config.primary,
            in_sync=config.in_sync,
            joining=config.joining,
            wanted=route.replicas,
        )
        for config in configs
        if (route := routes.get(config.gallery_id)) is not None
    ]
    return sorted(found, key=lambda entry: (entry.gallery, entry.shard))


def drain(
    coordinator: Coordinator | RayCoordinator,
    host: str,
    *,
    progress: Progress | None,
    timeout_s: float | None,
    wait: bool,
) -> int:
    """Empty a host; see `Cluster.drain`."""
    _check_timeout(timeout_s)
    if wait:
        _check_room(coordinator, host)
    total = coordinator.replicas_left(host)
    coordinator.drain(host)
    if not wait:
        return total
    most = total
    for configs in _rounds(coordinator, timeout_s, f"shard host {host} is not empty yet; it is emptied further"):
        left = _held(configs, host)
        most = max(most, left)  # a copy to it may have been begun just before
        if progress is not None:
            progress(most - left, most)
        if not left:
            break
        if _record(coordinator, host).state == UP:
            raise ClusterNotReady(
                f"shard host {host} holds {left} replicas and is not being drained any more: somebody undrained it, or"
                " it was away and has come back; drain it again"
            )
    # Whoever wrote that the last replica left may be about to remove its files: after one more round he has.
    coordinator.look_after()
    return total


def compare(coordinator: Coordinator | RayCoordinator, *, timeout_s: float | None, wait: bool) -> list[str]:
    """Compare the replicas of every shard with each other; see `Cluster.compare`."""
    _check_timeout(timeout_s)
    found = coordinator.compare()
    if found and wait:
        late = f"what differed is not copied anew yet: {'; '.join(found)}"
        for configs in _rounds(coordinator, timeout_s, late):
            # A host that copies and goes away no longer joins, and one that is to copy joins in the first round.
            if not any(config.joining for config in configs):
                break
    return found


def _rounds(
    coordinator: Coordinator | RayCoordinator, timeout_s: float | None, late: str
) -> Iterator[list[ShardConfig]]:
    """The configurations of all shards after each of as many rounds as the caller wants.

    Raises DeadlineExceeded, saying `late`, when he wants one more after `timeout_s`; there is always one.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    before: list[ShardConfig] | None = None
    while True:
        coordinator.look_after()
        configs = coordinator.shard_configs()
        yield configs
        if until is not None and time.monotonic() >= until:
            raise DeadlineExceeded(f"{late}; waited {timeout_s:g} s")
        pause_s = FIRST_PAUSE_S if configs != before else min(2 * pause_s, LONGEST_PAUSE_S)
        before = configs
        time.sleep(pause_s if until is None else max(0.0, min(pause_s, until - time.monotonic())))


def _check_room(coordinator: Coordinator | RayCoordinator, host: str) -> None:
    """ClusterNotReady unless the other hosts that are up can hold everything that the host holds."""
    record = _record(coordinator, host)
    held = {config.gallery_id for config in coordinator.shard_configs() if host in (*config.in_sync, *config.joining)}
    if held and record.state not in (UP, DRAINING):
        raise ClusterNotReady(
            f"shard host {host} is {record.state}: it cannot be emptied until it is back. What it holds alone is on it"
            " only; the rest is copied from other replicas when it stays away"
        )
    others = [r.host for r in coordinator.host_records() if r.state == UP and r.host != host]
    for route in coordinator.galleries():
        if route.gallery_id in held and route.replicas > len(others):
            raise ClusterNotReady(
                f"shard host {host} cannot be emptied: {route.name} has {route.replicas} replicas of each shard, each"
                f" on a host of its own, and the other hosts that are up are {', '.join(others) or 'none'}; add a host"
                " first"
            )


def _record(coordinator: Coordinator | RayCoordinator, host: str) -> HostRecord:
    records = coordinator.host_records()
    for record in records:
        if record.host == host:
            return record
    raise InvalidParameter(f"no shard host {host!r}; known: {', '.join(record.host for record in records)}")


def _held(configs: list[ShardConfig], host: str) -> int:
    """Replicas on a host, in sync or joining."""
    return sum(host in config.in_sync or host in config.joining for config in configs)


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidParameter(f"timeout_s: expected a number of seconds above 0, got {timeout_s!r}")
