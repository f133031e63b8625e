"""Photos over HTTP: many in one request, many requests at once, and what is refused of them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from coordinator.tenant_types import Quotas
from tests.service import Running, running

pytestmark = pytest.mark.data
EMBEDDER = "edgeface_xs"
NAMES = ("img10.jpg", "img12.jpg", "img16.jpg", "img17.jpg")
GALLERY = "/v1/galleries/acme/staff"


@pytest.fixture(scope="module")
def service(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("photos") / "home"
    with running(home, models=(data_dir / "models",), threads=2) as found:
        found.tenant("acme", keeps_thumbnails=True)
        yield found


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client(service.key("acme", "admin")) as client:
        answer = client.post("/v1/galleries", json={"name": "acme/staff", "embedder": EMBEDDER, "shards": 2})
        assert answer.status_code == 201, answer.text
        yield client
        client.delete(GALLERY)


def photo(data_dir: Path, name: str) -> bytes:
    return (data_dir / "photos" / name).read_bytes()


def item(data: bytes, identity: str | None = None, **more: Any) -> dict[str, Any]:
    return {"data": base64.b64encode(data).decode(), "identity": identity, **more}


def test_one_request_of_many_photos(client: httpx.Client, service: Running, data_dir: Path) -> None:
    photos = [photo(data_dir, name) for name in NAMES]
    items = [item(data, f"p{i}", metadata={"n": i}) for i, data in enumerate(photos)]
    odd = [item(b"no photo", "x"), item(photos[0], "p0"), item(photos[1], "somebody else")]
    answer = client.post(f"{GALLERY}/images", json={"images": [*items, *odd]}).json()
    assert (answer["enrolled"], answer["skipped"], answer["refused"]) == (4, 1, 2)
    results = answer["results"]
    assert [row.get("is_new") for row in results] == [True] * 4 + [None, False, None]
    assert [row.get("reason") for row in results[4:]] == ["not_an_image", None, "duplicate_photo"]
    assert results[5]["template_id"] == results[0]["template_id"]
    assert (
        client.get(f"{GALLERY}/thumbnail", params={"template_id": results[0]["template_id"]}).content[:2] == b"\xff\xd8"
    )
    again = client.post(f"{GALLERY}/images", json={"images": items}).json()
    assert (again["enrolled"], again["skipped"]) == (0, 4)
    pipeline = service.cluster.pipeline(EMBEDDER)
    gallery = service.cluster.gallery("acme/staff")
    alone = np.stack([pipeline.embed_image(data) for data in photos])
    found = gallery.search(alone, 1, exact=True)
    assert [ids[0] for ids in found.template_ids] == [row["template_id"] for row in results[:4]]


def test_requests_at_once_have_the_answers_of_one_after_another(client: httpx.Client, data_dir: Path) -> None:
    photos = [photo(data_dir, name) for name in NAMES]
    enrolled = client.post(f"{GALLERY}/images", json={"images": [item(data) for data in photos]}).json()
    assert enrolled["enrolled"] == 4

    def ask(data: bytes) -> Any:
        answer = client.post(f"{GALLERY}/search/image", content=data, headers={"content-type": "image/jpeg"})
        return answer.status_code, answer.json().get("candidates", answer.json().get("reason"))

    asked = [*photos, b"no photo", *photos]
    one_by_one = [ask(data) for data in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        assert list(threads.map(ask, asked)) == one_by_one
    assert one_by_one[4] == (422, "not_an_image")
    ids = [row["template_id"] for row in enrolled["results"]]
    assert [candidates[0]["template_id"] for _, candidates in one_by_one[:4]] == ids


def test_a_photo_against_an_identity_and_the_faces_of_one(
    client: httpx.Client, service: Running, data_dir: Path
) -> None:
    data = photo(data_dir, NAMES[0])
    assert client.post(f"{GALLERY}/images", json={"images": [item(data, "ann")]}).json()["enrolled"] == 1
    body = {"image": base64.b64encode(data).decode(), "identity": "ann"}
    verified = client.post(f"{GALLERY}/verify", json=body).json()
    assert verified["is_match"]
    assert verified["threshold"] == service.cluster.pipeline(EMBEDDER).threshold
    crowd = photo(data_dir, "couple.jpg")
    body = {"image": base64.b64encode(crowd).decode(), "face": 9}
    assert client.post(f"{GALLERY}/search/image", json=body).status_code == 422


def test_a_quota_refuses_the_request_before_anything_is_written(
    client: httpx.Client, service: Running, data_dir: Path
) -> None:

    service.tenant("tiny")
    service.cluster.tenants.update("tiny", quotas=Quotas(templates=1))
    with service.client(service.key("tiny", "admin")) as tiny:
        assert tiny.post("/v1/galleries", json={"name": "tiny/g", "embedder": EMBEDDER}).status_code == 201
        items = [item(photo(data_dir, name)) for name in NAMES[:2]]
        answer = tiny.post("/v1/galleries/tiny/g/images", json={"images": items})
        assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")
        assert tiny.get("/v1/galleries/tiny/g/faces").json()["templates"] == []
        assert tiny.post("/v1/galleries/tiny/g/images", json={"images": items[:1]}).json()["enrolled"] == 1
