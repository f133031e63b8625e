"""Jobs over HTTP: submitted, followed, cancelled, resumed, deleted; who sees them; their files; what they may read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.job_types import JobState
from coordinator.tenant_types import Quotas
from tests.job_kinds import register_kinds
from tests.people import people
from tests.service import Running, running

GALLERY = "acme/staff"
CALIBRATE = {"kind": "calibrate", "gallery": GALLERY, "parameters": {"samples": 200}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    register_kinds()
    place = tmp_path_factory.mktemp("jobs")
    (place / "in" / "acme").mkdir(parents=True)
    with running(
        place / "home", bulk_sources=(f"{place}/in/{{tenant}}", "s3://faces/{tenant}", "s3://minio/{tenant}?region=r")
    ) as s:
        for tenant in ("acme", "globex"):
            s.tenant(tenant)
            rows, names = people(300)
            s.cluster.gallery(f"{tenant}/staff", create=True, dim=64, shards=1).enroll(rows, identities=names)
        s.cluster.gallery("acme/other", create=True, dim=64, shards=1)
        s.cluster.jobs.start()
        yield s


@pytest.fixture
def acme(service: Running) -> Iterator[httpx.Client]:
    with service.client(service.key("acme", "admin")) as client:
        yield client


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job when it has ended; by asking, as every caller has to."""
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ("cancelled", "failed", "succeeded"):
            return job


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_job_is_submitted_followed_and_read(service: Running, acme: httpx.Client) -> None:
    answer = acme.post("/v1/jobs", json=CALIBRATE, headers={"idempotency-key": "one"})
    job = answer.json()
    assert (answer.status_code, job["kind"], job["gallery"]) == (201, "calibrate", GALLERY)
    again = acme.post("/v1/jobs", json=CALIBRATE, headers={"idempotency-key": "one"})
    assert again.json()["job_id"] == job["job_id"], "submitted once"
    done = ended(acme, job["job_id"])
    assert (done["state"], done["done"], done["total"], done["error"]) == ("succeeded", 1, 1, None)
    assert not {"owner", "tenant_id", "heartbeat_at"} & done.keys()

    result = acme.get(f"/v1/jobs/{job['job_id']}/result").json()
    assert [file["name"] for file in result["files"]] == ["summary.json"]
    assert result["summary"]["gallery"] == GALLERY
    file = acme.get(f"/v1/jobs/{job['job_id']}/result/summary.json")
    assert file.json() == result["summary"]
    assert file.headers["content-length"] == str(result["files"][0]["size"])
    assert file.headers["content-disposition"] == 'attachment; filename="summary.json"'
    assert file.headers["content-security-policy"].startswith("sandbox;")
    assert file.headers["x-content-type-options"] == "nosniff"

    lines = acme.get(f"/v1/jobs/{job['job_id']}/logs").json()
    assert [line["message"] for line in lines["entries"]] == ["begun", "calibrated", "ended"]
    assert not any("owner" in line for line in lines["entries"]), "where it ran is the operator's to know"
    assert acme.get(f"/v1/jobs/{job['job_id']}/logs", params={"start": lines["next"]}).json()["entries"] == []
    with service.client() as operator:
        assert "owner" in operator.get(f"/v1/jobs/{job['job_id']}/logs").json()["entries"][0]
    with service.client() as operator:
        metrics = operator.get("/metrics").text
    assert 'facegrid_jobs{kind="calibrate",state="succeeded"}' in metrics
    assert 'facegrid_quota_limit{tenant="acme",what="jobs"} 10.0' in metrics
    actions = [entry["action"] for entry in acme.get("/v1/tenants/acme/audit").json()["entries"]]
    assert "jobs.submit" in actions
    assert "jobs.show" not in actions, "who waits for a job asks a thousand times"

    assert acme.delete(f"/v1/jobs/{job['job_id']}").status_code == 204
    assert code_of(acme.get(f"/v1/jobs/{job['job_id']}")) == (404, "unknown_job")


def test_ranges_of_a_file(acme: httpx.Client) -> None:
    job_id = acme.post("/v1/jobs", json=CALIBRATE).json()["job_id"]
    ended(acme, job_id)
    path = f"/v1/jobs/{job_id}/result/summary.json"
    whole = acme.get(path).content
    for asked, first, last in (
        ("bytes=0-9", 0, 9), ("bytes=5-", 5, len(whole) - 1), ("bytes=-7", len(whole) - 7, len(whole) - 1),
        ("bytes=3-99999999", 3, len(whole) - 1),
    ):  # fmt: skip
        part = acme.get(path, headers={"range": asked})
        assert (part.status_code, part.content) == (206, whole[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    for nothing in ("bytes=0-1,4-5", "lines=1-2", "bytes=9-3", "bytes=-"):
        assert acme.get(path, headers={"range": nothing}).content == whole
    for beyond in (f"bytes={len(whole)}-", "bytes=-0"):
        assert code_of(acme.get(path, headers={"range": beyond})) == (416, "range_not_satisfiable")
    for name in ("none.json", "..%2frun.json", "../run.json", "%2e%2e/log.jsonl", "/etc/passwd", "%2fetc%2fpasswd"):
        assert acme.get(f"/v1/jobs/{job_id}/result/{name}").status_code == 404


@pytest.fixture
def waiting(service: Running, tmp_path: Path) -> Iterator[str]:
    """A job of acme that runs until its gates are opened, or it is cancelled."""
    for name in ("ran", "gates"):
        (tmp_path / name).mkdir()
    given = {"ran": str(tmp_path / "ran"), "gates": str(tmp_path / "gates"), "workers": 1}
    job_id = service.cluster.jobs.submit("sum", GALLERY, given).job_id
    yield job_id
    jobs = service.cluster.jobs
    if not jobs.get(job_id).state.has_ended:
        jobs.cancel(job_id)
    with service.client() as operator:
        ended(operator, job_id)


def test_cancel_and_resume(service: Running, acme: httpx.Client, waiting: str) -> None:
    path = f"/v1/jobs/{waiting}"
    assert code_of(acme.get(f"{path}/result")) == (409, "job_unfinished")
    assert code_of(acme.delete(path)) == (409, "job_unfinished")
    assert acme.post(f"{path}/cancel").json()["state"] in ("cancelling", "cancelled")
    assert ended(acme, waiting)["state"] == "cancelled"
    assert acme.post(f"{path}/cancel").json()["state"] == "cancelled", "twice is once"
    assert code_of(acme.get(f"{path}/result")) == (409, "job_cancelled")
    headers = {"idempotency-key": "resume"}
    resumed = acme.post(f"{path}/resume", headers=headers).json()
    assert resumed["state"] in ("queued", "running")
    assert acme.post(f"{path}/resume", headers=headers).json() == resumed, "as it was answered before"


def test_the_list_is_paged_and_filtered(service: Running) -> None:
    service.tenant("pages", quotas=Quotas(jobs=None))
    service.cluster.gallery("pages/a", create=True, dim=64, shards=1)
    service.cluster.gallery("pages/b", create=True, dim=64, shards=1)
    with service.client(service.key("pages", "admin")) as client, service.client() as operator:
        made = []
        for gallery in ("pages/a", "pages/b", "pages/a"):
            body = {"kind": "calibrate", "gallery": gallery}
            made.append(client.post("/v1/jobs", json=body).raise_for_status().json()["job_id"])
            assert ended(client, made[-1])["error_code"] == "not_enough_data"
        newest = sorted(made, reverse=True)
        first = client.get("/v1/jobs", params={"limit": 2}).json()
        assert ([job["job_id"] for job in first["jobs"]], first["cursor"]) == (newest[:2], newest[1])
        rest = client.get("/v1/jobs", params={"limit": 2, "cursor": first["cursor"]}).json()
        assert ([job["job_id"] for job in rest["jobs"]], rest["cursor"]) == (newest[2:], None)
        listed = client.get("/v1/jobs", params={"gallery": "pages/b", "kind": "calibrate", "state": "failed"}).json()
        assert [job["job_id"] for job in listed["jobs"]] == [made[1]]
        assert client.get("/v1/jobs", params={"state": "queued"}).json()["jobs"] == []
        assert code_of(client.get("/v1/jobs", params={"state": "lost"})) == (422, "invalid_parameter")
        assert code_of(client.get("/v1/jobs", params={"tenant": "acme"})) == (404, "unknown_tenant")
        assert len(operator.get("/v1/jobs", params={"tenant": "pages"}).json()["jobs"]) == 3
        bound = service.key("pages", "read", galleries=["b"])
        with service.client(bound) as reader:
            assert [job["job_id"] for job in reader.get("/v1/jobs").json()["jobs"]] == [made[1]]
            assert code_of(reader.get(f"/v1/jobs/{made[0]}")) == (404, "unknown_job")


def test_another_tenants_job_is_not_there(service: Running, acme: httpx.Client, waiting: str) -> None:
    with service.client(service.key("globex", "admin")) as stranger:
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/resume"), ("GET", "/logs"), ("GET", "/result"),
            ("GET", "/result/summary.json"),
        ):  # fmt: skip
            refused = stranger.request(method, f"/v1/jobs/{waiting}{path}")
            nothing = stranger.request(method, f"/v1/jobs/20200101T000000Z-00000000{path}")
            assert code_of(refused) == code_of(nothing) == (404, "unknown_job")
            assert refused.json()["detail"] == nothing.json()["detail"].replace("20200101T000000Z-00000000", waiting)
        assert stranger.get("/v1/jobs").json()["jobs"] == []
        assert code_of(stranger.post("/v1/jobs", json=CALIBRATE)) == (404, "unknown_gallery")
        cross = {"kind": "dedup", "gallery": "globex/staff", "parameters": {"threshold": 0.5, "other": GALLERY}}
        assert code_of(stranger.post("/v1/jobs", json=cross)) == (404, "unknown_gallery")


def test_scopes(service: Running, waiting: str) -> None:
    dedup = {"kind": "dedup", "gallery": GALLERY, "parameters": {"threshold": 0.5, "other": "acme/other"}}
    with service.client(service.key("acme", "read")) as reader:
        assert reader.get(f"/v1/jobs/{waiting}").status_code == 200
        for method, path, body in (
            ("POST", "", dedup), ("POST", f"/{waiting}/cancel", None), ("POST", f"/{waiting}/resume", None),
            ("DELETE", f"/{waiting}", None),
        ):  # fmt: skip
            assert code_of(reader.request(method, f"/v1/jobs{path}", json=body)) == (403, "permission_denied")
    with service.client(service.key("acme", "write")) as writer:
        assert code_of(writer.post("/v1/jobs", json=CALIBRATE)) == (403, "permission_denied"), "as calibration.create"
    with service.client(service.key("acme", "write", galleries=["staff"])) as bound:
        assert code_of(bound.post("/v1/jobs", json=dedup)) == (404, "unknown_gallery"), "both galleries have to be its"


def test_a_tenant_has_so_many_jobs_at_a_time(service: Running, waiting: str) -> None:
    service.tenant("small", quotas=Quotas(jobs=2))
    rows, names = people(200)
    service.cluster.gallery("small/staff", create=True, dim=64, shards=1).enroll(rows, identities=names)
    with service.client(service.key("small", "admin")) as client:
        body = {"kind": "calibrate", "gallery": "small/staff"}
        made = [client.post("/v1/jobs", json=body) for _ in range(3)]
        assert [answer.status_code for answer in made] == [201, 201, 403]
        assert code_of(made[2]) == (403, "quota_exceeded")
        first = made[0].json()["job_id"]
        assert client.post(f"/v1/jobs/{first}/cancel").json()["state"] == "cancelled"
        assert client.post("/v1/jobs", json=body).status_code == 201
        assert code_of(client.post(f"/v1/jobs/{first}/resume")) == (403, "quota_exceeded")
        for job in client.get("/v1/jobs").json()["jobs"]:
            client.post(f"/v1/jobs/{job['job_id']}/cancel")


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("dedup", {"threshold": 0.5, "workers": 64}),
        ("dedup", {"threshold": 0.5, "store": "/etc", "snapshot": "20200101T000000Z-00000000"}),
        ("dedup", {"threshold": 0.5, "max_pairs": 10**10}),
        ("dedup", {}),
        ("dedup", {"threshold": 7}),
        ("calibrate", {"samples": "many"}),
        ("enroll", {"sources": ["s3://faces/acme"], "max_ratio": 1e9}),
        ("enroll", {"sources": "s3://faces/acme"}),
        ("enroll", {"sources": [{"url": "s3://faces/acme", "headers": {}}]}),
        ("enroll", {"sources": [{"url": 7}]}),
        ("enroll", {"sources": [["/etc"]]}),
    ],
)
def test_what_may_not_be_set_over_http(acme: httpx.Client, kind: str, parameters: dict[str, Any]) -> None:
    answer = acme.post("/v1/jobs", json={"kind": kind, "gallery": GALLERY, "parameters": parameters})
    assert code_of(answer) == (422, "invalid_parameter")


def test_sources_over_http(service: Running, acme: httpx.Client, tmp_path: Path) -> None:
    place = service.cluster.home.directory.parent / "in"
    (place / "globex").mkdir(exist_ok=True)
    (place / "acme" / "out").symlink_to("/etc")
    outside = [
        "/etc/passwd", f"{place}/globex/x", f"{place}/acme/../globex", f"{place}/acmeplus", f"{place}/acme/out/passwd",
        f"file://{place}/acme", "s3://faces/globex/x", "s3://faces/acme/../globex", "s3://faces/acmeplus",
        "s3://faces/acme?endpoint_override=http://169.254.169.254", "s3://minio/acme", "s3://minio/acme?region=other",
        "s3://minio/acme?region=r&endpoint_override=http://x", "s3://user:secret@faces/acme", "s3://faces/%61cme",
        "http://169.254.169.254/latest/meta-data", "gs://faces/acme", "in/acme", "", "\x00", f"{place}/acme\\..\\x",
    ]  # fmt: skip
    for source in outside:
        for sources in ([source], [{"url": source}], [{"url": f"{place}/acme/a.npy", "labels": source}]):
            body = {"kind": "enroll", "gallery": GALLERY, "parameters": {"sources": sources}}
            answer = acme.post("/v1/jobs", json=body)
            assert code_of(answer) == (403, "permission_denied"), (source, answer.json())
            assert "globex" not in answer.json()["detail"].replace(json.dumps(source), "").replace(source, "")
    thumbnails = {"sources": [f"{place}/acme/x"], "keep_thumbnails": True}
    body = {"kind": "enroll", "gallery": GALLERY, "parameters": thumbnails}
    assert code_of(acme.post("/v1/jobs", json=body)) == (403, "permission_denied"), "the tenant keeps none"


def test_what_a_failed_job_says_names_nothing_of_the_machine(service: Running, acme: httpx.Client) -> None:
    jobs = service.cluster.jobs
    queued = service.cluster.coordinator.jobs.submit("calibrate", GALLERY, {})
    assert jobs.control.claim("host:1:me", queued.job_id) is not None
    jobs.control.finish(queued.job_id, "host:1:me", JobState.FAILED, "write_failed", "could not write /srv/home/x")
    found = acme.get(f"/v1/jobs/{queued.job_id}").json()
    assert found["error_code"] == "write_failed"
    assert "/srv" not in found["error"]
    acme.delete(f"/v1/jobs/{queued.job_id}")
