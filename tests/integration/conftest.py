"""Servers on this machine, shared by all tests that need one: a Ray cluster of three nodes, PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.postgres import PostgresServer
from tests.ports import free_port

HOSTS = ("a", "b", "c")


@dataclass(frozen=True)
class SharedRay:
    """Where the cluster is, and the shard hosts that its nodes offer."""

    address: str
    hosts: tuple[str, ...]


class RayNodes:
    """Nodes of a Ray cluster on this machine, each offering to be one shard host, or what it is told to offer.

    The first is the head.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        dashboard_port: int | None = None,
        more: Mapping[str, float] | None = None,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._dashboard_port, self._more = dashboard_port, dict(more or {})
        self._nodes: dict[str, Any] = {}
        for host in hosts:
            self.add(host, address=(addresses or {}).get(host))

    @property
    def address(self) -> str:
        """host:port of the cluster."""
        return str(self._cluster.address)

    def has(self, host: str) -> bool:
        """Whether a node offers to be this host."""
        return host in self._nodes

    def add(self, host: str, resources: Mapping[str, float] | None = None, *, address: str | None = None) -> None:
        """Start a node that offers these resources; to be the shard host of its name if None. address: of this machine,
        if it is to be another one than the others have.
        """
        has_dashboard = self._dashboard_port is not None and not self._nodes
        self._nodes[host] = self._cluster.add_node(
            include_dashboard=has_dashboard,
            **({"dashboard_port": self._dashboard_port} if has_dashboard else {}),
            # The agent that takes jobs: the port it would have is another Ray's of this session.
            **({"dashboard_agent_listen_port": free_port()} if has_dashboard else {}),
            **({} if address is None else {"node_ip_address": address}),
            num_cpus=1,
            object_store_memory=80 << 20,
            resources=self._offered(host) if resources is None else dict(resources),
        )

    def _offered(self, host: str) -> dict[str, float]:
        return {f"facegrid_host_{host}": 1, **({} if self._nodes else self._more)}

    def node_id(self, host: str) -> str:
        """What Ray calls a node that was started."""
        return str(self._nodes[host].node_id)

    def remove(self, host: str) -> None:
        """Kill a node and everything that runs on it."""
        self._cluster.remove_node(self._nodes.pop(host), allow_graceful=False)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextmanager
def ray_nodes(
    hosts: Sequence[str],
    environment: Mapping[str, str] | None = None,
    dashboard_port: int | None = None,
    more: Mapping[str, float] | None = None,
    addresses: Mapping[str, str] | None = None,
) -> Iterator[RayNodes]:
    """A Ray cluster to which this process is connected; to the one it was connected to before afterwards.

    more: resources of the first node. addresses: of nodes by host; loopback has many.
    """
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'facegrid[cluster]'")
    before = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    ray.shutdown()
    # Short, because Ray puts Unix sockets there; a home of its own, because Ray writes a token to it.
    scratch = tempfile.mkdtemp(prefix="fg", dir="/tmp")
    nodes: RayNodes | None = None
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", scratch)
            patch.setenv("RAY_TMPDIR", scratch)
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            patch.setenv("RAY_worker_niceness", "0")
            patch.setenv("RAY_AUTH_MODE", "disabled")
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            nodes = RayNodes(hosts, dashboard_port, more, addresses)
            ray.init(address=nodes.address, logging_level="warning", log_to_driver=False)
            yield nodes
    finally:
        ray.shutdown()
        if nodes is not None:
            nodes.close()
        shutil.rmtree(scratch, ignore_errors=True)
        if before is not None:
            ray.init(address=before, logging_level="warning", log_to_driver=False)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[SharedRay]:
    """Nodes `a`, `b` and `c`, each offering to hold shards. This process is connected to it once for all tests."""
    with ray_nodes(HOSTS) as nodes:
        yield SharedRay(nodes.address, HOSTS)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server. A test that stops it starts it again."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new catalog, in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
