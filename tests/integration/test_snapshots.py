"""Snapshots end to end, the same tests on a local directory and on a real S3 API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster, Gallery
from cluster.cli import run
from coordinator.messages import ExportRequest, PointRequest
from coordinator.router import Router
from coordinator.snapshots.store import SnapshotStore
from coordinator.types import EnrollOutcome, GalleryRoute
from shard.errors import (
    AlreadyExists,
    CorruptData,
    HostUnavailable,
    StoreUnavailable,
    UnknownGallery,
    UnknownSnapshot,
)
from shard.export import RowRange
from shard.types import EnrollBatch, FloatArray
from tests.faces_like import unit_rows
from tests.integration.conftest import SharedRay
from tests.integration.snapshot_stores import new_bucket, s3_server

DIM = 64
PEOPLE = 1_500


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    return new_bucket(request.getfixturevalue("s3_address"))


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


def enroll(gallery: Gallery, count: int, *, first: int = 0, seed: int = 1) -> FloatArray:
    rows = unit_rows(count, DIM, seed=seed)
    numbers = range(first, first + count)
    gallery.enroll(
        rows,
        template_ids=[f"template-{i}" for i in numbers],
        identities=[None if i % 7 == 0 else f"person {i // 2} ü" for i in numbers],
        metadata=[None if i % 3 == 0 else {"photo": i, "tags": ["ü", None]} for i in numbers],
    )
    return rows


def everything(grid: Cluster, gallery: str) -> dict[str, tuple[str | None, bytes | None, bytes]]:
    """Template id to identity, metadata and the bytes of its floats, from the shards themselves."""
    route = grid.coordinator.gallery(gallery)
    found: dict[str, tuple[str | None, bytes | None, bytes]] = {}
    for shard, host in enumerate(route.hosts):
        epoch = route.epochs[shard]
        answer: Any = grid.runtime.submit(
            host, PointRequest(route.gallery_id, shard, epoch), deadline=time.monotonic() + 60
        )
        point = answer.result()
        for segment in point.segments:
            begin, end = segment.first_row, segment.first_row + segment.rows
            while begin < end:
                wanted = RowRange(segment.segment, begin, end, point.lsn)
                request = ExportRequest(route.gallery_id, shard, epoch, wanted, b"")
                rows: Any = grid.runtime.submit(host, request, deadline=time.monotonic() + 60).result()
                for i, template_id in enumerate(rows.template_ids):
                    found[template_id] = (rows.identities[i], rows.metadata[i], rows.floats[i].tobytes())
                begin = rows.end
    return found


def all_bytes(store: SnapshotStore, snapshot_id: str) -> bytes:
    """Every object of a snapshot and its manifest, one after another."""
    manifest = store.snapshot(snapshot_id)
    objects = [store.get(ref) for ref in sorted(manifest.objects(), key=lambda ref: ref.sha256)]
    path = f"galleries/{manifest.gallery}/{snapshot_id}.json"
    return b"".join([*objects, store.place.read(path) or b""])


def test_a_gallery_comes_back_in_another_home_with_any_number_of_shards(
    grid: Cluster, url: str, tmp_path: Path
) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=3, dim=DIM)
    rows = enroll(staff, PEOPLE)
    grid.wait_until_idle()
    staff.flush()
    enroll(staff, 300, first=PEOPLE, seed=2)
    staff.delete(identities=["person 4 ü"], template_ids=["template-0", f"template-{PEOPLE + 1}"])
    expected, probes = everything(grid, "acme/staff"), unit_rows(20, DIM, seed=9)
    report = grid.snapshots(url).create("acme/staff", progress=False)
    assert report.manifest.templates == len(expected) == PEOPLE + 300 - 4
    assert report.manifest.model is not None
    assert {t: bytes(floats) for t, (_, _, floats) in expected.items()}["template-1"] == rows[1].tobytes()
    nearest = staff.search(probes, 10, exact=True)
    approximate = staff.search(probes, 10)
    for shards in (1, 3, 7):
        with Cluster.open(tmp_path / f"other-{shards}") as other:
            restored = other.snapshots(url).restore(report.manifest.snapshot_id, shards=shards, progress=False)
            assert (restored.templates, restored.enrolled, restored.shards) == (len(expected), len(expected), shards)
            assert everything(other, "acme/staff") == expected
            copy = other.gallery("acme/staff")
            assert copy.stats().model_id == staff.stats().model_id == restored.model_id
            for wanted, exact in ((nearest, True), (approximate, False)):
                found = copy.search(probes, 10, exact=exact)
                assert found.template_ids == wanted.template_ids
                assert found.identities == wanted.identities
                assert found.scores.tobytes() == wanted.scores.tobytes()
            assert copy.templates(["template-1"]) == staff.templates(["template-1"])


def test_a_later_snapshot_writes_what_changed_and_nothing_of_what_was_deleted(grid: Cluster, url: str) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=1, dim=DIM)
    rows = enroll(staff, 20_000)
    grid.wait_until_idle()
    staff.flush()
    snapshots = grid.snapshots(url)
    first = snapshots.create("acme/staff", progress=False)
    assert first.reused_objects == 0
    assert first.written_bytes > rows.nbytes

    # Three blocks of at most 8,192 rows: one loses a template, and a new one comes of what is enrolled now.
    new = enroll(staff, 500, first=20_000, seed=3)
    gone = "template-11111"
    assert staff.delete(template_ids=[gone]) == 1
    second = snapshots.create("acme/staff", progress=False)
    block = 8_192 * DIM * 4
    labels = 8_192 * 120
    assert new.nbytes + block <= second.written_bytes + DIM * 4 < new.nbytes + block + labels
    assert second.written_objects == 4
    assert second.reused_bytes > first.written_bytes * 0.5

    # What is not deleted is found in the same way, so the search for bytes proves something.
    identity = f"person {11111 // 2} ü".encode()
    before, after = (all_bytes(snapshots.store, report.manifest.snapshot_id) for report in (first, second))
    for held in (rows[11111].tobytes(), gone.encode(), json.dumps({"photo": 11111})[:-1].replace(" ", "").encode()):
        assert held in before
        assert held not in after
    assert identity in after, "another template of the person is still there"
    assert rows[11110].tobytes() in after

    third = snapshots.create("acme/staff", progress=False)
    assert (third.written_objects, third.written_bytes) == (0, 0)
    assert third.manifest.objects() == second.manifest.objects()


def test_unchanged_sealed_blocks_are_not_read_again(grid: Cluster, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=2, dim=DIM)
    enroll(staff, 900)
    staff.flush()
    snapshots = grid.snapshots(url)
    snapshots.create("acme/staff", progress=False)
    replies: list[Any] = []
    host = grid.runtime._hosts["host-0"]  # type: ignore[union-attr]
    execute = host.execute
    monkeypatch.setattr(host, "execute", lambda request: replies.append(execute(request)) or replies[-1])
    snapshots.create("acme/staff", progress=False)
    exported = [reply for reply in replies if hasattr(reply, "is_unchanged")]
    assert [reply.is_unchanged for reply in exported] == [True, True, False, False], "two blocks, and what was moved"
    assert all(reply.floats.nbytes == 0 for reply in exported)


def test_a_snapshot_is_made_while_templates_come_and_go(grid: Cluster, url: str) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=2, dim=DIM)
    enroll(staff, 1_200)
    before = everything(grid, "acme/staff")
    calls = 0

    def change(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        enroll(staff, 50, first=5_000 + 50 * calls, seed=50 + calls)
        staff.delete(template_ids=[f"template-{calls}"])

    report = grid.snapshots(url).create("acme/staff", progress=change)
    assert calls > 0
    with Cluster.open(Path(grid.home.directory).parent / "other") as other:
        other.snapshots(url).restore(report.manifest.snapshot_id, progress=False)
        restored = everything(other, "acme/staff")
    assert restored.items() <= before.items(), "nothing of after the moment, and nothing mixed up"
    assert before.keys() - restored.keys() <= {f"template-{i}" for i in range(1, calls + 1)}


def test_an_interrupted_restore_is_hidden_and_goes_on(
    grid: Cluster, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=2, dim=DIM)
    enroll(staff, 20_000)
    grid.wait_until_idle()
    expected = everything(grid, "acme/staff")
    snapshot_id = grid.snapshots(url).create("acme/staff", progress=False).manifest.snapshot_id
    enroll_batch, calls = Router.enroll, 0

    def fail_the_second(
        self: Router, route: GalleryRoute, batch: EnrollBatch, *, skip_existing: bool, new_ids: bool
    ) -> EnrollOutcome:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise HostUnavailable("the host is away")
        return enroll_batch(self, route, batch, skip_existing=skip_existing, new_ids=new_ids)

    monkeypatch.setattr("coordinator.snapshots.restore._BATCH_ROWS", 5_000)
    with monkeypatch.context() as patch, Cluster.open(tmp_path / "other") as other:
        patch.setattr(Router, "enroll", fail_the_second)
        with pytest.raises(HostUnavailable):
            other.snapshots(url).restore(snapshot_id, into="acme/copy", progress=False)
    with Cluster.open(tmp_path / "other") as other:
        snapshots = other.snapshots(url)
        with pytest.raises(UnknownGallery):
            other.gallery("acme/copy")
        assert other.galleries() == []
        with pytest.raises(AlreadyExists, match="half restored"):
            snapshots.restore(snapshot_id, into="acme/copy", shards=5, progress=False)
        with pytest.raises(AlreadyExists, match="half restored"):
            other.gallery("acme/copy", create=True, dim=DIM)
        report = snapshots.restore(snapshot_id, into="acme/copy", progress=False)
        assert 0 < report.enrolled < report.templates == len(expected)
        assert everything(other, "acme/copy") == expected
        with pytest.raises(AlreadyExists):
            snapshots.restore(snapshot_id, into="acme/copy", progress=False)
        other.gallery("acme/copy").delete(template_ids=["template-5"])
        again = snapshots.restore(snapshot_id, into="acme/copy", if_exists="skip", progress=False)
        assert (again.enrolled, again.templates) == (0, len(expected) - 1)


def test_a_half_restored_gallery_can_be_abandoned(grid: Cluster, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enroll(grid.gallery("acme/staff", create=True, shards=2, dim=DIM), 100)
    snapshots = grid.snapshots(url)
    snapshot_id = snapshots.create("acme/staff", progress=False).manifest.snapshot_id
    with monkeypatch.context() as patch:
        patch.setattr(Router, "enroll", lambda *_, **__: (_ for _ in ()).throw(HostUnavailable("away")))
        with pytest.raises(HostUnavailable):
            snapshots.restore(snapshot_id, into="acme/copy", progress=False)
    grid.abandon_restore("acme/copy")
    with pytest.raises(UnknownGallery):
        grid.abandon_restore("acme/copy")
    with pytest.raises(UnknownGallery):
        grid.abandon_restore("acme/staff")
    assert snapshots.restore(snapshot_id, into="acme/copy", shards=1, progress=False).templates == 100


def test_every_damaged_object_is_named_and_nothing_of_it_is_restored(grid: Cluster, url: str, tmp_path: Path) -> None:
    enroll(grid.gallery("acme/staff", create=True, shards=1, dim=DIM), 1_100)
    grid.wait_until_idle()
    snapshots = grid.snapshots(url)
    made = snapshots.create("acme/staff", progress=False).manifest
    assert snapshots.verify(made.snapshot_id, progress=False).damage == ()
    place = snapshots.store.place
    assert len(made.objects()) == 3
    with Cluster.open(tmp_path / "other") as other:
        for ref in made.objects():
            path = f"objects/{ref.sha256[:2]}/{ref.sha256}"
            sound = place.read(path)
            assert sound is not None
            flipped = sound[:100] + bytes([sound[100] ^ 1]) + sound[101:]
            for damaged in (flipped, sound[:-1], sound + b"x", b"", None):
                place.remove(path)
                if damaged is not None:
                    place.write(path, damaged)
                report = snapshots.verify(made.snapshot_id, progress=False)
                assert len(report.damage) == 1
                assert ref.sha256 in report.damage[0]
                with pytest.raises(CorruptData, match=ref.sha256):
                    other.snapshots(url).restore(made.snapshot_id, progress=False)
                assert other.galleries() == []
            place.write(path, sound)
        assert other.snapshots(url).restore(made.snapshot_id, progress=False).templates == 1_100
    # A manifest is checked as a whole.
    path = f"galleries/acme/staff/{made.snapshot_id}.json"
    text = place.read(path)
    assert text is not None
    place.write(path, text.replace(b'"templates": 1100', b'"templates": 1101'))
    with pytest.raises(CorruptData, match=made.snapshot_id):
        snapshots.list()
    # A snapshot is made nevertheless, and the damaged one can be removed.
    snapshots.create("acme/staff", progress=False)
    snapshots.delete(made.snapshot_id)
    assert len(snapshots.list()) == 1


def test_deleting_keeps_what_other_snapshots_share(grid: Cluster, url: str) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=1, dim=DIM)
    enroll(staff, 9_000)
    snapshots = grid.snapshots(url)
    first = snapshots.create("acme/staff", progress=False).manifest
    staff.delete(template_ids=["template-8999"])
    now = datetime.now(timezone.utc)
    second = snapshots.create("acme/staff", expires_at=now + timedelta(days=1), progress=False).manifest
    assert first.objects() & second.objects()
    # Ids have seconds: two of the same one are in any order.
    ids = sorted([first.snapshot_id, second.snapshot_id])
    assert [s.snapshot_id for s in snapshots.list("acme/staff")] == ids
    assert snapshots.list("acme/other") == []
    assert [record.snapshot_id for record in snapshots.made()] == ids

    held = snapshots.find(template_ids=["template-8999", "template-1", "nobody"], identities=["person 4 ü"])
    assert [h.snapshot_id for h in held] == ids
    assert {h.snapshot_id: (h.expires_at, h.template_ids) for h in held} == {
        first.snapshot_id: (None, ("template-1", "template-8", "template-8999", "template-9")),
        second.snapshot_id: (second.expires_at, ("template-1", "template-8", "template-9")),
    }
    report = snapshots.delete(first.snapshot_id)
    assert report.objects == len(first.objects() - second.objects())
    assert snapshots.verify(second.snapshot_id, progress=False).damage == ()
    with pytest.raises(UnknownSnapshot):
        snapshots.delete(first.snapshot_id)
    assert snapshots.delete_expired(now).snapshot_ids == ()
    assert snapshots.delete_expired(now + timedelta(days=2)).snapshot_ids == (second.snapshot_id,)
    assert snapshots.store.place.files("") == []
    assert list(snapshots.made()) == []


def test_an_empty_gallery_and_one_whose_templates_are_all_gone(grid: Cluster, url: str) -> None:
    staff = grid.gallery("acme/staff", create=True, shards=2, dim=DIM, code_bits=256)
    snapshots = grid.snapshots(url)
    empty = snapshots.create("acme/staff", progress=False).manifest
    enroll(staff, 10)
    staff.flush()
    staff.delete(template_ids=[f"template-{i}" for i in range(10)])
    gone = snapshots.create("acme/staff", progress=False).manifest
    assert (empty.templates, gone.templates, gone.objects()) == (0, 0, set())
    assert snapshots.restore(gone.snapshot_id, into="acme/copy", shards=5, progress=False).templates == 0
    stats = grid.gallery("acme/copy").stats()
    assert (stats.shards, stats.dim, stats.code_bits, stats.embedder) == (5, DIM, 256, None)


def test_a_store_that_refuses_is_named(grid: Cluster, url: str, s3_address: str) -> None:
    enroll(grid.gallery("acme/staff", create=True, shards=1, dim=DIM), 10)
    missing = f"s3://user:very-secret@no-such-bucket/x?endpoint_override={s3_address}&scheme=http&region=us-east-1"
    with pytest.raises(StoreUnavailable, match="no-such-bucket") as caught:
        grid.snapshots(missing).create("acme/staff", progress=False)
    assert "very-secret" not in str(caught.value)
    assert "very-secret" not in grid.snapshots(missing).store.url
    assert grid.snapshots(url).list() == []


@pytest.mark.ray
def test_shards_on_other_hosts_are_read_over_the_data_plane(ray_cluster: SharedRay, tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home", runtime="ray", ray_address=ray_cluster.address) as grid:
        staff = grid.gallery("acme/staff", create=True, shards=3, dim=DIM)
        enroll(staff, PEOPLE)
        grid.wait_until_idle()
        staff.flush()
        staff.delete(template_ids=["template-1"])
        expected = everything(grid, "acme/staff")
        snapshots = grid.snapshots(tmp_path / "store")
        made = snapshots.create("acme/staff", progress=False)
        assert snapshots.create("acme/staff", progress=False).written_objects == 0
        assert made.manifest.templates == len(expected) == PEOPLE - 1
        restored = snapshots.restore(made.manifest.snapshot_id, into="acme/copy", shards=5, progress=False)
        assert restored.model_id == staff.stats().model_id is not None
        assert everything(grid, "acme/copy") == expected
        assert len(list(snapshots.made())) == 2
        again = snapshots.restore(made.manifest.snapshot_id, into="acme/copy", if_exists="skip", progress=False)
        assert again.enrolled == 0
        with pytest.raises(UnknownGallery):
            grid.abandon_restore("acme/copy")
        snapshots.delete(made.manifest.snapshot_id)
        assert len(list(snapshots.made())) == 1
    with Cluster.open(tmp_path / "local") as other:
        other.snapshots(tmp_path / "store").restore(snapshots.list()[0].snapshot_id, progress=False)
        assert everything(other, "acme/staff") == expected


def test_the_command_line(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEGRID_HOME", str(tmp_path / "cli-home"))

    def answer(*arguments: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out or err.splitlines()[-1])

    call: Callable[..., tuple[int, Any]] = answer
    rows = tmp_path / "rows.npy"
    np.save(rows, unit_rows(40, DIM, seed=1))
    assert call("gallery", "create", "acme/staff", "--dim", DIM)[0] == 0
    assert call("enroll", "acme/staff", "--embeddings", rows)[0] == 0
    code, made = call("snapshot", "create", "acme/staff", url, "--keep-days", 30)
    assert (code, made["snapshot"]["templates"], made["reused"]["objects"]) == (0, 40, 0)
    snapshot_id = made["snapshot"]["snapshot_id"]
    monkeypatch.setenv("FACEGRID_HOME", str(tmp_path / "cli-other"))
    code, listed = call("snapshot", "list", url)
    assert (code, listed["snapshots"]) == (0, [made["snapshot"]])
    code, verified = call("snapshot", "verify", url, snapshot_id)
    assert (code, verified["is_sound"], verified["templates"]) == (0, True, 40)
    assert not (tmp_path / "cli-other").exists(), "neither needs a home"
    code, restored = call("snapshot", "restore", url, snapshot_id, "--into", "acme/copy", "--shards", 2)
    assert (code, restored["templates"], restored["shards"]) == (0, 40, 2)
    code, document = call("snapshot", "restore", url, snapshot_id, "--into", "acme/copy")
    assert (code, document["error"]["code"]) == (4, "already_exists")
    assert call("snapshot", "restore", url, snapshot_id, "--into", "acme/copy", "--if-exists", "skip")[0] == 0
    assert call("snapshot", "abandon", "acme/copy", "--yes")[0] == 3
    assert call("snapshot", "delete", url, snapshot_id)[0] == 2, "nobody can be asked"
    assert call("snapshot", "delete", url, snapshot_id, "--expired", "--yes")[0] == 2
    code, document = call("snapshot", "delete", url, "--expired", "--yes")
    assert (code, document["deleted"]) == (0, [])
    place = SnapshotStore.open(url).place
    (path, *_) = [file.path for file in place.files("objects")]
    place.remove(path)
    code, verified = call("snapshot", "verify", url, snapshot_id)
    assert (code, verified["is_sound"], len(verified["damage"])) == (1, False, 1)
    code, document = call("snapshot", "delete", url, snapshot_id, "--yes")
    assert (code, document["deleted"]) == (0, [snapshot_id])
    assert call("snapshot", "verify", url, snapshot_id)[0] == 3
    assert call("snapshot", "list", "s3://")[0] == 2
