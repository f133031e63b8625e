"""Jobs of a home in this process: run, cancelled, resumed, killed, deleted; their files and their log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.jobs import Checkpoints
from coordinator.job_types import JobState
from shard.errors import (
    CorruptData,
    InvalidParameter,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobUnfinished,
    StorageError,
    UnknownGallery,
    UnknownJob,
)
from tests.interrupts import interruptible
from tests.job_kinds import block_name, register_kinds
from tests.service import faces_like

WAIT_S = 120.0


@pytest.fixture(autouse=True)
def _kinds() -> None:
    register_kinds()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("ran", "gates"):
        (tmp_path / name).mkdir()
    return tmp_path / "home"


@pytest.fixture
def grid(home: Path) -> Iterator[Any]:
    with Cluster.open(home) as opened:
        opened.gallery("acme/staff", create=True, dim=64)
        yield opened


def parameters(home: Path, **values: Any) -> dict[str, Any]:
    return {"ran": str(home.parent / "ran"), "workers": 2, **values}


def runs(home: Path) -> Counter[str]:
    """How often each block was begun."""
    return Counter(path.name.partition(".")[0] for path in (home.parent / "ran").iterdir())


def open_gates(home: Path, *numbers: int) -> None:
    for number in numbers:
        (home.parent / "gates" / block_name(number)).touch()


def until(holds: Any) -> None:
    """Wait for something that only polling tells."""
    ended, deadline = threading.Event(), time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s"
        ended.wait(0.02)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_job_runs_and_leaves_a_result(grid: Any, home: Path) -> None:
    job = grid.jobs.submit("sum", "acme/staff", parameters(home))
    assert (job.state, job.attempts, job.tenant_id) == (JobState.QUEUED, 0, grid.tenants.get("acme").tenant_id)
    with pytest.raises(JobUnfinished):
        grid.jobs.result(job.job_id)
    ended = grid.jobs.run(job.job_id)
    assert (ended.state, ended.attempts, ended.done, ended.total) == (JobState.SUCCEEDED, 1, 8, 8)
    result = grid.jobs.result(job.job_id)
    assert result.files == (*(f"{block_name(i)}.f64" for i in range(8)), "summary.json")
    assert len(result.summary["sums"]) == 8
    (attempt,) = result.run["attempts"]
    assert attempt["state"] == "succeeded"
    assert [phase["phase"] for phase in attempt["phases"]] == ["summing", "writing"]
    messages = [line["message"] for line in grid.jobs.logs(job.job_id)]
    assert messages == ["begun", "blocks", "ended"]
    assert set(runs(home).values()) == {1}
    assert grid.jobs.run(job.job_id).state is JobState.SUCCEEDED  # and is not run again
    assert [record.job_id for record in grid.jobs.list(gallery="acme/staff")] == [job.job_id]
    with pytest.raises(JobEnded):
        grid.jobs.cancel(job.job_id)
    grid.jobs.delete(job.job_id)
    assert not (home / "jobs" / job.job_id).exists()
    with pytest.raises(UnknownJob):
        grid.jobs.get(job.job_id)


def test_what_is_no_job_is_refused(grid: Any, home: Path) -> None:
    with pytest.raises(InvalidParameter, match="kind of job"):
        grid.jobs.submit("nothing", "acme/staff", {})
    with pytest.raises(InvalidParameter, match="sum: blocks"):
        grid.jobs.submit("sum", "acme/staff", parameters(home, blocks="many"))
    with pytest.raises(UnknownGallery):
        grid.jobs.submit("sum", "acme/nobody", parameters(home))
    assert grid.jobs.list() == []


def test_a_worker_that_is_killed_costs_its_block(grid: Any, home: Path) -> None:
    plain = grid.jobs.submit("sum", "acme/staff", parameters(home))
    grid.jobs.run(plain.job_id)
    expected = contents(grid.jobs.result(plain.job_id).directory)
    for path in (home.parent / "ran").iterdir():
        path.unlink()
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, killers={block_name(2): 2, block_name(5): 1}))
    assert grid.jobs.run(job.job_id).state is JobState.SUCCEEDED
    assert contents(grid.jobs.result(job.job_id).directory) == expected
    assert runs(home) == Counter({block_name(i): {2: 3, 5: 2}.get(i, 1) for i in range(8)})
    deaths = [line for line in grid.jobs.logs(job.job_id) if line["message"] == "a worker died"]
    assert {line["by"] for line in deaths} == {"SIGKILL"}
    assert len(deaths) == 3


def test_a_block_that_kills_three_workers_fails_the_job(grid: Any, home: Path) -> None:
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, killers={block_name(0): 9}, workers=1))
    ended = grid.jobs.run(job.job_id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "worker_lost")
    assert block_name(0) in str(ended.error)
    assert runs(home)[block_name(0)] == 3
    with pytest.raises(JobFailed, match="worker_lost"):
        grid.jobs.result(job.job_id)


def test_an_error_of_a_block_fails_the_job_which_resumes(grid: Any, home: Path) -> None:
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, broken=block_name(7), workers=1))
    ended = grid.jobs.run(job.job_id)
    assert (ended.state, ended.error_code, ended.error) == (
        JobState.FAILED,
        "invalid_parameter",
        "block-0007 is broken",
    )
    assert grid.jobs.resume(job.job_id).state is JobState.QUEUED
    assert grid.jobs.run(job.job_id).attempts == 2
    assert runs(home) == Counter({block_name(i): 2 if i == 7 else 1 for i in range(8)})


def test_a_cancelled_job_stops_at_once_and_resumes(grid: Any, home: Path) -> None:
    gates = str(home.parent / "gates")
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=gates))
    open_gates(home, 0, 1, 2)
    grid.jobs.start()
    until(lambda: grid.jobs.get(job.job_id).done == 3)
    running = grid.jobs.get(job.job_id)
    assert (running.state, running.phase, running.total) == (JobState.RUNNING, "summing", 8)
    with pytest.raises(JobUnfinished):
        grid.jobs.delete(job.job_id)
    grid.jobs.cancel(job.job_id)
    until(lambda: grid.jobs.get(job.job_id).state is JobState.CANCELLED)
    with pytest.raises(JobCancelled):
        grid.jobs.result(job.job_id)
    open_gates(home, *range(8))
    grid.jobs.resume(job.job_id)
    until(lambda: grid.jobs.get(job.job_id).state is JobState.SUCCEEDED)
    assert all(runs(home)[block_name(i)] == 1 for i in range(3))
    assert grid.jobs.get(job.job_id).attempts == 2


def test_closing_the_cluster_queues_the_job_again(home: Path) -> None:
    gates = str(home.parent / "gates")
    with Cluster.open(home) as grid:
        grid.gallery("acme/staff", create=True, dim=64)
        job = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=gates))
        open_gates(home, 0)
        grid.jobs.start()
        until(lambda: grid.jobs.get(job.job_id).done == 1)
    with Cluster.open(home) as grid:
        assert grid.jobs.get(job.job_id).state is JobState.QUEUED
        open_gates(home, *range(8))
        grid.jobs.start()
        until(lambda: grid.jobs.get(job.job_id).state is JobState.SUCCEEDED)
        attempts = grid.jobs.result(job.job_id).run["attempts"]
        assert [attempt["state"] for attempt in attempts] == ["queued", "succeeded"]
        assert runs(home)[block_name(0)] == 1


def test_a_job_fails_when_its_gallery_is_dropped(grid: Any, home: Path) -> None:
    gates = str(home.parent / "gates")
    running = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=gates))
    waiting = grid.jobs.submit("sum", "acme/staff", parameters(home))
    grid.jobs.start()
    until(lambda: grid.jobs.get(running.job_id).state is JobState.RUNNING)
    grid.drop("acme/staff")
    grid.gallery("acme/staff", create=True, dim=64)  # of the same name, and another
    for job in (running, waiting):
        until(lambda job=job: grid.jobs.get(job.job_id).state is JobState.FAILED)
        assert grid.jobs.get(job.job_id).error_code == "unknown_gallery"
        with pytest.raises(UnknownGallery):
            grid.jobs.resume(job.job_id)


def test_a_dropped_tenant_takes_its_jobs_along(grid: Any, home: Path) -> None:
    grid.gallery("other/staff", create=True, dim=64)
    ended = grid.jobs.submit("sum", "acme/staff", parameters(home))
    kept = grid.jobs.submit("sum", "other/staff", parameters(home))
    for job in (ended, kept):
        grid.jobs.run(job.job_id)
    running = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=str(home.parent / "gates")))
    grid.jobs.start()
    until(lambda: grid.jobs.get(running.job_id).state is JobState.RUNNING)
    grid.tenants.drop("acme")
    assert [job.job_id for job in grid.jobs.list()] == [kept.job_id]
    last = grid.jobs.submit("sum", "other/staff", parameters(home))
    until(lambda: grid.jobs.get(last.job_id).state is JobState.SUCCEEDED)  # the runner has let go of the other
    assert sorted(path.name for path in (home / "jobs").iterdir()) == sorted([kept.job_id, last.job_id])


def test_workers_step_back_and_end_with_the_job(grid: Any, home: Path) -> None:
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=str(home.parent / "gates")))
    grid.jobs.start()
    until(lambda: len(runs(home)) == 2)
    pids = [int(path.name.rpartition(".")[2]) for path in (home.parent / "ran").iterdir()]
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pids] == [15, 15]
    grid.jobs.cancel(job.job_id)
    until(lambda: grid.jobs.get(job.job_id).state is JobState.CANCELLED)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_costs_a_block_for_each_worker(home: Path, by: signal.Signals) -> None:
    gates = str(home.parent / "gates")
    with Cluster.open(home) as grid:
        grid.gallery("acme/staff", create=True, dim=64)
        plain = grid.jobs.submit("sum", "acme/staff", parameters(home))
        grid.jobs.run(plain.job_id)
        expected = contents(grid.jobs.result(plain.job_id).directory)
        job = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=gates))
    for path in (home.parent / "ran").iterdir():
        path.unlink()
    open_gates(home, 0, 1, 2)
    command = [sys.executable, "-m", "tests.job_driver", str(home), job.job_id]
    checkpoints = home / "jobs" / job.job_id / "checkpoints"
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=interruptible) as driver:
        until(lambda: checkpoints.is_dir() and len(list(checkpoints.glob("block-*"))) == 3 and len(runs(home)) == 5)
        driver.send_signal(by)
    pids = {int(path.name.rpartition(".")[2]) for path in (home.parent / "ran").iterdir()}
    until(lambda: not any(is_there(pid) for pid in pids))  # workers do not outlive who gave them work
    open_gates(home, *range(8))
    with Cluster.open(home) as grid:
        left = JobState.RUNNING if by == signal.SIGKILL else JobState.QUEUED
        assert grid.jobs.get(job.job_id).state is left
        ended = grid.jobs.run(job.job_id)  # at once: whoever ran it had the home open
        assert (ended.state, ended.attempts) == (JobState.SUCCEEDED, 2)
        result = grid.jobs.result(job.job_id)
        assert contents(result.directory) == expected
        ended_as = {signal.SIGKILL: None, signal.SIGINT: "queued"}
        assert [attempt["state"] for attempt in result.run["attempts"]] == [ended_as[by], "succeeded"]
    begun = runs(home)
    assert [begun[block_name(i)] for i in range(8)] == [1, 1, 1, 2, 2, 1, 1, 1]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_checkpoints_are_whole_or_not_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write("a", b"abc" * 1000)
    checkpoints.write("empty", memoryview(b""))
    assert (checkpoints.read("a"), checkpoints.read("empty")) == (b"abc" * 1000, b"")
    (tmp_path / "checkpoints" / ".a.0123.tmp").write_bytes(b"half")
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.names() == {"a", "empty"}
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["a", "empty"]
    path = tmp_path / "checkpoints" / "a"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptData, match="resume"):
        again.read("a")
    assert not again.has("a")
    path.write_bytes(b"FGC1")
    with pytest.raises(CorruptData):
        again.read("a")
    with pytest.raises(StorageError):
        again.read("never")
    for name in ("", "../up", ".hidden", "a/b", "x" * 129):
        with pytest.raises(InvalidParameter):
            again.write(name, b"")


def test_a_log_that_was_cut_goes_on_in_a_line_of_its_own(grid: Any, home: Path) -> None:
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, broken=block_name(0)))
    grid.jobs.run(job.job_id)
    log = home / "jobs" / job.job_id / "log.jsonl"
    lines = len(list(grid.jobs.logs(job.job_id)))
    with log.open("ab") as file:
        file.write(b'{"at": 1, "mess')
    grid.jobs.resume(job.job_id)
    grid.jobs.run(job.job_id)
    assert [line["message"] for line in grid.jobs.logs(job.job_id)][lines] == "begun"


def test_a_gallery_is_calibrated_as_a_job(grid: Any) -> None:
    staff = grid.gallery("acme/faces", create=True, dim=64)
    rows = faces_like(600, 64)
    staff.enroll(np.concatenate([rows, rows[:200] + 0.01]), identities=[f"p{i % 600}" for i in range(800)])
    job = grid.jobs.submit("calibrate", "acme/faces", {"samples": 500})
    assert grid.jobs.run(job.job_id).state is JobState.SUCCEEDED
    summary = grid.jobs.result(job.job_id).summary
    assert (summary["gallery"], summary["samples"], summary["identities"]) == ("acme/faces", 500, 600)
    assert staff.calibration() is not None
    poor = grid.jobs.submit("calibrate", "acme/staff", {})
    assert grid.jobs.run(poor.job_id).error_code == "not_enough_data"
