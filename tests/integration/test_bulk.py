"""Bulk enrollment of a home in this process: sources of every kind, killed drivers and workers, quotas, keys."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.fs  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from cluster import Cluster, Quotas  # noqa: E402
from cluster.images import template_id_of  # noqa: E402
from coordinator.job_types import JobState  # noqa: E402
from tests.integration.snapshot_stores import new_bucket, s3_server  # noqa: E402

DIM, ROWS, UNIT = 64, 4_000, 100
WAIT_S = 120.0
FILES = ("enrolled.parquet", "refused.parquet", "summary.json")
DRIVER = """
import json, sys
from cluster import Cluster
home, gallery, parameters, settings = sys.argv[1:]
with Cluster.open(home, **json.loads(settings)) as grid:
    job = grid.jobs.submit("enroll", gallery, json.loads(parameters))
    print(job.job_id, flush=True)
    print(grid.jobs.run(job.job_id).state.value, flush=True)
"""


def embeddings(path: Path, rows: int = ROWS, seed: int = 7) -> dict[str, Any]:
    """An array with repeated, bad and conflicting rows, and its labels; the source."""
    values = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    values[10] = 0
    values[rows - 1], values[rows // 2] = values[3], values[3]
    who = [f"p{i % 500}" for i in range(rows)]
    who[rows - 1] = who[3]
    np.save(path / "x.npy", values)
    (path / "who.txt").write_text("".join(f"{name}\n" for name in who))
    return {"url": str(path / "x.npy"), "identities": str(path / "who.txt")}


def gallery_bytes(grid: Any, name: str) -> list[Any]:
    """Everything a gallery says of its templates, and the exact scores of some probes."""
    gallery = grid.gallery(name)
    cursor, found = None, []
    while True:
        page = gallery.list(cursor=cursor, limit=1_000)
        found += [(t.template_id, t.identity, t.metadata) for t in page.templates]
        cursor = page.cursor
        if cursor is None:
            break
    probes = np.random.default_rng(1).standard_normal((5, gallery.dim)).astype(np.float32)
    scores = gallery.search(probes, 20, exact=True)
    return [found, scores.template_ids, scores.scores.tobytes()]


def result_bytes(result: Any) -> list[bytes]:
    assert result.files == FILES
    return [(result.directory / name).read_bytes() for name in FILES]


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Any]:
    with Cluster.open(tmp_path / "home") as opened:
        opened.gallery("acme/staff", create=True, dim=DIM)
        yield opened


def run(grid: Any, gallery: str, *sources: Any, **values: Any) -> Any:
    """The finished job; it has to succeed."""
    job = grid.jobs.submit("enroll", gallery, {"sources": list(sources), **values})
    ended = grid.jobs.run(job.job_id)
    assert ended.state is JobState.SUCCEEDED, (ended.error, list(grid.jobs.logs(job.job_id)))
    return grid.jobs.result(job.job_id)


def test_rows_are_enrolled_once_and_what_is_refused_is_listed(grid: Any, tmp_path: Path) -> None:
    source = embeddings(tmp_path)
    first = run(grid, "acme/staff", source, unit_rows=UNIT)
    assert first.summary["reasons"] == {"repeated": 1, "zero_vector": 1}
    # Without an id, the identity is part of what is hashed: the same floats of another person are another template.
    assert (first.summary["enrolled"], first.summary["there"]) == (ROWS - 2, 0)
    refused = pq.read_table(first.directory / "refused.parquet").to_pylist()
    assert [(r["item"], r["reason"]) for r in refused] == [
        ("x.npy row 10", "zero_vector"),
        (f"x.npy row {ROWS - 1}", "repeated"),
    ]
    enrolled = pq.read_table(first.directory / "enrolled.parquet").to_pylist()
    assert len(grid.gallery("acme/staff")) == len(enrolled) == ROWS - 2
    assert not any(row["was_there"] for row in enrolled)
    again = run(grid, "acme/staff", source, unit_rows=UNIT)
    assert (again.summary["enrolled"], again.summary["there"]) == (0, ROWS - 2)
    assert [{**row, "was_there": True} for row in enrolled] == pq.read_table(
        again.directory / "enrolled.parquet"
    ).to_pylist()
    assert len(grid.gallery("acme/staff")) == ROWS - 2


def test_an_id_of_somebody_else_is_refused(grid: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((3, DIM)).astype(np.float32)
    grid.gallery("acme/staff").enroll(rows[:1], identities=["ann"], template_ids=["t0"])
    np.save(tmp_path / "x.npy", rows)
    labels = [{"template_id": "t0", "identity": "bob"}, {"template_id": "t1", "identity": "ann"}, {"template_id": "t1"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    found = run(grid, "acme/staff", {"url": str(tmp_path / "x.npy"), "labels": str(tmp_path / "x.jsonl")})
    assert found.summary["reasons"] == {"duplicate_id": 2}
    assert [t.identity for t in grid.gallery("acme/staff").templates(["t0", "t1"])] == ["ann", "ann"]


def test_a_full_quota_ends_the_job_which_goes_on_when_there_is_room(grid: Any, tmp_path: Path) -> None:
    grid.tenants.update("acme", quotas=Quotas(templates=1_050))
    source = embeddings(tmp_path)
    job = grid.jobs.submit("enroll", "acme/staff", {"sources": [source], "unit_rows": UNIT})
    ended = grid.jobs.run(job.job_id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "quota_exceeded")
    assert "999 templates were enrolled" in (ended.error or "")
    assert len(grid.gallery("acme/staff")) == 999
    grid.tenants.update("acme", quotas=Quotas())
    grid.jobs.resume(job.job_id)
    assert grid.jobs.run(job.job_id).state is JobState.SUCCEEDED
    assert grid.jobs.result(job.job_id).summary["enrolled"] == ROWS - 2


def test_keys_may_read_only_what_the_operator_named(grid: Any, tmp_path: Path) -> None:
    parameters = {"sources": [embeddings(tmp_path)]}
    job = grid.jobs.submit("enroll", "acme/staff", parameters, key_id="0123456789ab")
    ended = grid.jobs.run(job.job_id)
    assert (ended.state, ended.error_code) == (JobState.FAILED, "permission_denied")
    assert len(grid.gallery("acme/staff")) == 0


class Driver:
    """A process that runs a job of a home until it is killed."""

    def __init__(self, home: Path, gallery: str, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        command = [sys.executable, "-c", DRIVER, str(home), gallery, json.dumps(parameters), json.dumps(settings)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.job_id = self._process.stdout.readline().strip()
        self.pid = self._process.pid
        self._checkpoints = home / "jobs" / self.job_id / "checkpoints"

    def wait_for_units(self, count: int) -> None:
        until = time.monotonic() + WAIT_S
        while self.units() < count:  # nothing tells of a file that another process writes
            assert time.monotonic() < until
            assert self._process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)

    def units(self) -> int:
        return len(list(self._checkpoints.glob("unit-*"))) if self._checkpoints.exists() else 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> str:
        out, _ = self._process.communicate(timeout=WAIT_S)
        return out.strip()


@pytest.mark.parametrize("units", [1, 7, 25])
def test_a_killed_driver_costs_a_unit_and_nothing_of_the_result(tmp_path: Path, units: int) -> None:
    source = embeddings(tmp_path)
    parameters = {"sources": [source], "unit_rows": UNIT}
    for name in ("whole", "killed"):
        with Cluster.open(tmp_path / name) as grid:
            grid.gallery("acme/staff", create=True, dim=DIM)
    with Cluster.open(tmp_path / "whole") as grid:
        wanted = result_bytes(run(grid, "acme/staff", source, unit_rows=UNIT)), gallery_bytes(grid, "acme/staff")
    driver = Driver(tmp_path / "killed", "acme/staff", parameters, {})
    driver.wait_for_units(units)
    driver.kill()
    done = driver.units()
    with Cluster.open(tmp_path / "killed") as grid:
        assert grid.jobs.run(driver.job_id).state is JobState.SUCCEEDED
        result = grid.jobs.result(driver.job_id)
        assert (result_bytes(result), gallery_bytes(grid, "acme/staff")) == wanted
        begun = result.run["attempts"][-1]["phases"][0]["from"]
    assert begun >= (done - 1) * UNIT


MODELS = {"detector": "yunet_2023mar", "embedder": "edgeface_xs"}


@pytest.fixture(scope="module")
def photos(data_dir: Path) -> dict[str, bytes]:
    """Some real photos by name, with what is none of them, and one twice."""
    names = [f"img{i}.jpg" for i in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)]
    found = {f"p{i % 5}/{name}": (data_dir / "photos" / name).read_bytes() for i, name in enumerate(names)}
    found["p0/couple.jpg"] = (data_dir / "photos" / "couple.jpg").read_bytes()
    found["p1/none.jpg"] = b"not an image"
    found["p0/again.jpg"] = found["p0/img1.jpg"]
    found["p4/stolen.jpg"] = found["p0/img1.jpg"]
    return found


def write_photos(folder: Path, photos: dict[str, bytes]) -> Path:
    for name, data in photos.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1, 1))
    return folder


@pytest.fixture
def open_home(tmp_path: Path, data_dir: Path) -> Any:
    settings = {**MODELS, "models": str(data_dir / "models")}

    def opened(name: str) -> Any:
        grid = Cluster.open(tmp_path / name, **settings)
        grid.gallery("acme/staff", create=True)
        return grid

    opened.settings = settings  # type: ignore[attr-defined]
    return opened


@pytest.mark.data
def test_photos_are_enrolled_as_a_folder_is(tmp_path: Path, open_home: Any, photos: dict[str, bytes]) -> None:
    folder = write_photos(tmp_path / "photos", photos)
    with open_home("bulk") as grid, open_home("folder") as other:
        found = run(grid, "acme/staff", str(folder), workers=1, unit_photos=8)
        report = other.gallery("acme/staff").enroll_folder(folder, progress=False)
        assert found.summary["enrolled"] == report.enrolled == 12
        assert found.summary["reasons"] == {"duplicate_id": 1, "not_an_image": 1, "repeated": 1, "several_faces": 1}
        ids = sorted(map(template_id_of, photos.values()))
        mine, theirs = (g.gallery("acme/staff").templates(ids) for g in (grid, other))
        assert [(t.template_id, t.identity) for t in mine] == [(t.template_id, t.identity) for t in theirs]
        probe = photos["p0/img1.jpg"]
        scores = [g.gallery("acme/staff").search_image(probe, k=12).candidates for g in (grid, other)]
        assert [(c.template_id, c.score) for c in scores[0]] == [(c.template_id, c.score) for c in scores[1]]


@pytest.mark.data
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_changes_no_byte(tmp_path: Path, open_home: Any, photos: dict[str, bytes], victim: str) -> None:
    folder = write_photos(tmp_path / "photos", photos)
    parameters = {"sources": [str(folder)], "workers": 2, "unit_photos": 2}
    with open_home("whole") as grid:
        wanted = result_bytes(run(grid, "acme/staff", str(folder), workers=1, unit_photos=2))
        wanted_gallery = gallery_bytes(grid, "acme/staff")
    open_home("killed").close()
    driver = Driver(tmp_path / "killed", "acme/staff", parameters, open_home.settings)
    driver.wait_for_units(2)
    if victim == "driver":
        driver.kill()
    else:
        os.kill(worker_of(driver.pid), signal.SIGKILL)
        assert driver.end() == "succeeded"
    with open_home("killed") as grid:
        if victim == "driver":
            assert grid.jobs.run(driver.job_id).state is JobState.SUCCEEDED
        else:
            assert [line for line in grid.jobs.logs(driver.job_id) if line["message"] == "a worker died"]
        assert result_bytes(grid.jobs.result(driver.job_id)) == wanted
        assert gallery_bytes(grid, "acme/staff") == wanted_gallery


def worker_of(pid: int) -> int:
    """A worker process that another process has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.mark.data
def test_a_bucket_holds_the_same_as_a_folder(tmp_path: Path, open_home: Any, photos: dict[str, bytes], s3: str) -> None:
    some = dict(list(photos.items())[:4])
    url = new_bucket(s3)
    place, _, query = url.partition("?")
    filesystem, path = pyarrow.fs.FileSystem.from_uri(url)

    def put(name: str, data: bytes) -> str:
        with filesystem.open_output_stream(f"{path}/{name}") as out:
            out.write(data)
        return f"{place}/{name}?{query}"

    for name, data in some.items():
        put(f"photos/{name}", data)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in some.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    rows = np.random.default_rng(2).standard_normal((5, 512)).astype(np.float32)
    array = io.BytesIO()
    np.save(array, rows)
    table = pa.table({"image": list(some.values()), "identity": [name.split("/")[0] for name in some]})
    packed = io.BytesIO()
    pq.write_table(table, packed)
    with open_home("home") as grid:
        found = run(grid, "acme/staff", f"{place}/photos?{query}", workers=1)
        assert found.summary["enrolled"] == 4
        assert s3 not in json.dumps(found.summary)
        for source in (put("x.tar", archive.getvalue()), put("x.parquet", packed.getvalue())):
            found = run(grid, "acme/staff", source, workers=1)
            assert (found.summary["enrolled"], found.summary["there"]) == (0, 4)
        put("y.npy", array.getvalue())
        found = run(grid, "acme/staff", f"{place}/*.npy?{query}", workers=1)
        assert found.summary["enrolled"] == 5


@pytest.mark.data
def test_a_gallery_is_embedded_anew(tmp_path: Path, open_home: Any, photos: dict[str, bytes]) -> None:
    some = {name: data for name, data in photos.items() if "img" in name}
    folder = write_photos(tmp_path / "photos", some)
    with open_home("home") as grid:
        run(grid, "acme/staff", str(folder), workers=1)
        old = grid.gallery("acme/staff")
        rows = np.random.default_rng(1).standard_normal((2, old.dim)).astype(np.float32)
        old.enroll(rows, identities=["x", "y"], template_ids=["elsewhere-2", "elsewhere-1"])
        old.delete(template_ids=[template_id_of(some["p0/img1.jpg"])])
        parameters = {"sources": [str(folder)], "into": "acme/new", "embedder": "mobilefacenet_512", "workers": 1}
        job = grid.jobs.submit("reembed", "acme/staff", parameters)
        ended = grid.jobs.run(job.job_id)
        assert ended.state is JobState.SUCCEEDED, ended.error
        result = grid.jobs.result(job.job_id)
        assert (result.summary["enrolled"], result.summary["missing"]) == (11, 2)
        assert result.summary["reasons"] == {"not_enrolled": 1}
        missing = pq.read_table(result.directory / "missing.parquet").to_pylist()
        assert [row["template_id"] for row in missing] == ["elsewhere-1", "elsewhere-2"]
        ids = [template_id_of(data) for data in some.values()]
        new = grid.gallery("acme/new")
        assert new.embedder == "mobilefacenet_512"
        assert new.templates(ids) == old.templates(ids)
