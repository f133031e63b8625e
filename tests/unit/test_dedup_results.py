"""The files of a dedup job: what is in them, the same bytes for the same input, damage found; the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import Cluster
from cluster.dedup.report import MAX_PICTURES
from cluster.dedup.result_columns import GROUPS, MEMBERS, PAIRS, REPORT, SUMMARY
from cluster.dedup.result_files import DedupResult
from cluster.thumbnails import KEY
from shard.errors import CorruptData, FormatTooNew, InvalidParameter, NotFound
from tests.dedup_results import (
    DIM,
    NAME,
    THRESHOLD,
    contents,
    enroll,
    faces_of,
    make_job,
    pairs_of,
    read_inputs,
    write_job,
)

PEOPLE = [
    ["a1:ann", "a2:ann", "a3:anna"],
    ["b1", "b2"],
    ["c1:carl"],
    ["d1:ann", "d2:ann"],
    ["<script>alert(1)</script>:<img src=x onerror=alert(2)>", "e2"],
]
GROUPED = [["a1", "a2", "a3"], ["b2", "b1"], ["d1", "d2"], ["<script>alert(1)</script>", "e2"]]
REASONS = {2: "split", 0: "different_identities,two_faces_of_one_photo"}
FILES = (GROUPS, MEMBERS, PAIRS, REPORT, SUMMARY)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


def result_of(grid: Cluster, shards: int = 2, name: str = NAME, **options: Any) -> DedupResult:
    enroll(grid.gallery(name, create=True, shards=shards, dim=DIM), faces_of(PEOPLE))
    return make_job(grid, GROUPED, REASONS, names=(name,), **options)


def test_files_say_what_was_found(grid: Cluster) -> None:
    result = result_of(grid)
    groups = result.groups.to_pylist()
    assert [(row["group"], row["template_id"]) for row in groups] == [
        (0, "a1"),
        (0, "a2"),
        (0, "a3"),
        (1, "b1"),
        (1, "b2"),
        (2, "d1"),
        (2, "d2"),
        (3, "<script>alert(1)</script>"),
        (3, "e2"),
    ]
    assert [row["template_id"] for row in groups if row["role"] == "keep"] == [
        "a1",
        "b2",
        "d1",
        groups[7]["template_id"],
    ]
    assert [row["reason"] for row in groups[:4]] == [REASONS[0]] * 3 + [None]
    assert [row["quality"] for row in groups[:2]] == [pytest.approx(0.9), None]
    assert result.to_review().tolist() == [0, 2]
    assert [m.identity for m in result.members_of(0)] == ["ann", "ann", "anna"]
    assert {row["template_id"]: row["lsn"] for row in result.members.to_pylist()}.keys() == {
        row["template_id"] for row in groups
    }
    counts = result.summary["counts"]
    assert counts["templates"] == 10
    assert counts["groups"] == 4
    assert counts["duplicate"] == 5
    assert counts["pairs"] == 3 + 1 + 1 + 1
    assert counts["groups_to_review"] == 2
    assert result.summary["group_sizes"] == {"2": 3, "3": 1}
    assert sum(result.summary["scores"]["same_person"]) == 6
    found = result.summary["disagreements"]
    assert found["several_identities"] == [{"group": 0, "identities": {"ann": 2, "anna": 1}}]
    assert found["several_groups"] == [{"gallery": NAME, "identity": "ann", "groups": [0, 2]}]


def test_pairs_are_those_of_brute_force(grid: Cluster) -> None:
    enroll(grid.gallery(NAME, create=True, shards=3, dim=DIM), faces_of(PEOPLE))
    directory = grid.settings.home / "jobs" / "job"
    read = read_inputs(grid, [NAME], directory / "input")
    result = write_job(directory, read, GROUPED)
    ids = read.labels.column("template_id").to_pylist()
    wanted = {
        (ids[left], ids[right]): score
        for chunk in pairs_of(read)
        for left, right, score in zip(chunk.left, chunk.right, chunk.scores.tolist(), strict=True)
    }
    (batch,) = result.pairs()
    rows = batch.to_pylist()
    assert {(row["left_id"], row["right_id"]): row["score"] for row in rows} == wanted
    assert {row["group"] for row in rows} == {0, 1, 2, 3}
    near = result.summary["borderline"]["nearest"]
    assert [pair["score"] for pair in near] == sorted(wanted.values())


def test_bytes_depend_on_the_input_alone(grid: Cluster, tmp_path: Path) -> None:
    enroll(grid.gallery(NAME, create=True, shards=2, dim=DIM), faces_of(PEOPLE))
    read = read_inputs(grid, [NAME], tmp_path / "store")
    first = write_job(tmp_path / "one", read, GROUPED, REASONS)
    again = write_job(tmp_path / "two", read, GROUPED, REASONS, chunk=2)
    for name in FILES:
        assert first.path(name).read_bytes() == again.path(name).read_bytes(), name


def test_groups_are_the_same_for_any_number_of_shards(grid: Cluster) -> None:
    found = []
    for shards in (1, 2, 4):
        made = result_of(grid, shards, f"acme/of-{shards}", job_id=f"of-{shards}")
        table = made.groups.drop_columns(["gallery"])
        found.append([table.to_pylist(), made.summary["counts"], made.summary["disagreements"]["several_identities"]])
    assert found[0] == found[1] == found[2]


def test_pairs_beyond_a_row_group_are_cut_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: Cluster) -> None:
    monkeypatch.setattr("cluster.dedup.results.ROW_GROUP", 4)
    enroll(grid.gallery(NAME, create=True, shards=1, dim=DIM), faces_of(PEOPLE))
    read = read_inputs(grid, [NAME], tmp_path / "store")
    files = [write_job(tmp_path / str(chunk), read, GROUPED, chunk=chunk).path(PAIRS) for chunk in (1, 3, 100)]
    assert len({file.read_bytes() for file in files}) == 1
    assert [pq.ParquetFile(files[0]).metadata.row_group(i).num_rows for i in range(2)] == [4, 2]


def test_no_groups_and_no_pairs_is_a_result_too(grid: Cluster) -> None:
    enroll(grid.gallery(NAME, create=True, dim=DIM), faces_of([["a"], ["b"], ["c"]]))
    result = make_job(grid, [])
    assert len(result) == 0
    assert result.to_review().tolist() == []
    assert list(result.pairs()) == []
    assert result.summary["counts"]["groups"] == 0
    assert "None." in result.report()


def read_all(directory: Path) -> None:
    opened = DedupResult.open(directory)
    _ = (opened.groups, opened.members, list(opened.pairs()))


@pytest.mark.parametrize("name", [GROUPS, MEMBERS, PAIRS])
def test_damage_is_named(grid: Cluster, name: str) -> None:
    path = result_of(grid).path(name)
    data = path.read_bytes()
    for wrong in (data[: len(data) // 2], b"PAR1" + bytes(100) + b"PAR1", b""):
        path.write_bytes(wrong)
        with pytest.raises(CorruptData, match=name) as raised:
            read_all(path.parent.parent)
        assert raised.value.path == str(path)


def test_files_of_others_are_refused(grid: Cluster, tmp_path: Path) -> None:
    result = result_of(grid)
    with pytest.raises(NotFound, match="no result"):
        DedupResult.open(tmp_path)
    pq.write_table(pa.table({"x": [1]}), result.path(GROUPS))
    with pytest.raises(CorruptData, match="expected the columns"):
        _ = DedupResult.open(result.directory).groups
    summary = dict(result.summary)
    for wrong, error in (
        ({"kind": "enroll"}, InvalidParameter),
        ({"format": 99}, FormatTooNew),
        ({"format": "1"}, CorruptData),
    ):
        result.path(SUMMARY).write_text(json.dumps(summary | wrong))
        with pytest.raises(error):
            DedupResult.open(result.directory)
    result.path(SUMMARY).write_text("{")
    with pytest.raises(CorruptData, match="not JSON"):
        DedupResult.open(result.directory)
    result.path(SUMMARY).write_text(json.dumps(summary))
    result.path(GROUPS).unlink()
    with pytest.raises(InvalidParameter, match="analysis"):
        DedupResult.open(result.directory)


def test_group_numbers_are_checked(grid: Cluster) -> None:
    result = result_of(grid)
    for wrong in (-1, 4, True, "0"):
        with pytest.raises(InvalidParameter, match="group: expected a number from 0 to 3"):
            result.rows_of(wrong)  # type: ignore[arg-type]


def test_a_report_has_no_markup_of_users(grid: Cluster) -> None:
    page = result_of(grid).report()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_report_shows_thumbnails_up_to_a_number(grid: Cluster) -> None:
    jpeg = b"\xff\xd8\xff\xe0 a face"
    faces = faces_of([[f"p{i}-{j}" for j in range(2)] for i in range(200)])
    gallery = grid.gallery(NAME, create=True, dim=DIM)
    import base64

    texts = [base64.b64encode(jpeg + bytes([i % 256])).decode() for i in range(len(faces))]
    texts[0], texts[1] = "no base64!", base64.b64encode(b"<svg/>").decode()
    gallery.enroll(
        np.stack([face.floats for face in faces]),
        template_ids=[face.template_id for face in faces],
        metadata=[{KEY: text} for text in texts],
    )
    groups = [[f"p{i}-0", f"p{i}-1"] for i in range(200)]
    page = make_job(grid, groups, dict.fromkeys(range(200), "split")).report()
    shown = page.count('<img alt="" src="data:image/jpeg;base64,')
    assert 0 < shown <= 2 * MAX_PICTURES
    assert "no base64!" not in page
    assert texts[1] not in page
    assert "The first 40 of 200." in page


def test_a_template_is_in_the_contents_once(grid: Cluster, tmp_path: Path) -> None:
    """The oracle of the tests of applies."""
    faces = faces_of(PEOPLE)
    enroll(grid.gallery(NAME, create=True, shards=2, dim=DIM), faces)
    found = contents(grid, NAME, tmp_path / "now")
    assert {name: (identity, floats) for name, (identity, _, floats) in found.items()} == {
        face.template_id: (face.identity, face.floats.tobytes()) for face in faces
    }
    assert THRESHOLD < 1
