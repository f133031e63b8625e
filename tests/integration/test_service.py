"""The service over real HTTP: what it answers is what the library answers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import msgpack
import numpy as np
import pytest

from tests.service import MSGPACK, Running, faces_like, packed, post_msgpack, running

FACES = "/v1/galleries/acme/staff/faces"
SEARCH = "/v1/galleries/acme/staff/search"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("service") / "home", snapshot_store=str(tmp_path_factory.mktemp("store"))
    ) as s:
        s.tenant("acme")
        yield s


@pytest.fixture(scope="module")
def admin(service: Running) -> Iterator[httpx.Client]:
    with service.client(service.key("acme", "admin")) as client:
        yield client


@pytest.fixture(scope="module")
def filled(service: Running, admin: httpx.Client) -> np.ndarray:
    rows = faces_like(400)
    made = admin.post("/v1/galleries", json={"name": "acme/staff", "dim": 64, "shards": 3})
    assert made.status_code == 201, made.text
    body = {
        "embeddings": packed(rows),
        "template_ids": [f"t{i}" for i in range(400)],
        "identities": [f"p{i // 4}" for i in range(400)],
        "metadata": [{"number": i} for i in range(400)],
    }
    answer = post_msgpack(admin, FACES, body)
    assert msgpack.unpackb(answer.content)["enrolled"] == 400
    return rows


def test_search_answers_as_the_library_does(service: Running, admin: httpx.Client, filled: np.ndarray) -> None:
    probes = filled[:20] + 0.3 * faces_like(20, seed=1)
    told = admin.post(SEARCH, json={"probes": probes.tolist(), "k": 7, "exact": True}).json()
    own = service.cluster.gallery("acme/staff").search(probes, 7, exact=True)
    assert [[c["template_id"] for c in row["candidates"]] for row in told["results"]] == [
        list(row) for row in own.template_ids
    ]
    assert [[c["score"] for c in row["candidates"]] for row in told["results"]] == own.scores.tolist()
    assert told["coverage"] == {"answered": 3, "asked": 3}


def test_msgpack_answers_in_columns_with_the_same_bits(
    service: Running, admin: httpx.Client, filled: np.ndarray
) -> None:
    answer = post_msgpack(admin, SEARCH, {"probes": packed(filled[:5]), "k": 3, "exact": True, "include": ["metadata"]})
    assert answer.headers["content-type"] == MSGPACK
    told = msgpack.unpackb(answer.content)
    own = service.cluster.gallery("acme/staff").search(filled[:5], 3, exact=True)
    scores = np.frombuffer(told["scores"]["data"], "<f4").reshape(told["scores"]["shape"])
    assert np.array_equal(scores, own.scores)
    assert told["template_ids"] == [list(row) for row in own.template_ids]
    assert told["metadata"]["t3"] == {"number": 3}


def test_a_batch_is_answered_in_its_order(service: Running, admin: httpx.Client, filled: np.ndarray) -> None:
    told = admin.post(SEARCH, json={"probes": filled.tolist(), "k": 1}).json()
    assert [row["candidates"][0]["template_id"] for row in told["results"]] == [f"t{i}" for i in range(400)]


def test_an_identity_that_is_deleted_is_not_found_again(admin: httpx.Client, filled: np.ndarray) -> None:
    extra = faces_like(2, seed=9)
    answer = admin.post(FACES, json={"embeddings": extra.tolist(), "identities": ["gone", "gone"]})
    assert answer.json()["enrolled"] == 2
    assert admin.post(f"{FACES}/delete", json={"identities": ["gone"]}).json() == {"deleted": 2}
    found = admin.post(SEARCH, json={"probes": extra.tolist(), "k": 10}).json()["results"]
    assert all(c["identity"] != "gone" for row in found for c in row["candidates"])


def test_a_repeated_request_is_done_once(admin: httpx.Client, filled: np.ndarray) -> None:
    before = admin.get("/v1/galleries/acme/staff").json()["templates"]
    body = {"embeddings": faces_like(3, seed=10).tolist()}
    answers = [admin.post(FACES, json=body, headers={"Idempotency-Key": "order-1"}) for _ in range(3)]
    assert len({a.text for a in answers}) == 1
    assert admin.get("/v1/galleries/acme/staff").json()["templates"] == before + 3
    other = admin.post(FACES, json={"embeddings": faces_like(1).tolist()}, headers={"Idempotency-Key": "order-1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_repeated_request_whose_answer_was_never_written_stores_nothing_twice(
    service: Running, admin: httpx.Client, filled: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = admin.get("/v1/galleries/acme/staff").json()["templates"]
    body = {"embeddings": faces_like(3, seed=11).tolist()}
    with monkeypatch.context() as patch:
        patch.setattr(service.cluster.idempotency, "finish", _dies)
        assert admin.post(FACES, json=body, headers={"Idempotency-Key": "order-2"}).status_code == 500
    again = admin.post(FACES, json=body, headers={"Idempotency-Key": "order-2"})
    assert again.status_code == 200
    assert admin.get("/v1/galleries/acme/staff").json()["templates"] == before + 3


def _dies(*_: object) -> None:
    raise RuntimeError("killed here")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"probes": [[0.0] * 64]}, "invalid_embedding"),
        ({"probes": [[1.0] * 63]}, "invalid_embedding"),
        ({"probes": [[1.0] * 64, [1.0]]}, "invalid_embedding"),
        ({"probes": [["1"] * 64]}, "invalid_embedding"),
        ({"probes": [[True] * 64]}, "invalid_embedding"),
        ({"probes": [[1e300] * 64]}, "invalid_embedding"),
        ({"probes": [[None] * 64]}, "invalid_embedding"),
        ({"probes": []}, "invalid_embedding"),
        ({"probes": {"shape": [1, 64], "data": "x"}}, "invalid_embedding"),
        ({"probes": [[1.0] * 64], "k": 0}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "k": -1}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "k": 10**30}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "k": "3"}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "k": True}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "recall": 1}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "threshold": 1.5}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "threshold": 0.5, "target_fpir": 0.01}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "identities": []}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "identities": ["\x00"]}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "deadline_ms": 0}, "invalid_parameter"),
        ({"probes": [[1.0] * 64], "unknown": 1}, "invalid_parameter"),
        ({}, "invalid_parameter"),
    ],
)
def test_bad_values_are_named(admin: httpx.Client, filled: np.ndarray, body: dict[str, object], code: str) -> None:
    answer = admin.post(SEARCH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"nul", b'{"probes": NaN}', b"\xff", b'{"k": 1e999}'])
def test_what_is_not_json_is_refused(admin: httpx.Client, filled: np.ndarray, content: bytes) -> None:
    answer = admin.post(SEARCH, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("content", [b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000, b"\x81\x01\x01", b"\x80\x80"])
def test_what_is_not_msgpack_is_refused(admin: httpx.Client, filled: np.ndarray, content: bytes) -> None:
    answer = admin.post(SEARCH, content=content, headers={"content-type": MSGPACK})
    assert answer.status_code in (400, 422)


def test_a_tenant_that_is_made_again_sees_nothing_of_the_old_one(service: Running) -> None:
    with service.client() as operator:
        for seed in (1, 2):
            assert operator.post("/v1/tenants", json={"name": "brief"}).status_code == 201
            key = operator.post("/v1/tenants/brief/keys", json={"name": "k", "scopes": ["admin"]}).json()["secret"]
            with service.client(key) as own:
                assert own.get("/v1/galleries").json() == {"galleries": []}
                assert own.post("/v1/galleries", json={"name": "brief/g", "dim": 64}).status_code == 201
                rows = faces_like(5, seed=seed)
                found = own.post("/v1/galleries/brief/g/search", json={"probes": rows.tolist()}).json()
                assert all(not row["candidates"] for row in found["results"])
                assert own.post("/v1/galleries/brief/g/faces", json={"embeddings": rows.tolist()}).status_code == 200
                assert operator.delete("/v1/tenants/brief").status_code == 204
                assert own.get("/v1/galleries").status_code == 401


def test_quotas_and_rates_hold(service: Running) -> None:
    with service.client() as operator:
        quotas = {"galleries": 1, "templates": 10, "queries_per_s": 5}
        assert operator.post("/v1/tenants", json={"name": "small", "quotas": quotas}).status_code == 201
        with service.client(service.key("small", "admin")) as own:
            assert own.post("/v1/galleries", json={"name": "small/a", "dim": 64}).status_code == 201
            refused = own.post("/v1/galleries", json={"name": "small/b", "dim": 64})
            assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
            rows = faces_like(11)
            full = own.post("/v1/galleries/small/a/faces", json={"embeddings": rows.tolist()})
            assert (full.status_code, full.json()["code"]) == (403, "quota_exceeded")
            assert own.post("/v1/galleries/small/a/faces", json={"embeddings": rows[:10].tolist()}).status_code == 200
            answers = [own.post("/v1/galleries/small/a/search", json={"probes": rows.tolist()}) for _ in range(2)]
            assert [a.status_code for a in answers] == [200, 429]
            assert int(answers[1].headers["retry-after"]) >= 1
            assert answers[1].json()["is_retryable"] is True


def test_snapshots_of_a_tenant_are_its_own(service: Running, admin: httpx.Client, filled: np.ndarray) -> None:
    base = "/v1/galleries/acme/staff/snapshots"
    made = admin.post(base, json={})
    assert made.status_code == 201, made.text
    snapshot = made.json()["snapshot_id"]
    assert [one["snapshot_id"] for one in admin.get(base).json()["snapshots"]] == [snapshot]
    restored = admin.post(f"{base}/{snapshot}/restore", json={"into": "copy"})
    assert restored.status_code == 201, restored.text
    assert admin.get("/v1/galleries/acme/copy").json()["templates"] == restored.json()["templates"]
    service.tenant("other")
    with service.client(service.key("other", "admin")) as stranger:
        assert stranger.get(base).status_code == 404
        stranger.post("/v1/galleries", json={"name": "other/staff", "dim": 64})
        assert stranger.get("/v1/galleries/other/staff/snapshots").json() == {"snapshots": []}
        assert (
            stranger.post(f"/v1/galleries/other/staff/snapshots/{snapshot}/restore", json={"into": "mine"}).status_code
            == 404
        )
    assert admin.delete(f"{base}/{snapshot}").status_code == 204


def test_what_was_done_is_in_the_audit_log_without_labels(
    service: Running, admin: httpx.Client, filled: np.ndarray
) -> None:
    admin.post(f"{FACES}/delete", json={"identities": ["nobody-known"]})
    service.gateway.write_audit()
    entries = admin.get("/v1/tenants/acme/audit", params={"limit": 1000}).json()["entries"]
    assert "faces.delete" in {entry["action"] for entry in entries}
    assert "nobody-known" not in str(entries)
    key_id = admin.get("/v1/whoami").json()["key_id"]
    assert all(entry["key_id"] == key_id for entry in entries if entry["action"] == "faces.delete")


def test_metrics_are_the_operators(service: Running, admin: httpx.Client, filled: np.ndarray) -> None:
    with service.client() as operator:
        text = operator.get("/metrics").text
    assert 'facegrid_requests_total{operation="search",status="200"}' in text
    assert admin.get("/metrics").status_code == 403
