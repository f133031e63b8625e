"""Shard hosts with addresses of their own: fixed ports, TLS with certificates that are renewed meanwhile, probes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.actors import HEALTH
from coordinator.attachment import Attached, Attachment
from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.tls import TlsContexts
from coordinator.home import Home
from coordinator.messages import StatsRequest
from coordinator.ray_cluster import RayCluster, RayOptions
from coordinator.replication import ReplicationPolicy
from coordinator.router import Router
from coordinator.types import GalleryRoute, GallerySpec
from shard.errors import CertificateRefused, FacegridError, TlsMismatch, WrongHost
from shard.types import EnrollBatch, SearchParams
from tests.faces_like import unit_rows
from tests.integration.conftest import RayNodes, ray_nodes
from tests.ports import free_port
from tests.waiting import wait_for

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'facegrid[encryption]'")
from tests.certificates import Authority, mount

pytestmark = pytest.mark.ray

ADDRESSES = {"a": "127.0.0.2", "b": "127.0.0.3"}
DIM, SHARDS = 64, 2
SOON = 60.0
POLICY = ReplicationPolicy(dead_s=2.0, away_s=60.0)


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(tuple(ADDRESSES), addresses=ADDRESSES) as started:
        yield started


class Grid:
    """A home on two hosts, each with files and an address of its own, and a gallery with a replica on both."""

    def __init__(self, nodes: RayNodes, directory: Path) -> None:
        self.authority = Authority()
        self.files = self.authority.issue(directory / "tls", "all nodes")
        self.directory = directory
        self.data_port, self.probe_port = free_port(), free_port()
        self.home = Home(directory / "home")
        options = RayOptions(
            nodes.address,
            replication=POLICY,
            data_port=self.data_port,
            probe_port=self.probe_port,
            tls=self.files,
        )
        self.cluster = RayCluster.start(options, self.home.directory, self.home.home_id, self.home.secret, ())
        spec = GallerySpec("acme/staff", DIM, SHARDS, 256, None, 2)
        self.route: GalleryRoute = self.cluster.coordinator.create_gallery(spec)
        self.router = Router(self.cluster.runtime, self.cluster.coordinator.gallery, self.cluster.coordinator.report)

    def close(self) -> None:
        self.cluster.close()
        self.home.close()

    def enroll(self, first: int, count: int) -> np.ndarray:
        rows = unit_rows(first + count, DIM, seed=3)[first:]
        ids, nothing = tuple(f"t{i}" for i in range(first, first + count)), (None,) * count
        done = self.router.enroll(
            self.route, EnrollBatch(rows, ids, nothing, nothing), skip_existing=False, new_ids=True
        )
        assert done.enrolled == count
        return rows

    def readiness(self, host: str) -> tuple[int, list[str]]:
        """Status and reasons; (0, []) where nobody listens."""
        connection = http.client.HTTPConnection(ADDRESSES[host], self.probe_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            return response.status, json.loads(response.read())["reasons"]
        except OSError:
            return 0, []
        finally:
            connection.close()

    def client(self, host: str, loop: ClientLoop, tls: TlsContexts | None, name: str = "") -> DataClient:
        return DataClient(name or host, (ADDRESSES[host], self.data_port), self.home.secret, loop, tls)


@pytest.fixture(scope="module")
def grid(nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    opened = Grid(nodes, tmp_path_factory.mktemp("grid"))
    try:
        yield opened
    finally:
        opened.close()


def test_hosts_serve_fixed_ports_over_tls_while_certificates_change_and_a_host_dies(grid: Grid) -> None:
    rows = grid.enroll(0, 200)
    for host, address in ADDRESSES.items():
        assert grid.cluster.actors[host].call("data_address", timeout_s=SOON) == (address, grid.data_port)
        assert grid.readiness(host) == (200, [])
    before = int(grid.cluster.actors["a"].call("health", group=HEALTH, timeout_s=SOON))

    # The authority changes while all runs: both are trusted, then a host that starts anew has the later one's.
    later = Authority("a later authority")
    both = grid.authority.pem + later.pem
    mount(grid.directory / "tls", *grid.authority.signed("all nodes"), both)
    mount(grid.directory / "tls", *later.signed("all nodes"), both)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: grid.readiness("a")[0] != 200, "the host that was killed is not ready")
    wait_for(lambda: grid.readiness("a") == (200, []), "it is ready again, level with the other")
    configs = grid.cluster.coordinator.shard_configs()
    assert all(set(config.in_sync) == {"a", "b"} for config in configs)
    assert grid.cluster.actors["a"].call("data_address", timeout_s=SOON) == (ADDRESSES["a"], grid.data_port)

    # Hosts talk to each other over it too: a write is acknowledged by both replicas.
    more = grid.enroll(200, 50)
    with contextlib.closing(_attached(grid)) as attached:  # as a gateway does
        router = Router(attached.runtime, attached.coordinator.gallery)
        found = router.search(grid.route, np.concatenate((rows, more)), SearchParams(1, exact=True))
        assert [ids[0] for ids in found.candidates.template_ids] == [f"t{i}" for i in range(250)]


def _attached(grid: Grid) -> Attached:
    where = grid.cluster.coordinator.actor.where
    return Attached(Attachment("", where, grid.cluster.host_actors, grid.home.secret, grid.files))


def test_strangers_are_refused_by_name(grid: Grid, tmp_path: Path) -> None:
    own = TlsContexts(grid.files)
    foreign = TlsContexts(Authority("another").issue(tmp_path / "foreign", "stranger"))
    loop = ClientLoop()
    refusals: list[tuple[DataClient, type[FacegridError]]] = [
        (grid.client("a", loop, None), TlsMismatch),
        (grid.client("a", loop, foreign), CertificateRefused),
        (grid.client("a", loop, own, name="b"), WrongHost),
    ]
    for client, error in refusals:
        with pytest.raises(error):
            client.submit(StatsRequest(grid.route.gallery_id, (0,), (1,)), time.monotonic() + SOON).result(SOON)
        client.close()
    loop.close()
