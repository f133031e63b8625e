"""A dedup job end to end: the same files whatever was killed, however many shards and workers there are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from cluster import Cluster
from cluster.dedup import corpus as corpus_module
from coordinator.job_types import JobState
from shard.errors import (
    CorruptData,
    EncryptedGallery,
    InvalidParameter,
    ModelMismatch,
    NotEnoughData,
    PermissionDenied,
    UnknownGallery,
    UnknownSnapshot,
)
from shard.types import FloatArray
from tests.brute_pairs import all_pairs
from tests.dedup import DIM, doubled_rows, enroll_doubled, snapshot_of

PEOPLE = 400
THRESHOLD = 0.8


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "LEAST_PART_ROWS", 200)


def finished(grid: Cluster, gallery: str, parameters: dict[str, Any], kind: str = "dedup") -> str:
    job = grid.jobs.submit(kind, gallery, parameters)
    done = grid.jobs.run(job.job_id)
    assert done.state is JobState.SUCCEEDED, (done.error_code, done.error)
    return job.job_id


def files_of(grid: Cluster, job_id: str) -> dict[str, bytes]:
    result = grid.jobs.result(job_id)
    return {name: (result.directory / name).read_bytes() for name in result.files}


def table(grid: Cluster, job_id: str, name: str) -> Any:
    return pyarrow.parquet.read_table(grid.jobs.result(job_id).directory / name)


def true_pairs(rows: FloatArray, threshold: float) -> set[tuple[str, str]]:
    return {(f"t-{a:06d}", f"t-{b:06d}") for a, b in all_pairs(rows, None, threshold)}


def test_pairs_and_groups_of_a_gallery(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    job_id = finished(grid, "acme/staff", {"threshold": THRESHOLD})
    assert {"pairs.parquet", "groups.parquet", "summary.json", "report.html"} <= set(grid.jobs.result(job_id).files)
    pairs = table(grid, job_id, "pairs.parquet").to_pydict()
    found = list(zip(pairs["left_id"], pairs["right_id"], strict=True))
    assert set(found) == true_pairs(doubled_rows(PEOPLE, seed=1), THRESHOLD)
    assert found == sorted(found)
    groups = table(grid, job_id, "groups.parquet").to_pydict()
    by_group: dict[int, list[str]] = {}
    for number, template_id in zip(groups["group"], groups["template_id"], strict=True):
        by_group.setdefault(number, []).append(template_id)
    doubled = {(f"t-{i:06d}", f"t-{PEOPLE + i:06d}") for i in range(PEOPLE)}
    assert {tuple(sorted(ids)) for ids in by_group.values()} == doubled
    summary = grid.jobs.result(job_id).summary
    assert (summary["threshold"], summary["counts"]["groups"]) == (THRESHOLD, PEOPLE)
    assert summary["inputs"][0]["templates"] == 2 * PEOPLE


def test_fast_mode_finds_what_it_says_and_nothing_else(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    enroll_doubled(grid, "acme/list", 150, seed=1, prefix="u")
    rows, listed = doubled_rows(PEOPLE, seed=1), doubled_rows(150, seed=1)
    across = {(f"t-{a:06d}", f"u-{b:06d}") for a, b in all_pairs(rows, listed, THRESHOLD)}
    for other, expected in (({}, true_pairs(rows, THRESHOLD)), ({"other": "acme/list"}, across)):
        job_id = finished(grid, "acme/staff", {"threshold": THRESHOLD, "mode": "fast", **other})
        pairs = table(grid, job_id, "pairs.parquet").to_pydict()
        found = set(zip(pairs["left_id"], pairs["right_id"], strict=True))
        recall = grid.jobs.result(job_id).summary["recall"]
        assert found <= expected
        assert len(found) >= 0.99 * len(expected)
        assert (recall["mode"], recall["target"]) == ("fast", 0.99)
        assert recall["recall"] >= 0.99
        assert f"{recall['pairs']:,} pairs" in recall["statement"]
        again = finished(grid, "acme/staff", {"threshold": THRESHOLD, "mode": "fast", "workers": 1, **other})
        assert table(grid, again, "pairs.parquet") == table(grid, job_id, "pairs.parquet")


def test_the_same_whatever_the_number_of_shards_and_workers(grid: Cluster) -> None:
    results = []
    for shards, workers in ((1, 1), (2, 4), (4, 2)):
        name = f"acme/staff-{shards}"
        enroll_doubled(grid, name, PEOPLE, shards=shards)
        job_id = finished(grid, name, {"threshold": THRESHOLD, "workers": workers})
        pairs, groups = (table(grid, job_id, f"{kind}.parquet") for kind in ("pairs", "groups"))
        summary = grid.jobs.result(job_id).summary
        # What names galleries, shards and snapshots differs by nature.
        pairs = pairs.drop_columns(["left_shard", "right_shard", "left_gallery", "right_gallery"])
        results.append((pairs, groups.drop_columns(["gallery"]), summary["counts"], summary["scores"]))
    assert results[0] == results[1] == results[2]


def test_two_galleries(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    enroll_doubled(grid, "acme/list", 50, seed=1, prefix="u")
    rows, listed = doubled_rows(PEOPLE, seed=1), doubled_rows(50, seed=1)
    expected = {(f"t-{a:06d}", f"u-{b:06d}") for a, b in all_pairs(rows, listed, THRESHOLD)}
    assert len(expected) == 200
    job_id = finished(grid, "acme/staff", {"threshold": THRESHOLD, "other": "acme/list"})
    pairs = table(grid, job_id, "pairs.parquet").to_pydict()
    assert set(zip(pairs["left_id"], pairs["right_id"], strict=True)) == expected
    assert set(pairs["left_gallery"]) == {"acme/staff"}
    assert set(pairs["right_gallery"]) == {"acme/list"}


def test_a_snapshot_that_was_there_is_read_and_stays(grid: Cluster, tmp_path: Path) -> None:
    enroll_doubled(grid, "acme/staff", 50)
    store = str(tmp_path / "store")
    snapshot_id = snapshot_of(grid, "acme/staff", store)
    grid.gallery("acme/staff").delete(template_ids=["t-000000"])
    job_id = finished(grid, "acme/staff", {"threshold": THRESHOLD, "store": store, "snapshot": snapshot_id})
    assert "t-000000" in table(grid, job_id, "groups.parquet").column("template_id").to_pylist()
    assert grid.jobs.result(job_id).summary["inputs"][0]["snapshot_id"] == snapshot_id
    job_id = finished(grid, "acme/staff", {"threshold": THRESHOLD, "store": store})
    assert "t-000000" not in table(grid, job_id, "groups.parquet").column("template_id").to_pylist()
    assert len(grid.snapshots(store).list()) == 2


def test_an_analysis_has_a_histogram_and_no_groups(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    job_id = finished(grid, "acme/staff", {"analyse": True, "floor": 0.5})
    result = grid.jobs.result(job_id)
    assert "groups.parquet" not in result.files
    steps = {step["threshold"]: step for step in result.summary["analysis"]["thresholds"]}
    assert steps[0.8]["groups"] == PEOPLE
    report = (result.directory / "report.html").read_text()
    assert f"<td>0.800</td><td>{steps[0.8]['pairs']:,}</td><td>{PEOPLE:,}</td>" in report
    assert "<svg" in report
    assert "<script" not in report
    assert steps[0.5]["pairs"] == result.summary["pairs"] == len(true_pairs(doubled_rows(PEOPLE, seed=1), 0.5))


def test_galleries_without_pairs_have_a_result_too(grid: Cluster) -> None:
    grid.gallery("acme/none", create=True, dim=DIM)
    enroll_doubled(grid, "acme/staff", 20)
    for gallery, parameters in (
        ("acme/none", {"threshold": 0.5}),
        ("acme/staff", {"threshold": 1.0}),
        ("acme/none", {"analyse": True}),
        ("acme/staff", {"threshold": 0.5, "other": "acme/none"}),
    ):
        job_id = finished(grid, gallery, parameters)
        if not parameters.get("analyse"):
            assert table(grid, job_id, "pairs.parquet").num_rows == 0
            assert table(grid, job_id, "groups.parquet").num_rows == 0


def test_what_cannot_be_is_refused_at_once(grid: Cluster, tmp_path: Path) -> None:
    enroll_doubled(grid, "acme/staff", 20)
    enroll_doubled(grid, "acme/copy", 20)
    enroll_doubled(grid, "other/staff", 20)
    grid.gallery("acme/wide", create=True, dim=DIM * 2)
    store = str(tmp_path / "store")
    snapshot_id = snapshot_of(grid, "acme/copy", store)
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"threshold": 2.0}, InvalidParameter, "threshold"),
        ({}, InvalidParameter, "got neither"),
        ({"threshold": 0.5, "other": "acme/staff"}, InvalidParameter, "another gallery"),
        ({"threshold": 0.5, "other": "acme/nobody"}, UnknownGallery, "acme/nobody"),
        ({"threshold": 0.5, "other": "acme/wide"}, ModelMismatch, "acme/wide 128"),
        ({"target_fpir": 0.01}, NotEnoughData, "calibrate"),
        ({"threshold": 0.5, "store": store, "snapshot": "20200101T000000Z-00000000"}, UnknownSnapshot, "20200101"),
        ({"threshold": 0.5, "store": store, "snapshot": snapshot_id}, UnknownSnapshot, "acme/copy"),
    ]
    for parameters, error, says in refused:
        with pytest.raises(error, match=says):
            grid.jobs.submit("dedup", "acme/staff", parameters)
    for parameters, says in (
        ({"threshold": 0.5, "store": store}, "store"),
        ({"threshold": 0.5, "other": "other/staff"}, "acme"),
    ):
        with pytest.raises(PermissionDenied, match=says):
            grid.jobs.submit("dedup", "acme/staff", parameters, key_id="k")
    assert grid.jobs.list() == []


def test_an_encrypted_gallery_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("sqlcipher3", reason="sqlcipher3 is not installed: pip install 'facegrid[encryption]'")
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    with Cluster.open(tmp_path / "sealed", encryption_key_file=key) as grid:
        grid.tenants.create("acme", is_encrypted=True)
        enroll_doubled(grid, "acme/staff", 10)
        with pytest.raises(EncryptedGallery, match="acme/staff"):
            grid.jobs.submit("dedup", "acme/staff", {"threshold": 0.5})
        assert grid.jobs.list() == []


def test_too_many_pairs_fail_the_job_with_what_to_do(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    job = grid.jobs.submit("dedup", "acme/staff", {"threshold": THRESHOLD, "max_pairs": PEOPLE - 1})
    done = grid.jobs.run(job.job_id)
    assert (done.state, done.error_code) == (JobState.FAILED, "invalid_parameter")
    assert "Raise it" in str(done.error)


def test_a_damaged_snapshot_fails_the_job_before_it_joins(grid: Cluster, tmp_path: Path) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    store = tmp_path / "store"
    snapshot_id = snapshot_of(grid, "acme/staff", store)
    block = next(iter(grid.snapshots(store).store.snapshot(snapshot_id).blocks()))
    path = store / "objects" / block.floats.sha256[:2] / block.floats.sha256
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    job = grid.jobs.submit("dedup", "acme/staff", {"threshold": 0.5, "store": str(store), "snapshot": snapshot_id})
    done = grid.jobs.run(job.job_id)
    assert (done.state, done.error_code) == (JobState.FAILED, CorruptData.code)
    assert block.floats.sha256 in str(done.error)
    assert done.phase == "verifying"


def test_a_target_fpir_is_the_calibrations_threshold(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", 400)
    gallery = grid.gallery("acme/staff")
    gallery.enroll(
        doubled_rows(300, seed=5), identities=[f"who {i % 300}" for i in range(600)],
        template_ids=[f"w-{i}" for i in range(600)],
    )  # fmt: skip
    calibration = gallery.calibrate(samples=400, seed=0)
    job_id = finished(grid, "acme/staff", {"target_fpir": 0.1})
    summary = grid.jobs.result(job_id).summary
    assert summary["threshold"] == calibration.threshold_for_fpir(0.1, 1_400)
    assert summary["calibration"]["calibrated_templates"] == calibration.gallery_size


DRIVER = """
import sys
from cluster import Cluster
from cluster.dedup import corpus
corpus.LEAST_PART_ROWS = 200
with Cluster.open(sys.argv[1]) as grid:
    grid.jobs.run(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("workers", "moments"), [(1, ["pairs-0000-0002"]), (4, ["verify-0001", "pairs-0000-0002", "pairs-0002-0003"])]
)
def test_the_same_bytes_after_the_driver_was_killed(tmp_path: Path, workers: int, moments: list[str]) -> None:
    home = tmp_path / "home"
    store = str(tmp_path / "store")
    with Cluster.open(home) as grid:
        enroll_doubled(grid, "acme/staff", PEOPLE)
        given = {"threshold": THRESHOLD, "store": store, "snapshot": snapshot_of(grid, "acme/staff", store)}
        whole = files_of(grid, finished(grid, "acme/staff", given))
        job_id = grid.jobs.submit("dedup", "acme/staff", {**given, "workers": workers}).job_id
    checkpoints = home / "jobs" / job_id / "checkpoints"
    for wanted in moments:
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(home), job_id], cwd=Path(__file__).parents[2])
        while not (checkpoints / wanted).exists() and driver.poll() is None:
            threading.Event().wait(0.002)
        driver.kill()
        driver.wait()
        kept = {path.name: path.stat().st_ino for path in checkpoints.iterdir() if not path.name.startswith(".")}
        assert wanted in kept
    with Cluster.open(home) as grid:
        grid.jobs.run(job_id)
        assert files_of(grid, job_id) == whole
    # What was there was not made again.
    assert all((checkpoints / name).stat().st_ino == inode for name, inode in kept.items())


@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_bytes_after_workers_were_killed(grid: Cluster, tmp_path: Path, workers: int) -> None:
    enroll_doubled(grid, "acme/staff", PEOPLE)
    store = str(tmp_path / "store")
    given = {"threshold": THRESHOLD, "store": store, "snapshot": snapshot_of(grid, "acme/staff", store)}
    whole = files_of(grid, finished(grid, "acme/staff", given))
    job_id = grid.jobs.submit("dedup", "acme/staff", {**given, "workers": workers}).job_id
    stop, killed = threading.Event(), set()

    def kill_each_once() -> None:
        while not stop.wait(0.05):
            for pid in children(os.getpid()):
                if len(killed) < 2 and pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_each_once)
    killer.start()
    try:
        grid.jobs.run(job_id)
    finally:
        stop.set()
        killer.join()
    assert killed
    assert files_of(grid, job_id) == whole


def children(pid: int) -> list[int]:
    """Worker processes of jobs that this process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid and b"cluster.jobs.worker" in command:
                found.append(int(entry.name))
    return found


def test_the_summary_says_what_was_asked_and_of_what(grid: Cluster) -> None:
    enroll_doubled(grid, "acme/staff", 50)
    job_id = finished(grid, "acme/staff", {"threshold": THRESHOLD, "workers": 1})
    summary = json.loads(files_of(grid, job_id)["summary.json"])
    assert summary["parameters"]["threshold"] == THRESHOLD
    assert not {"workers", "max_pairs"} & set(summary["parameters"])
    assert len(summary["inputs"][0]["sha256"]) == 64
    assert np.isclose(summary["recall"]["target"], 0.999)
