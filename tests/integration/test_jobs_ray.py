"""Jobs on Ray: tasks that die, a cluster that is killed in the middle, `ray job submit`."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from coordinator.job_types import JobState
from shard.errors import HomeLocked
from tests.integration.conftest import RayNodes, SharedRay, ray_nodes
from tests.integration.test_jobs import contents, is_there, open_gates, parameters, runs, until
from tests.integration.test_jobs import home as home  # a fixture
from tests.job_kinds import block_name, register_kinds
from tests.ports import free_port

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _kinds() -> None:
    register_kinds()


@pytest.fixture
def grid(ray_cluster: SharedRay, home: Path) -> Iterator[Any]:
    with Cluster.open(home, runtime="ray", ray_address=ray_cluster.address) as opened:
        opened.gallery("acme/staff", create=True, dim=64)
        yield opened


def test_blocks_are_tasks_whose_processes_may_die(grid: Any, home: Path) -> None:
    killers = {block_name(2): 2, block_name(5): 1}
    plain = grid.jobs.submit("sum", "acme/staff", parameters(home, size=100_000))
    assert grid.jobs.run(plain.job_id).state is JobState.SUCCEEDED
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, size=100_000, killers=killers, workers=None))
    for path in (home.parent / "ran").iterdir():
        path.unlink()
    assert grid.jobs.run(job.job_id).state is JobState.SUCCEEDED
    result = grid.jobs.result(job.job_id)
    assert contents(result.directory) == contents(grid.jobs.result(plain.job_id).directory)
    assert result.run["attempts"][0]["runtime"] == "ray"
    assert [runs(home)[block_name(i)] for i in range(8)] == [1, 1, 3, 1, 1, 2, 1, 1]
    deadly = grid.jobs.submit("sum", "acme/staff", parameters(home, killers={block_name(0): 99}))
    ended = grid.jobs.run(deadly.job_id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "worker_lost")
    broken = grid.jobs.submit("sum", "acme/staff", parameters(home, broken=block_name(0)))
    assert grid.jobs.run(broken.job_id).error_code == "invalid_parameter"


def test_tasks_are_cancelled_with_their_job(grid: Any, home: Path) -> None:
    job = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=str(home.parent / "gates")), is_ours=True)
    assert grid.jobs.control.claim("other", job.job_id) is None
    grid.jobs.start()
    queued = grid.jobs.submit("sum", "acme/staff", parameters(home, gates=str(home.parent / "gates")))
    until(lambda: len(runs(home)) == 2)
    pids = {int(path.name.rpartition(".")[2]) for path in (home.parent / "ran").iterdir()}
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {15}
    grid.jobs.cancel(queued.job_id)
    until(lambda: grid.jobs.get(queued.job_id).state is JobState.CANCELLED)
    open_gates(home, *range(8))
    assert grid.jobs.run(job.job_id).state is JobState.SUCCEEDED


def test_ray_job_submit_and_the_death_of_the_whole_cluster(home: Path) -> None:
    import ray
    from ray.job_submission import JobSubmissionClient

    port = free_port()
    # The agents of a node, of which the job server is one, take long to start on a machine that is busy.
    environment = {"PYTHONPATH": str(ROOT), "RAY_agent_register_timeout_ms": "300000"}
    with ray_nodes(("a", "b"), environment, dashboard_port=port) as nodes:
        client = JobSubmissionClient(f"http://127.0.0.1:{port}")
        opener = subprocess.Popen(
            [sys.executable, "-m", "tests.job_home", str(home), nodes.address],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with opener:
            assert opener.stdout is not None
            assert opener.stdout.readline() == "open\n"

            def submitted(*arguments: str) -> str:
                command = [sys.executable, "-m", "tests.job_entry", "--address", nodes.address, *arguments]
                found: list[str] = []

                def is_taken() -> bool:
                    # Ray's job server says by an error alone that the agent of its node has not started yet.
                    with contextlib.suppress(RuntimeError):
                        found.append(client.submit_job(entrypoint=shlex.join(command)))
                    return bool(found)

                until(is_taken)
                return found[0]

            def ended(submission: str) -> tuple[str, dict[str, Any]]:
                """The status that Ray has of it, and the last line that it printed as JSON."""
                until(lambda: client.get_job_status(submission).is_terminal())
                lines = [line for line in client.get_job_logs(submission).splitlines() if line.startswith("{")]
                return str(client.get_job_status(submission).value), json.loads(lines[-1])

            status, line = ended(submitted("submit", "calibrate", "acme/faces", json.dumps({"samples": 500})))
            assert (status, line["job"]["state"]) == ("SUCCEEDED", "succeeded")
            status, line = ended(submitted("submit", "sum", "acme/nobody", "{}"))
            assert (status, line["error"]["code"]) == ("FAILED", "invalid_parameter")
            gates = parameters(home, gates=str(home.parent / "gates"), workers=None)
            stopped = submitted("submit", "sum", "acme/faces", json.dumps(gates))
            until(lambda: len(runs(home)) == 2)
            client.stop_job(stopped)
            status, line = ended(stopped)
            assert (status, line["job"]["state"]) == ("STOPPED", "cancelled")
            job_id = line["job"]["job_id"]
            check_that_a_node_may_be_lost(home.parent / "node", nodes, submitted, ended)
            open_gates(home, 0, 1, 2)
            submitted("resume", job_id)
            checkpoints = home / "jobs" / job_id / "checkpoints"
            until(lambda: len(list(checkpoints.glob("block-*"))) == 3 and runs(home).total() == 6)
            ray.shutdown()
            opener.kill()
            nodes.remove("a")
    driver = json.loads((home / "jobs" / job_id / "run.json").read_bytes())["attempts"][-1]["pid"]
    with contextlib.suppress(ProcessLookupError):  # Ray may have ended it already
        os.kill(driver, signal.SIGKILL)
    open_gates(home, *range(8))
    with opened(home) as grid:
        assert grid.jobs.run(job_id).state is JobState.SUCCEEDED
        plain = grid.jobs.submit("sum", "acme/faces", parameters(home))
        before = runs(home)
        grid.jobs.run(plain.job_id)
        result = grid.jobs.result(job_id)
        assert contents(result.directory) == contents(grid.jobs.result(plain.job_id).directory)
    assert [attempt["runtime"] for attempt in result.run["attempts"]] == ["ray", "ray", "local"]
    # Two blocks were under way when the job was stopped, one (on the node that was left) when Ray was killed.
    assert [before[block_name(i)] for i in range(8)] == [2, 2, 1, 2, 1, 1, 1, 1]


def check_that_a_node_may_be_lost(
    place: Path,
    nodes: RayNodes,
    submitted: Callable[..., str],
    ended: Callable[[str], tuple[str, dict[str, Any]]],
) -> None:
    """A job of two blocks, one on each node, of which one goes: its block is run again on the other."""
    for name in ("ran", "gates"):
        (place / name).mkdir(parents=True)
    values = {"ran": str(place / "ran"), "gates": str(place / "gates"), "blocks": 2}
    job = submitted("submit", "sum", "acme/faces", json.dumps(values))
    until(lambda: len(list((place / "ran").iterdir())) == 2)
    pids = [int(path.name.rpartition(".")[2]) for path in (place / "ran").iterdir()]
    nodes.remove("b")
    until(lambda: not all(is_there(pid) for pid in pids))
    for number in (0, 1):
        (place / "gates" / block_name(number)).touch()
    assert ended(job)[0] == "SUCCEEDED"
    assert sorted(Counter(path.name.partition(".")[0] for path in (place / "ran").iterdir()).values()) == [1, 2]


def opened(home: Path) -> Cluster:
    """The home, as soon as the actors that had its shards are gone: they end when they miss their node."""
    found: list[Cluster] = []

    def is_open() -> bool:
        with contextlib.suppress(HomeLocked):
            found.append(Cluster.open(home))
        return bool(found)

    until(is_open)
    return found[0]
