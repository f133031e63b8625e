"""Gateways that follow the nodes of a Ray cluster: nodes come and go, actors are killed, one leaves, control hangs.

And embedders that another process takes over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import httpx
import pytest

from cluster import Cluster
from cluster.service.embedder_group import EmbedderOptions, Embedders
from cluster.service.gateways import Gateways
from cluster.service.process import GatewayOptions
from cluster.service.serve import Listen
from coordinator.actor_names import EMBEDDER_RESOURCE, GATEWAY_RESOURCE
from coordinator.actors import HEALTH
from coordinator.ray_stop import stop_home
from tests.integration.conftest import RayNodes, ray_nodes
from tests.service import faces_like

pytestmark = pytest.mark.ray
DIM = 64
SOON_S = 60.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(("a",)) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def grid(nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("nodes") / "home"
    with Cluster.open(home, runtime="ray", ray_address=nodes.address, ray_detached=True) as opened:
        yield opened
    stop_home(nodes.address, opened.home.home_id)


@pytest.fixture(scope="module")
def gateways(grid: Cluster) -> Iterator[Gateways]:
    options = GatewayOptions(Listen(host="", port=0), gateways=None)
    with contextlib.closing(Gateways(grid, options, scan_s=0.2)) as found:
        yield found


@pytest.fixture(scope="module")
def key(grid: Cluster) -> str:
    grid.tenants.create("acme")
    gallery = grid.gallery("acme/g", create=True, dim=DIM, shards=2)
    gallery.enroll(faces_like(20, DIM), template_ids=[f"t{i}" for i in range(20)])
    _, secret = grid.tenants.create_key("acme", "test", scopes=("read",))
    return secret


def until(what: Callable[[], bool], within_s: float = SOON_S) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def search(url: str, key: str) -> httpx.Response:
    body = {"probes": faces_like(20, DIM)[:1].tolist(), "k": 1}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/galleries/acme/g/search", json=body, headers=headers, timeout=30)


def enroll(url: str, key: str, body: dict[str, object], order: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": order}
    return httpx.post(f"{url}/v1/galleries/acme/g/faces", json=body, headers=headers, timeout=30)


def ready(gateways: Gateways) -> list[str]:
    """Where gateways serve that are ready."""
    return [str(state.url) for state in gateways.states() if state.is_ready]


def test_there_may_be_no_node_at_first_and_a_gateway_comes_with_each(
    nodes: RayNodes, gateways: Gateways, key: str
) -> None:
    assert gateways.actors == []
    nodes.add("g1", {GATEWAY_RESOURCE: 1})
    until(lambda: len(ready(gateways)) == 1)
    nodes.add("g2", {GATEWAY_RESOURCE: 1})
    until(lambda: len(ready(gateways)) == 2)
    assert len({state.node_id for state in gateways.states()}) == 2
    for url in gateways.urls:
        assert search(url, key).json()["results"][0]["candidates"][0]["template_id"] == "t0"


def test_one_that_is_killed_comes_back_on_its_node(gateways: Gateways, key: str) -> None:
    before = {state.pid: state.node_id for state in gateways.states()}
    pid = min(before)
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(ready(gateways)) == 2 and pid not in {state.pid for state in gateways.states()})
    assert {state.node_id for state in gateways.states()} == set(before.values())
    assert all(search(url, key).status_code == 200 for url in gateways.urls)


def test_a_gateway_is_ready_while_the_control_plane_is_away(grid: Cluster, gateways: Gateways, key: str) -> None:
    assert grid.ray is not None
    pid = grid.ray.coordinator.actor.call("health", group=HEALTH)
    before = {state.pid: str(state.url) for state in gateways.states()}
    killed, url = min(before), before[max(before)]
    assert httpx.get(f"{url}/readyz").json() == {"status": "ok", "control_plane": "answers"}
    assert search(url, key).status_code == 200
    _, unseen = grid.tenants.create_key("acme", "unseen", scopes=("read",))
    _, writer = grid.tenants.create_key("acme", "writer", scopes=("write",))
    body = {"embeddings": faces_like(2, DIM, seed=5).tolist(), "template_ids": ["u0", "u1"], "identities": ["p", "q"]}
    assert enroll(url, writer, {**body, "template_ids": ["s0", "s1"]}, "first").json()["enrolled"] == 2
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(ready(gateways)) == 2 and killed not in {state.pid for state in gateways.states()})
    fresh = next(str(state.url) for state in gateways.states() if state.pid not in before)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert search(fresh, unseen).status_code == 200  # it has answered nobody before
        answer = httpx.get(f"{url}/readyz")
        assert (answer.status_code, answer.json()["control_plane"]) == (200, "away")
        assert search(url, key).status_code == 200
        stored = [enroll(url, writer, body, "order") for _ in range(2)]
        assert [(answer.status_code, answer.json()["enrolled"]) for answer in stored] == [(200, 2)] * 2
        assert enroll(fresh, writer, body, "order").json() == stored[0].json(), "which has not heard of it"
        others = {**body, "embeddings": faces_like(2, DIM, seed=6).tolist()}
        assert enroll(fresh, writer, others, "another").json()["code"] == "duplicate_template"
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: httpx.get(f"{url}/readyz").json()["control_plane"] == "answers")
    reused = {**body, "template_ids": ["v0", "v1"]}
    until(lambda: all(enroll(one, writer, reused, "order").status_code == 422 for one in (url, fresh)))


def test_one_that_leaves_loses_no_request_and_holds_its_node_until_that_ends(
    nodes: RayNodes, gateways: Gateways, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ready(gateways)
    leaving = next(one for one in gateways.actors if one.call("state", group=HEALTH).url == urls[0])
    node_id = leaving.call("state", group=HEALTH).node_id
    lost: list[object] = []
    asked, quiet_s = 0, 1.0
    stopped = threading.Event()

    def ask() -> None:
        """As behind a Service: gateways that are ready are asked; one that refuses the connection is not there."""
        nonlocal asked
        while not stopped.is_set():
            for url in urls:
                looked = float("-inf")
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        looked = time.monotonic()
                        answer = search(url, key)
                        asked += 1
                        if answer.status_code != 200:
                            lost.append(answer.text)
                except httpx.ConnectError:
                    continue
                except httpx.TransportError as error:
                    # So long after the look, as on a busy machine, it may have closed: nobody had come meanwhile.
                    if time.monotonic() - looked < quiet_s:
                        lost.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: asked > 20)
        gone = leaving.begin("leave", quiet_s, 20.0)
        until(lambda: httpx.get(f"{urls[0]}/readyz").json() == {"status": "stopping"})
        assert search(urls[0], key).headers["connection"] == "close"  # it answers whoever comes still
        gone.result(30)
        before = asked
        until(lambda: asked > before + 20)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert lost == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{urls[0]}/livez")
    for _ in range(3):
        gateways.scan()
    assert len(gateways.actors) == 2  # nothing is started on the node that it has left
    monkeypatch.setattr("cluster.service.gateway_plan.GONE_S", 1.0)
    nodes.remove(next(name for name in ("g1", "g2") if nodes.node_id(name) == node_id))
    until(lambda: len(gateways.actors) == 1)
    assert search(urls[1], key).status_code == 200
    nodes.add("g3", {GATEWAY_RESOURCE: 1})
    until(lambda: len(ready(gateways)) == 2)


def test_another_process_takes_gateways_over_and_replaces_those_of_other_settings(
    grid: Cluster, gateways: Gateways, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, each only while the other one serves."""
    monkeypatch.setattr("cluster.service.gateways.QUIET_S", 0.5)
    gateways.close()
    pids = {state.pid for state in gateways.states()}
    same = Gateways(grid, GatewayOptions(Listen(host="", port=0), gateways=None), scan_s=0.2)
    same.scan()
    same.close()
    assert {state.pid for state in same.states()} == pids
    # A process that was replacing one, and did not live to start another in its place.
    assert same.actors[0].begin("leave", 0.1, 5.0, True).result(30) is None
    left = same.actors[0].call("state", group=HEALTH).pid
    with contextlib.closing(
        Gateways(grid, GatewayOptions(Listen(host="", port=0), gateways=None), scan_s=0.2)
    ) as next_:
        until(lambda: len(ready(next_)) == 2 and left not in {state.pid for state in next_.states()})
        pids = {state.pid for state in next_.states()}
    other = GatewayOptions(Listen(host="", port=0), gateways=None, snapshot_store="/elsewhere")
    fewest = 2
    with contextlib.closing(Gateways(grid, other, scan_s=0.2)) as taken:

        def is_replaced() -> bool:
            nonlocal fewest
            fewest = min(fewest, sum(search(url, key).status_code == 200 for url in ready(taken)))
            return len(ready(taken)) == 2 and not pids & {state.pid for state in taken.states()}

        until(is_replaced)
        assert fewest >= 1
        assert len(taken.actors) == 2


def test_another_process_takes_embedders_over_and_replaces_those_of_other_settings(
    nodes: RayNodes, grid: Cluster
) -> None:
    """One after another; those of now take their places on a node that offers them."""
    pids = Embedders(grid, EmbedderOptions(2, 2)).pids()
    same = Embedders(grid, EmbedderOptions(2, 2))
    same.scan(0)
    assert same.pids() == pids
    nodes.add("e", {EMBEDDER_RESOURCE: 2})
    others = Embedders(grid, EmbedderOptions(2, 2, follows_nodes=True))
    left = [2, len(set(pids) & set(others.pids()))]

    def is_replaced() -> bool:
        others.scan(0)
        left.append(len(set(pids) & set(others.pids())))
        return left[-1] == 0

    until(is_replaced)
    assert all(before - after <= 1 for before, after in pairwise(left))
    assert len(others.actors) == 2
    # One that was told to close by a process that did not live to end it.
    closed, *_ = others.pids()
    others.actors[0].call("close")

    def has_another() -> bool:
        others.scan(0)
        return len(others.actors) == 2 and closed not in others.pids()

    until(has_another)
