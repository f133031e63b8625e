"""Every route against every wrong key, from the application's own table of routes: a new route is asked too.

A key that is not good, or not for this, changes nothing and learns nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.routing import APIRoute

from cluster.service.app import build_app
from cluster.service.gateway import Gateway
from cluster.service.operations import openapi
from cluster.service.serve import Listen, Service
from cluster.service.shell import PUBLIC, Shell, is_public
from coordinator import api_keys
from tests.service import Running, faces_like, running

OPERATOR, ADMIN, WRITE, READ, ANY, NOBODY = "operator", "admin", "write", "read", "any", "nobody"
JOB = "job"
"""What is asked of a job: tests/integration/test_service_jobs.py, test_service_dedup.py."""
NEEDS = {
    "livez": NOBODY, "readyz": NOBODY, "healthz": NOBODY, "openapi": NOBODY, "console": NOBODY, "console.file": NOBODY,
    "metrics": OPERATOR, "whoami": ANY, "detect": ANY, "verify": ANY, "galleries.list": ANY,
    "tenants.create": OPERATOR, "tenants.list": OPERATOR, "tenants.update": OPERATOR, "tenants.drop": OPERATOR,
    "cluster.hosts": OPERATOR, "cluster.shards": OPERATOR,
    "tenants.show": ADMIN, "tenants.usage": ADMIN, "tenants.audit": ADMIN,
    "keys.create": ADMIN, "keys.list": ADMIN, "keys.rotate": ADMIN, "keys.revoke": ADMIN,
    "galleries.create": ADMIN, "galleries.drop": ADMIN, "galleries.train": ADMIN, "galleries.flush": ADMIN,
    "galleries.erase": ADMIN, "calibration.create": ADMIN, "snapshots.create": ADMIN, "snapshots.restore": ADMIN,
    "snapshots.delete": ADMIN, "snapshots.expire": ADMIN,
    "faces.enroll": WRITE, "faces.delete": WRITE, "faces.update": WRITE, "faces.drop": WRITE, "images.enroll": WRITE,
    "identities.rename": WRITE, "identities.merge": WRITE,
    "galleries.show": READ, "galleries.erasure": READ, "faces.list": READ, "faces.get": READ, "faces.show": READ,
    "images.thumbnail": READ, "search": READ, "search.range": READ, "search.image": READ, "identities.list": READ,
    "identities.verify": READ, "calibration.show": READ, "calibration.threshold": READ, "calibration.plot": READ,
    "snapshots.list": READ,
    "jobs.submit": JOB, "jobs.list": JOB, "jobs.show": JOB, "jobs.cancel": JOB, "jobs.resume": JOB, "jobs.delete": JOB,
    "jobs.logs": JOB, "jobs.result": JOB, "jobs.file": JOB, "jobs.review": JOB, "jobs.decide": JOB, "jobs.apply": JOB,
    "jobs.undo": JOB,
}  # fmt: skip
"""What each operation needs. One that is not here fails `test_every_route_says_what_it_needs`."""
VALUES = {
    "tenant": "acme",
    "gallery": "staff",
    "template_id": "t1",
    "snapshot_id": "1" * 16,
    "name": "console.js",
    "job_id": "20200101T000000Z-00000000",
}


@dataclass(frozen=True)
class Operation:
    """One operation of the API, as it is asked of a tenant and a gallery."""

    name: str
    method: str
    path: str
    body: dict[str, Any] | None

    def ask(
        self, client: httpx.Client, *, tenant: str = "acme", gallery: str = "staff", **headers: str
    ) -> httpx.Response:
        """With a body that would do, for this tenant and gallery."""
        path = self.path.replace("{template_id:path}", "{template_id}")
        path = path.format(**{**VALUES, "key_id": "0" * 12, "tenant": tenant, "gallery": gallery})
        if self.name == "galleries.create":
            body: Any = {"name": f"{tenant}/{gallery}", "dim": 64}
        elif self.name == "galleries.list":
            return client.request(self.method, path, params={"tenant": tenant}, headers=headers)
        else:
            body = self.body
        params = {"target_fpir": "0.1"} if self.name == "calibration.threshold" else {}
        params |= {"template_id": "t1"} if self.name == "images.thumbnail" else {}
        return client.request(self.method, path, json=body, params=params, headers=headers)


def routes_of(gateway: Gateway) -> list[APIRoute]:
    shell = build_app(gateway)
    assert isinstance(shell, Shell)
    return [route for route in _flat(shell._app.routes) if isinstance(route, APIRoute)]  # type: ignore[attr-defined]


def _flat(routes: Any) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "routes", None)
        if inner is None and hasattr(route, "original_router"):
            inner = route.original_router.routes
        if inner is None:
            yield route
        else:
            yield from _flat(inner)


def operations_of(document: dict[str, Any]) -> list[Operation]:
    found = []
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            content = said.get("requestBody", {}).get("content", {}).get("application/json", {})
            found.append(Operation(said["operationId"], method.upper(), path, content.get("example")))
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("keys")
    with running(home / "home", snapshot_store=str(home / "store")) as s:
        for tenant in ("acme", "other"):
            s.tenant(tenant)
            for gallery in ("staff", "visitors"):
                made = s.cluster.gallery(f"{tenant}/{gallery}", create=True, dim=64, shards=1)
                made.enroll(faces_like(3), template_ids=["t1", "t2", "t3"], identities=["alice", "bob", None])
        yield s


@pytest.fixture(scope="module")
def operations(service: Running) -> list[Operation]:
    return operations_of(httpx.get(f"{service.url}/openapi.json").json())


def everything(service: Running) -> str:
    """What the service holds: tenants, keys, galleries, templates."""
    cluster = service.cluster
    tenants = cluster.tenants.all()
    galleries = cluster.galleries()
    return repr(
        (
            tenants,
            [cluster.tenants.keys(t.name) for t in tenants],
            cluster.tenants.keys(None),
            [(g.name, g.gallery_id, list(g.list().templates), g.stats().templates) for g in galleries],
        )
    )


def refused(answer: httpx.Response, status: int, code: str, operation: Operation) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), (operation, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_key_for_metrics_opens_metrics_and_nothing_else(service: Running, operations: list[Operation]) -> None:
    key = service.key(None, "metrics")
    before = everything(service)
    with service.client(key) as client:
        for operation in operations:
            if NEEDS[operation.name] == NOBODY:
                continue
            answer = operation.ask(client)
            if operation.name == "metrics":
                assert answer.status_code == 200
            else:
                refused(answer, 403, "permission_denied", operation)
    assert before == everything(service)


def test_every_route_says_what_it_needs(service: Running, operations: list[Operation]) -> None:
    shell = build_app(service.gateway)
    document = openapi(shell._app, "1")  # type: ignore[attr-defined]
    assert {operation.name for operation in operations_of(document)} == set(NEEDS)
    paths = {(o.method, o.path) for o in operations}
    served = {
        (method, route.path.replace(":path}", "}")) for route in routes_of(service.gateway) for method in route.methods
    }
    assert served == paths, "a route that the document does not have"
    for operation in operations:
        assert is_public(operation.path) == (NEEDS[operation.name] == NOBODY), operation
    assert set(PUBLIC) <= {o.path for o in operations} | {"/"}


def bad_keys(service: Running) -> dict[str, str | None]:
    """Authorization headers that are no key's."""
    tenants = service.cluster.tenants
    good = service.key("acme", "admin")
    key_id, secret = good.split("_", 2)[1:]
    revoked, revoked_text = tenants.create_key("acme", "revoked", scopes=["admin"])
    tenants.revoke_key(revoked.key_id)
    rotated, old_text = tenants.create_key("acme", "rotated", scopes=["admin"])
    tenants.rotate_key(rotated.key_id)
    expired = tenants.create_key("acme", "expired", scopes=["admin"], expires_at=time.time() + 0.05)[1]
    other_secret = service.key("acme", "admin").split("_", 2)[2]
    deadline = time.time() + 0.1
    while time.time() < deadline:
        tenants.all()
    return {
        "absent": None,
        "empty": "",
        "scheme only": "Bearer",
        "basic": "Basic " + good,
        "no scheme": good,
        "digest": f"Digest {good}",
        "garbage": "Bearer x",
        "two": f"Bearer {good} {good}",
        "joined": f"Bearer {good},{good}",
        "quoted": f'Bearer "{good}"',
        "tail": f"Bearer {good}x",
        "cut": f"Bearer {good[:-1]}",
        "other last character": f"Bearer {good[:-1]}{'B' if good[-1] != 'B' else 'C'}",
        "upper id": f"Bearer fg_{key_id.upper()}G_{secret}",
        "other case": f"Bearer {good.swapcase()}",
        "long": "Bearer fg_" + "a" * 20_000,
        "not ascii": "Bearer fg_ü\u00a0é",
        "unknown id": f"Bearer fg_{'0' * 12}_{secret}",
        "wrong secret": f"Bearer fg_{key_id}_{other_secret}",
        "revoked": f"Bearer {revoked_text}",
        "rotated": f"Bearer {old_text}",
        "expired": f"Bearer {expired}",
        "sql": "Bearer fg_' OR 1=1 --",
    }


def test_a_key_that_is_none_opens_nothing(service: Running, operations: list[Operation]) -> None:
    keys = bad_keys(service)
    before = everything(service)
    with service.client("") as client:
        for what, header in keys.items():
            headers = {} if header is None else {"authorization": header.encode("latin-1")}
            for operation in operations:
                if NEEDS[operation.name] != NOBODY:
                    answer = operation.ask(client, **headers)  # type: ignore[arg-type]
                    assert answer.status_code == 401, (what, operation)
                    refused(answer, 401, "unauthenticated", operation)
                    assert answer.headers["www-authenticate"] == 'Bearer realm="facegrid"'
    assert everything(service) == before


def test_the_scheme_is_of_any_case(service: Running) -> None:
    key = service.key("acme", "read")
    for scheme in ("bearer", "BEARER", "Bearer", "bEaReR"):
        answer = httpx.get(f"{service.url}/v1/whoami", headers={"authorization": f"{scheme} {key}"})
        assert answer.status_code == 200


def test_a_rotated_key_is_good_for_its_overlap_only(service: Running) -> None:
    record, old = service.cluster.tenants.create_key("acme", "turned", scopes=["read"])
    new = service.cluster.tenants.rotate_key(record.key_id, overlap_s=3600)[1]
    third = service.cluster.tenants.rotate_key(record.key_id, overlap_s=3600)[1]
    statuses = []
    for key in (old, new, third):
        with service.client(key) as client:
            statuses.append(client.get("/v1/whoami").status_code)
    assert statuses == [401, 200, 200]


def test_another_tenants_gallery_is_as_one_that_does_not_exist(service: Running, operations: list[Operation]) -> None:
    key = service.key("acme", "admin")
    before = everything(service)
    with service.client(key) as client:
        for operation in operations:
            if NEEDS[operation.name] not in (ADMIN, WRITE, READ) and operation.name != "galleries.list":
                continue
            there = operation.ask(client, tenant="other", **{"x-request-id": "r"})
            absent = operation.ask(client, tenant="nosuch", **{"x-request-id": "r"})
            names_gallery = "/v1/galleries" in operation.path and operation.name != "galleries.list"
            refused(there, 404, "unknown_gallery" if names_gallery else "unknown_tenant", operation)
            assert there.content.replace(b"other", b"nosuch") == absent.content, operation
            assert sorted(there.headers) == sorted(absent.headers)
    assert everything(service) == before


def test_a_bound_key_sees_its_gallery_alone(service: Running, operations: list[Operation]) -> None:
    key = service.key("acme", "admin", galleries=["visitors"])
    before = everything(service)
    with service.client(key) as client:
        assert [g["name"] for g in client.get("/v1/galleries").json()["galleries"]] == ["acme/visitors"]
        for operation in operations:
            if "{gallery}" in operation.path:
                there = operation.ask(client, gallery="staff", **{"x-request-id": "r"})
                absent = operation.ask(client, gallery="nosuch", **{"x-request-id": "r"})
                refused(there, 404, "unknown_gallery", operation)
                assert there.content.replace(b"staff", b"nosuch") == absent.content
            elif NEEDS[operation.name] in (OPERATOR, ADMIN):
                refused(operation.ask(client), 403, "permission_denied", operation)
    assert everything(service) == before


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_scope_that_is_missing_is_said(service: Running, operations: list[Operation], scope: str) -> None:
    lacks = {"read": (WRITE, ADMIN, OPERATOR), "write": (ADMIN, OPERATOR), "admin": (OPERATOR,)}[scope]
    key = service.key("acme", scope)
    before = everything(service)
    with service.client(key) as client:
        for operation in operations:
            if NEEDS[operation.name] in lacks:
                refused(operation.ask(client), 403, "permission_denied", operation)
    assert everything(service) == before


def test_a_key_reaches_what_its_scope_allows(service: Running, operations: list[Operation]) -> None:
    with service.client(service.key("acme", "read")) as client:
        for operation in operations:
            if NEEDS[operation.name] in (READ, ANY, NOBODY):
                assert operation.ask(client).status_code not in (401, 403), operation


def test_nobody_learns_of_anothers_keys(service: Running) -> None:
    others = service.cluster.tenants.create_key("other", "theirs", scopes=["read"])[0]
    with service.client(service.key("acme", "admin")) as client:
        bodies = []
        for key_id in (others.key_id, "0" * 12, "x", "%00", "%2e%2e", "a" * 500):
            for method, path in (("DELETE", ""), ("POST", "/rotate")):
                answer = client.request(method, f"/v1/tenants/acme/keys/{key_id}{path}", headers={"x-request-id": "r"})
                assert answer.status_code == 404, (key_id, answer.text)
                bodies.append(answer.text.replace(key_id, "0" * 12))
        assert bodies[0] == bodies[2]
    assert service.cluster.tenants.key(others.key_id).revoked_at is None


def test_a_key_cannot_make_one_of_the_operator_or_widen_itself(service: Running) -> None:
    with service.client(service.key("acme", "write")) as client:
        for body in ({"name": "k", "scopes": ["read"]}, {"name": "k", "scopes": ["admin"]}):
            assert client.post("/v1/tenants/acme/keys", json=body).status_code == 403
    with service.client(service.key("acme", "admin")) as client:
        for scopes in (["operator"], ["admin", "*"], [], ["ADMIN"]):
            answer = client.post("/v1/tenants/acme/keys", json={"name": "k", "scopes": scopes})
            assert answer.status_code == 422
        made = client.post("/v1/tenants/acme/keys", json={"name": "k", "scopes": ["admin"], "tenant": None})
        assert made.status_code == 422


@pytest.fixture
def second(service: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Another gateway of the same cluster, that remembers keys and galleries for as long as the test runs."""
    monkeypatch.setattr("cluster.service.auth.KEY_S", 3600.0)
    monkeypatch.setattr("cluster.service.gateway.GALLERY_S", 3600.0)
    other = Service(Gateway(service.cluster, snapshot_store=service.gateway.snapshot_store), Listen(port=0))
    listens = threading.Event()
    thread = threading.Thread(target=other.run, kwargs={"ready": listens.set})
    thread.start()
    assert listens.wait(30)
    try:
        with httpx.Client(base_url=other.url, timeout=60) as client:
            yield client
    finally:
        other.stop()
        thread.join(30)


def test_a_key_of_a_dropped_tenant_opens_nothing_of_the_next_one(
    service: Running, operations: list[Operation], second: httpx.Client
) -> None:
    """Also where a gateway has not heard of it yet, and remembers the key, the tenant and the gallery."""
    tenants = service.cluster.tenants
    service.tenant("brief")
    old = service.key("brief", "admin")
    service.cluster.gallery("brief/staff", create=True, dim=64, shards=1).enroll(faces_like(1), template_ids=["t1"])
    second.headers["authorization"] = f"Bearer {old}"
    assert second.get("/v1/galleries/brief/staff/faces/t1").status_code == 200
    tenants.drop("brief")
    assert second.get("/v1/galleries/brief/staff/faces/t1").status_code in (401, 404)
    second.get("/v1/galleries/brief/staff")  # whatever it has learnt of the end, it may have forgotten again
    service.tenant("brief")
    made = service.cluster.gallery("brief/staff", create=True, dim=64, shards=1)
    made.enroll(faces_like(1, seed=5), template_ids=["t1"], identities=["secret person"])
    before = everything(service)
    for operation in operations:
        if NEEDS[operation.name] in (ADMIN, WRITE, READ, OPERATOR, ANY):
            answer = operation.ask(second, tenant="brief")
            assert answer.status_code == 401, (operation, answer.text)
    assert everything(service) == before
    new = service.key("brief", "admin")
    second.headers["authorization"] = f"Bearer {new}"
    assert second.get("/v1/galleries/brief/staff/faces/t1").json()["identity"] == "secret person"


def test_a_revoked_key_is_refused_at_once_where_it_was_revoked(service: Running) -> None:
    record, text = service.cluster.tenants.create_key("acme", "gone", scopes=["read"])
    with service.client(text) as client, service.client() as operator:
        assert client.get("/v1/galleries/acme/staff").status_code == 200
        assert operator.delete(f"/v1/tenants/acme/keys/{record.key_id}").status_code == 200
        assert client.get("/v1/galleries/acme/staff").status_code == 401


def test_keys_that_are_tried_make_no_good_one_be_forgotten(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.service.auth.MAX_REMEMBERED", 8)
    monkeypatch.setattr("cluster.service.auth.KEY_S", 3600.0)
    keys = service.gateway.keys
    good = service.key("acme", "read")
    keys.authenticate(good)
    with service.client("") as client:
        for number in range(50):
            client.get("/v1/whoami", headers={"authorization": f"Bearer fg_{number:012x}_{'A' * 43}"})
    assert keys.remembered(good) is not None
    assert len(keys._refused) <= 8
    keys.forget()


def test_an_unknown_key_is_compared_as_a_wrong_secret_is(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps in the same order, so that nobody tells by the time which ids there are."""
    steps: list[str] = []

    class Watched:
        def __init__(self, inner: Any, names: tuple[str, ...]) -> None:
            self._inner, self._names = inner, names

        def __getattr__(self, name: str) -> Any:
            if name in self._names:
                steps.append(name)
            return getattr(self._inner, name)

    monkeypatch.setattr(api_keys, "hmac", Watched(api_keys.hmac, ("compare_digest",)))
    monkeypatch.setattr(api_keys, "hashlib", Watched(api_keys.hashlib, ("sha256",)))
    good = service.key("acme", "read")
    watched = service.cluster.tenants._keys._catalog  # type: ignore[union-attr]
    engine = next(value for value in vars(watched._database).values() if isinstance(value, sa.Engine))
    sa.event.listen(engine, "before_cursor_execute", lambda *a: steps.append("read"))

    def taken(text: str) -> list[str]:
        steps.clear()
        with pytest.raises(Exception, match="is not valid"):
            service.cluster.tenants.authenticate(text)
        return list(steps)

    wrong_secret = taken(good[:16] + "A" * 43)
    assert wrong_secret == taken("fg_000000000000_" + "A" * 43)
    assert wrong_secret.count("compare_digest") == 2
    assert "read" in wrong_secret


def test_refusals_name_no_key(service: Running) -> None:
    good = service.key("acme", "read")
    secret = good.split("_", 2)[2]
    with service.client(good) as client:
        for path in ("/v1/tenants", "/metrics", "/v1/galleries/other/staff", "/v1/nothing"):
            assert secret not in client.get(path).text
    answer = httpx.get(f"{service.url}/v1/whoami", headers={"authorization": f"Bearer {good[:16]}{'A' * 43}"})
    assert "A" * 43 not in json.dumps(answer.json())
