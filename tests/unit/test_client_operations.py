"""Verbs of the HTTP client: what they send, what they believe of what comes back."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from cluster.client import AsyncRemoteCluster, AsyncRemoteGallery, RemoteCluster, RemoteGallery, RetryPolicy
from cluster.client.aio_jobs import AsyncRemoteJobs
from cluster.client.aio_snapshots import AsyncRemoteSnapshots
from cluster.client.aio_tenants import AsyncRemoteTenants
from cluster.client.jobs import RemoteJobs
from cluster.client.operations import photos, requests, searches, templates
from cluster.client.operations.galleries import Facts
from cluster.client.snapshots import RemoteSnapshots
from cluster.client.tenants import RemoteTenants
from cluster.results import IdentityVerification
from shard import errors
from shard.types import FloatArray
from tests.faces_like import unit_rows
from tests.unit.client_calls import Played, good, problem

DIM = 64
FACTS = Facts("acme/staff", DIM, 4, 512, None, 1, 1, None)


def staff(*schedule: Any, **options: Any) -> tuple[Played, RemoteGallery]:
    played = Played(schedule)
    return played, RemoteGallery(played.blocking(**options), FACTS)


def body(request: httpx.Request) -> dict[str, Any]:
    if request.headers["content-type"] == "application/msgpack":
        found: dict[str, Any] = msgpack.unpackb(request.content)
        return found
    return dict(json.loads(request.content))


def sent_rows(request: httpx.Request) -> FloatArray:
    packed = body(request)["embeddings"]
    return np.frombuffer(packed["data"], "<f4").reshape(packed["shape"])


def stored(request: httpx.Request) -> httpx.Response:
    ids = body(request)["template_ids"]
    return good({"template_ids": ids, "enrolled": len(ids), "skipped": 0})


def enroll_in_parts(gallery: RemoteGallery, rows: FloatArray, **given: Any) -> Any:
    """With requests so small that three rows fill one."""
    batch = templates.checked_enrollment(
        FACTS, rows, given.get("identities"), given.get("template_ids"), given.get("metadata"), "error"
    )
    operation = templates.enroll(FACTS, batch, "error", request_bytes=1_000, progress=given.get("progress"))
    return gallery._run(operation)


def test_an_enrollment_is_cut_into_requests_in_order() -> None:
    played, gallery = staff(*[stored] * 9)
    rows = unit_rows(10, DIM, seed=1) * 3
    names = [f"p{i}" if i % 2 else None for i in range(10)]
    told: list[tuple[int, int]] = []
    result = enroll_in_parts(gallery, rows, identities=names, progress=lambda *now: told.append(now))
    assert [len(sent_rows(request)) for request in played.requests] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate([sent_rows(request) for request in played.requests]), rows), "as given"
    assert [name for request in played.requests for name in body(request)["identities"]] == names
    assert [i for request in played.requests for i in body(request)["template_ids"]] == list(result.template_ids)
    assert (result.enrolled, result.skipped, len(set(result.template_ids))) == (10, 0, 10)
    assert told == [(3, 10), (6, 10), (9, 10), (10, 10)]
    assert len({request.headers["idempotency-key"] for request in played.requests}) == 4


def test_a_large_row_goes_alone_and_requests_have_a_limit_of_rows() -> None:
    assert list(templates._parts([5_000, 10, 10, 990, 5_000], 1_000)) == [
        slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 5)
    ]  # fmt: skip
    sizes = [1] * (2 * templates.REQUEST_ROWS + 1)
    assert [part.stop - part.start for part in templates._parts(sizes, 1 << 30)] == [8_192, 8_192, 1]


def test_a_repeated_enrollment_has_the_same_key_and_the_same_ids() -> None:
    played, gallery = staff(httpx.ReadError("reset"), lambda _: good({"enrolled": 1, "skipped": 1}))
    result = gallery.enroll(unit_rows(2, DIM, seed=2))
    first, second = played.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.content == second.content
    assert body(first)["if_exists"] == "skip", "an id made here can only be there by the first attempt"
    assert (result.enrolled, result.skipped) == (2, 0)


def test_ids_of_the_caller_keep_their_policy() -> None:
    played, gallery = staff(stored)
    gallery.enroll(unit_rows(2, DIM, seed=2), template_ids=["a", "b"])
    assert body(played.requests[0])["if_exists"] == "error"


def test_nothing_is_sent_of_an_enrollment_that_cannot_be() -> None:
    rows = unit_rows(4, DIM, seed=3)
    bad = rows.copy()
    bad[3] = np.nan
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (errors.InvalidEmbedding, {"embeddings": bad}),
        (errors.InvalidEmbedding, {"embeddings": rows[:, :32]}),
        (errors.InvalidEmbedding, {"embeddings": rows.astype(np.float64)}),
        (errors.InvalidParameter, {"identities": ["a"]}),
        (errors.InvalidParameter, {"identities": "abcd"}),
        (errors.InvalidParameter, {"identities": ["a", "b", "c", ""]}),
        (errors.InvalidParameter, {"metadata": [None, None, None, {1: 2}]}),
        (errors.InvalidParameter, {"metadata": [None, None, None, {"a": float("nan")}]}),
        (errors.InvalidParameter, {"metadata": [None, None, None, {"a": "x" * 20_000}]}),
        (errors.InvalidParameter, {"metadata": [None, None, None, {"a": 2**70}]}),
        (errors.DuplicateTemplate, {"template_ids": ["a", "b", "c", "a"]}),
        (errors.InvalidParameter, {"if_exists": "replace"}),
    ]
    for expected, given in wrong:
        played, gallery = staff()
        with pytest.raises(expected):
            gallery.enroll(**{"embeddings": rows, **given})
        assert not played.requests


def test_ids_that_are_there_are_noticed_before_the_first_of_several_requests() -> None:
    there = {"templates": [{"template_id": "t9", "identity": None, "metadata": None}], "cursor": None}
    played, gallery = staff(good(there))
    with pytest.raises(errors.DuplicateTemplate, match="t9"):
        enroll_in_parts(gallery, unit_rows(10, DIM, seed=4), template_ids=[f"t{i}" for i in range(10)])
    assert [request.url.path for request in played.requests] == ["/v1/galleries/acme/staff/faces/get"]


def test_an_error_on_the_way_says_how_many_are_durable() -> None:
    _, gallery = staff(stored, stored, problem(403, "quota_exceeded"))
    with pytest.raises(errors.QuotaExceeded, match="about quota_exceeded; the first 6 of 10 templates are durable"):
        enroll_in_parts(gallery, unit_rows(10, DIM, seed=5))


def test_totals_that_do_not_add_up_are_not_believed() -> None:
    _, gallery = staff(good({"enrolled": 5, "skipped": 0}))
    with pytest.raises(errors.ProtocolError, match="2 templates were sent"):
        gallery.enroll(unit_rows(2, DIM, seed=6))


def found(request: httpx.Request) -> httpx.Response:
    probes = body(request)["probes"]["shape"][0]
    scores = np.full((probes, 2), 0.5, np.float32)
    document = {
        "template_ids": [["a", "b"]] * probes,
        "identities": [["Ann", None]] * probes,
        "scores": {"shape": [probes, 2], "data": scores.tobytes()},
        "coverage": {"answered": 2, "asked": 2},
        "threshold": None,
    }
    return httpx.Response(200, content=msgpack.packb(document), headers={"content-type": "application/msgpack"})


def test_a_search_travels_as_floats_and_a_long_one_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "REQUEST_CANDIDATES", 8)
    played, gallery = staff(*[found] * 3)
    batch = gallery.search(unit_rows(10, DIM, seed=7), 2, threshold=0.25, identities=["Ann"])
    assert [body(request)["probes"]["shape"] for request in played.requests] == [[4, DIM], [4, DIM], [2, DIM]]
    assert batch.template_ids == (("a", "b"),) * 10
    assert batch.identities == (("Ann", None),) * 10
    assert batch.scores.shape == (10, 2)
    assert batch.scores.dtype == np.float32
    sent = body(played.requests[0])
    del sent["probes"]
    assert sent == {"k": 2, "recall": 0.999, "threshold": 0.25, "identities": ["Ann"], "deadline_ms": 10_000}
    assert "idempotency-key" not in played.requests[0].headers
    assert {request.extensions["timeout"]["read"] for request in played.requests} == {15.0}


def ranged(request: httpx.Request) -> httpx.Response:
    probes = body(request)["probes"]["shape"][0]
    candidates = [{"template_id": i, "identity": None, "score": 0.5} for i in "abc"]
    results = [{"candidates": candidates[: i % 4], "is_truncated": i % 4 == 3} for i in range(probes)]
    return good({"results": results, "coverage": {"answered": 1, "asked": 1}, "threshold": 0.25})


def test_a_range_search_says_of_each_probe_whether_there_may_be_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "REQUEST_CANDIDATES", 12)
    played, gallery = staff(ranged, ranged)
    batch = gallery.range_search(unit_rows(6, DIM, seed=7), 0.25, limit=3, where={"door": 4})
    assert batch.template_ids == ((), ("a",), ("a", "b"), ("a", "b", "c"), (), ("a",))
    assert batch.is_truncated == (False, False, False, True, False, False)
    assert batch.scores.shape == (6, 3)
    assert np.isnan(batch.scores).sum(axis=1).tolist() == [3, 2, 1, 0, 3, 2]
    sent = body(played.requests[1])
    assert sent.pop("probes")["shape"] == [2, DIM]
    assert sent == {"limit": 3, "threshold": 0.25, "recall": 0.999, "where": {"door": 4}}
    for given in ({"limit": 0}, {"limit": True}, {"threshold": None}, {"threshold": 1.5}):
        with pytest.raises(errors.InvalidParameter):
            gallery.range_search(**{"probes": unit_rows(1, DIM, seed=7), "threshold": 0.5, **given})


def test_a_probe_is_verified_against_an_identity() -> None:
    answer = {"score": 0.75, "threshold": 0.5, "is_match": True, "template_id": "a"}
    played, gallery = staff(good(answer))
    assert gallery.verify(unit_rows(1, DIM, seed=7)[0], "Ann", threshold=0.5) == IdentityVerification(**answer)
    assert body(played.requests[0])["probe"]["shape"] == [1, DIM]
    for wrong in (unit_rows(1, DIM, seed=7), [1.0]):
        with pytest.raises(errors.InvalidEmbedding):
            gallery.verify(wrong, "Ann", threshold=0.5)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidParameter):
        gallery.verify(unit_rows(1, DIM, seed=7)[0], "Ann", threshold=float("nan"))


@pytest.mark.parametrize(
    "given",
    [{"k": 0}, {"k": 1001}, {"recall": 1.0}, {"threshold": 2.0}, {"identities": []}, {"identities": "Ann"},
     {"identities": ["a\n"]}],
)  # fmt: skip
def test_searches_that_cannot_be_are_not_sent(given: dict[str, Any]) -> None:
    played, gallery = staff()
    with pytest.raises(errors.InvalidParameter):
        gallery.search(unit_rows(1, DIM, seed=8), **given)
    assert not played.requests


def mutated(**changes: Any) -> httpx.Response:
    document: dict[str, Any] = {
        "template_ids": [["a"]],
        "identities": [[None]],
        "scores": {"shape": [1, 1], "data": b"\0\0\0\0"},
        "coverage": {"answered": 1, "asked": 1},
        "threshold": None,
    }
    document = {name: value for name, value in {**document, **changes}.items() if value != "missing"}
    return httpx.Response(200, content=msgpack.packb(document), headers={"content-type": "application/msgpack"})


@pytest.mark.parametrize(
    "answer",
    [
        mutated(template_ids="missing"),
        mutated(template_ids=[["a", "b"]]),
        mutated(template_ids=[[1]]),
        mutated(identities=[]),
        mutated(template_ids=[["a"]] * 2, identities=[[None]] * 2),
        mutated(scores="missing"),
        mutated(scores=[[1.0]]),
        mutated(scores={"shape": [1, 1], "data": b"\0\0\0"}),
        mutated(scores={"shape": [1], "data": b"\0\0\0\0"}),
        mutated(scores={"shape": [-1, -1], "data": b"\0\0\0\0"}),
        mutated(scores={"shape": [1 << 40, 1 << 40], "data": b"\0\0\0\0"}),
        mutated(scores={"shape": [1, 0], "data": b""}),
        mutated(threshold="high"),
        mutated(coverage="missing"),
        mutated(coverage={"answered": True, "asked": 1}),
        mutated(coverage={"answered": 1}),
        httpx.Response(200, content=b"\xc1", headers={"content-type": "application/msgpack"}),
        httpx.Response(200, content=b"\x91" * 5_000, headers={"content-type": "application/msgpack"}),
        httpx.Response(200, content=b"[]", headers={"content-type": "application/json"}),
        httpx.Response(200, content=b"{", headers={"content-type": "application/json; charset=utf-8"}),
        httpx.Response(200, content=b"<html>", headers={"content-type": "text/html"}),
        httpx.Response(200),
    ],
)
def test_answers_that_are_none_are_named(answer: httpx.Response) -> None:
    _, gallery = staff(answer)
    with pytest.raises(errors.ProtocolError):
        gallery.search(unit_rows(1, DIM, seed=9), 1)


def test_any_template_id_is_one_segment_of_a_path() -> None:
    for label in ("a/b", "../..", "..", ".", "a?b#c", "ä %2F", "faces/get"):
        played, gallery = staff(good({"template_id": label, "identity": None, "metadata": None}))
        gallery._run(templates.update("acme/staff", label, {"door": 1}))
        raw = played.requests[0].url.raw_path.decode()
        assert raw.startswith("/v1/galleries/acme/staff/faces/")
        assert played.requests[0].url.path == f"/v1/galleries/acme/staff/faces/{label}"
        assert raw.count("/") == 6


@pytest.mark.parametrize("name", ["staff", "a/b/c", "A/b", "../x", "a/", "", "a/b?c", 5])
def test_names_of_no_gallery_are_not_sent(name: Any) -> None:
    played = Played([])
    with pytest.raises(errors.InvalidParameter):
        RemoteCluster(played.blocking()).gallery(name)
    assert not played.requests


STATS = {
    "name": "acme/staff", "dim": DIM, "shards": 4, "templates": 7, "deleted": 0, "code_bits": 512, "code_bytes": 0,
    "disk_bytes": 1, "embedder": None, "model_id": None, "replicas": 1, "min_in_sync": 1, "in_sync": 1, "novel": [1],
}  # fmt: skip


def test_a_gallery_is_found_made_and_compared() -> None:
    missing, there = problem(404, "unknown_gallery"), good(STATS)
    with pytest.raises(errors.UnknownGallery):
        RemoteCluster(Played([missing]).blocking()).gallery("acme/staff")
    played = Played([missing, problem(409, "already_exists"), there])
    assert RemoteCluster(played.blocking()).gallery("acme/staff", create=True, dim=DIM).dim == DIM
    assert body(played.requests[1]) == {"name": "acme/staff", "dim": DIM}
    with pytest.raises(errors.AlreadyExists, match="shards=4, not 3"):
        RemoteCluster(Played([there]).blocking()).gallery("acme/staff", create=True, shards=3)
    assert len(staff(there)[1]) == 7


def test_a_creation_whose_answer_was_lost_is_no_error() -> None:
    missing, there = problem(404, "unknown_gallery"), good(STATS)
    played = Played([missing, httpx.ReadError("reset"), problem(409, "already_exists"), there])
    assert RemoteCluster(played.blocking()).gallery("acme/staff", create=True, dim=DIM).name == "acme/staff"


@pytest.mark.parametrize("field", ["dim", "templates", "model_id", "name"])
def test_a_gallery_that_makes_no_sense_is_named(field: str) -> None:
    for value in ({}, 1.5, True):
        with pytest.raises(errors.ProtocolError, match=field):
            staff(good({**STATS, field: value}))[1].stats()
    without = {name: value for name, value in STATS.items() if name != field}
    with pytest.raises(errors.ProtocolError, match=field):
        staff(good(without))[1].stats()


def test_a_deletion_names_something() -> None:
    for given in ({}, {"identities": "Ann"}, {"template_ids": [""]}):
        played, gallery = staff()
        with pytest.raises(errors.InvalidParameter):
            gallery.delete(**given)  # type: ignore[arg-type]
        assert not played.requests
    played, gallery = staff(*[good({"deleted": 2})] * 3)
    assert gallery.delete(identity="Ann", template_ids=[f"t{i}" for i in range(2_000)]) == 6
    assert [len(body(r).get("template_ids", [])) for r in played.requests] == [1_000, 1_000, 0]
    assert body(played.requests[2]) == {"identities": ["Ann"]}


def test_identities_come_page_by_page() -> None:
    def page(names: list[str], following: str | None) -> httpx.Response:
        return good({"identities": [{"identity": n, "templates": 1} for n in names], "next": following})

    played, gallery = staff(page(["a", "b"], "c&d"), page(["c&d"], None), page([], None), page(["x"], None))
    assert [one.identity for one in gallery.identities()] == ["a", "b", "c&d"]
    assert [request.url.params["start"] for request in played.requests] == ["", "c&d"]
    assert "w" not in gallery
    assert "x" in gallery
    assert "" not in gallery
    assert 5 not in gallery


def test_a_folder_is_sent_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "BATCH_PHOTOS", 2)
    for name in ("Ann/1.jpg", "Ann/2.jpg", "Ben/3.jpg", "4.jpg", "C\x01/5.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())

    def judge(request: httpx.Request) -> httpx.Response:
        results: list[dict[str, Any]] = [
            {"template_id": "t", "is_new": "identity" in image} for image in body(request)["images"]
        ]
        if len(played.requests) == 2:
            results[0] = {"reason": "no_face", "message": "found none"}
        return good({"results": results})

    told: list[tuple[int, int]] = []
    played, gallery = staff(judge, judge)
    report = gallery.enroll_folder(tmp_path, progress=lambda *now: told.append(now))
    assert [[i.get("identity") for i in body(r)["images"]] for r in played.requests] == [[None, "Ann"], ["Ann", "Ben"]]
    assert (report.photos, report.enrolled, report.skipped) == (5, 2, 1)
    assert [(refused.path.name, refused.reason) for refused in report.refused] == [
        ("2.jpg", "no_face"), ("5.jpg", "bad_name")
    ]  # fmt: skip
    assert str(tmp_path / "Ann/2.jpg") in report.refused[0].message
    assert told[-1] == (5, 5)
    assert [image["metadata"]["source"] for image in body(played.requests[1])["images"]] == ["Ann/2.jpg", "Ben/3.jpg"]


def test_a_refused_photo_is_named_with_its_path(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"x")
    _, gallery = staff(good({"results": [{"reason": "no_face", "message": "found none"}]}))
    with pytest.raises(errors.InvalidImage, match=r"a\.jpg: found none") as refused:
        gallery.enroll_image(photo)
    assert refused.value.reason == "no_face"
    _, gallery = staff(problem(422, "invalid_image", reason="no_face"))
    with pytest.raises(errors.InvalidImage, match=r"a\.jpg: about") as refused:
        gallery.search_image(photo)
    assert refused.value.reason == "no_face"
    with pytest.raises(errors.InvalidImage) as refused:
        gallery.search_image(tmp_path / "missing.jpg")
    assert refused.value.reason == "unreadable"


def test_a_photo_that_fits_no_request_is_refused_here() -> None:
    played, gallery = staff()
    for verb in (gallery.enroll_image, gallery.search_image):
        with pytest.raises(errors.InvalidImage) as refused:
            verb(bytes(photos.LIMITS.max_bytes + 1))
        assert refused.value.reason == "too_many_bytes"
    assert not played.requests


def test_keys_of_tenants_are_not_made_twice() -> None:
    played = Played([httpx.ReadError("reset"), good()])
    with pytest.raises(errors.HostUnavailable):
        RemoteTenants(played.blocking()).create_key("acme", "door", scopes=["read"])
    assert len(played.requests) == 1


def test_every_write_has_a_key_of_its_own() -> None:
    played, _ = staff(good(), good())
    for _ in range(2):
        played.run(requests.write("/v1/x", is_idempotent=True))
    first, second = (request.headers["idempotency-key"] for request in played.requests)
    assert first != second
    assert len(first) == 32


SPECIAL = {"__contains__": "contains", "__len__": "count", "__enter__": "__aenter__", "__exit__": "__aexit__"}


@pytest.mark.parametrize(
    ("blocking", "other"),
    [
        (RemoteCluster, AsyncRemoteCluster),
        (RemoteGallery, AsyncRemoteGallery),
        (RemoteTenants, AsyncRemoteTenants),
        (RemoteSnapshots, AsyncRemoteSnapshots),
        (RemoteJobs, AsyncRemoteJobs),
    ],
)
def test_the_twins_have_the_same_verbs(blocking: type, other: type) -> None:
    for name, verb in vars(blocking).items():
        twin = vars(other)[SPECIAL.get(name, name)]
        if not callable(verb) or name.startswith("__init"):
            continue
        assert list(inspect.signature(verb).parameters.values()) == list(inspect.signature(twin).parameters.values())
        if name not in ("__repr__", "__bool__"):
            assert inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(twin)
    assert {SPECIAL.get(name, name) for name in vars(blocking)} == set(vars(other))


def test_no_attempt_is_made_when_attempts_are_one() -> None:
    played, gallery = staff(httpx.ConnectError("refused"), retry=RetryPolicy(attempts=1))
    with pytest.raises(errors.HostUnavailable):
        gallery.stats()
    assert len(played.requests) == 1
