"""`facegrid fsck` on homes with damaged shards, models, and with a replica to mend from."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.cli import run
from coordinator.home import Home
from shard import segments
from tests.faces_like import unit_rows

DIM, N = 64, 3_000
ROWS = unit_rows(N, DIM, seed=1)
IDS = [f"t{i}" for i in range(N)]
Fsck = Callable[..., tuple[int, Any]]


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 1_024)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A closed home: a trained gallery of one shard (two sealed segments, an open tail), and an empty gallery."""
    with Cluster.open(tmp_path / "home") as grid:
        grid.gallery("acme/empty", create=True, dim=DIM, shards=2)
        gallery = grid.gallery("acme/staff", create=True, dim=DIM, shards=1, code_bits=128)
        gallery.enroll(ROWS, template_ids=IDS, identities=[f"person {i % 50}" for i in range(N)])
        gallery.train()
    return tmp_path / "home"


@pytest.fixture
def fsck(home: Path, capsys: pytest.CaptureFixture[str]) -> Fsck:
    """Run with --json: exit code and document, or the error where there is none."""

    def call(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run(["fsck", *arguments, "--home", str(home), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else json.loads(err.splitlines()[-1])["error"]

    return call


def staff(home: Path, host: str = "host-0") -> Path:
    """The directory of the shard with templates."""
    (found,) = [p for p in (home / "hosts" / host).rglob("shard-0000") if (p / "segment-000001").is_dir()]
    return found


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def with_replica(home: Path) -> Path:
    """A second host with the same replicas."""
    shutil.copytree(home / "hosts" / "host-0", home / "hosts" / "host-1")
    return staff(home, "host-1")


def assert_right(home: Path) -> None:
    with Cluster.open(home) as grid:
        gallery = grid.gallery("acme/staff")
        assert len(gallery) == N
        for exact in (True, False):
            found = gallery.search(ROWS[::59], k=1, exact=exact)
            assert [names[0] for names in found.template_ids] == IDS[::59]


def test_a_sound_home_is_left_as_it_is(home: Path, fsck: Fsck) -> None:
    def state() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in home.rglob("*") if p.is_file() and p.name != "LOCK"}

    before = state()
    assert fsck() == (0, {"is_sound": True, "replicas": 3, "damages": []})
    assert fsck("acme/staff")[1]["replicas"] == 1
    assert state() == before
    assert fsck("--repair")[0] == 0
    assert_right(home)


def test_damage_is_told_and_nothing_is_changed_without_repair(home: Path, fsck: Fsck) -> None:
    shard = staff(home)
    flip(shard / "segment-000001" / "floats.f32")
    flip(shard / "segment-000002" / "keys.u64")
    before = {p: p.read_bytes() for p in shard.glob("segment-*/*")}
    code, document = fsck()
    assert (code, document["is_sound"]) == (6, False)
    floats, keys = document["damages"]
    place = {"gallery": "acme/staff", "shard": 0, "host": "host-0", "is_mendable": True, "is_mended": False}
    path = (shard / "segment-000001" / "floats.f32").relative_to(home)
    assert floats | place | {"part": "floats", "path": str(path), "first_row": 0, "last_row": 256} == floats
    assert "wrong CRC32C in the 65536 bytes at byte 0: expected " in floats["what"]
    assert keys | place | {"part": "keys", "first_row": 1_024, "last_row": 2_048} == keys
    assert {p: p.read_bytes() for p in shard.glob("segment-*/*")} == before
    assert fsck("acme/empty")[0] == 0


def test_what_can_be_mended_without_another_replica_is(home: Path, fsck: Fsck) -> None:
    shard = staff(home)
    flip(shard / "segment-000001" / "floats.f32")
    (shard / "segment-000002" / "keys.u64").unlink()
    for path in shard.rglob("codes-*.rows"):
        if path.parent.name == "segment-000002":
            flip(path)
    with sqlite3.connect(shard / "shard.db") as db:
        db.execute("DELETE FROM template_keys WHERE row < 100")
    db.close()
    code, document = fsck("--repair")
    assert code == 6
    state = {(d["part"], d["is_mended"]) for d in document["damages"]}
    assert state == {("floats", False), ("keys", True), ("codes", True), ("template_keys", True)}
    (left,) = [d for d in document["damages"] if not d["is_mended"]]
    assert left["what"].endswith("not mended: no other replica was named to fetch its floats from")
    code, document = fsck()
    assert [d["part"] for d in document["damages"]] == ["floats"]


@pytest.mark.parametrize("damage", ["sealed", "tail", "missing", "everything"])
def test_floats_are_taken_from_another_replica(home: Path, fsck: Fsck, damage: str) -> None:
    other, shard = with_replica(home), staff(home)
    if damage in ("sealed", "everything"):
        flip(shard / "segment-000001" / "floats.f32", 70_000)
        flip(shard / "segment-000001" / "floats.f32", 200_000)
    if damage in ("tail", "everything"):
        flip(shard / "segment-000003" / "floats.f32", 500)
    if damage == "missing":
        (shard / "segment-000002" / "floats.f32").unlink()
    if damage == "everything":
        flip(other / "segment-000001" / "floats.f32", 3)  # of another block: each mends the other
        (other / "segment-000002" / "keys.u64").unlink()
    code, document = fsck("--repair")
    assert document["damages"]
    assert all(found["is_mended"] for found in document["damages"]), document
    assert code == 0
    assert fsck() == (0, {"is_sound": True, "replicas": 6, "damages": []})
    for number in (1, 2, 3):
        name = f"segment-00000{number}/floats.f32"
        rows = slice((number - 1) * 1_024, min(N, number * 1_024))
        for replica in (shard, other):
            assert (
                np.fromfile(replica / name, "<f4")[: (rows.stop - rows.start) * DIM].tobytes() == ROWS[rows].tobytes()
            )
    shutil.rmtree(home / "hosts" / "host-1")
    assert_right(home)


def test_the_same_block_wrong_in_both_replicas_is_left(home: Path, fsck: Fsck) -> None:
    other, shard = with_replica(home), staff(home)
    for replica in (other, shard):
        flip(replica / "segment-000001" / "floats.f32", 3)
    code, document = fsck("--repair")
    assert code == 6
    assert [found["host"] for found in document["damages"]] == ["host-0", "host-1"]
    assert all("are not what was written either" in found["what"] for found in document["damages"])


def test_a_search_model_is_written_again_from_the_catalog(home: Path, fsck: Fsck) -> None:
    (model,) = (home / "hosts" / "host-0" / "models").glob("*.model")
    sound = model.read_bytes()
    for spoil in (lambda: flip(model), model.unlink):
        spoil()
        code, document = fsck()
        assert (code, [d["part"] for d in document["damages"]]) == (6, ["model"])
        assert fsck("--repair")[0] == 0
        assert model.read_bytes() == sound
        assert fsck()[0] == 0
    assert_right(home)


def test_a_shard_that_cannot_be_opened_is_told_and_the_others_are_checked(home: Path, fsck: Fsck) -> None:
    shard = staff(home)
    (shard / "shard.db").write_bytes(b"no database" * 500)
    code, document = fsck()
    (damage,) = document["damages"]
    assert (code, damage["part"], damage["is_mendable"], document["replicas"]) == (6, "database", False, 3)
    assert "it cannot be opened: " in damage["what"]
    shutil.rmtree(shard)
    code, document = fsck("--repair")
    assert code == 6
    assert "is not a shard: it has no shard.db" in document["damages"][0]["what"]


def test_records_that_are_wrong_are_left(home: Path, fsck: Fsck) -> None:
    with sqlite3.connect(staff(home) / "shard.db") as db:
        db.execute("UPDATE templates SET identity = 'person 1' WHERE row = 7")
    db.close()
    code, document = fsck("--repair")
    (damage,) = document["damages"]
    assert (code, damage["part"], damage["first_row"]) == (6, "record", 7)
    assert "copy this replica anew from another, or restore a snapshot" in damage["what"]


def test_it_needs_a_home_that_is_there_and_closed(home: Path, fsck: Fsck, tmp_path: Path) -> None:
    assert fsck("acme/nobody") == (3, fsck("acme/nobody")[1])
    assert fsck("acme/nobody")[1]["code"] == "unknown_gallery"
    opened = Home(home)
    assert fsck()[1]["code"] == "home_locked"
    opened.close()
    assert run(["fsck", "--home", str(tmp_path / "nowhere")]) == 3


def test_people_read_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(staff(home) / "segment-000001" / "floats.f32")
    assert run(["fsck", "--home", str(home)]) == 6
    out = capsys.readouterr().out
    assert "3 replicas of shards checked: 1 damages" in out
    assert "mendable" in out
    assert "0-255" in out


def test_doctor_compares_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(staff(home) / "segment-000001" / "floats.f32")
    flip(staff(home) / "segment-000001" / "floats.f32", 70_000)
    assert run(["doctor", "--deep", "--home", str(home), "--json"]) == 1
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert "floats.f32: wrong CRC32C" in findings["gallery acme/staff"]["detail"]
    assert "1 more, see facegrid fsck" in findings["gallery acme/staff"]["detail"]
