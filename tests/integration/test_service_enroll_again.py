"""An enrollment whose answer was lost, sent again under its key with the ids that the caller gave: a real service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from coordinator.taken_ids import TakenIds
from coordinator.tenant_types import Quotas
from coordinator.writes import Writes
from tests.service import Running, faces_like, running

FACES = "/v1/galleries/acme/staff/faces"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("again") / "home") as s:
        s.tenant("acme")
        s.tenant("small", quotas=Quotas(templates=4))
        yield s


@pytest.fixture(scope="module")
def admin(service: Running) -> Iterator[httpx.Client]:
    with service.client(service.key("acme", "admin")) as client:
        assert client.post("/v1/galleries", json={"name": "acme/staff", "dim": 64, "shards": 3}).status_code == 201
        yield client


def order(name: str, seed: int) -> dict[str, Any]:
    """A request of four templates: two of one identity, one of another, one of none."""
    return {
        "embeddings": (7 * faces_like(4, seed=seed)).tolist(),
        "template_ids": [f"{name}-{i}" for i in range(4)],
        "identities": [f"{name} p", f"{name} p", f"{name} q", None],
        "metadata": [{"door": 1, "tags": ["x", 1.5]}, None, {}, {"door": 2}],
    }


def part(body: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """A request of some of the templates."""
    return {name: [values[row] for row in rows] for name, values in body.items()}


def send(client: httpx.Client, body: dict[str, Any], key: str, path: str = FACES) -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key})


def templates(client: httpx.Client, gallery: str = "acme/staff") -> int:
    return int(client.get(f"/v1/galleries/{gallery}").json()["templates"])


class Attempts:
    """Requests whose callers get no answer, since what carries them out is killed at a moment."""

    def __init__(self, service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self._service, self._monkeypatch = service, monkeypatch

    def lost_after_writing(self, client: httpx.Client, body: dict[str, Any], key: str, path: str = FACES) -> None:
        """What is done is not remembered."""
        self._send(client, body, key, path, (self._service.cluster.idempotency, "finish"))

    def lost_before_writing(self, client: httpx.Client, body: dict[str, Any], key: str) -> None:
        """It is begun and not done."""
        self._send(client, body, key, FACES, (self._service.cluster.router, "enroll"))

    def _send(
        self, client: httpx.Client, body: dict[str, Any], key: str, path: str, killed_at: tuple[object, str]
    ) -> None:
        with self._monkeypatch.context() as patch:
            patch.setattr(*killed_at, dies)
            assert send(client, body, key, path).status_code == 500


def dies(*_: object, **__: object) -> None:
    raise RuntimeError("killed here")


@pytest.fixture
def attempts(service: Running, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    return Attempts(service, monkeypatch)


def test_what_the_lost_attempt_stored_is_enrolled_by_the_request(admin: httpx.Client, attempts: Attempts) -> None:
    body, before = order("all", 1), templates(admin)
    attempts.lost_after_writing(admin, body, "all")
    assert templates(admin) == before + 4
    again = send(admin, body, "all")
    assert (again.status_code, again.json()) == (
        200, {"template_ids": body["template_ids"], "enrolled": 4, "skipped": 0},
    )  # fmt: skip
    assert send(admin, body, "all").json() == again.json()
    assert templates(admin) == before + 4


def test_what_the_lost_attempt_did_not_store_is_stored(admin: httpx.Client, attempts: Attempts) -> None:
    body, before = order("some", 2), templates(admin)
    attempts.lost_before_writing(admin, body, "some")
    assert admin.post(FACES, json=part(body, [1, 3])).status_code == 200
    again = send(admin, body, "some")
    assert (again.status_code, again.json()["enrolled"], again.json()["skipped"]) == (200, 4, 0)
    assert templates(admin) == before + 4
    stored = admin.post(f"{FACES}/get", json={"template_ids": body["template_ids"]}).json()["templates"]
    assert [(t["identity"], t["metadata"]) for t in stored] == list(
        zip(body["identities"], body["metadata"], strict=True)
    )


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("identities", "somebody else"),
        ("identities", None),
        ("metadata", {"door": 1, "tags": ["x", 1.6]}),
        ("metadata", None),
        ("embeddings", faces_like(1, seed=99)[0].tolist()),
    ],
)
@pytest.mark.parametrize("row", [0, 3])
def test_another_template_under_an_id_is_a_duplicate(
    admin: httpx.Client, attempts: Attempts, what: str, value: object, row: int
) -> None:
    name = f"{what}-{row}-{type(value).__name__}"
    body = order(name, 3)
    if body[what][row] == value:
        value = "p"
    attempts.lost_before_writing(admin, body, name)
    other = {**part(body, [row]), what: [value]}
    assert admin.post(FACES, json=other).status_code == 200
    assert admin.post(FACES, json=part(body, [1])).status_code == 200  # as the lost attempt would have
    before = templates(admin)
    again = send(admin, body, name)
    assert (again.status_code, again.json()["code"]) == (409, "duplicate_template")
    assert templates(admin) == before


def test_a_first_attempt_may_not_find_its_ids(admin: httpx.Client) -> None:
    body = order("first", 4)
    assert admin.post(FACES, json=body).status_code == 200
    refused = send(admin, body, "first")
    assert (refused.status_code, refused.json()["code"]) == (409, "duplicate_template")


def test_what_is_wrong_with_a_request_is_wrong_again(admin: httpx.Client) -> None:
    body = order("wrong", 5)
    for fault, code in (
        ({"identities": ["p"]}, "invalid_parameter"),
        ({"template_ids": ["wrong-0"] * 4}, "duplicate_template"),
        ({"embeddings": np.zeros((4, 64)).tolist()}, "invalid_embedding"),
    ):
        answers = [send(admin, {**body, **fault}, f"wrong {code}") for _ in range(2)]
        assert [answer.json()["code"] for answer in answers] == [code] * 2


def test_a_full_tenant_is_not_refused_what_it_has(service: Running, attempts: Attempts) -> None:
    with service.client(service.key("small", "admin")) as own:
        assert own.post("/v1/galleries", json={"name": "small/a", "dim": 64}).status_code == 201
        body, path = order("full", 6), "/v1/galleries/small/a/faces"
        attempts.lost_after_writing(own, body, "full", path)
        assert send(own, body, "full", path).json()["enrolled"] == 4
        assert templates(own, "small/a") == 4


def test_the_first_attempt_is_under_way_still(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    body, before = order("both", 7), templates(admin)
    writing, goes_on, waiting = threading.Event(), threading.Event(), threading.Event()
    write, reserve = Writes.enroll, TakenIds.reserve

    def slow_write(*args: Any) -> int:
        writing.set()
        assert goes_on.wait(30)
        return write(*args)

    def seen_reserve(*args: Any) -> Any:
        if writing.is_set():
            waiting.set()
        return reserve(*args)

    monkeypatch.setattr(Writes, "enroll", slow_write)
    monkeypatch.setattr(TakenIds, "reserve", seen_reserve)
    with ThreadPoolExecutor(2) as callers:
        try:
            first = callers.submit(send, admin, body, "both")
            assert writing.wait(30)
            second = callers.submit(send, admin, body, "both")
            assert waiting.wait(30), "the second attempt has found nothing, and wants the ids that the first one has"
        finally:
            goes_on.set()
        answers = [first.result(30), second.result(30)]
    assert [(a.status_code, a.json()["enrolled"]) for a in answers] == [(200, 4), (200, 4)]
    assert templates(admin) == before + 4
