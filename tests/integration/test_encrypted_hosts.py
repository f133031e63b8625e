"""Encrypted galleries on hosts of their own processes: keys come from the coordinator, to a host that died too."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.actors import HEALTH
from coordinator.home import Home
from coordinator.key_service import KeySource
from coordinator.messages import SetKeys
from coordinator.ray_cluster import RayCluster, RayOptions
from coordinator.router import Router
from coordinator.types import GalleryRoute, GallerySpec
from shard.errors import KeyUnavailable
from shard.types import EnrollBatch, SearchParams
from tests.faces_like import unit_rows
from tests.integration.conftest import SharedRay
from tests.integration.test_ray_runtime import SOON, kill, until

pytestmark = pytest.mark.ray

DIM, ROWS = 64, 1_500
MASTER = secrets.token_hex(32)
FACES = unit_rows(ROWS, DIM, seed=11)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path / "home")
    yield opened
    opened.close()


def start(ray_cluster: SharedRay, home: Home, *known: str, key: str | None = MASTER) -> RayCluster:
    options = RayOptions(ray_cluster.address)
    return RayCluster.start(options, home.directory, home.home_id, home.secret, known, key_source=KeySource(text=key))


def found(cluster: RayCluster, route: GalleryRoute) -> list[tuple[str, ...]]:
    router = Router(cluster.runtime, cluster.coordinator.gallery, cluster.coordinator.report)
    return list(router.search(route, FACES[:4], SearchParams(1, exact=True)).candidates.template_ids)


def leaks(directory: Path) -> list[Path]:
    patterns = [b"secret-id", b"secret-person", FACES[0].tobytes()[:12], FACES[ROWS - 1].tobytes()[:12]]
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 8
    return [path for path in files if any(pattern in path.read_bytes() for pattern in patterns)]


def test_hosts_get_keys_when_they_start_and_when_they_come_back(ray_cluster: SharedRay, home: Home) -> None:
    expected = [(f"secret-id-{i}",) for i in range(4)]
    cluster = start(ray_cluster, home)
    try:
        cluster.coordinator.tenants.create("acme", is_encrypted=True)
        route = cluster.coordinator.create_gallery(GallerySpec("acme/staff", DIM, 3, 256, None, replicas=2))
        ids = tuple(f"secret-id-{i}" for i in range(ROWS))
        people = tuple(f"secret-person-{i}" for i in range(ROWS))
        batch = EnrollBatch(FACES, ids, people, (None,) * ROWS)
        router = Router(cluster.runtime, cluster.coordinator.gallery, cluster.coordinator.report)
        router.enroll(route, batch, skip_existing=False, new_ids=True)
        cluster.coordinator.train("acme/staff")
        assert found(cluster, route) == expected
        assert leaks(home.directory) == []
        for host in cluster.runtime.hosts():
            died = kill(cluster, host)
            assert until(lambda: found(cluster, route)) == expected
            assert until(lambda host=host: cluster.actors[host].call("health", group=HEALTH, timeout_s=SOON)) != died
        assert until(lambda: found(cluster, route)) == expected
    finally:
        cluster.close()
    cluster = start(ray_cluster, home, *ray_cluster.hosts, key=None)
    try:
        with pytest.raises(KeyUnavailable):
            until(lambda: found(cluster, route))
    finally:
        cluster.close()
    cluster = start(ray_cluster, home, *ray_cluster.hosts)
    try:
        assert until(lambda: found(cluster, cluster.coordinator.gallery("acme/staff"))) == expected
        assert leaks(home.directory) == []
    finally:
        cluster.close()


def test_keys_are_in_nothing_that_is_printed() -> None:
    key = os.urandom(32)
    for value in (SetKeys(("00000000",), (key,)), KeySource(text=key.hex())):
        shown = repr(value)
        assert repr(key) not in shown
        assert key.hex() not in shown
