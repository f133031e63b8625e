"""Embedder actors on Ray: gateways ask them for faces, one is killed in the middle, and nothing is lost by it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import Cluster
from cluster.faces import Face
from cluster.service.embedder_group import EmbedderOptions, Embedders
from cluster.service.embedders import EmbedderActors
from cluster.service.gateways import Gateways
from cluster.service.process import GatewayOptions
from cluster.service.serve import Listen
from coordinator.actors import HEALTH
from shard.errors import HostUnavailable, InvalidImage, InvalidParameter
from tests.integration.conftest import SharedRay

pytestmark = [pytest.mark.ray, pytest.mark.data]
EMBEDDER = "edgeface_xs"
NAMES = ("img10.jpg", "img12.jpg", "img16.jpg", "img17.jpg")
SOON_S = 60.0
GALLERY = "/v1/galleries/acme/staff"


@pytest.fixture(scope="module")
def grid(ray_cluster: SharedRay, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("embedders") / "home"
    settings: dict[str, Any] = {"models": (data_dir / "models",), "threads": 1}
    with Cluster.open(home, runtime="ray", ray_address=ray_cluster.address, **settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def embedders(grid: Cluster) -> Embedders:
    return Embedders(grid, EmbedderOptions(2, 3))


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> list[bytes]:
    return [(data_dir / "photos" / name).read_bytes() for name in NAMES]


@pytest.fixture(scope="module")
def client(grid: Cluster, embedders: Embedders) -> Iterator[httpx.Client]:
    options = GatewayOptions(Listen(port=0), has_embedders=True)
    url = Gateways(grid, options).urls[0]
    grid.tenants.create("acme")
    _, secret = grid.tenants.create_key("acme", "test", scopes=("admin",))
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120) as client:
        yield client


def bits(faces: tuple[Face, ...]) -> list[bytes | None]:
    return [None if face.embedding is None else face.embedding.tobytes() for face in faces]


def test_an_actor_gives_the_bits_of_this_process(grid: Cluster, embedders: Embedders, photos: list[bytes]) -> None:
    actors = EmbedderActors(lambda: embedders.names)
    pipeline = grid.pipeline(EMBEDDER)
    for image in photos[:2]:
        found = actors.begin(image, EMBEDDER, embed_refused=True, until=time.monotonic() + SOON_S).result(0)
        assert bits(found) == bits(pipeline.faces(image, embed_refused=True))
    with pytest.raises(InvalidImage) as caught:
        actors.begin(b"no photo", EMBEDDER, embed_refused=False, until=time.monotonic() + SOON_S)
    assert caught.value.reason == "not_an_image"
    actors.close()


def test_one_that_is_killed_is_not_missed(client: httpx.Client, embedders: Embedders, photos: list[bytes]) -> None:
    """Requests go on all the time; each is answered, and answered right."""
    answer = client.post("/v1/galleries", json={"name": "acme/staff", "embedder": EMBEDDER})
    assert answer.status_code == 201, answer.text
    jpeg = {"content-type": "image/jpeg"}
    ids = []
    for data in photos:
        enrolled = client.post(f"{GALLERY}/images", content=data, headers=jpeg).json()
        assert enrolled["enrolled"] == 1
        ids.append(enrolled["results"][0]["template_id"])
    halfway = threading.Semaphore(0)

    def ask(number: int) -> tuple[int, str | None]:
        found = client.post(f"{GALLERY}/search/image", content=photos[number % 4], headers=jpeg)
        halfway.release()
        candidates = found.json().get("candidates")
        return found.status_code, candidates[0]["template_id"] if candidates else found.text

    before = embedders.pids()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, number) for number in range(40)]
        for _ in range(12):
            assert halfway.acquire(timeout=120)
        os.kill(before[0], signal.SIGKILL)
        answers = [future.result() for future in asked]
    assert answers == [(200, ids[number % 4]) for number in range(40)]
    until = time.monotonic() + SOON_S
    while True:  # Ray starts it again
        try:
            after = embedders.pids()
            break
        except HostUnavailable:
            assert time.monotonic() < until
    assert after[1] == before[1]
    assert after[0] != before[0]


def test_more_are_started_while_photos_wait_and_ended_when_they_idle(
    client: httpx.Client, embedders: Embedders, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a request that fails, though one of them ends in the middle of it."""
    monkeypatch.setattr("cluster.service.embedder_plan.GROW_S", 0.0)
    monkeypatch.setattr("cluster.service.embedder_plan.IDLE_S", 0.0)
    monkeypatch.setattr(embedders._demand, "_since", 0.0)
    jpeg = {"content-type": "image/jpeg"}
    stopped = threading.Event()
    failed: list[str] = []

    def ask() -> None:
        while not stopped.is_set():
            found = client.post(f"{GALLERY}/search/image", content=photos[0], headers=jpeg)
            if found.status_code != 200:
                failed.append(found.text)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(ask)
        try:
            embedders.scan(33)
            assert len(embedders.actors) == 3
            assert len(embedders.pids()) == 3
            latest = embedders.actors[-1]
            until = time.monotonic() + SOON_S
            while not latest.call("state", group=HEALTH, timeout_s=5).images:  # gateways have found it
                assert time.monotonic() < until
            embedders.scan(1)
            assert len(embedders.actors) == 2
            assert latest not in embedders.actors
            while len(embedders._group.members) > 2:
                embedders.scan(1)
                assert time.monotonic() < until
        finally:
            stopped.set()
    assert failed == []


def test_gpus_that_are_not_there_are_not_waited_for(grid: Cluster) -> None:
    with pytest.raises(InvalidParameter, match="offers 0 GPUs"):
        Embedders(grid, EmbedderOptions(1, 1, gpus=1.0))
    with pytest.raises(InvalidParameter, match="whole ones"):
        Embedders(grid, EmbedderOptions(1, 1, gpus=1.5))
