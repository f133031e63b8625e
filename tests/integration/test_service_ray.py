"""The service on Ray: gateways that share a port, one of which is killed, and ids that several of them enroll."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from cluster import Cluster
from cluster.service.gateways import Gateways
from cluster.service.process import GatewayOptions
from cluster.service.serve import Listen
from coordinator.actors import HEALTH
from shard.errors import FacegridError
from tests.integration.conftest import SharedRay
from tests.ports import free_port
from tests.service import faces_like

pytestmark = pytest.mark.ray
DIM = 64
SOON_S = 60.0


@pytest.fixture(scope="module")
def grid(ray_cluster: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("gateways") / "home"
    with Cluster.open(home, runtime="ray", ray_address=ray_cluster.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def gateways(grid: Cluster) -> Gateways:
    return Gateways(grid, GatewayOptions(Listen(port=free_port(), is_shared=True), gateways=2))


@pytest.fixture(scope="module")
def admin(grid: Cluster, gateways: Gateways) -> Iterator[httpx.Client]:
    grid.tenants.create("acme")
    _, secret = grid.tenants.create_key("acme", "test", scopes=("admin",))
    # A connection for each request, so that the kernel spreads them over the gateways.
    headers = {"Authorization": f"Bearer {secret}", "Connection": "close"}
    with httpx.Client(base_url=gateways.urls[0], headers=headers, timeout=60) as client:
        yield client


def test_gateways_share_a_port_and_serve_what_each_of_them_wrote(admin: httpx.Client, gateways: Gateways) -> None:
    assert len(gateways.states()) == 2
    assert len(gateways.urls) == 1
    assert admin.post("/v1/galleries", json={"name": "acme/g", "dim": DIM, "shards": 3}).status_code == 201
    rows = faces_like(60, DIM)
    for i in range(0, 60, 10):
        ids = [f"t{j}" for j in range(i, i + 10)]
        answer = admin.post(
            "/v1/galleries/acme/g/faces", json={"embeddings": rows[i : i + 10].tolist(), "template_ids": ids}
        )
        assert answer.status_code == 200, answer.text
    for _ in range(10):
        found = admin.post("/v1/galleries/acme/g/search", json={"probes": rows.tolist(), "k": 1}).json()
        assert [row["candidates"][0]["template_id"] for row in found["results"]] == [f"t{i}" for i in range(60)]


def test_one_id_is_one_template_whoever_enrolls_it(admin: httpx.Client) -> None:
    """Two identities place an id in two shards, so only claims keep it unique between gateways."""
    row = faces_like(1, DIM, seed=5).tolist()
    for number in range(8):
        answers: list[int] = []

        def enroll(identity: str, number: int = number, answers: list[int] = answers) -> None:
            body = {"embeddings": row, "template_ids": [f"one-{number}"], "identities": [identity]}
            answers.append(admin.post("/v1/galleries/acme/g/faces", json=body).status_code)

        threads = [threading.Thread(target=enroll, args=(f"p{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200, 409, 409, 409]
    found = admin.post("/v1/galleries/acme/g/search", json={"probes": row, "k": 100, "exact": True}).json()
    ids = [c["template_id"] for c in found["results"][0]["candidates"] if c["template_id"].startswith("one-")]
    assert len(ids) == len(set(ids)) == 8


def test_a_gateway_that_is_killed_is_not_missed_for_long(admin: httpx.Client, gateways: Gateways) -> None:
    pid = gateways.actors[0].call("health", group=HEALTH)
    os.kill(pid, signal.SIGKILL)
    rows = faces_like(60, DIM)
    body = {"probes": rows[:1].tolist(), "k": 1}
    answered, until = 0, time.monotonic() + SOON_S
    while answered < 50 and time.monotonic() < until:
        try:
            answered += admin.post("/v1/galleries/acme/g/search", json=body).status_code == 200
        except httpx.TransportError:
            continue  # it was on its way to the one that died
    assert answered == 50
    while True:  # Ray starts it again, and it listens by itself
        try:
            again = gateways.actors[0].call("health", group=HEALTH, timeout_s=5)
            break
        except FacegridError:
            assert time.monotonic() < until + SOON_S
    assert again != pid
    host, port = gateways.actors[0].call("open", timeout_s=SOON_S)
    assert gateways.urls == [f"http://{host}:{port}"]
