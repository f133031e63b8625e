"""What runs inside the coordinator's actor. Errors travel and opening is repeated as in `host_process.py`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from coordinator.actor_names import host_title
from coordinator.actors import Actor, ActorName, is_restarted
from coordinator.catalog import Catalog
from coordinator.coordinator import ERASURE_S, Coordinator
from coordinator.dataplane.tls import TlsFiles
from coordinator.home import jobs_directory
from coordinator.key_service import KeySource
from coordinator.outcome import Outcome, outcome_of
from coordinator.ray_runtime import RayRuntime
from coordinator.replication import ReplicationPolicy
from coordinator.tenants import AUDIT_S
from coordinator.types import GONE
from shard.errors import HostUnavailable, InvalidParameter, ShardClosed

METHODS = (
    "hosts", "gallery", "galleries", "create_gallery", "drop_gallery", "train", "train_if_due", "drift", "rollouts",
    "roll_back", "resume_rollouts", "report", "drain", "undrain", "hand_over", "leave", "host_records",
    "replicas_left", "shard_configs",
    "erasure_report", "erase", "erase_due", "erasure_backlog", "look_after", "compare", "heat",
    "snapshots.active_model",
    "snapshots.begin_restore", "snapshots.restoring", "snapshots.finish_restore", "snapshots.abandon_restore",
    "snapshots.was_restored_from", "snapshots.remember", "snapshots.forget", "snapshots.made",
    "calibrations.draw", "calibrations.put", "calibrations.of", "idempotency.begin", "idempotency.finish",
    "tenants.create", "tenants.get", "tenants.all", "tenants.update", "tenants.drop", "tenants.create_key",
    "tenants.keys", "tenants.key", "tenants.rotate_key", "tenants.revoke_key", "tenants.good_keys",
    "tenants.authenticate", "tenants.record", "tenants.audit", "tenants.trim_audit",
    "identities.rename", "identities.merge", "identities.mark",
    "jobs.submit", "jobs.get", "jobs.list", "jobs.claim", "jobs.progress", "jobs.finish", "jobs.cancel", "jobs.resume",
    "jobs.forget", "jobs.disown", "jobs.sweep",
)  # fmt: skip
WATCH_S = 0.5
"""Pause between two rounds of looking after the hosts."""
RETRY_S = 1.0
"""Pause before a coordinator that was restarted tries again to open."""

log = logging.getLogger("facegrid.actors")


class CoordinatorProcess:
    """The coordinator of a home, over the hosts' actors."""

    def __init__(
        self,
        catalog: str | Path,
        hosts: Mapping[str, ActorName],
        secret: bytes,
        erasure_s: float = ERASURE_S,
        policy: ReplicationPolicy | None = None,
        audit_s: float = AUDIT_S,
        key_source: KeySource | None = None,
        home: Path | None = None,
        tls: TlsFiles | None = None,
        mark: str = "",
        opens_partly: bool = False,
    ) -> None:
        """catalog: its URL or SQLite file. hosts: the hosts' actors by host name. secret: the cluster's.

        erasure_s, policy, audit_s: see Coordinator. key_source: what wraps the keys of encrypted tenants. home: its
        directory, on this node. tls: of the data plane. mark: what its starter calls these arguments. opens_partly: see
        Coordinator.

        These are kept: see coordinator/kept.py before you change them.
        """
        self._home, self._mark, self._opens_partly = home, mark, opens_partly
        self._key_source = key_source or KeySource()
        self._where, self._policy, self._erasure_s, self._audit_s = catalog, policy, erasure_s, audit_s
        self._hosts, self._secret, self._tls = dict(hosts), secret, tls
        self._like = next(iter(hosts.values()), None)
        """How hosts are called that are in the catalog only."""
        self._may_lack = is_restarted()
        """Whether hosts may have come that are not among `_hosts`: not in the arguments, which are those of before."""
        self._opening = threading.Lock()
        self._runtime: RayRuntime | None = None
        self._coordinator: Coordinator | None = None
        self._is_closed = threading.Event()
        logging.basicConfig(level=logging.INFO)
        if self._may_lack:
            # Nobody may call for hours; the hosts have to be looked after.
            threading.Thread(target=self._open_again, name="facegrid-open", daemon=True).start()

    def _open_again(self) -> None:
        while not self._is_closed.is_set() and self.open().code is not None:
            self._is_closed.wait(RETRY_S)

    def know_hosts(self, hosts: Mapping[str, ActorName]) -> Outcome:
        """The hosts' actors, of which some may have come since the start."""
        return outcome_of(lambda: self._know_hosts(hosts), "the coordinator")

    def _know_hosts(self, hosts: Mapping[str, ActorName]) -> None:
        with self._opening:
            self._hosts, self._may_lack = {**self._hosts, **hosts}, False
            self._like = self._like or next(iter(hosts.values()), None)
            if self._runtime is not None:
                self._reach(self._runtime)
        self._open()

    def _reach(self, runtime: RayRuntime) -> None:
        """Reach every host that is known; one without an actor is known no more. HostUnavailable if Ray cannot say."""
        for name in sorted(self._hosts.keys() - set(runtime.hosts())):
            actor = Actor.seek(self._hosts[name])
            if actor is not None:
                runtime.add(name, actor)
                continue
            log.info("shard host %s was part of this home; it has no actor", name)
            self._hosts = {host: where for host, where in self._hosts.items() if host != name}

    def _recall_hosts(self, catalog: Catalog, runtime: RayRuntime) -> None:
        """Reach hosts too that came after the first start, whose arguments a restarted process has again."""
        came = {record.host for record in catalog.hosts() if record.state != GONE} - self._hosts.keys()
        if self._like is not None:
            self._hosts = {**{name: replace(self._like, title=host_title(name)) for name in came}, **self._hosts}
        self._reach(runtime)
        self._may_lack = False

    def forget_host(self, name: str) -> Outcome:
        """A host is gone for good, and its actor about to be ended."""
        return outcome_of(lambda: self._forget_host(name), "the coordinator")

    def _forget_host(self, name: str) -> None:
        with self._opening:
            self._hosts = {host: where for host, where in self._hosts.items() if host != name}
            if self._runtime is not None:
                self._runtime.remove(name)

    def mark(self) -> Outcome:
        """What its starter calls the arguments that it was started with."""
        return Outcome(self._mark)

    def home(self) -> Outcome:
        """The home's directory, which is on this node; None where nobody told."""
        return Outcome(None if self._home is None else str(self._home))

    def tls(self) -> Outcome:
        """The files of the data plane's TLS, for processes that join later; None for plain connections."""
        return Outcome(self._tls)

    def host_actors(self) -> Outcome:
        """The hosts' actors by host name, for processes that join later.

        HostUnavailable while some may not be known: who joined reaches no more what is not among them.
        """
        return outcome_of(self._known_hosts, "the coordinator")

    def _known_hosts(self) -> dict[str, ActorName]:
        """Takes no lock: opening holds it for as long as the database is away."""
        if self._may_lack:
            raise HostUnavailable("the coordinator has started again: hosts that came later are not known yet")
        return self._hosts

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        """Call a public method of the Coordinator, which is opened at the first call."""
        if method not in METHODS:
            error = InvalidParameter(f"the coordinator has {', '.join(METHODS)}; got {method!r}")
            return Outcome(code=error.code, message=str(error))
        return outcome_of(lambda: self._called(attrgetter(method), args, kwargs), f"coordinator.{method}")

    def _called(self, method: attrgetter[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """HostUnavailable once it is closed, for calls under way too: one that takes its place is about to come."""
        away = HostUnavailable("the coordinator is being closed; another one takes its place")
        if self._is_closed.is_set():
            raise away
        try:
            return method(self._open())(*args, **kwargs)
        except ShardClosed as error:
            if self._is_closed.is_set():
                raise away from error
            raise

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
                self._runtime = RayRuntime({}, self._secret, self._tls)
            if self._coordinator is None:
                catalog = Catalog(self._where, self._key_source.service())
                try:
                    self._recall_hosts(catalog, self._runtime)
                    coordinator = Coordinator(
                        catalog,
                        self._runtime,
                        self._policy,
                        erasure_s=self._erasure_s,
                        audit_s=self._audit_s,
                        jobs_directory=None if self._home is None else jobs_directory(self._home),
                        opens_partly=self._opens_partly,
                    )
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
