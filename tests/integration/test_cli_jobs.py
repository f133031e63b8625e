"""`facegrid jobs`: on a home, where the command runs the job, and on a service, where it waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from cluster.cli import run
from cluster.cli.job_progress import duration_text, progress_text, rate_text
from coordinator.job_types import JobState
from tests.interrupts import interruptible
from tests.job_kinds import register_kinds
from tests.people import people
from tests.service import Running, running

Answer = Callable[..., tuple[int, Any]]
GALLERY = "acme/staff"


def filled(grid: Any) -> None:
    rows, names = people(300)
    grid.gallery(GALLERY, create=True, dim=64, shards=1).enroll(rows, identities=names)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register_kinds()
    for name in ("HOME", "URL", "KEY", "KEY_FILE"):
        monkeypatch.delenv(f"FACEGRID_{name}", raising=False)
    with Cluster.open(tmp_path / "home") as grid:
        filled(grid)
    return tmp_path / "home"


@pytest.fixture
def service(tmp_path: Path, home: Path) -> Iterator[Running]:
    with running(home) as s:
        s.cluster.jobs.start()
        yield s


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run with --json: exit code and document, or the error where there is none."""

    def call(*arguments: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else json.loads(err.splitlines()[-1])["error"]

    return call


def jobs_from_their_submission_to_their_files(answer: Answer, to: Path, *at: str) -> None:
    def ask(*words: object) -> tuple[int, Any]:
        return answer("jobs", *words, *at)

    code, made = ask("submit", "calibrate", GALLERY, "--samples", 200)
    job = made["job"]
    assert (code, job["state"], job["kind"], job["parameters"]["samples"]) == (0, "succeeded", "calibrate", 200)
    assert ask("status", job["job_id"]) == (0, {"job": job})
    assert ask("status", job["job_id"], "--watch") == (0, {"job": job})
    assert [one["job_id"] for one in ask("list", "--kind", "calibrate", "--limit", 1)[1]["jobs"]] == [job["job_id"]]
    assert ask("list", "--state", "failed")[1]["jobs"] == []
    assert ask("list", "--state", "lost")[1]["code"] == "invalid_parameter"
    messages = [entry["message"] for entry in ask("logs", job["job_id"], "--follow")[1]["entries"]]
    assert messages == ["begun", "calibrated", "ended"]
    code, result = ask("result", job["job_id"], "--to", to, "--file", "summary.json")
    assert (code, result["files"][0]["name"], result["written"]) == (0, "summary.json", [str(to / "summary.json")])
    assert json.loads((to / "summary.json").read_text()) == result["summary"]
    assert ask("result", job["job_id"], "--to", to, "--file", "none")[1]["code"] == "invalid_parameter"
    assert ask("result", job["job_id"], "--file", "summary.json")[0] == 2
    assert ask("resume", job["job_id"])[1]["code"] == "job_ended"
    assert ask("submit", "calibrate", "acme/none")[1]["code"] == "unknown_gallery"
    assert ask("submit", "calibrate", GALLERY, "--samples", 1)[1]["code"] == "invalid_parameter"
    assert ask("delete", job["job_id"])[0] == 2, "--yes is missing"
    assert ask("delete", job["job_id"], "--yes") == (0, {"deleted": job["job_id"]})
    assert ask("status", job["job_id"])[0] == 3


def test_on_a_home(answer: Answer, home: Path, tmp_path: Path) -> None:
    jobs_from_their_submission_to_their_files(answer, tmp_path / "out", "--home", str(home))
    assert answer("jobs", "submit", "calibrate", GALLERY, "--detach", "--home", home)[1]["code"] == "invalid_parameter"


def test_on_a_service(answer: Answer, service: Running, tmp_path: Path) -> None:
    at = ("--url", service.url, "--key", service.key("acme", "admin"))
    jobs_from_their_submission_to_their_files(answer, tmp_path / "out", *at)
    code, made = answer("jobs", "submit", "calibrate", GALLERY, "--detach", *at)
    assert (code, made["job"]["state"] in ("queued", "running")) == (0, True)
    assert answer("jobs", "status", made["job"]["job_id"], "--watch", *at)[1]["job"]["state"] == "succeeded"
    assert answer("jobs", "submit", "enroll", GALLERY, "/etc", *at)[1]["code"] == "permission_denied"
    assert answer("jobs", "submit", "dedup", GALLERY, "--threshold", 0.5, "--workers", 9, *at)[0] == 2


def test_a_job_that_failed_says_so(answer: Answer, home: Path) -> None:
    with Cluster.open(home) as grid:
        grid.gallery("acme/empty", create=True, dim=64)
    code, error = answer("jobs", "submit", "calibrate", "acme/empty", "--home", home)
    assert (code, error["code"], "not_enough_data" in error["message"]) == (12, "job_failed", True)
    (job,) = answer("jobs", "list", "--home", home)[1]["jobs"]
    assert answer("jobs", "status", job["job_id"], "--watch", "--home", home)[0] == 1
    assert answer("jobs", "result", job["job_id"], "--home", home)[1]["code"] == "job_failed"


DRIVER = """
import sys
from tests.job_kinds import register_kinds
from cluster.cli import run

register_kinds()
sys.exit(run(sys.argv[1:]))
"""


def test_ctrl_c_leaves_a_job_that_can_be_resumed(answer: Answer, home: Path, tmp_path: Path) -> None:
    for name in ("ran", "gates"):
        (tmp_path / name).mkdir()
    (tmp_path / "gates" / "block-0000").touch()
    with Cluster.open(home) as grid:
        given = {"ran": str(tmp_path / "ran"), "gates": str(tmp_path / "gates"), "workers": 1}
        job = grid.jobs.submit("sum", GALLERY, given).job_id
    command = [sys.executable, "-c", DRIVER, "jobs", "resume", job, "--home", str(home)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=interruptible,
    )  # fmt: skip
    try:
        checkpoints = home / "jobs" / job / "checkpoints"
        while not (checkpoints.is_dir() and any(checkpoints.iterdir())):  # another process's files tell of it alone
            assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert f"facegrid jobs resume {job}" in err
    assert answer("jobs", "status", job, "--home", home)[1]["job"]["state"] == "cancelled"
    for number in range(8):
        (tmp_path / "gates" / f"block-{number:04d}").touch()
    assert answer("jobs", "resume", job, "--home", home)[1]["job"]["state"] == "succeeded"
    begun = [path.name.partition(".")[0] for path in (tmp_path / "ran").iterdir()]
    assert begun.count("block-0000") == 1, "what was done is not done again"


def test_how_far_a_job_is_in_words() -> None:
    assert [duration_text(s) for s in (0.2, 59.4, 61, 3_599, 3_660, 90_000)] == [
        "0 s", "59 s", "1 min 01 s", "59 min 59 s", "1 h 01 min", "1 d 01 h"
    ]  # fmt: skip
    assert [rate_text(rate) for rate in (0.01, 0.5, 12.4, 12_345)] == ["0.6/min", "0.5/s", "12/s", "12,345/s"]


def test_progress_of_a_job(home: Path) -> None:
    with Cluster.open(home) as grid:
        catalog = grid.jobs.control
        job = catalog.submit("sum", GALLERY, {})
        assert progress_text(job) == ""
        catalog.claim("me", job.job_id)
        catalog.progress(job.job_id, "me", 3, 80, "blocks", "joining")
        assert progress_text(catalog.get(job.job_id)).startswith("3 of 80 blocks")
        catalog.finish(job.job_id, "me", JobState.CANCELLED)
        assert progress_text(catalog.get(job.job_id)) == "3 of 80 blocks"
