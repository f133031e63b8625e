"""Jobs on a Ray cluster whose nodes have directories of their own, as pods have: blocks run where what they read is.

The second node's processes have another file system mounted over the directories of the first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'facegrid[snapshots]'")

from cluster import Cluster
from cluster.dedup import corpus
from coordinator.actor_names import CONTROL_RESOURCE
from coordinator.job_types import JobState
from tests.dedup import DIM, enroll_doubled
from tests.faces_like import unit_rows
from tests.integration.conftest import RayNodes, ray_nodes
from tests.integration.snapshot_stores import new_bucket, s3_server
from tests.integration.test_jobs import until
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
MAY_MOUNT = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
pytestmark = [pytest.mark.ray, pytest.mark.skipif(not MAY_MOUNT, reason="needs to be root, to mount")]


@contextmanager
def node_apart(nodes: RayNodes, private: Path) -> Iterator[None]:
    """A node of two CPUs for tasks that sees nothing in `private`."""
    import ray

    ports = [
        f"--{name}-port={free_port()}" for name in ("dashboard-agent-listen", "metrics-export", "runtime-env-agent")
    ]
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        f"--address={nodes.address}",
        "--block",
        "--num-cpus=2",
    ]
    resources = ["--resources", '{"elsewhere": 1}', f"--object-store-memory={80 << 20}"]
    mounted = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(private)]
    node = subprocess.Popen(
        [*mounted, *start, *ports, *resources],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: ray.cluster_resources().get("elsewhere", 0) == 1)
        yield
    finally:
        node.terminate()
        node.wait(60)


FILES = ("pairs.parquet", "groups.parquet", "members.parquet")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def grid(private: Path, s3: str) -> Iterator[Cluster]:
    """A home of the first node, which is the only one that sees it; with S3 credentials for both."""
    with (
        pytest.MonkeyPatch.context() as patch,
        ray_nodes(("a",), {"PYTHONPATH": str(ROOT)}, more={CONTROL_RESOURCE: 1}) as nodes,
        node_apart(nodes, private),
        Cluster.open(private / "home", runtime="ray", ray_address=nodes.address) as opened,
    ):
        patch.setattr(corpus, "LEAST_PART_ROWS", 50)  # 8 parts, so blocks for every node
        enroll_doubled(opened, "acme/staff", 200)
        yield opened


def ended(grid: Cluster, kind: str, **parameters: Any) -> Any:
    return grid.jobs.run(grid.jobs.submit(kind, "acme/staff", parameters).job_id)


def test_blocks_stay_where_the_jobs_own_snapshot_is(grid: Cluster) -> None:
    job = ended(grid, "dedup", threshold=0.8)
    assert job.state is JobState.SUCCEEDED, job.error
    assert grid.jobs.result(job.job_id).summary["counts"]["groups"] == 200


def test_a_store_that_is_not_on_every_node_is_said(grid: Cluster, private: Path) -> None:
    job = ended(grid, "dedup", threshold=0.8, store=str(private / "store"))
    assert (job.state, job.error_code) == (JobState.FAILED, "store_unavailable")
    assert "has to be the same on all of them" in job.error


def test_blocks_run_anywhere_with_a_bucket(grid: Cluster, s3: str) -> None:
    whole = grid.jobs.result(ended(grid, "dedup", threshold=0.8).job_id)
    job = ended(grid, "dedup", threshold=0.8, store=new_bucket(s3))
    assert job.state is JobState.SUCCEEDED, job.error
    found = grid.jobs.result(job.job_id)
    assert [(found.directory / name).read_bytes() for name in FILES] == [
        (whole.directory / name).read_bytes() for name in FILES
    ]


def test_sources_by_path_are_read_where_the_home_is(grid: Cluster, private: Path) -> None:
    np.save(private / "rows.npy", unit_rows(300, DIM, seed=9, rank=DIM))
    job = ended(grid, "enroll", sources=[str(private / "rows.npy")], unit_rows=50)
    assert job.state is JobState.SUCCEEDED, job.error
    assert grid.jobs.result(job.job_id).summary["enrolled"] == 300
