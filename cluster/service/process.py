"""What runs inside a gateway's actor: a cluster that it joins, and the service on a port of its node.

Gateways hold no state: any number may run, on any node, and one that dies is started again by Ray, on another node that
has room for it if its own has died. Where several are on one node, they share its port, among which the kernel spreads
connections. One that has left its node stays there, closed, until the node ends: it holds what the node offers to
gateways, so that neither Ray nor `Gateways` starts another one on a node that is on its way out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.api import Cluster
from cluster.config import settings_of
from cluster.service.embedders import EmbedderActors
from cluster.service.gateway import Gateway
from cluster.service.logs import log_json
from cluster.service.serve import Listen, Service
from coordinator.actor_names import EMBEDDER
from coordinator.actors import ActorName, node_address, node_here, siblings
from coordinator.attachment import Attachment
from coordinator.kept import installed_version, kept
from coordinator.outcome import Outcome, outcome_of
from shard.errors import HostUnavailable, ShardClosed

START_S = 60.0
RETRY_S = 1.0
LOOK_S = 0.1
"""Pause between two looks whether clients have gone."""
log = logging.getLogger("facegrid.actors")


@kept
@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """listen: with a port that is not 0 where gateways share it; host "" is the address of each one's node.

    gateways: how many; None: one for each `facegrid_gateway` that nodes offer, as they come and go. revision: of the
    settings that it was started with, by which another process that opens the home tells whether it is as it would be.
    has_embedders: whether actors find the faces of photos, which are looked up by their titles; or the gateways do.
    """

    listen: Listen
    gateways: int | None = 1
    snapshot_store: str | None = None
    json_logs: bool = False
    has_embedders: bool = False
    revision: str = ""


@kept
@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a gateway says of itself, maybe to another version. url: where it listens. error: what keeps it from that.

    is_ready: it listens, and knows what queries need of the control plane. is_leaving: it is to be asked no more; it
    does not come back on this node. is_replaced: it leaves so that another one can have its place. photos: images that
    wait for their faces, or are under way.
    """

    pid: int
    node_id: str
    version: str
    revision: str
    url: str | None = None
    error: str | None = None
    is_ready: bool = False
    is_leaving: bool = False
    photos: int = 0
    is_replaced: bool = False


class GatewayProcess:
    """One gateway."""

    def __init__(self, settings: Mapping[str, Any], attachment: Attachment, options: GatewayOptions) -> None:
        """Begin to open; what fails is tried again until it succeeds. settings: `kept_settings`.

        These are kept: see coordinator/kept.py before you change them.
        """
        self._settings, self._attachment, self._options = settings_of(settings), attachment, options
        self._node_id = node_here()
        self._opening = threading.Lock()
        self._is_closed = threading.Event()
        self._is_leaving = threading.Event()
        self._is_replaced = False
        self._gateways = options.gateways or 1
        self._error: str | None = None
        self._cluster: Cluster | None = None
        self._gateway: Gateway | None = None
        self._service: Service | None = None
        self._thread: threading.Thread | None = None
        if options.json_logs:
            log_json()
        else:
            logging.basicConfig(level=logging.INFO)
        # By itself: when Ray starts it again, nobody may call for hours.
        threading.Thread(target=self._keep_open, name="facegrid-open", daemon=True).start()

    def _keep_open(self) -> None:
        while not self._is_closed.is_set():
            self.open()
            self._is_closed.wait(RETRY_S)

    def open(self) -> Outcome:
        """Join the cluster and listen; (address, port). ShardClosed if it was closed, or has left."""
        outcome = outcome_of(self._open, "the gateway")
        self._error = None if outcome.code is None else outcome.message
        return outcome

    def health(self) -> Outcome:
        """Process id."""
        return Outcome(os.getpid())

    def state(self) -> Outcome:
        """A GatewayState. Blocks on nothing."""
        gateway, service = self._gateway, self._service
        is_leaving = self._is_leaving.is_set() or self._is_closed.is_set()
        state = GatewayState(
            os.getpid(), self._node_id, installed_version(), self._options.revision, error=self._error,
            is_leaving=is_leaving, is_replaced=self._is_replaced,
        )  # fmt: skip
        if gateway is not None and service is not None and not self._has_ended():
            is_ready = gateway.readiness.was_ready and not is_leaving
            state = replace(state, url=service.url, is_ready=is_ready, photos=gateway.faces.images())
        return Outcome(state)

    def share_rates(self, gateways: int) -> Outcome:
        """How many gateways serve now: each gives a tenant its part of the rate that its quota allows."""
        self._gateways = gateways
        if self._gateway is not None:
            self._gateway.rates.divide(gateways)
        return Outcome(None)

    def leave(self, quiet_s: float, limit_s: float, is_replaced: bool = False) -> Outcome:
        """Say to probes that it is leaving, answer until nobody has asked for so long, or the limit, then close.

        The actor stays as it is then. Idempotent: who asks again waits for the same end. is_replaced: it says so of
        itself, for whoever goes on with that where the one who asks does not live to.
        """
        self._is_replaced = self._is_replaced or is_replaced
        return outcome_of(lambda: self._leave(quiet_s, limit_s), "the gateway")

    def close(self) -> Outcome:
        """Answer what is under way, then stop. Idempotent."""
        return outcome_of(self._close, "the gateway")

    def _open(self) -> tuple[str, int]:
        with self._opening:
            if self._is_closed.is_set():
                raise ShardClosed("the gateway was closed, or has left its node")
            if self._has_ended():
                self._drop()
            if self._service is None:
                self._start(Cluster.attach(self._settings, self._attachment))
            assert self._service is not None
            return self._service.address

    def _has_ended(self) -> bool:
        """Whether the service has ended by itself."""
        return self._thread is not None and not self._thread.is_alive()

    def _start(self, cluster: Cluster) -> None:
        """Serve it, in a thread; closes it where that fails."""
        options = self._options
        listen = options.listen if options.listen.host else replace(options.listen, host=node_address())
        try:
            faces = EmbedderActors(self._embedders) if options.has_embedders else None
            gateway = Gateway(cluster, snapshot_store=options.snapshot_store, gateways=self._gateways, faces=faces)
            service = Service(gateway, listen)
            thread = _listening(service)
        except BaseException:
            cluster.close()
            raise
        self._cluster, self._service, self._thread = cluster, service, thread
        self._gateway = gateway
        gateway.rates.divide(self._gateways)
        log.info("gateway serves at %s", service.url)

    def _embedders(self) -> list[ActorName]:
        return siblings(self._attachment.coordinator, EMBEDDER)

    def _leave(self, quiet_s: float, limit_s: float) -> None:
        self._is_leaving.set()
        began = time.monotonic()
        gateway = self._gateway
        if gateway is not None:
            gateway.is_stopping = True
            while not self._is_closed.is_set() and (gone_s := time.monotonic() - began) < limit_s:
                if min(gone_s, gateway.traffic.quiet_s()) >= quiet_s:
                    break
                self._is_closed.wait(LOOK_S)
        self._close()
        log.info("the gateway has left after %.1f s", time.monotonic() - began)

    def _close(self) -> None:
        self._is_closed.set()
        with self._opening:
            self._drop()

    def _drop(self) -> None:
        if self._service is not None and self._thread is not None:
            self._service.stop()
            self._thread.join()
        if self._cluster is not None:
            self._cluster.close()
        self._cluster = self._service = self._thread = self._gateway = None


def _listening(service: Service) -> threading.Thread:
    """A thread in which the service runs, and listens by now. HostUnavailable, and it has ended, where it does not."""
    listens = threading.Event()
    ended: list[str] = []

    def run() -> None:
        try:
            service.run(ready=listens.set)
        except BaseException as error:
            ended.append(f": {error!r}")
            raise

    thread = threading.Thread(target=run, name="facegrid-service")
    thread.start()
    until = time.monotonic() + START_S
    while thread.is_alive() and not listens.wait(LOOK_S) and time.monotonic() < until:
        pass
    if listens.is_set():
        return thread
    within = f" within {START_S:g} s" if thread.is_alive() else ""
    service.stop()
    thread.join()
    raise HostUnavailable(f"the gateway did not begin to listen{within}{''.join(ended)}")
