"""A dedup job on Ray: Ray is killed in the middle, and another one ends the job with the same files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'facegrid[snapshots]'")

from cluster import Cluster
from coordinator.job_types import JobState
from tests.dedup import enroll_doubled, snapshot_of
from tests.integration.conftest import ray_nodes
from tests.integration.test_jobs import contents, until
from tests.integration.test_jobs_ray import opened

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
PEOPLE, THRESHOLD = 400, 0.8
DRIVER = """
import sys
from cluster import Cluster
from cluster.dedup import corpus
corpus.LEAST_PART_ROWS = 100
home, job_id, address = sys.argv[1:]
options = {"runtime": "ray", "ray_address": address} if address else {}
with Cluster.open(home, **options) as grid:
    grid.jobs.run(job_id)
"""


def driver(home: Path, job_id: str, address: str = "") -> subprocess.Popen[bytes]:
    """A process that opens the home and runs the job; in 8 parts."""
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(home), job_id, address], cwd=ROOT)


def test_the_same_files_after_the_death_of_the_whole_cluster(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'facegrid[cluster]'")
    home, store = tmp_path / "home", str(tmp_path / "store")
    with Cluster.open(home) as grid:
        enroll_doubled(grid, "acme/staff", PEOPLE, shards=1)
        given = {"threshold": THRESHOLD, "store": store, "snapshot": snapshot_of(grid, "acme/staff", store)}
        jobs = [grid.jobs.submit("dedup", "acme/staff", given).job_id for _ in range(2)]
    assert driver(home, jobs[0]).wait() == 0
    checkpoints = home / "jobs" / jobs[1] / "checkpoints"
    with ray_nodes(("host-0",)) as nodes, driver(home, jobs[1], nodes.address) as killed:
        until(lambda: (checkpoints / "pairs-0000-0001").exists() or killed.poll() is not None)
        killed.send_signal(signal.SIGSTOP)  # it shall not be done before Ray is
        ray.shutdown()
        nodes.remove("host-0")
        killed.kill()
    kept = {path.name: path.stat().st_ino for path in checkpoints.iterdir() if not path.name.startswith(".")}
    assert "pairs-0000-0001" in kept
    assert "pairs-0007-0007" not in kept
    with opened(home):  # as soon as nobody has it
        pass
    with ray_nodes(("host-0",)) as nodes, driver(home, jobs[1], nodes.address) as last:
        assert last.wait() == 0
    with Cluster.open(home) as grid:
        assert grid.jobs.get(jobs[1]).state is JobState.SUCCEEDED
        whole, again = (contents(grid.jobs.result(job_id).directory) for job_id in jobs)
    assert again == whole
    # What was there was not made again.
    assert all((checkpoints / name).stat().st_ino == inode for name, inode in kept.items())
    attempts = json.loads((home / "jobs" / jobs[1] / "run.json").read_bytes())["attempts"]
    assert [attempt["runtime"] for attempt in attempts] == ["ray", "ray"]
