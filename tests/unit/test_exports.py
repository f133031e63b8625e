"""Exports: what comes back from them is what was there, bit for bit; whole or not at all; consistent under writes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster import Cluster, Gallery
from cluster.cli import run
from cluster.exports import export_gallery
from cluster.exports.consistent import consistent_batches
from cluster.imports import import_into
from shard.errors import AlreadyExists, InvalidParameter, UnknownGallery, WriteFailed
from tests.faces_like import unit_rows

DIM = 64
FORMATS = ("parquet", "npy")
Content = dict[str, tuple[bytes, str | None, Any]]


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home", runtime="local") as grid:
        yield grid


@pytest.fixture
def gallery(grid: Cluster) -> Gallery:
    """500 templates in 3 shards, of which some were deleted, with every kind of label."""
    gallery = grid.gallery("acme/staff", create=True, dim=DIM, shards=3)
    rows = unit_rows(520, DIM, 5) * np.float32(3.7)  # scaled when they are enrolled
    gallery.enroll(
        rows,
        identities=[None if i % 5 == 0 else f"pérson {i % 40}" for i in range(520)],
        template_ids=[f"id/{i} ⚑" for i in range(520)],
        metadata=[None if i % 3 else {"n": i, "f": i / 7, "é": [None, {"x": '\u2028\n"'}]} for i in range(520)],
    )
    gallery.delete(template_ids=[f"id/{i} ⚑" for i in range(500, 520)])
    return gallery


def content(grid: Cluster, name: str, tmp_path: Path) -> Content:
    found: Content = {}
    with consistent_batches(grid, name, tmp_path / "look") as (_, batches):
        for batch in batches:
            for i, template_id in enumerate(batch.template_ids):
                assert template_id not in found
                found[template_id] = (batch.embeddings[i].tobytes(), batch.identities[i], batch.metadata[i])
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_gallery_comes_back_bit_for_bit(grid: Cluster, gallery: Gallery, tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "staff.parquet" if kind == "parquet" else tmp_path / "staff"
    told: list[tuple[int, int]] = []
    report = export_gallery(grid, gallery.name, path, format=kind, progress=lambda *counts: told.append(counts))
    assert (report.templates, report.dim, report.path) == (500, DIM, path)
    assert report.size > 500 * DIM * 4
    assert told[-1] == (500, 500)
    again = grid.gallery("acme/again", create=True, dim=DIM, shards=2)
    done = import_into(again, path, progress=False)
    assert (done.records, done.enrolled, done.reasons) == (500, 500, {})
    assert import_into(again, path, progress=False).skipped == 500
    before = content(grid, gallery.name, tmp_path)
    assert len(before) == 500
    assert content(grid, "acme/again", tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["home", path.name]), "nothing is left over"


@pytest.mark.parametrize("kind", FORMATS)
def test_an_empty_gallery_comes_back_empty(grid: Cluster, tmp_path: Path, kind: Any) -> None:
    grid.gallery("acme/none", create=True, dim=DIM)
    path = tmp_path / f"none.{kind}" if kind == "parquet" else tmp_path / "none"
    assert export_gallery(grid, "acme/none", path, format=kind, progress=False).templates == 0
    again = grid.gallery("acme/again", create=True, dim=DIM)
    assert import_into(again, path, progress=False).records == 0


def test_what_others_read(grid: Cluster, gallery: Gallery, tmp_path: Path) -> None:
    export_gallery(grid, gallery.name, tmp_path / "staff.parquet", progress=False)
    table = pq.read_table(tmp_path / "staff.parquet")
    assert table.column_names == ["template_id", "identity", "embedding", "metadata"]
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{DIM}]"
    about = json.loads(table.schema.metadata[b"facegrid"])
    assert (about["gallery"], about["templates"], about["embedder"]) == ("acme/staff", 500, None)
    export_gallery(grid, gallery.name, tmp_path / "staff", format="npy", progress=False)
    rows, labels = np.load(tmp_path / "staff" / "embeddings.npy"), table.drop_columns(["embedding"])
    lines = [json.loads(line) for line in (tmp_path / "staff" / "labels.jsonl").read_bytes().splitlines()]
    assert rows.dtype == np.float32
    assert rows.shape == (500, DIM)
    others = [{**row, "metadata": json.loads(row["metadata"] or "null")} for row in labels.to_pylist()]
    assert lines == others
    assert (tmp_path / "staff" / "labels.jsonl").stat().st_mode & 0o777 == 0o600, "faces are for their owner alone"
    beside = json.loads((tmp_path / "staff" / "gallery.json").read_bytes())
    assert {**beside, "exported_at": ""} == {**about, "exported_at": ""}


def test_an_export_while_templates_come_and_go_is_of_one_moment(grid: Cluster, tmp_path: Path) -> None:
    """One identity's template is replaced over and over; an export has the one or the other, and all that stay."""
    gallery = grid.gallery("acme/busy", create=True, dim=DIM, shards=2)
    rows = unit_rows(300, DIM, 6)
    gallery.enroll(rows, template_ids=[f"stays {i}" for i in range(300)])
    stop = threading.Event()
    errors: list[Exception] = []

    def replace() -> None:
        number = 0
        try:
            while not stop.is_set():
                gallery.enroll(rows[:1], identities=["ann"], template_ids=[f"ann {number}"])
                gallery.delete(template_ids=[f"ann {number - 1}"])
                number += 1
        except Exception as error:  # noqa: BLE001 shown by the test
            errors.append(error)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for turn in range(3):
            export_gallery(grid, gallery.name, tmp_path / f"{turn}.parquet", progress=False)
            ids = pq.read_table(tmp_path / f"{turn}.parquet").column("template_id").to_pylist()
            assert len(set(ids)) == len(ids)
            assert {i for i in ids if i.startswith("stays")} == {f"stays {i}" for i in range(300)}
    finally:
        stop.set()
        thread.join()
    assert not errors


@pytest.mark.parametrize("kind", FORMATS)
def test_a_failed_export_leaves_nothing(
    grid: Cluster, gallery: Gallery, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shard.files.os.replace", full)
    monkeypatch.setattr("coordinator.snapshots.places.write_file", _plain_write)
    with pytest.raises(WriteFailed, match="No space left"):
        export_gallery(grid, gallery.name, tmp_path / "staff", format=kind, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def _plain_write(path: Path, data: bytes, *, suffix: str = "") -> None:
    path.write_bytes(data)


def test_where_an_export_may_go(grid: Cluster, gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(AlreadyExists, match="does not replace"):
        export_gallery(grid, gallery.name, tmp_path / "there")
    with pytest.raises(InvalidParameter, match="there is no directory"):
        export_gallery(grid, gallery.name, tmp_path / "none" / "x")
    with pytest.raises(InvalidParameter, match="expected one of parquet, npy"):
        export_gallery(grid, gallery.name, tmp_path / "x", format="csv")  # type: ignore[arg-type]
    with pytest.raises(UnknownGallery):
        export_gallery(grid, "acme/nobody", tmp_path / "x")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FACEGRID_HOME", str(tmp_path / "home"))
    np.save(tmp_path / "rows.npy", unit_rows(10, DIM, 7))
    assert run(["gallery", "create", "acme/staff", "--dim", str(DIM)]) == 0
    assert run(["import", "acme/staff", str(tmp_path / "rows.npy")]) == 0
    assert run(["export", "acme/staff", str(tmp_path / "staff.parquet")]) == 0
    assert "10 templates of acme/staff" in capsys.readouterr().out
    assert run(["export", "acme/staff", str(tmp_path / "staff"), "--format", "npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["templates"] == 10
    assert run(["export", "acme/staff", str(tmp_path / "staff.parquet")]) == 4
    for name in ("staff.parquet", "staff"):
        capsys.readouterr()
        assert run(["import", "acme/staff", str(tmp_path / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["skipped"] == 10
