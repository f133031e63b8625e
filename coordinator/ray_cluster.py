"""`RayCluster`: a home's shard hosts and coordinator on a Ray cluster, from start to close.

A node offers to hold shards by a custom resource `facegrid_host_<name>`; one host actor is pinned to each such node by
a little of it. A cluster that we start ourselves has no such nodes: its hosts are host-0, host-1, ... on this machine.
Names are what placement stores, so a node that comes back under the same name brings its shards.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.actors import CONTROL_THREADS, HEALTH, LOCAL, Actor, ActorName, Node, RaySession
from coordinator.calibrations import LabelledSample
from coordinator.coordinator import ERASURE_S
from coordinator.coordinator_process import CoordinatorProcess, host_title
from coordinator.dataplane.handshake import checked_secret
from coordinator.gallery_calibration import Calibration
from coordinator.host_process import ShardHostProcess
from coordinator.key_service import KeySource
from coordinator.ray_claims import RayClaims
from coordinator.ray_idempotency import RayIdempotency
from coordinator.ray_jobs import RayJobs
from coordinator.ray_runtime import RayRuntime
from coordinator.ray_tenants import RayTenants
from coordinator.replication import ReplicationPolicy
from coordinator.snapshot_catalog import SnapshotRecord
from coordinator.tenants import AUDIT_S
from coordinator.types import (
    ErasureBacklog,
    GalleryRoute,
    GallerySpec,
    HostRecord,
    ModelData,
    ReplicaErasure,
    RolloutStatus,
    ShardConfig,
    TrainReport,
)
from shard.drift import Drift
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable

RESOURCE_PREFIX = "facegrid_host_"
NAMESPACE_PREFIX = "facegrid-"
"""Of the namespace of a home's actors; its id follows."""
COORDINATOR = "the coordinator"
"""The title of a home's coordinator, by which other processes find it."""
PIN = 0.001
"""How much of its node's resource a host actor takes: several homes can share the nodes."""
REPORT_S = 10.0
"""How long the coordinator may take to look at a shard that a writer reports; it looks after all by itself too."""
CLOSE_S = 30.0
"""How long a host may take to close before its process is ended; acknowledged writes are durable either way."""

SCAN_S = 2.0
"""Pause between two looks for nodes that have come."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where and how to run. `address`: "local" starts a Ray cluster here, host:port joins one.

    shard_hosts: hosts of a cluster that we start (1 if None). num_cpus, object_store_bytes: of that cluster too.
    replication: when a host counts as lost and when it is replaced; None: as ReplicationPolicy has it.
    """

    address: str = LOCAL
    shard_hosts: int | None = None
    num_cpus: int | None = None
    object_store_bytes: int = 128 << 20
    start_timeout_s: float = 120.0
    replication: ReplicationPolicy | None = None


@dataclass(frozen=True, slots=True)
class _Seat:
    """Where a host goes: its node's address for the data port, and what pins it there."""

    bind: str
    resources: dict[str, float] | None


class RayCluster:
    """The running actors of one home. `runtime` is for this process's router, `coordinator` for the control plane."""

    def __init__(self, session: RaySession, undo: contextlib.ExitStack) -> None:
        """Use `start`."""
        self._session = session
        self._closing = undo
        self.actors: dict[str, Actor] = {}
        self._spawned: list[Actor] = []
        self.runtime: RayRuntime
        self.coordinator: RayCoordinator
        self._seat: Callable[[str, _Seat], Actor]
        self._scan = threading.Thread(target=self._scan_on, name="facegrid-scan", daemon=True)
        self._scan_ended = threading.Event()

    @classmethod
    def start(
        cls,
        options: RayOptions,
        home: Path,
        home_id: str,
        secret: bytes,
        known_hosts: Sequence[str],
        *,
        needed_hosts: Sequence[str] | None = None,
        kernel: str | None = None,
        catalog: str | None = None,
        erasure_s: float = ERASURE_S,
        audit_s: float = AUDIT_S,
        key_source: KeySource | None = None,
        open_shards: int | None = None,
    ) -> RayCluster:
        """Start or join Ray, start a host actor for each name and the coordinator, wait until all are open.

        home: the home directory, at the same path on every node; host `a` keeps its shards in <home>/hosts/a of its
        node. catalog: its URL, which this node can reach; <home>/catalog.db of this node if None. known_hosts: names
        that the catalog has shards on. needed_hosts: those without which a shard has no replica in sync; all if None.
        open_shards: of each host at a time; as many as its limit of open files allows if None.
        Raises ClusterNotReady (no cluster, versions differ, hosts missing), MissingExtra, InvalidParameter, and what
        keeps a host or the coordinator from opening (HomeLocked, CorruptData, FormatTooNew).
        """
        checked_secret(secret)
        with contextlib.ExitStack() as undo:
            session = _connect(options, f"{NAMESPACE_PREFIX}{home_id}")
            undo.callback(session.close)
            cluster = cls(session, undo)
            needed = known_hosts if needed_hosts is None else needed_hosts
            seats = _seats(session, options, home, known_hosts, needed)
            cluster._seat = lambda name, seat: session.spawn(
                ShardHostProcess,
                (name, str(home / "hosts" / name), secret, seat.bind, kernel, open_shards),
                title=host_title(name),
                resources=seat.resources,
            )
            undo.callback(cluster._stop_hosts)
            for name, seat in seats.items():
                cluster.actors[name] = cluster._seat(name, seat)
            # Started before the hosts are waited for: processes take seconds to come up, and do so side by side.
            coordinator = _spawn_coordinator(
                session,
                catalog or home / "catalog.db",
                secret,
                cluster.actors,
                erasure_s,
                options.replication,
                audit_s,
                key_source,
                home,
            )
            undo.callback(_stop, coordinator)
            _wait_open(cluster.actors, options.start_timeout_s, needed)
            coordinator.call("open")
            cluster.coordinator = RayCoordinator(coordinator)
            cluster.runtime = RayRuntime(cluster.actors, secret)
            undo.callback(cluster.runtime.close)
            undo.callback(cluster._stop_spawned)
            if not session.started_here:
                undo.callback(cluster._end_scan)
                cluster._scan.start()
            cluster._closing = undo.pop_all()
        return cluster

    def scan(self) -> list[str]:
        """Start a host on every node that offers to hold shards and has none yet; their names."""
        fresh = {name: seat for name, seat in _offered(self._session).items() if name not in self.actors}
        for name, seat in fresh.items():
            self.actors[name] = self._seat(name, seat)
            self.runtime.add(name, self.actors[name])
            _LOG.warning("shard host %s has come", name)
        # All of them each time: a coordinator that was away just then has not heard of some.
        hosts = {name: actor.where for name, actor in self.actors.items()}
        self.coordinator.actor.call("know_hosts", hosts, timeout_s=REPORT_S)
        return sorted(fresh)

    @property
    def host_actors(self) -> dict[str, ActorName]:
        """The hosts' actors by host name, by which other processes find them."""
        return {name: actor.where for name, actor in self.actors.items()}

    def spawn(
        self,
        cls: type,
        args: Sequence[object],
        *,
        title: str,
        node_id: str | None = None,
        gpus: float = 0.0,
        calls: int = CONTROL_THREADS,
        is_spread: bool = False,
    ) -> Actor:
        """Start an actor beside those of the home, as `RaySession.spawn` does; ended when this is closed."""
        actor = self._session.spawn(
            cls, args, title=title, node_id=node_id, gpus=gpus, calls=calls, is_spread=is_spread
        )
        self._spawned.append(actor)
        return actor

    def nodes(self) -> list[Node]:
        """The live nodes."""
        return self._session.nodes()

    def _stop_spawned(self) -> None:
        for actor in reversed(self._spawned):
            _stop(actor)

    def _scan_on(self) -> None:
        while not self._scan_ended.wait(SCAN_S):
            try:
                self.scan()
            except FacegridError as error:
                _LOG.warning("new shard hosts could not be looked for: %s", error)

    def _end_scan(self) -> None:
        self._scan_ended.set()
        self._scan.join()

    def _stop_hosts(self) -> None:
        for actor in reversed(list(self.actors.values())):
            _stop(actor)

    def close(self) -> None:
        """Close the coordinator and the hosts (they release their directories); end a Ray we started. Idempotent."""
        self._closing.close()


class RayCoordinator:
    """The methods of `coordinator.coordinator.Coordinator`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.snapshots = RaySnapshotControl(actor)
        self.calibrations = RayCalibrations(actor)
        self.tenants = RayTenants(actor)
        self.idempotency = RayIdempotency(actor)
        self.claims = RayClaims(actor)
        self.identities = RayIdentityChanges(actor)
        self.jobs = RayJobs(actor)

    def hosts(self) -> tuple[str, ...]:
        """See Coordinator.hosts."""
        hosts: tuple[str, ...] = self._call("hosts")
        return hosts

    def gallery(self, name: str) -> GalleryRoute:
        """See Coordinator.gallery."""
        route: GalleryRoute = self._call("gallery", name)
        return route

    def galleries(self, tenant: str | None = None) -> list[GalleryRoute]:
        """See Coordinator.galleries."""
        routes: list[GalleryRoute] = self._call("galleries", tenant)
        return routes

    def create_gallery(self, spec: GallerySpec) -> GalleryRoute:
        """See Coordinator.create_gallery."""
        route: GalleryRoute = self._call("create_gallery", spec)
        return route

    def drop_gallery(self, name: str) -> None:
        """See Coordinator.drop_gallery."""
        self._call("drop_gallery", name)

    def train(self, name: str, *, seed: int = 0) -> TrainReport:
        """See Coordinator.train."""
        report: TrainReport = self._call("train", name, seed=seed)
        return report

    def train_if_due(self, name: str) -> TrainReport | None:
        """See Coordinator.train_if_due."""
        report: TrainReport | None = self._call("train_if_due", name)
        return report

    def drift(self, name: str) -> Drift | None:
        """See Coordinator.drift."""
        drift: Drift | None = self._call("drift", name)
        return drift

    def rollouts(self) -> list[RolloutStatus]:
        """See Coordinator.rollouts."""
        statuses: list[RolloutStatus] = self._call("rollouts")
        return statuses

    def roll_back(self, name: str) -> RolloutStatus:
        """See Coordinator.roll_back."""
        status: RolloutStatus = self._call("roll_back", name)
        return status

    def resume_rollouts(self) -> None:
        """See Coordinator.resume_rollouts."""
        self._call("resume_rollouts")

    def report(self, gallery_id: str, shard: int, epoch: int, error: str) -> None:
        """See Coordinator.report."""
        self.actor.call("call", "report", (gallery_id, shard, epoch, error), {}, timeout_s=REPORT_S)

    def drain(self, host: str) -> None:
        """See Coordinator.drain."""
        self._call("drain", host)

    def undrain(self, host: str) -> None:
        """See Coordinator.undrain."""
        self._call("undrain", host)

    def host_records(self) -> list[HostRecord]:
        """See Coordinator.host_records."""
        records: list[HostRecord] = self._call("host_records")
        return records

    def replicas_left(self, host: str) -> int:
        """See Coordinator.replicas_left."""
        left: int = self._call("replicas_left", host)
        return left

    def erasure_report(self, name: str | None = None) -> list[ReplicaErasure]:
        """See Coordinator.erasure_report."""
        report: list[ReplicaErasure] = self._call("erasure_report", name)
        return report

    def erase(self, name: str) -> None:
        """See Coordinator.erase."""
        self._call("erase", name)

    def erase_due(self, name: str | None = None) -> int:
        """See Coordinator.erase_due."""
        done: int = self._call("erase_due", name)
        return done

    def erasure_backlog(self) -> ErasureBacklog | None:
        """See Coordinator.erasure_backlog."""
        backlog: ErasureBacklog | None = self._call("erasure_backlog")
        return backlog

    def look_after(self) -> None:
        """See Coordinator.look_after; the actor does so by itself too."""
        self._call("look_after")

    def compare(self) -> list[str]:
        """See Coordinator.compare."""
        found: list[str] = self._call("compare")
        return found

    def heat(self) -> dict[str, str]:
        """See Coordinator.heat."""
        return dict(self._call("heat"))

    def shard_configs(self) -> list[ShardConfig]:
        """See Coordinator.shard_configs."""
        configs: list[ShardConfig] = self._call("shard_configs")
        return configs

    def close(self) -> None:
        """The actor is RayCluster's to close."""

    def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        return self.actor.call("call", method, args, kwargs)


class RaySnapshotControl:
    """The methods of `coordinator.snapshots.control.SnapshotControl`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def active_model(self, gallery: str) -> ModelData | None:
        """See SnapshotControl.active_model."""
        model: ModelData | None = self._call("active_model", gallery)
        return model

    def begin_restore(self, spec: GallerySpec, snapshot_id: str, model: ModelData | None) -> tuple[GalleryRoute, bool]:
        """See SnapshotControl.begin_restore."""
        begun: tuple[GalleryRoute, bool] = self._call("begin_restore", spec, snapshot_id, model)
        return begun

    def restoring(self, gallery: str) -> GalleryRoute:
        """See SnapshotControl.restoring."""
        route: GalleryRoute = self._call("restoring", gallery)
        return route

    def finish_restore(self, gallery: str) -> GalleryRoute:
        """See SnapshotControl.finish_restore."""
        route: GalleryRoute = self._call("finish_restore", gallery)
        return route

    def abandon_restore(self, gallery: str) -> None:
        """See SnapshotControl.abandon_restore."""
        self._call("abandon_restore", gallery)

    def was_restored_from(self, gallery: str, snapshot_id: str) -> bool:
        """See SnapshotControl.was_restored_from."""
        answer: bool = self._call("was_restored_from", gallery, snapshot_id)
        return answer

    def remember(self, record: SnapshotRecord) -> None:
        """See SnapshotControl.remember."""
        self._call("remember", record)

    def forget(self, snapshot_ids: tuple[str, ...]) -> None:
        """See SnapshotControl.forget."""
        self._call("forget", snapshot_ids)

    def made(self) -> list[SnapshotRecord]:
        """See SnapshotControl.made."""
        records: list[SnapshotRecord] = self._call("made")
        return records

    def _call(self, method: str, *args: object) -> Any:
        return self._actor.call("call", f"snapshots.{method}", args, {})


class RayCalibrations:
    """The methods of `coordinator.calibrations.Calibrations`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def draw(self, gallery: str, count: int, seed: int) -> LabelledSample:
        """See Calibrations.draw."""
        sample: LabelledSample = self._actor.call("call", "calibrations.draw", (gallery, count, seed), {})
        return sample

    def put(self, gallery_id: str, calibration: Calibration) -> None:
        """See Calibrations.put."""
        self._actor.call("call", "calibrations.put", (gallery_id, calibration), {})

    def of(self, gallery_id: str) -> Calibration | None:
        """See Calibrations.of."""
        found: Calibration | None = self._actor.call("call", "calibrations.of", (gallery_id,), {})
        return found


class RayIdentityChanges:
    """The methods of `coordinator.identities.IdentityChanges`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def rename(self, gallery: str, old: str, new: str) -> int:
        """See IdentityChanges.rename."""
        moved: int = self._actor.call("call", "identities.rename", (gallery, old, new), {})
        return moved

    def merge(self, gallery: str, identities: Sequence[str], into: str) -> int:
        """See IdentityChanges.merge."""
        moved: int = self._actor.call("call", "identities.merge", (gallery, tuple(identities), into), {})
        return moved

    def mark(self, gallery: str) -> int | None:
        """See IdentityChanges.mark."""
        mark: int | None = self._actor.call("call", "identities.mark", (gallery,), {})
        return mark


def _connect(options: RayOptions, namespace: str) -> RaySession:
    if options.address == LOCAL:
        return RaySession.start(namespace, num_cpus=options.num_cpus, object_store_bytes=options.object_store_bytes)
    return RaySession.join(options.address, namespace, timeout_s=options.start_timeout_s)


def _seats(
    session: RaySession, options: RayOptions, home: Path, known: Sequence[str], needed: Sequence[str]
) -> dict[str, _Seat]:
    """Host name to its place. ClusterNotReady if a needed host has none, or if there is no host at all."""
    if session.started_here:
        fresh = [f"host-{i}" for i in range(options.shard_hosts or 1)]
        lost = sorted(name for name in needed if name not in fresh and not (home / "hosts" / name).is_dir())
        if lost:
            raise ClusterNotReady(
                f"shards of this home are on hosts {', '.join(lost)}, which have no directory below {home / 'hosts'};"
                f" join the Ray cluster whose nodes offer {', '.join(RESOURCE_PREFIX + name for name in lost)}"
            )
        there = [name for name in known if (home / "hosts" / name).is_dir()]
        return {name: _Seat("127.0.0.1", None) for name in sorted({*fresh, *there})}
    seats = _offered(session)
    missing = sorted(set(needed) - set(seats))
    if missing or not seats:
        wanted = missing or ["<name>"]
        raise ClusterNotReady(
            f"no live node of the Ray cluster at {session.address} offers"
            f" {', '.join(RESOURCE_PREFIX + name for name in wanted)}; hosts present: {', '.join(seats) or 'none'}."
            f" Start the node with: ray start --resources '{{\"{RESOURCE_PREFIX}{wanted[0]}\": 1}}'"
        )
    return seats


def _offered(session: RaySession) -> dict[str, _Seat]:
    seats: dict[str, _Seat] = {}
    for node in session.nodes():
        for resource in node.resources:
            if not resource.startswith(RESOURCE_PREFIX):
                continue
            name = resource.removeprefix(RESOURCE_PREFIX)
            if not _NAME.fullmatch(name):
                raise ClusterNotReady(
                    f"node {node.address} offers {resource!r}; a host name has lower-case letters, digits and '-'"
                )
            if name in seats:
                raise ClusterNotReady(f"two nodes offer {resource!r}: {seats[name].bind} and {node.address}")
            seats[name] = _Seat(node.address, {resource: PIN})
    return dict(sorted(seats.items()))


def _wait_open(actors: dict[str, Actor], timeout_s: float, needed: Sequence[str]) -> None:
    pending = {name: actor.begin("data_address", group=HEALTH) for name, actor in actors.items()}
    for name, call in pending.items():
        try:
            call.result(timeout_s)
        except HostUnavailable as error:
            if name in needed or len(actors) == 1:
                raise ClusterNotReady(f"shard host {name} did not start: {error}") from error
            _LOG.warning("shard host %s did not start; going on without it: %s", name, error)


def _spawn_coordinator(
    session: RaySession,
    catalog: str | Path,
    secret: bytes,
    hosts: dict[str, Actor],
    erasure_s: float,
    policy: ReplicationPolicy | None,
    audit_s: float,
    key_source: KeySource | None,
    home: Path,
) -> Actor:
    """On this node, where the home is."""
    args = (
        catalog,
        {name: actor.where for name, actor in hosts.items()},
        secret,
        erasure_s,
        policy,
        audit_s,
        key_source,
        home,
    )
    return session.spawn(CoordinatorProcess, args, title=COORDINATOR, node_id=session.here())


def _stop(actor: Actor) -> None:
    """Close gracefully, then end the process."""
    try:
        actor.call("close", timeout_s=CLOSE_S)
    except FacegridError as error:
        _LOG.warning("%s did not close in order: %s", actor.title, error)
    actor.kill()
