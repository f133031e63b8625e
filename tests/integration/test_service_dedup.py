"""Review and apply of a dedup job, over HTTP, by both clients and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import AsyncCluster, Cluster
from cluster.cli import run
from shard import errors
from tests.dedup_jobs import finished_dedup, finished_job
from tests.integration.served import awaited
from tests.people import people
from tests.service import Running, running


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "home") as s:
        s.tenant("acme")
        s.tenant("globex")
        yield s


@pytest.fixture
def job(service: Running) -> str:
    return finished_dedup(service.cluster)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_queue_is_reviewed(service: Running, job: str) -> None:
    key = service.key("acme", "write")
    with service.client(key) as client:
        path = f"/v1/jobs/{job}/review"
        page = client.get(path).json()
        assert (page["version"], page["open"], page["decided"], page["after"]) == (0, 2, 0, None)
        assert [(group["group"], group["reason"]) for group in page["groups"]] == [(0, "split"), (2, "too_large")]
        first = page["groups"][0]["members"][0]
        assert (first["template_id"], first["identity"], first["role"], first["is_medoid"]) == (
            "a1", "ann", "keep", True
        )  # fmt: skip
        assert client.get(path, params={"limit": 1}).json()["after"] == 0
        parts = [[{"template_id": "a1"}, {"template_id": "a2", "gallery": "acme/staff"}], [{"template_id": "a3"}]]
        split = {"action": "split", "groups": [0], "parts": parts, "version": 0}
        made = client.post(path, json=split, headers={"idempotency-key": "s"}).json()
        assert (made["version"], made["decision"]["action"]) == (1, "split")
        assert made["decision"]["by"].startswith("test ("), "the key's name"
        assert client.post(path, json=split, headers={"idempotency-key": "s"}).json() == made
        late = {"action": "accept", "groups": [2], "version": 0}
        assert code_of(client.post(path, json=late)) == (409, "review_conflict")
        assert client.post(path, json={**late, "version": 1}).json()["version"] == 2
        assert client.post(path, json={"action": "merge", "groups": [1, 3]}).json()["version"] == 3
        assert client.post(path, json={"action": "reopen", "groups": [2]}).json()["version"] == 4
        assert [group["group"] for group in client.get(path).json()["groups"]] == [2]
        decided = client.get(path, params={"state": "decided"}).json()["groups"]
        assert [(group["group"], group["decision"]["action"]) for group in decided] == [
            (0, "split"), (1, "merge"), (3, "merge")
        ]  # fmt: skip
        for wrong in (
            {"action": "accept", "groups": [99]}, {"action": "accept", "groups": [1, 2]},
            {"action": "merge", "groups": [1]}, {"action": "split", "groups": [0], "parts": [[{"template_id": "x"}]]},
            {"action": "split", "groups": [0]}, {"action": "burn", "groups": [0]}, {"action": "accept", "groups": []},
        ):  # fmt: skip
            assert code_of(client.post(path, json=wrong)) == (422, "invalid_parameter"), wrong


def test_groups_are_applied_and_taken_back(service: Running, job: str) -> None:
    staff = service.cluster.gallery("acme/staff")
    with service.client(service.key("acme", "write")) as client:
        path = f"/v1/jobs/{job}"
        assert code_of(client.post(f"{path}/undo", json={})) == (404, "not_found")
        dry = client.post(f"{path}/apply", json={"action": "delete"}).json()
        assert (dry["dry_run"], dry["state"], dry["templates"], dry["left_out"]) == (
            True, "planned", 2, {"needs_review": 6}
        )  # fmt: skip
        assert dry["changes"][0] == {
            "gallery": "acme/staff", "template_id": "b2", "group": "1", "identity": None, "identity_after": None,
            "keep": {"gallery": "acme/staff", "template_id": "b1"},
        }  # fmt: skip
        assert len(staff) == 10
        wanted, headers = {"action": "delete", "dry_run": False}, {"idempotency-key": "once"}
        done = client.post(f"{path}/apply", json=wanted, headers=headers).json()
        assert (done["number"], done["state"], done["templates"], len(staff)) == (1, "applied", 2, 8)
        assert client.post(f"{path}/apply", json=wanted, headers=headers).json() == done
        assert client.post(f"{path}/undo", json={}).json()["dry_run"] is True
        assert len(staff) == 8
        back = client.post(f"{path}/undo", json={"dry_run": False}).json()
        assert (back["state"], back["templates"], len(staff)) == ("undone", 2, 10)
    with service.client() as operator:
        entries = operator.get("/v1/tenants/acme/audit").json()["entries"]
    # A repeated request is in the log too, of which nothing came.
    assert [(entry["count"], entry["outcome"]) for entry in entries if entry["action"] == "jobs.apply"][::-1] == [
        (0, "ok"), (2, "ok"), (None, "ok")
    ]  # fmt: skip


def test_who_may(service: Running, job: str) -> None:
    bodies = {"review": {"action": "accept", "groups": [0]}, "apply": {"action": "tag"}, "undo": {}}
    with service.client(service.key("acme", "read")) as reader:
        assert reader.get(f"/v1/jobs/{job}/review").status_code == 200
        for verb, body in bodies.items():
            assert code_of(reader.post(f"/v1/jobs/{job}/{verb}", json=body)) == (403, "permission_denied")
    with service.client(service.key("globex", "admin")) as stranger:
        assert code_of(stranger.get(f"/v1/jobs/{job}/review")) == (404, "unknown_job")
        for verb, body in bodies.items():
            assert code_of(stranger.post(f"/v1/jobs/{job}/{verb}", json=body)) == (404, "unknown_job")


def test_jobs_without_groups(service: Running, job: str) -> None:
    catalog = service.cluster.jobs.control
    other = catalog.submit("calibrate", "acme/staff", {}).job_id
    with service.client(service.key("acme", "admin")) as client:
        assert code_of(client.get(f"/v1/jobs/{other}/review")) == (422, "invalid_parameter")
        queued = catalog.submit("dedup", "acme/staff", {}).job_id
        assert code_of(client.get(f"/v1/jobs/{queued}/review")) == (409, "job_unfinished")
        assert code_of(client.post(f"/v1/jobs/{queued}/apply", json={"action": "tag"})) == (409, "job_unfinished")


def test_a_whole_job(service: Running) -> None:
    """Found by the engine, run by the service, its files read, merged and taken back."""
    rows, names = people(300)
    ids = [f"t{i:03d}" for i in range(len(rows))]
    staff = service.cluster.gallery("acme/staff", create=True, dim=64, shards=2)
    staff.enroll(rows, template_ids=ids, identities=[name if i % 2 else None for i, name in enumerate(names)])
    service.cluster.jobs.start()
    with Cluster.connect(service.url, service.key("acme", "write")) as client:
        job = client.jobs.submit("dedup", "acme/staff", {"threshold": 0.8})
        done = client.jobs.wait(job.job_id, poll_s=0.05)
        assert (done.state.value, done.error) == ("succeeded", None)
        result = client.jobs.result(job.job_id)
        assert {file.name for file in result.files} >= {
            "groups.parquet", "pairs.parquet", "report.html", "summary.json"
        }  # fmt: skip
        assert result.summary["counts"]["groups"] == 300
        assert client.jobs.apply(job.job_id, "merge", dry_run=False).templates == 300
        assert [template.identity for template in staff.templates(["t000", "t001"])] == ["p0", "p0"]
        assert client.jobs.undo(job.job_id, dry_run=False).templates == 300
        assert [template.identity for template in staff.templates(["t000", "t001"])] == [None, "p0"]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_by_the_client(service: Running, job: str, kind: str) -> None:
    key = service.key("acme", "write")
    if kind == "blocking":
        with Cluster.connect(service.url, key) as client:
            _review_and_apply(client, job)
    else:
        with awaited(lambda: AsyncCluster.connect(service.url, key)) as client:
            _review_and_apply(client, job)
    assert len(service.cluster.gallery("acme/staff")) == 10


def _review_and_apply(client: Any, job: str) -> None:
    page = client.jobs.review(job)
    assert [(item.group, item.reason, len(item.members)) for item in page.items] == [
        (0, "split", 4), (2, "too_large", 2)
    ]  # fmt: skip
    assert client.jobs.decide(job, "split", [0], parts=[["a1", "a2"], ["a3", "a4"]], version=page.version) == 1
    with pytest.raises(errors.ReviewConflict):
        client.jobs.decide(job, "accept", [2], version=0)
    (item,) = client.jobs.review(job, state="decided").items
    assert (item.decision.action, [[m.template_id for m in part] for part in item.decision.parts]) == (
        "split", [["a1", "a2"], ["a3", "a4"]]
    )  # fmt: skip
    dry = client.jobs.apply(job, "delete")
    assert (dry.templates, dry.changes[0].key.gallery, dry.changes[0].keep.gallery) == (4, "acme/staff", "acme/staff")
    assert client.jobs.apply(job, "delete", dry_run=False).templates == 4
    assert client.jobs.undo(job).dry_run
    assert client.jobs.undo(job, dry_run=False).templates == 4
    with pytest.raises(errors.NotFound):
        client.jobs.undo(job)


Answer = Callable[..., tuple[int, Any]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run with --json: exit code and document, or the error where there is none."""

    def call(*arguments: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else json.loads(err.splitlines()[-1])["error"]

    return call


@pytest.mark.parametrize("where", ["home", "service"])
def test_on_the_command_line(tmp_path: Path, answer: Answer, where: str) -> None:
    home = tmp_path / "here"
    with Cluster.open(home) as grid:
        job = finished_dedup(grid)
        finished_job(grid, "acme/staff")
    if where == "home":
        _reviewed_and_applied(answer, job, "--home", str(home))
        with Cluster.open(home) as grid:
            assert len(grid.gallery("acme/staff")) == 10
    else:
        with running(home) as s:
            _reviewed_and_applied(answer, job, "--url", s.url, "--key", s.key("acme", "write"))


def _reviewed_and_applied(answer: Answer, job: str, *at: str) -> None:
    def ask(*words: object) -> tuple[int, Any]:
        return answer("dedup", *words, *at)

    code, page = ask("review", "list", job)
    assert (code, page["open"], [group["group"] for group in page["groups"]]) == (0, 2, [0, 2])
    assert ask("review", "accept", job, 2, "--version", 0, "--note", "looked")[1]["version"] == 1
    assert ask("review", "accept", job, 0, "--version", 0)[1]["code"] == "review_conflict"
    assert ask("review", "split", job, 0, "--part", "a1,a2", "--part", "a3,a4")[1]["version"] == 2
    assert ask("review", "merge", job, "--group", 1, "--group", 3)[1]["version"] == 3
    assert ask("review", "reopen", job, 1)[1]["version"] == 4
    assert ask("review", "reject", job, 3)[1]["version"] == 5
    assert ask("review", "list", job, "--state", "decided")[1]["decided"] == 3
    assert ask("apply", job)[0] == 2
    assert ask("apply", job, "--delete", "--merge")[0] == 2
    code, dry = ask("apply", job, "--delete")
    assert (code, dry["dry_run"], dry["templates"]) == (0, True, 4)
    code, done = ask("apply", job, "--delete", "--yes")
    assert (code, done["dry_run"], done["templates"], done["state"]) == (0, False, 4, "applied")
    assert ask("undo", job)[1]["dry_run"] is True
    assert ask("undo", job, "--yes")[1]["state"] == "undone"
    assert ask("apply", job, "--tag", "--tag-key", "same")[1]["templates"] == 8
    assert ask("apply", "20200101T000000Z-00000000", "--tag")[1]["code"] == "unknown_job"
