"""Jobs of a service by the client: the verbs of an open home's, files in pieces, and no job twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import AsyncCluster, Cluster
from cluster.client import RetryPolicy
from cluster.client.operations import jobs as operations
from coordinator.job_types import JobRecord, JobState
from shard import errors
from tests.integration.served import Lossy, awaited, serving
from tests.job_kinds import register_kinds
from tests.people import people

QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)
GALLERY = "acme/staff"
SAMPLES = {"samples": 200}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, str]]:
    """An open home whose jobs are run, its service, and a key."""
    register_kinds()
    with Cluster.open(tmp_path_factory.mktemp("served") / "home") as grid, serving(grid) as url:
        grid.tenants.create("acme")
        rows, names = people(300)
        grid.gallery(GALLERY, create=True, dim=64, shards=1).enroll(rows, identities=names)
        grid.jobs.start()
        yield grid, url, grid.tenants.create_key("acme", "all", scopes=("admin",))[1]


@pytest.fixture(params=["blocking", "asyncio"])
def remote(request: pytest.FixtureRequest, served: tuple[Any, str, str]) -> Iterator[Any]:
    _, url, key = served
    if request.param == "blocking":
        with Cluster.connect(url, key, retry=QUICK) as client:
            yield client
    else:
        with awaited(lambda: AsyncCluster.connect(url, key, retry=QUICK)) as client:
            yield client


def without(record: JobRecord) -> list[object]:
    """What both sides know of a job."""
    hidden = ("tenant_id", "owner", "heartbeat_at", "gallery_id", "rate", "eta_s")
    return [getattr(record, name) for name in record.__dataclass_fields__ if name not in hidden]


def test_a_job_from_its_submission_to_its_files(
    served: tuple[Any, str, str], remote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = served[0]
    told: list[JobState] = []
    job = remote.jobs.submit("calibrate", GALLERY, SAMPLES)
    done = remote.jobs.wait(job.job_id, poll_s=0.02, progress=lambda record: told.append(record.state))
    assert (done.state, told[-1], done.parameters["samples"]) == (JobState.SUCCEEDED, JobState.SUCCEEDED, 200)
    assert without(done) == without(grid.jobs.get(job.job_id))
    assert without(remote.jobs.list(gallery=GALLERY, state=JobState.SUCCEEDED, limit=1)[0]) == without(done)
    assert [line["message"] for line in remote.jobs.logs(job.job_id)] == ["begun", "calibrated", "ended"]
    assert [line["message"] for line in remote.jobs.logs(job.job_id, skip=2)] == ["ended"]

    own = grid.jobs.result(job.job_id)
    found = remote.jobs.result(job.job_id)
    assert (found.summary, [file.name for file in found.files]) == (own.summary, list(own.files))
    monkeypatch.setattr(operations, "PIECE_BYTES", 100)
    sizes: list[tuple[int, int]] = []
    (path,) = remote.jobs.download(job.job_id, tmp_path / "a" / "b", progress=lambda *now: sizes.append(now))
    assert path.read_bytes() == (own.directory / "summary.json").read_bytes()
    size = path.stat().st_size
    assert sizes == [(min(end, size), size) for end in range(100, size + 100, 100)]
    with pytest.raises(errors.InvalidParameter, match="no 'other'"):
        remote.jobs.download(job.job_id, tmp_path, files=["other"])
    remote.jobs.delete(job.job_id)
    with pytest.raises(errors.UnknownJob):
        remote.jobs.get(job.job_id)


def test_cancel_resume_and_what_is_refused(served: tuple[Any, str, str], remote: Any, tmp_path: Path) -> None:
    (tmp_path / "ran").mkdir()
    (tmp_path / "gates").mkdir()
    given = {"ran": str(tmp_path / "ran"), "gates": str(tmp_path / "gates"), "workers": 1}
    job_id = served[0].jobs.submit("sum", GALLERY, given).job_id
    with pytest.raises(errors.JobUnfinished):
        remote.jobs.result(job_id)
    with pytest.raises(errors.DeadlineExceeded):
        remote.jobs.wait(job_id, poll_s=0.01, timeout_s=0.02)
    assert remote.jobs.cancel(job_id).state in (JobState.CANCELLING, JobState.CANCELLED)
    assert remote.jobs.wait(job_id, poll_s=0.02).state is JobState.CANCELLED
    for number in range(8):
        (tmp_path / "gates" / f"block-{number:04d}").touch()
    assert remote.jobs.resume(job_id).state in (JobState.QUEUED, JobState.RUNNING)
    assert remote.jobs.wait(job_id, poll_s=0.02).state is JobState.SUCCEEDED
    assert len(remote.jobs.download(job_id, tmp_path / "files")) == 9
    for wrong, call in (
        (errors.JobEnded, lambda: remote.jobs.resume(job_id)),
        (errors.UnknownGallery, lambda: remote.jobs.submit("calibrate", "acme/none")),
        (errors.InvalidParameter, lambda: remote.jobs.submit("calibrate", GALLERY, {"samples": 1})),
        (errors.InvalidParameter, lambda: remote.jobs.submit("unheard-of", GALLERY)),
        (errors.InvalidParameter, lambda: remote.jobs.list(limit=0)),
        (errors.InvalidParameter, lambda: remote.jobs.wait(job_id, poll_s=0)),
        (errors.UnknownJob, lambda: remote.jobs.get("")),
        (errors.UnknownJob, lambda: remote.jobs.get("../galleries")),
        (errors.UnknownJob, lambda: remote.jobs.cancel("x/y")),
    ):  # fmt: skip
        with pytest.raises(wrong):
            call()


def test_a_job_whose_answer_was_lost_is_submitted_once(served: tuple[Any, str, str]) -> None:
    grid, url, key = served
    proxy = Lossy(url)
    try:
        with Cluster.connect(proxy.url, key, retry=QUICK) as client:
            before = len(grid.jobs.list())
            proxy.left = 1
            job = client.jobs.submit("calibrate", GALLERY, SAMPLES)
            assert len(grid.jobs.list()) == before + 1
            assert client.jobs.wait(job.job_id, poll_s=0.02).state is JobState.SUCCEEDED
            proxy.left = 1
            client.jobs.delete(job.job_id)
            assert len(grid.jobs.list()) == before
        keys = [key for method, path, key in proxy.seen if (method, path) == ("POST", "/v1/jobs")]
        assert len(keys) == 2
        assert len(set(keys)) == 1
    finally:
        proxy.close()
