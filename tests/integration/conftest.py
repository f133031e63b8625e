"""Servers on this machine, shared by all tests that need one: a Ray cluster of three nodes, PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.postgres import PostgresServer

HOSTS = ("a", "b", "c")


@dataclass(frozen=True)
class SharedRay:
    """Where the cluster is, and the shard hosts that its nodes offer."""

    address: str
    hosts: tuple[str, ...]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[SharedRay]:
    """Nodes `a`, `b` and `c`, each offering to hold shards. This process is connected to it once for all tests."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'facegrid[cluster]'")
    from ray.cluster_utils import Cluster

    # Short, because Ray puts Unix sockets there; a home of its own, because Ray writes a token to it.
    scratch = tempfile.mkdtemp(prefix="fg", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", scratch)
        patch.setenv("RAY_TMPDIR", scratch)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster()
        try:
            for host in HOSTS:
                node = {"num_cpus": 1, "object_store_memory": 80 << 20, "resources": {f"facegrid_host_{host}": 1}}
                cluster.add_node(include_dashboard=False, **node)
            ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
            yield SharedRay(cluster.address, HOSTS)
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server. A test that stops it starts it again."""
    server = PostgresServer()
    yield server
    server.close()
