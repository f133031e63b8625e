"""Values that are odd, and secrets that must not come out.

Every field of every body is given numbers, texts and shapes that it should not have, from the models themselves.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from cluster.service import job_schemas, schemas
from cluster.thumbnails import KEY, RESERVED
from tests.service import MSGPACK, Running, faces_like, packed, post_msgpack, running

BASE = "/v1/galleries/acme/staff"
DIM = 64
IS_LONG = "FACEGRID_TORTURE" in os.environ
NUMBERS: list[Any] = [
    float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, -5e-324, 1e308, -1e308, 0, -1, 1, 2**31, -(2**31),
    2**53 + 1,
    2**63 - 1, 2**63, -(2**63), 2**64 - 1, 0.1, "1", "", True, None, [], {}, b"\0", [1], {"a": 1},
]  # fmt: skip
BIG_NUMBERS = [
    "1e999",
    "-1e999",
    "1" * 400,
    "-" + "1" * 400,
    "1e-999",
    "1." + "0" * 400 + "1",
    "0x10",
    "01",
    "NaN",
    "1_0",
]
TEXTS: list[Any] = [
    "", "\0", "a\0b", "\u202eevil", "a\u2066b", "x" * 513, "x" * 100_000, "\n", "\x7f", "\ud7ff", "\ufffe", "é" * 300,
    "\u0300" * 100, "../..", "a/b", "'; DROP TABLE", "${jndi:ldap://x}", "%s%n", "<script>",
    1, 1.5, True, None, [], {}, b"\xff",
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("security")
    patch = pytest.MonkeyPatch()
    patch.setenv("ALL_PROXY", "http://127.0.0.1:9")  # no network is fetched: photos are answered with 501
    patch.setenv("NO_PROXY", "127.0.0.1")
    with running(home / "home", snapshot_store=str(home / "store")) as s:
        s.tenant("acme")
        s.cluster.gallery("acme/staff", create=True, dim=DIM, shards=1).enroll(
            faces_like(3), template_ids=["t1", "t2", "t3"], identities=["alice", "bob", None]
        )
        yield s
    patch.undo()


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as found:  # the operator's: nothing is refused for lack of a scope
        yield found


ROUTES: dict[type[schemas.Body], tuple[str, str]] = {
    schemas.TenantBody: ("POST", "/v1/tenants"),
    schemas.TenantChange: ("PATCH", "/v1/tenants/acme"),
    schemas.KeyBody: ("POST", "/v1/tenants/acme/keys"),
    schemas.RotateBody: ("POST", "/v1/tenants/acme/keys/000000000000/rotate"),
    schemas.GalleryBody: ("POST", "/v1/galleries"),
    schemas.EnrollBody: ("POST", f"{BASE}/faces"),
    schemas.ImagesBody: ("POST", f"{BASE}/images"),
    schemas.IdsBody: ("POST", f"{BASE}/faces/get"),
    schemas.DeleteBody: ("POST", f"{BASE}/faces/delete"),
    schemas.MetadataBody: ("PATCH", f"{BASE}/faces/t1"),
    schemas.SearchBody: ("POST", f"{BASE}/search"),
    schemas.RangeBody: ("POST", f"{BASE}/range"),
    schemas.ImageSearchBody: ("POST", f"{BASE}/search/image"),
    schemas.VerifyBody: ("POST", f"{BASE}/verify"),
    schemas.PairBody: ("POST", "/v1/verify"),
    schemas.DetectBody: ("POST", "/v1/detect"),
    schemas.RenameBody: ("POST", f"{BASE}/identities/rename"),
    schemas.MergeBody: ("POST", f"{BASE}/identities/merge"),
    schemas.CalibrateBody: ("POST", f"{BASE}/calibration"),
    schemas.SnapshotBody: ("POST", f"{BASE}/snapshots"),
    schemas.RestoreBody: ("POST", f"{BASE}/snapshots/x/restore"),
    job_schemas.JobBody: ("POST", "/v1/jobs"),
    job_schemas.DecisionBody: ("POST", "/v1/jobs/20200101T000000Z-00000000/review"),
    job_schemas.ApplyBody: ("POST", "/v1/jobs/20200101T000000Z-00000000/apply"),
    job_schemas.UndoBody: ("POST", "/v1/jobs/20200101T000000Z-00000000/undo"),
}
PARTS = {schemas.QuotasBody, schemas.ImageItem, schemas.SearchOptions, job_schemas.MemberBody}
"""Bodies that are parts of others."""


def bodies() -> set[type[schemas.Body]]:
    found, todo = set(), [schemas.Body]
    while todo:
        for model in todo.pop().__subclasses__():
            found.add(model)
            todo.append(model)
    return found


def test_each_body_is_attacked() -> None:
    assert bodies() - PARTS == set(ROUTES)


def example(model: type[schemas.Body]) -> dict[str, Any]:
    """A body that is right, of this model."""
    found: dict[str, Any] = json.loads(json.dumps(model.model_json_schema().get("examples", [{}])[0]))
    row = [0.5] * DIM
    for field in ("probes", "embeddings"):
        if field in found:
            found[field] = [row]
    if "probe" in found:
        found["probe"] = row
    return found


def fields(model: type[schemas.Body]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths of fields, those of objects within it too."""
    for name, info in model.model_fields.items():
        yield (name,), info.annotation
        for inner in typing.get_args(info.annotation) or (info.annotation,):
            if (
                isinstance(inner, type)
                and not isinstance(inner, types.GenericAlias)
                and issubclass(inner, schemas.Body)
            ):
                for path, annotation in fields(inner):
                    item = ("0",) if typing.get_origin(info.annotation) is list else ()
                    yield (name, *item, *path), annotation


def changed(body: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    at: Any = body
    for part in path[:-1]:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    at[path[-1]] = value
    return body


def check(answer: httpx.Response, what: object) -> None:
    """No fault of the service, and a problem document where it refuses."""
    # Who wants it within a millisecond may be told that this has passed.
    is_hasty = answer.status_code == 504 and b"deadline_ms" in answer.request.content
    assert answer.status_code < 500 or answer.status_code == 501 or is_hasty, (what, answer.text)
    if answer.status_code >= 400:
        problem = answer.json()
        assert problem["status"] == answer.status_code, what
        assert len(problem["detail"]) < 2_000, (what, "an echo of what came")


@pytest.mark.parametrize("model", sorted(ROUTES, key=lambda m: m.__name__), ids=lambda m: m.__name__)
def test_values_that_are_odd_are_refused_by_name(client: httpx.Client, model: type[schemas.Body]) -> None:
    method, path = ROUTES[model]
    known = [field for field, _ in fields(model)]
    odd = [*NUMBERS, *TEXTS, [[1e300] * DIM], [[float("nan")] * DIM], [["a"] * DIM], ["\0"], [None]]
    # In the short form each value is one field's of three.
    every = 1 if IS_LONG else min(3, len(known))
    for turn, field in enumerate(known):
        for number, value in enumerate(odd[turn % every :: every]):
            body = changed(example(model), field, value)
            if model is schemas.GalleryBody and body.get("name") == "acme/staff":
                body["name"] = "acme/another"
            if IS_LONG or number % 2:
                sent = msgpack.packb(body)
                check(client.request(method, path, content=sent, headers={"content-type": MSGPACK}), (field, value))
            if (IS_LONG or not number % 2) and not isinstance(value, bytes):  # JSON has none
                check(client.request(method, path, content=json.dumps(body)), (field, value))
        for literal in BIG_NUMBERS[turn % every :: every]:
            text = json.dumps(changed(example(model), field, "@@")).replace('"@@"', literal)
            check(client.request(method, path, content=text), (field, literal))


SHAPES = [
    '{"probes": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"probes": ' + "[" * 900 + "]" * 900 + "}",
    '{"where": ' + '{"not":' * 500 + "{}" + "}" * 500 + ', "probes": [[1]]}',
    '{"where": ' + '{"not":' * 300 + '{"a":1}' + "}" * 300 + "}",
    "{" + ",".join(f'"k{i}":1' for i in range(100_000)) + "}",
    '{"k": 1, "k": 2, "probes": [1], "probes": [2]}',
    '{"probes": ["\\ud800"]}',
    '{"\\ud800": 1}',
    '{"where": {"a": {"in": ' + json.dumps(list(range(5000))) + '}}, "probes": [' + json.dumps([0.5] * DIM) + "]}",
    '{"where": {}, "probes": [' + json.dumps([0.5] * DIM) + "]}",
    '\ufeff{"probes": [1]}',
    '{"probes": [1]} {"probes": [1]}',
    "[" * 1000,
    "{" * 1000,
    '"' + "a" * 100_000 + '"',
    "1" * 100_000,
]


@pytest.mark.parametrize("text", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("path", ["search", "range", "faces"])
def test_shapes_that_are_odd_are_refused(client: httpx.Client, path: str, text: str) -> None:
    answer = client.post(f"{BASE}/{path}", content=text.encode("utf-8", "surrogatepass"))
    check(answer, text[:80])
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 100_000, b"\x81\xa1a" * 1000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa6probes\xc7\x00\x01", b"\x81\xa6probes\xd6\xff\0\0\0\0", b"\x81\xc4\x06probes\x01",
        b"\x81\xa6probes\xa2\xff\xfe", b"\x82\xa6probes\x01\xa6probes\x02", b"\x81\xa6probes\xa3\xed\xa0\x80",
        msgpack.packb({"probes": {"shape": [1 << 24, 1 << 24], "data": b""}}),
        msgpack.packb({"probes": {"shape": [0, DIM], "data": b""}}),
        msgpack.packb({"probes": {"shape": [-1, DIM], "data": b""}}),
        msgpack.packb({"probes": {"shape": [1, DIM], "data": b"x"}}),
        msgpack.packb({"probes": packed(np.full((1, DIM), np.nan))}),
        msgpack.packb({"probes": packed(np.full((1, DIM), np.inf))}),
        msgpack.packb({"probes": packed(np.zeros((1, DIM)))}),
        msgpack.packb({"probes": packed(faces_like(1)), "where": {b"a": 1}}),
        msgpack.packb({"probes": packed(faces_like(1)), "where": {"a": b"1"}}),
        msgpack.packb({"probes": packed(faces_like(1)), "where": {"a": float("nan")}}),
        msgpack.packb({"probes": packed(faces_like(1)), "where": {"a": {"gt": [1]}}}),
    ],
)  # fmt: skip
def test_msgpack_that_is_odd_is_refused(client: httpx.Client, data: bytes) -> None:
    for path in ("search", "range"):
        answer = client.post(f"{BASE}/{path}", content=data, headers={"content-type": MSGPACK})
        check(answer, data[:80])
        assert answer.status_code in (400, 422), (data[:80], answer.text)


def test_numbers_at_the_edge_of_floats_are_right_or_refused(client: httpx.Client) -> None:
    for value, status in ((1e-45, 200), (5e-324, 422), (3e38, 200), (1e39, 422), (-0.0, 422), (1e-30, 200)):
        answer = client.post(f"{BASE}/search", json={"probes": [[value] * DIM]})
        assert answer.status_code == status, (value, answer.text)
        if status == 200:
            assert all(-1.001 <= c["score"] <= 1.001 for c in answer.json()["results"][0]["candidates"])


@pytest.mark.parametrize(
    "body",
    [
        b'{"probes": [["' + b"x" * 4_000_000 + b'"' + b', "a"' * 200_000 + b"]]}",
        b'{"probes": [' + b"[]," * 8_000_000 + b"[]]}",
        b'{"probes": [[1]], "where": {"a": [' + b"{}," * 8_000_000 + b"{}]}}",
    ],
    ids=["wide texts", "lists", "objects"],
)
def test_a_body_takes_no_more_memory_than_its_like(client: httpx.Client, body: bytes) -> None:
    """A text among numbers must not make NumPy hold an array as wide as it; nor small values be gigabytes."""
    before = _peak()
    answer = client.post(f"{BASE}/search", content=body)
    check(answer, body[:40])
    assert answer.status_code in (400, 422)
    assert _peak() - before < 1 << 30


def test_msgpack_of_many_small_values_is_refused(client: httpx.Client) -> None:
    before = _peak()
    for data in (b"\x81\xa6probes\xdd" + (40_000_000).to_bytes(4, "big") + b"\x90" * 40_000_000,):
        assert client.post(f"{BASE}/search", content=data, headers={"content-type": MSGPACK}).status_code == 400
    assert _peak() - before < 1 << 30


def _peak() -> int:
    """Bytes that this process, and the service in it, ever had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("metadata", [{KEY: "x"}, {f"{RESERVED}other": 1}, {"a": 1, RESERVED: None}], ids=repr)
def test_metadata_has_no_keys_of_the_service(client: httpx.Client, metadata: dict[str, Any]) -> None:
    before = client.get(f"{BASE}/faces").json()
    for method, path, body in (
        ("POST", f"{BASE}/faces", {"embeddings": faces_like(1).tolist(), "metadata": [metadata]}),
        ("PATCH", f"{BASE}/faces/t1", {"metadata": metadata}),
        ("POST", f"{BASE}/images", {"images": [{"data": "aaaa", "metadata": metadata}]}),
    ):
        answer = client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), answer.text
        assert RESERVED in answer.json()["detail"]
    assert client.get(f"{BASE}/faces").json() == before


def test_deep_metadata_is_refused_and_stored_metadata_is_shown(service: Running, client: httpx.Client) -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"a": [deep]}
    answer = client.patch(f"{BASE}/faces/t2", json={"metadata": deep})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    # The library takes what JSON can hold: whole numbers of any size, and any depth.
    service.cluster.gallery("acme/staff").update("t2", {"n": 10**40, "deep": deep})
    for accept in ("application/json", MSGPACK):
        for method, path, body in (
            ("GET", f"{BASE}/faces/t2", None),
            ("GET", f"{BASE}/faces", None),
            ("POST", f"{BASE}/search", {"probes": faces_like(3).tolist(), "include": ["metadata"]}),
        ):
            answer = client.request(method, path, json=body, headers={"accept": accept})
            assert answer.status_code == 200, answer.text
    service.cluster.gallery("acme/staff").update("t2", None)


def test_a_changed_templates_thumbnail_stays(service: Running, client: httpx.Client) -> None:
    gallery = service.cluster.gallery("acme/staff")
    jpeg = base64.b64encode(b"\xff\xd8\xff a small picture").decode()
    gallery.enroll(faces_like(1, seed=3), template_ids=["pictured"], metadata=[{"a": 1, KEY: jpeg}])
    for metadata in ({"b": 2}, None, {}):
        answer = client.patch(f"{BASE}/faces/pictured", json={"metadata": metadata})
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"] == (metadata or None)
        picture = client.get(f"{BASE}/thumbnail", params={"template_id": "pictured"})
        assert picture.content == base64.b64decode(jpeg)
    gallery.delete(template_ids=["pictured"])


def test_hosts_are_the_operators_to_know(service: Running) -> None:
    with service.client(service.key("acme", "admin")) as own:
        for path in (BASE, f"{BASE}/erasure", "/v1/galleries"):
            text = own.get(path).text
            assert '"host"' not in text
            assert str(service.cluster.settings.home) not in text


class Secrets:
    """What must not come out, and where it may be."""

    def __init__(self) -> None:
        self.rows = faces_like(4, seed=77)
        self.identity = "ZqIdentityOfSomebody"
        self.template = "ZqTemplateIdOfSomebody"
        self.label = "ZqMetadataOfSomebody"
        self.image = b"\xff\xd8\xff\xe0ZqImageBytesOfSomebody" * 3
        self.keys: list[str] = []

    def needles(self) -> dict[str, bytes]:
        """By what they are."""
        found = {
            "identity": self.identity.encode(), "template id": self.template.encode(), "metadata": self.label.encode(),
            "image": b"ZqImageBytes", "image, base64": base64.b64encode(self.image)[:40],
        }  # fmt: skip
        unit = self.rows / np.linalg.norm(self.rows, axis=1, keepdims=True)
        for number in range(len(self.rows)):
            found[f"embedding {number}"] = self.rows[number, :4].tobytes()
            found[f"unit embedding {number}"] = unit[number, :4].astype("<f4").tobytes()
            found[f"embedding {number} as text"] = repr(float(self.rows[number, 1]))[:12].encode()
        for number, key in enumerate(self.keys):
            secret = key.split("_", 2)[2]
            found[f"key {number}"] = secret.encode()
            found[f"key {number}, bytes"] = base64.urlsafe_b64decode(secret + "=")
        return found


def scenario(service: Running, secrets: Secrets) -> list[str]:
    """Uses of keys, faces and photos, right and wrong ones; the texts of refusals that name no label themselves."""
    operator = service.client()
    assert operator.post("/v1/tenants", json={"name": "quiet", "keeps_thumbnails": True}).status_code == 201
    made = operator.post("/v1/tenants/quiet/keys", json={"name": "k", "scopes": ["admin"]}).json()
    rotated = operator.post(f"/v1/tenants/quiet/keys/{made['key']['key_id']}/rotate", json={"overlap_s": 60}).json()
    secrets.keys += [service.operator, made["secret"], rotated["secret"]]
    own, texts = service.client(rotated["secret"]), []
    base = "/v1/galleries/quiet/g"
    assert own.post("/v1/galleries", json={"name": "quiet/g", "dim": DIM, "shards": 1}).status_code == 201
    body = {
        "embeddings": secrets.rows.tolist(),
        "template_ids": [f"{secrets.template}{i}" for i in range(4)],
        "identities": [secrets.identity] * 4,
        "metadata": [{"note": secrets.label}] * 4,
    }
    for _ in range(2):
        answer = own.post(f"{base}/faces", json=body, headers={"idempotency-key": "order-7"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"template_ids": body["template_ids"], "enrolled": 4, "skipped": 0}
    texts.append(own.post(f"{base}/faces", json={**body, "embeddings": [[0.0] * DIM]}).text)
    post_msgpack(own, f"{base}/search", {"probes": packed(secrets.rows), "identities": [secrets.identity]})
    own.post(f"{base}/search", json={"probes": secrets.rows.tolist(), "where": {"note": secrets.label}, "k": 2})
    texts.append(own.post(f"{base}/search", json={"probes": secrets.rows[:, :5].tolist()}).text)
    texts.append(own.post(f"{base}/search", content=secrets.image).text)
    for path in (f"{base}/images", "/v1/detect", f"{base}/search/image"):
        texts.append(own.post(path, content=secrets.image, headers={"content-type": "image/jpeg"}).text)
        own.post(path, json={"image": base64.b64encode(secrets.image).decode()})
    own.get(f"{base}/faces/{secrets.template}0")
    own.get(f"{base}/faces", params={"identity": secrets.identity})
    own.get(f"{base}/thumbnail", params={"template_id": f"{secrets.template}0"})
    own.patch(f"{base}/faces/{secrets.template}1", json={"metadata": {"note": secrets.label + "2"}})
    own.post(f"{base}/verify", json={"probe": secrets.rows[0].tolist(), "identity": secrets.identity})
    own.post(f"{base}/identities/rename", json={"old": secrets.identity, "new": secrets.identity + "2"})
    own.delete(f"{base}/faces/{secrets.template}2")
    own.post(f"{base}/calibration", json={})
    own.post(f"{base}/snapshots", json={"nonsense": 1})
    with service.client(made["secret"][:-3] + "AAA") as wrong:
        texts.append(wrong.get("/v1/whoami").text)
    service.gateway.write_audit()
    texts.append(operator.get("/metrics").text)
    texts.append(own.get("/v1/tenants/quiet/audit", params={"limit": 1000}).text)
    texts.append(own.get("/v1/tenants/quiet/keys").text)
    texts.append(own.get("/v1/whoami").text)
    operator.close()
    own.close()
    return texts


LOGGERS = (
    "", "uvicorn", "uvicorn.error", "sqlalchemy", "sqlalchemy.engine", "httpx", "httpcore", "asyncio", "facegrid",
    "facegrid.access", "cluster",
)  # fmt: skip
LABELS = ("identity", "template id", "metadata")


def test_secrets_and_faces_come_out_nowhere(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Not in logs, those of libraries at DEBUG too; not in metrics, the audit log, refusals, or the catalog's files."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(fields)s", defaults={"fields": ""}))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    secrets = Secrets()
    loggers[0].addHandler(handler)
    for logger in loggers:
        # httpx and httpcore are the test's own client, which may log the paths it asks for.
        logger.setLevel(logging.WARNING if logger.name.startswith("http") else logging.DEBUG)
    try:
        texts = scenario(service, secrets)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        loggers[0].removeHandler(handler)
    needles = secrets.needles()
    assert "facegrid.access request" in log.getvalue()
    outside = {"logs": log.getvalue().encode(), **{f"answer {i}": text.encode() for i, text in enumerate(texts)}}
    found = [(where, what) for where, data in outside.items() for what, needle in needles.items() if needle in data]
    assert found == []
    service.cluster.gallery("quiet/g").flush()
    home = Path(service.cluster.settings.home)
    for path in sorted(home.rglob("*")):
        if not path.is_file() or path.name == "operator.key":
            continue
        data, at = path.read_bytes(), path.relative_to(home)
        is_shard = "shard" in str(at) and path.name != "catalog.db"
        held = [what for what, needle in needles.items() if needle in data]
        allowed = LABELS if path.name.startswith("shard.db") else ()
        if path.name.startswith("catalog.db"):
            allowed = ("identity",)  # of a rename that was under way: docs/security.md
        assert [what for what in held if what not in allowed and not (is_shard and "embedding" in what)] == [], at
