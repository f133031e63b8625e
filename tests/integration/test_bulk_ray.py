"""Bulk enrollment through Ray Data: the same files and gallery as in one process, with actors that are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from cluster import Cluster
from cluster.bulk import job as module
from coordinator.job_types import JobState
from coordinator.ray_data import Stage, stream
from shard.errors import InvalidParameter
from tests.integration.conftest import SharedRay
from tests.integration.test_bulk import DIM, UNIT, embeddings, gallery_bytes, result_bytes, run, write_photos

pytestmark = pytest.mark.ray

WAIT_S = 120.0


@pytest.fixture
def settings(ray_cluster: SharedRay) -> dict[str, Any]:
    return {"runtime": "ray", "ray_address": ray_cluster.address}


@pytest.fixture
def grid(tmp_path: Path, settings: dict[str, Any]) -> Iterator[Any]:
    with Cluster.open(tmp_path / "ray", **settings) as opened:
        opened.gallery("acme/staff", create=True, dim=DIM)
        yield opened


def is_ours(pid: int) -> bool:
    """Whether this process has started it, or one that started it."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def stage_pids() -> list[int]:
    """Processes of our Ray that are actors of a stage."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if b"ray::MapWorker" in (path / "cmdline").read_bytes() and is_ours(int(path.name)):
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def kill_one(killed: list[int]) -> None:
    """Kill the first stage actor that comes."""
    until = time.monotonic() + WAIT_S
    while not killed and time.monotonic() < until:
        for pid in stage_pids()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.02)  # processes of Ray tell nobody that they are there


def test_rows_through_ray_data_are_the_same_with_an_actor_killed(grid: Any, tmp_path: Path) -> None:
    source = embeddings(tmp_path)
    with Cluster.open(tmp_path / "local") as local:
        local.gallery("acme/staff", create=True, dim=DIM)
        wanted = result_bytes(run(local, "acme/staff", source, unit_rows=UNIT)), gallery_bytes(local, "acme/staff")
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(killed,))
    killer.start()
    result = run(grid, "acme/staff", source, unit_rows=UNIT, workers=2)
    killer.join()
    assert killed
    assert (result_bytes(result), gallery_bytes(grid, "acme/staff")) == wanted


def test_errors_of_a_stage_end_the_job(grid: Any, tmp_path: Path) -> None:
    source = embeddings(tmp_path, rows=300)
    job = grid.jobs.submit("enroll", "acme/staff", {"sources": [source], "unit_rows": UNIT, "workers": 1})
    original = module.listing_of

    def listing_then_change(*args: Any) -> Any:
        found = original(*args)
        np.save(tmp_path / "x.npy", np.ones((300, DIM), np.float32))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "listing_of", listing_then_change)
        ended = grid.jobs.run(job.job_id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "invalid_file"), ended.error
    assert "changed" in (ended.error or "")


def test_more_gpus_than_there_are_are_refused(grid: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="GPUs"):
        next(stream([Stage("cluster.bulk.streams:prepare_numbered", 1, gpus=1.0)], None, [0], lambda: None))


@pytest.mark.data
def test_photos_through_ray_data_are_the_same(tmp_path: Path, settings: dict[str, Any], data_dir: Path) -> None:
    names = [f"img{i}.jpg" for i in (1, 2, 3, 4, 5, 6)] + ["couple.jpg", "master.csv"]
    folder = write_photos(tmp_path / "p", {f"a/{n}": (data_dir / "photos" / n).read_bytes() for n in names})
    models = {"models": str(data_dir / "models"), "embedder": "edgeface_xs"}
    found = []
    for name, more in (("local", {}), ("ray", settings)):
        with Cluster.open(tmp_path / name, **models, **more) as opened:
            opened.gallery("acme/staff", create=True)
            result = run(opened, "acme/staff", str(folder), unit_photos=2, workers=2)
            found.append((result_bytes(result), gallery_bytes(opened, "acme/staff")))
    assert found[0] == found[1]
