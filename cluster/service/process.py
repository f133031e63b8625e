"""What runs inside a gateway's actor: a cluster that it joins, and the service on a fixed port.

Gateways hold no state: any number may run, on any node, and one that dies is started again by Ray. Those of one node
share its port, among which the kernel spreads connections.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass

from cluster.api import Cluster
from cluster.config import Settings
from cluster.service.embedders import EmbedderActors
from cluster.service.gateway import Gateway
from cluster.service.logs import log_json
from cluster.service.serve import Listen, Service
from coordinator.actors import ActorName, is_restarted
from coordinator.attachment import Attachment
from coordinator.outcome import Outcome, outcome_of
from shard.errors import HostUnavailable

START_S = 60.0
RETRY_S = 1.0
log = logging.getLogger("facegrid.actors")


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """listen: with a port that is not 0 where gateways share it. gateways: how many there are, which share rates.

    embedders: actors that find the faces of photos; the gateways themselves if there are none.
    """

    listen: Listen
    gateways: int = 1
    snapshot_store: str | None = None
    json_logs: bool = False
    embedders: tuple[ActorName, ...] = ()


class GatewayProcess:
    """One gateway."""

    def __init__(self, settings: Settings, attachment: Attachment, options: GatewayOptions) -> None:
        self._settings, self._attachment, self._options = settings, attachment, options
        self._opening = threading.Lock()
        self._is_closed = threading.Event()
        self._cluster: Cluster | None = None
        self._service: Service | None = None
        self._thread: threading.Thread | None = None
        if options.json_logs:
            log_json()
        else:
            logging.basicConfig(level=logging.INFO)
        if is_restarted():
            threading.Thread(target=self._open_again, name="facegrid-open", daemon=True).start()

    def _open_again(self) -> None:
        while not self._is_closed.is_set() and self.open().code is not None:
            self._is_closed.wait(RETRY_S)

    def open(self) -> Outcome:
        """Join the cluster and listen; (address, port)."""
        return outcome_of(self._open, "the gateway")

    def health(self) -> Outcome:
        """Process id."""
        return Outcome(os.getpid())

    def close(self) -> Outcome:
        """Answer what is under way, then stop. Idempotent."""
        return outcome_of(self._close, "the gateway")

    def _open(self) -> tuple[str, int]:
        with self._opening:
            if self._service is None:
                cluster = Cluster.attach(self._settings, self._attachment)
                try:
                    options = self._options
                    faces = EmbedderActors(options.embedders) if options.embedders else None
                    gateway = Gateway(
                        cluster, snapshot_store=options.snapshot_store, gateways=options.gateways, faces=faces
                    )
                    service = Service(gateway, options.listen)
                except BaseException:
                    cluster.close()
                    raise
                listens = threading.Event()
                thread = threading.Thread(target=service.run, kwargs={"ready": listens.set}, name="facegrid-service")
                thread.start()
                self._cluster, self._service, self._thread = cluster, service, thread
                if not listens.wait(START_S):
                    raise HostUnavailable(f"the gateway did not begin to listen within {START_S:g} s")
                log.info("gateway serves at %s", service.url)
            return self._service.address

    def _close(self) -> None:
        self._is_closed.set()
        with self._opening:
            if self._service is not None and self._thread is not None:
                self._service.stop()
                self._thread.join()
            if self._cluster is not None:
                self._cluster.close()
                self._cluster = None
