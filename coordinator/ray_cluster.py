"""`RayCluster`: a home's shard hosts and coordinator on a Ray cluster, from start to close.

Where the hosts go is in `ray_seats.py`. Of a home that is detached, `start` takes over what runs and starts what lacks,
and `close` leaves all of it running; `ray_stop.py` ends it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.actor_names import CONTROL_RESOURCE, COORDINATOR, HOST, host_title, namespace_of
from coordinator.actors import CONTROL_THREADS, HEALTH, LOCAL, Actor, ActorName, Node, Pending, RaySession
from coordinator.coordinator import ERASURE_S
from coordinator.coordinator_process import CoordinatorProcess
from coordinator.dataplane.handshake import checked_secret
from coordinator.dataplane.tls import TlsFiles, tls_contexts
from coordinator.host_process import ShardHostProcess
from coordinator.kept import fingerprint
from coordinator.key_service import KeySource
from coordinator.ray_coordinator import REPORT_S, RayCoordinator
from coordinator.ray_runtime import RayRuntime
from coordinator.ray_seats import PIN, Seat, awaited_seats, check_ports, needed_seats, offered_seats, own_seats, seat_of
from coordinator.replication import ReplicationPolicy
from coordinator.tenants import AUDIT_S
from coordinator.threads import attempt
from coordinator.types import GONE
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter

CLOSE_S = 30.0
"""How long a host may take to close before its process is ended; acknowledged writes are durable either way."""

SCAN_S = 2.0
"""Pause between two looks for nodes that have come, or have gone for good."""
MARK_S = 5.0
"""How long shard hosts that run already may take to say what they were started with."""
PATIENCE_S = 30.0
"""How long a detached home waits for hosts that it can be opened without."""
ADOPT_S = 30.0
"""How long an actor that runs already may take to answer before the home is opened without it."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where and how to run. `address`: "local" starts a Ray cluster here, host:port joins one.

    shard_hosts: hosts of a cluster that we start (1 if None). num_cpus, object_store_bytes: of that cluster too.
    replication: when a host counts as lost and when it is replaced; None: as ReplicationPolicy has it. data_port,
    probe_port: of every shard host, so that no two may share an address; 0: any free one, None: no probes. tls: of the
    data plane. is_detached: the actors outlive this process, and the next one that opens the home takes them over.
    """

    address: str = LOCAL
    shard_hosts: int | None = None
    num_cpus: int | None = None
    object_store_bytes: int = 128 << 20
    start_timeout_s: float = 120.0
    replication: ReplicationPolicy | None = None
    data_port: int = 0
    probe_port: int | None = None
    tls: TlsFiles | None = None
    is_detached: bool = False


class RayCluster:
    """The running actors of one home. `runtime` is for this process's router, `coordinator` for the control plane."""

    def __init__(self, session: RaySession, options: RayOptions, undo: contextlib.ExitStack) -> None:
        """Use `start`."""
        self._session, self._options, self._closing = session, options, undo
        self.actors: dict[str, Actor] = {}
        self._spawned: list[Actor] = []
        self._differing: dict[str, str] = {}
        """Hosts that were taken over and are of another version or other settings than this process would start, and
        the ids of their nodes of then."""
        self.runtime: RayRuntime
        self.coordinator: RayCoordinator
        self._seat: Callable[[str, Seat], Actor]
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
        They are waited for; a detached home is opened without one that does not come or does not open.
        open_shards: of each host at a time; as many as its limit of open files allows if None.
        Raises ClusterNotReady (no cluster, versions differ, hosts missing), MissingExtra, InvalidParameter,
        InvalidCertificate, and what keeps an actor from opening (HomeLocked, CorruptData, FormatTooNew).
        """
        checked_secret(secret)
        tls_contexts(options.tls)  # what is wrong with the files is said here, and not by an actor
        with contextlib.ExitStack() as undo:
            session = _connect(options, namespace_of(home_id))
            undo.callback(session.close)
            cluster = cls(session, options, undo)
            running = _running(session)
            made = (catalog or home / "catalog.db", secret, erasure_s, options.replication, audit_s, key_source, home)
            coordinator = _adopted(running.get(COORDINATOR), _coordinator_mark(session, made, options))
            is_adopted = coordinator is not None
            # What runs goes on running, whichever nodes are away just now.
            needed = () if is_adopted else known_hosts if needed_hosts is None else needed_hosts
            seats = _seats(session, options, home, known_hosts, needed, has_coordinator=is_adopted)
            check_ports(seats, options.data_port, options.probe_port)
            host_made = (secret, kernel, open_shards)
            cluster._seat = lambda name, seat: _spawn_host(
                session, options, name, home / "hosts" / name, seat, host_made
            )
            if not session.is_detached:
                undo.callback(cluster._stop_hosts)
            for title, actor in running.items():
                if title.startswith(f"{HOST} "):
                    cluster.actors[title.removeprefix(f"{HOST} ")] = actor
            for name in seats.keys() - cluster.actors.keys():
                cluster.actors[name] = cluster._seat(name, seats[name])
            if coordinator is None:
                # Started before the hosts are waited for: processes take seconds to come up, and do so side by side.
                coordinator = _spawn_coordinator(session, cluster.host_actors, made, options)
            if not session.is_detached:
                undo.callback(_stop, coordinator)
            here = {name: actor for name, actor in cluster.actors.items() if name in seats}
            _wait_open(here, options, needed, is_adopted=is_adopted)
            taken_over = {name: actor for name, actor in cluster.actors.items() if host_title(name) in running}
            cluster._differing = {
                name: seats[name].node_id if name in seats else ""
                for name in _of_other_make(taken_over, _host_mark(options, host_made))
            }
            coordinator.call("open")
            cluster.coordinator = RayCoordinator(coordinator)
            cluster.runtime = RayRuntime(cluster.actors, secret, options.tls)
            undo.callback(cluster.runtime.close)
            undo.callback(cluster._stop_spawned)
            if session.is_detached:
                cluster._try_scan()
            if not session.started_here:
                undo.callback(cluster._end_scan)
                cluster._scan.start()
            cluster._closing = undo.pop_all()
        return cluster

    def scan(self) -> list[str]:
        """Start a host on every node that offers to hold shards and has none yet; their names."""
        offered = offered_seats(self._session)
        check_ports(offered, self._options.data_port, self._options.probe_port)
        fresh = {name: seat for name, seat in offered.items() if name not in self.actors}
        for name, seat in fresh.items():
            self.actors[name] = self._seat(name, seat)
            self.runtime.add(name, self.actors[name])
            _LOG.warning("shard host %s has come", name)
        # All of them each time: a coordinator that was away just then has not heard of some.
        self.coordinator.actor.call("know_hosts", self.host_actors, timeout_s=REPORT_S)
        away = self.actors.keys() - offered.keys()
        for name in away and away & self._gone():
            self._retire(name)
        for name, node_id in list(self._differing.items()):
            if name not in offered or offered[name].node_id != node_id:
                self._renew(name)
        return sorted(fresh)

    def _renew(self, name: str) -> None:
        """Have a host whose node is away, or was replaced, be of this version and these settings on the next one."""
        self.actors[name].kill()
        self.actors[name] = self._seat(name, seat_of(name))
        del self._differing[name]
        _LOG.warning("shard host %s has lost its node; it starts with the settings of now", name)

    def _gone(self) -> set[str]:
        """Hosts of which the coordinator expects nothing any more."""
        records = self.coordinator.actor.call("call", "host_records", (), {}, timeout_s=REPORT_S)
        return {record.host for record in records if record.state == GONE}

    def _retire(self, name: str) -> None:
        """End the actor of a host whose node is gone: it would wait for its node for ever. One that comes is new."""
        self.coordinator.actor.call("forget_host", name, timeout_s=REPORT_S)
        actor = self.actors.pop(name)
        self._differing.pop(name, None)
        self.runtime.remove(name)
        _LOG.warning("shard host %s is gone for good", name)
        actor.kill()  # last: Ray may not let go of it in time

    @property
    def host_actors(self) -> dict[str, ActorName]:
        """The hosts' actors by host name, by which other processes find them."""
        # A copy, which is made in one step: `scan` changes it in a thread of its own.
        return {name: actor.where for name, actor in dict(self.actors).items()}

    def spawn(
        self,
        cls: type,
        args: Sequence[object],
        *,
        title: str,
        resources: dict[str, float] | None = None,
        node_id: str | None = None,
        gpus: float = 0.0,
        calls: int = CONTROL_THREADS,
        is_spread: bool = False,
    ) -> Actor:
        """Start an actor beside those of the home, or take it over, as `RaySession.spawn` does; ended as they are."""
        actor = self._session.spawn(
            cls,
            args,
            title=title,
            resources=resources,
            node_id=node_id,
            gpus=gpus,
            calls=calls,
            is_spread=is_spread,
        )
        self._spawned.append(actor)
        return actor

    def end(self, actor: Actor) -> None:
        """End an actor that `spawn` gave, for good and at once; what it has to finish it was asked to before."""
        if actor in self._spawned:
            self._spawned.remove(actor)
        actor.kill()

    def before_close(self, call: Callable[[], None]) -> None:
        """Have something done when this is closed, before any actor is ended; the latest first."""
        self._closing.callback(call)

    @property
    def is_detached(self) -> bool:
        """Whether the actors outlive this process."""
        return self._session.is_detached

    def running(self) -> list[ActorName]:
        """Actors of this home that outlive the process that started them, its gateways and embedders among them."""
        return self._session.detached()

    def nodes(self) -> list[Node]:
        """The live nodes."""
        return self._session.nodes()

    def _stop_spawned(self) -> None:
        for actor in reversed(self._spawned) if not self.is_detached else ():
            _stop(actor)

    def _scan_on(self) -> None:
        while not self._scan_ended.wait(SCAN_S):
            self._try_scan()

    def _try_scan(self) -> None:
        attempt(self.scan, "new shard hosts could not be looked for", _LOG)

    def _end_scan(self) -> None:
        self._scan_ended.set()
        self._scan.join()

    def _stop_hosts(self) -> None:
        for actor in reversed(list(self.actors.values())):
            _stop(actor)

    def close(self) -> None:
        """Close the coordinator and the hosts (they release their directories); end a Ray we started. Idempotent.

        What is detached goes on running.
        """
        self._closing.close()


def _connect(options: RayOptions, namespace: str) -> RaySession:
    if options.address != LOCAL:
        return RaySession.join(
            options.address, namespace, timeout_s=options.start_timeout_s, is_detached=options.is_detached
        )
    if options.is_detached:
        raise InvalidParameter(
            "ray_detached: expected with a ray_address, host:port of a Ray cluster that outlives this process; got"
            f" {LOCAL!r}"
        )
    return RaySession.start(namespace, num_cpus=options.num_cpus, object_store_bytes=options.object_store_bytes)


def _running(session: RaySession) -> dict[str, Actor]:
    """The actors that run detached, by title. ClusterNotReady if there are some and this session is not."""
    running = session.detached()
    if running and not session.is_detached:
        raise ClusterNotReady(
            f"{len(running)} actors of this home run detached on the Ray cluster at {session.address}: open it with"
            " the setting ray_detached to take them over, or end them with `facegrid cluster stop`"
        )
    return {where.title: Actor.find(where) for where in running}


def _adopted(actor: Actor | None, mark: str) -> Actor | None:
    """The coordinator that runs, if its version and its settings are those of now; ended in order if they are not."""
    if actor is None:
        return None
    try:
        if actor.call("mark", group=HEALTH, timeout_s=ADOPT_S) == mark:
            return actor
        _LOG.warning("the coordinator that runs is of another version or other settings; it is started anew")
    except FacegridError as error:
        _LOG.warning("the coordinator that runs does not answer; it is started anew: %s", error)
    _stop(actor)
    return None


def _seats(
    session: RaySession,
    options: RayOptions,
    home: Path,
    known: Sequence[str],
    needed: Sequence[str],
    *,
    has_coordinator: bool,
) -> dict[str, Seat]:
    if session.started_here:
        return own_seats(home, options.shard_hosts, known, needed)
    if not session.is_detached:
        return needed_seats(session, needed)
    return awaited_seats(
        session, needed, patience_s=PATIENCE_S, timeout_s=options.start_timeout_s, may_be_none=has_coordinator
    )


def _spawn_host(
    session: RaySession, options: RayOptions, name: str, directory: Path, seat: Seat, made: tuple[bytes, object, object]
) -> Actor:
    """made: the cluster's secret, the kernel, how many shards are open."""
    secret, kernel, open_shards = made
    ports = (options.data_port, options.probe_port, options.tls)
    args = (name, str(directory), secret, seat.bind, kernel, open_shards, *ports, _host_mark(options, made))
    return session.spawn(ShardHostProcess, args, title=host_title(name), resources=seat.resources)


def _host_mark(options: RayOptions, made: tuple[bytes, object, object]) -> str:
    return fingerprint(*made, options.data_port, options.probe_port, options.tls)


def _of_other_make(taken_over: Mapping[str, Actor], mark: str) -> set[str]:
    """Hosts of another version or other settings, or that do not say."""
    asked = {name: actor.begin("mark", group=HEALTH) for name, actor in taken_over.items()}
    until = time.monotonic() + MARK_S
    others = set()
    for name, call in asked.items():
        try:
            is_same = call.result(max(0.0, until - time.monotonic())) == mark
        except FacegridError:
            is_same = False
        if not is_same:
            others.add(name)
            _LOG.warning("shard host %s has another version or other settings, until its node restarts", name)
    return others


def _wait_open(actors: Mapping[str, Actor], options: RayOptions, needed: Sequence[str], *, is_adopted: bool) -> None:
    """Wait for the hosts to open; raises what keeps one from it, unless the home can do without that host.

    is_adopted: the home has a coordinator that runs. One that is detached can do without any host but the last, and
    without that too if it runs already; others without those that are silent and not needed.
    """
    patience_s = PATIENCE_S if options.is_detached else options.start_timeout_s
    failures = _failures(actors, patience_s, patience_s if is_adopted else options.start_timeout_s)
    is_any_open = len(failures) < len(actors)
    for name, error in failures.items():
        is_silent = isinstance(error, HostUnavailable)
        if not (is_adopted or (is_any_open and (options.is_detached or (is_silent and name not in needed)))):
            raise ClusterNotReady(f"shard host {name} did not start: {error}") if is_silent else error
        _LOG.warning("shard host %s did not start; going on without it: %s", name, error)


def _failures(actors: Mapping[str, Actor], patience_s: float, timeout_s: float) -> dict[str, FacegridError]:
    """What keeps hosts from being open. All together may take `patience_s`, and `timeout_s` if none has answered."""
    began = time.monotonic()
    pending = {name: actor.begin("data_address", group=HEALTH) for name, actor in actors.items()}
    ended: dict[str, Pending] = {}
    for until in (began + patience_s, began + timeout_s):
        if not ended:
            left = {name: call.has_ended(max(0.0, until - time.monotonic())) for name, call in pending.items()}
            ended = {name: pending[name] for name, has_ended in left.items() if has_ended}
    waited_s = time.monotonic() - began
    failures: dict[str, FacegridError] = {
        name: HostUnavailable(f"it did not answer within {waited_s:.0f} s") for name in pending.keys() - ended.keys()
    }
    for name, call in ended.items():
        try:
            call.result()
        except FacegridError as error:
            failures[name] = error
    return dict(sorted(failures.items()))


def _coordinator_seat(session: RaySession) -> tuple[dict[str, float] | None, str | None]:
    """What pins the coordinator to nodes that offer to run it; to this one, where the home is, if none does."""
    if any(CONTROL_RESOURCE in node.resources for node in session.nodes()):
        return {CONTROL_RESOURCE: PIN}, None
    return None, session.here()


def _coordinator_mark(session: RaySession, made: tuple[object, ...], options: RayOptions) -> str:
    key = next((part.text for part in made if isinstance(part, KeySource)), None)  # which is not in its text
    return fingerprint(*made, key, options.tls, _coordinator_seat(session))


def _spawn_coordinator(
    session: RaySession, hosts: Mapping[str, ActorName], made: tuple[object, ...], options: RayOptions
) -> Actor:
    """made: its arguments but for the hosts, in their order."""
    resources, node_id = _coordinator_seat(session)
    catalog, *others = made
    args = (catalog, dict(hosts), *others, options.tls, _coordinator_mark(session, made, options), options.is_detached)
    return session.spawn(CoordinatorProcess, args, title=COORDINATOR, resources=resources, node_id=node_id)


def _stop(actor: Actor) -> None:
    """Close gracefully, then end the process."""
    try:
        actor.call("close", timeout_s=CLOSE_S)
    except FacegridError as error:
        _LOG.warning("%s did not close in order: %s", actor.title, error)
    actor.kill()
