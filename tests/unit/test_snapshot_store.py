"""The snapshot store: objects by digest, manifests last, markers, deletion. Local directories, and one shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from coordinator.messages import (
    CompactShards,
    DataRequest,
    DeleteRequest,
    EnrollRequest,
    ExportMovedRequest,
    ExportRequest,
    FlushRequest,
    PointRequest,
    Reply,
)
from coordinator.runtime import LocalRuntime
from coordinator.snapshots import places, reader
from coordinator.snapshots.create import create_snapshot
from coordinator.snapshots.labels import decode_labels, encode_labels
from coordinator.snapshots.manifest import Manifest, decode_manifest, encode_manifest, format_time
from coordinator.snapshots.markers import RENEW, STALE, Creating, Deleting
from coordinator.snapshots.places import ArrowPlace, LocalPlace, Place, below, open_place, public_url
from coordinator.snapshots.read import read_blocks, verify_snapshot
from coordinator.snapshots.store import SnapshotStore
from coordinator.types import GalleryRoute
from shard import export
from shard.errors import (
    CorruptData,
    DeadlineExceeded,
    FacegridError,
    FormatTooNew,
    HostUnavailable,
    InvalidParameter,
    MissingExtra,
    StaleRoute,
    StoreBusy,
    StoreUnavailable,
    UnknownGallery,
    UnknownSnapshot,
)
from shard.export import ExportedRows
from tests.faces_like import batch_of, unit_rows
from tests.hosts import configure_all_alone, create_alone

ROOT = Path(__file__).resolve().parents[2]
GALLERY_ID = "0123456789abcdef"
DIM = 64
ROUTE = GalleryRoute(GALLERY_ID, "acme/staff", DIM, 256, None, (("host-0",),), (1,), None, 1)
NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LocalRuntime]:
    opened = LocalRuntime(tmp_path / "hosts", ["host-0"])
    create_alone(opened._hosts["host-0"], GALLERY_ID, 0, DIM)
    yield opened
    opened.close()


@pytest.fixture(params=["local", "arrow"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A directory, by ourselves and by way of a pyarrow file system without atomic uploads."""
    if request.param == "local":
        return LocalPlace(tmp_path / "store")
    filesystem = places.pyarrow().fs.LocalFileSystem()
    return ArrowPlace(filesystem, str(tmp_path / "store"), f"arrow://{tmp_path}/store")


def enroll(runtime: LocalRuntime, count: int, *, first: int = 0) -> None:
    batch = batch_of(unit_rows(count, DIM, seed=first), first=first)
    request = EnrollRequest(GALLERY_ID, 0, 1, b"", batch, False)
    runtime.submit("host-0", request, deadline=float("inf")).result()


def make(store: SnapshotStore, runtime: LocalRuntime, **options: object) -> Manifest:
    return create_snapshot(store, runtime, ROUTE, None, **options).manifest  # type: ignore[arg-type]


def test_a_place_holds_whole_files(place: Place) -> None:
    assert place.files("objects") == []
    assert place.read("objects/a") is None
    assert place.size("objects/a") is None
    place.remove("objects/a")
    place.write("objects/aa/1", b"one")
    place.write("objects/aa/1", b"three")
    place.write("objects/b", b"")
    assert place.read("objects/aa/1") == b"three"
    assert [(file.path, file.size) for file in place.files("objects")] == [("objects/aa/1", 5), ("objects/b", 0)]
    assert place.size("objects/aa/1") == 5
    place.remove("objects/b")
    assert [file.path for file in place.files("")] == ["objects/aa/1"]


def test_a_place_says_what_it_could_not_do(place: Place, tmp_path: Path) -> None:
    (tmp_path / "store" / "a" / "directory").mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="directory"):
        place.read("a/directory")


def test_files_of_a_local_place_are_private(tmp_path: Path) -> None:
    LocalPlace(tmp_path / "store").write("objects/aa/1", b"one")
    assert (tmp_path / "store/objects/aa/1").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "store/objects").stat().st_mode & 0o777 == 0o700


def test_unfinished_files_are_not_listed_and_go_after_a_day(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "store")
    place.write("objects/aa/1", b"one")
    left = tmp_path / "store/objects/aa/2.0123456789abcdef.tmp"
    left.write_bytes(b"tw")
    assert [file.path for file in place.files("objects")] == ["objects/aa/1"]
    assert left.exists()
    os.utime(left, (0, 0))
    place.files("objects")
    assert not left.exists()


@pytest.mark.parametrize("url", ["", "file://host/path", "nonsense://bucket/x", "s3://", "s3://bucket/x?bogus=1"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter, match="snapshot store"):
        open_place(url)


def test_urls_lose_their_secrets(tmp_path: Path) -> None:
    assert public_url("s3://key:secret@bucket/x?region=eu") == "s3://bucket/x?region=eu"
    with pytest.raises(InvalidParameter) as caught:
        open_place("s3://key:secret@bucket/x?bogus=1")
    assert "secret" not in str(caught.value)
    assert open_place(f"file://{tmp_path}/a%20b").url == f"{tmp_path}/a b"


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"facegrid\[snapshots\]"):
        SnapshotStore.open(tmp_path)


def test_objects_are_written_once_and_checked_when_read(place: Place) -> None:
    store = SnapshotStore(place)
    ref, is_new = store.put(b"some floats")
    assert (ref.sha256, ref.size, is_new) == (hashlib.sha256(b"some floats").hexdigest(), 11, True)
    assert store.put(b"some floats") == (ref, False)
    assert store.get(ref) == b"some floats"
    # What an interrupted upload left is not taken for the object.
    place.write(f"objects/{ref.sha256[:2]}/{ref.sha256}", b"some")
    assert not store.has(ref)
    assert store.put(b"some floats") == (ref, True)


def exported(count: int) -> ExportedRows:
    numbers = np.arange(count, dtype=np.int64)
    ids = tuple(f"t{i}" for i in range(count))
    people = tuple(None if i % 2 else f"p{i} ü" for i in range(count))
    metadata = tuple(None if i % 3 else b'{"a":1}' for i in range(count))
    return ExportedRows(count, b"", False, numbers, numbers + 7, unit_rows(count, DIM, 1), ids, people, metadata)


def test_labels_come_back_and_stand_in_the_file_as_they_are() -> None:
    rows = exported(300)
    data = encode_labels(rows)
    assert data == encode_labels(rows)
    back = decode_labels(data, "here")
    assert (back.template_ids, back.identities, back.metadata) == (rows.template_ids, rows.identities, rows.metadata)
    assert data.count(b"t299") == 1
    assert "p298 ü".encode() in data
    for damaged in (b"", data[:-9], b"PAR1" + data, b"nonsense"):
        with pytest.raises(CorruptData, match="here"):
            decode_labels(damaged, "here")


def test_a_manifest_comes_back_and_every_change_is_found(tmp_path: Path, runtime: LocalRuntime) -> None:
    enroll(runtime, 20)
    store = SnapshotStore.open(tmp_path / "store")
    manifest = make(store, runtime, expires_at=NOW + timedelta(days=40_000), now=NOW)
    data = encode_manifest(manifest)
    assert decode_manifest(data, "here") == manifest
    assert manifest.created_at == "2026-01-31T12:00:00Z"
    assert manifest.snapshot_id.startswith("20260131T120000Z-")
    content = data.index(b'"snapshot"')
    for at in range(content, len(data), 7):
        if not data[at : at + 1].isspace():
            changed = data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :]
            with pytest.raises(CorruptData, match="here"):
                decode_manifest(changed, "here")
    with pytest.raises(FormatTooNew):
        decode_manifest(data.replace(b'"format": 1', b'"format": 2'), "here")
    for value in (b"", b"[]", b"{}", b"null", b'{"format": true}', data[:-1]):
        with pytest.raises(CorruptData, match="here"):
            decode_manifest(value, "here")


@pytest.mark.parametrize(
    "changed",
    [
        {"snapshot_id": "../x"},
        {"gallery": "../../x"},
        {"templates": 21},
        {"templates": True},
        {"created_at": "yesterday"},
        {"model": []},
        {"shards": None},
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(
    changed: dict[str, object], tmp_path: Path, runtime: LocalRuntime
) -> None:
    """With a digest that fits: the store may be anybody's."""
    enroll(runtime, 20)
    manifest = make(SnapshotStore.open(tmp_path / "store"), runtime)
    content = {**dataclasses.asdict(manifest), **changed}
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    document = {"format": 1, "sha256": hashlib.sha256(text.encode()).hexdigest(), "snapshot": content}
    with pytest.raises(CorruptData, match="here"):
        decode_manifest(json.dumps(document).encode(), "here")


def test_a_creation_that_fails_leaves_nothing_listed(
    tmp_path: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever write fails: the marker, an object, the manifest."""
    enroll(runtime, 20)
    store = SnapshotStore.open(tmp_path / "store")
    write = store.place.write
    for failing in range(4):
        left = [failing]

        def fail_one(path: str, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise StoreUnavailable(f"no {path}")
            write(path, data)

        monkeypatch.setattr(store.place, "write", fail_one)
        with pytest.raises(StoreUnavailable):
            make(SnapshotStore(store.place), runtime)
        monkeypatch.undo()
        assert store.snapshots() == []
        assert store.place.files("markers") == []
        store.delete_expired()
        assert store.place.files("") == []


KILLED = """
import os, signal, sys
from coordinator.runtime import LocalRuntime
from coordinator.snapshots.store import SnapshotStore
from coordinator.snapshots.create import create_snapshot
from tests.hosts import configure_all_alone
from tests.unit.test_snapshot_store import ROUTE
from pathlib import Path

def kill(self, manifest):
    os.kill(os.getpid(), signal.SIGKILL)

SnapshotStore.commit = kill
runtime = LocalRuntime(Path(sys.argv[1]), ["host-0"])
configure_all_alone(runtime._hosts["host-0"])
create_snapshot(SnapshotStore.open(sys.argv[2]), runtime, ROUTE, None)
"""


def test_a_creation_killed_before_its_manifest_is_not_listed_and_is_cleaned_up(
    tmp_path: Path, runtime: LocalRuntime
) -> None:
    enroll(runtime, 20)
    runtime.close()
    store = SnapshotStore.open(tmp_path / "store")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "hosts"), store.url]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert store.snapshots() == []
    assert len(store.place.files("objects")) == 2
    # Its marker still is there: nobody deletes for an hour, anybody may create, and the objects are used again.
    with pytest.raises(StoreBusy, match="creation is in progress"):
        store.delete_expired()
    reopened = LocalRuntime(tmp_path / "hosts", ["host-0"])
    configure_all_alone(reopened._hosts["host-0"])
    try:
        report = create_snapshot(store, reopened, ROUTE, None)
    finally:
        reopened.close()
    assert (report.written_objects, report.reused_objects) == (0, 2)


class Refusing(LocalRuntime):
    """The runtime of `opened`, whose host refuses the first `times` requests of a kind with an error."""

    def __init__(self, opened: LocalRuntime, kind: type, times: int, error: FacegridError) -> None:
        self._opened, self._kind, self._times, self._error = opened, kind, times, error

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        if isinstance(request, self._kind) and self._times > 0:
            self._times -= 1
            refused: Future[Reply] = Future()
            refused.set_exception(self._error)
            return refused
        return self._opened.submit(host, request, deadline=deadline)


@pytest.mark.parametrize("kind", [PointRequest, ExportRequest, ExportMovedRequest])
def test_a_shard_that_is_not_read_is_begun_again_as_of_the_same_moment(
    kind: type, tmp_path: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PAUSE_S", (0.001, 0.01))
    enroll(runtime, 20)
    store = SnapshotStore.open(tmp_path / "store")
    late = [False]

    def enroll_more(done: int, total: int) -> None:
        if not late[0]:
            late[0] = True
            enroll(runtime, 5, first=100)

    made = make(store, Refusing(runtime, kind, 2, StaleRoute("moved")), progress=enroll_more)
    assert made.templates == 20, "what was enrolled after the first moment is not in it, however often it is read"
    assert made.shards[0].lsn == 1
    assert verify_snapshot(store, made).damage == ()
    for error in (HostUnavailable("away"), DeadlineExceeded("slow")):
        assert make(store, Refusing(runtime, kind, 2, error)).templates == 25
    before = store.snapshots()
    with pytest.raises(StaleRoute, match="moved"):
        make(store, Refusing(runtime, kind, 10**6, StaleRoute("moved")))
    with pytest.raises(UnknownGallery):
        make(store, Refusing(runtime, kind, 1, UnknownGallery("dropped")))
    assert store.snapshots() == before


class Compacting(LocalRuntime):
    """The runtime of `opened`, whose shard is written to and compacted before every export that is carried out."""

    def __init__(self, opened: LocalRuntime) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self.rounds = 0

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        if isinstance(request, ExportRequest | ExportMovedRequest):
            with self._lock:
                # The last segment is given up first, so that some rows are read before they are moved, some after.
                gone = (deleted_in(self.rounds),)
                enroll(self._opened, 3, first=10_000 + 3 * self.rounds)
                delete = DeleteRequest(GALLERY_ID, (0,), (1,), b"", gone, ())
                self._opened.submit(host, delete, deadline=deadline).result()
                self._opened.control([(host, CompactShards(GALLERY_ID, (0,), 0.0))])
                self.rounds += 1
        return self._opened.submit(host, request, deadline=deadline)


def deleted_in(round_number: int) -> str:
    """One of a hundred rows of each of six segments, in turns, the last segment first."""
    return f"t{100 * (5 - round_number % 6) + round_number // 6}"


@pytest.mark.parametrize("at_once", [1, 4])
def test_compaction_between_every_two_exports_loses_and_doubles_nothing(
    at_once: int, tmp_path: Path, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "AT_ONCE", at_once)
    for module in (reader, export):
        monkeypatch.setattr(module, "MAX_EXPORT_ROWS", 40)
    for first in range(0, 600, 100):
        enroll(runtime, 100, first=first)
        runtime.submit("host-0", FlushRequest(GALLERY_ID, (0,), (1,)), deadline=float("inf")).result()
    store, compacting = SnapshotStore.open(tmp_path / "store"), Compacting(runtime)
    made = make(store, compacting)
    assert compacting.rounds >= 30
    assert {block.segment for block in made.blocks()} >= {0, 1}, "some were read before they were moved, some after"
    assert verify_snapshot(store, made).damage == ()
    found: dict[str, bytes] = {}
    for batch in read_blocks(store, made):
        assert found.keys().isdisjoint(batch.template_ids)
        found.update(zip(batch.template_ids, (row.tobytes() for row in batch.embeddings), strict=True))
    deleted = {deleted_in(i) for i in range(compacting.rounds)}
    assert {f"t{i}" for i in range(600)} - deleted <= found.keys() <= {f"t{i}" for i in range(600)}
    rows = np.concatenate([unit_rows(100, DIM, seed=first) for first in range(0, 600, 100)])
    assert all(floats == rows[int(template_id[1:])].tobytes() for template_id, floats in found.items())
    # And the one after it has what is there, by the ordinary way.
    assert make(store, runtime).templates == 600 - len(deleted) + 3 * compacting.rounds


def test_deletions_and_creations_exclude_each_other(tmp_path: Path, runtime: LocalRuntime) -> None:
    enroll(runtime, 20)
    store = SnapshotStore.open(tmp_path / "store")
    kept = make(store, runtime)
    with Creating(store.place, "a"), Creating(store.place, "b"), pytest.raises(StoreBusy):
        store.delete(kept.snapshot_id)
    with Deleting(store.place, "a"), pytest.raises(StoreBusy):
        make(store, runtime)
    assert store.snapshots() == [kept]
    assert verify_snapshot(store, kept).damage == ()
    assert store.place.files("markers") == []
    store.delete(kept.snapshot_id)
    assert store.place.files("") == []
    with pytest.raises(UnknownSnapshot):
        store.snapshot(kept.snapshot_id)
    nowhere = SnapshotStore.open(tmp_path / "nowhere")
    with pytest.raises(UnknownSnapshot):
        nowhere.delete(kept.snapshot_id)
    assert nowhere.delete_expired().objects == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_marker_is_renewed_and_one_that_is_not_is_stale(place: Place) -> None:
    time = [NOW]
    creating = Creating(place, "a", lambda: time[0])
    with creating:
        time[0] += STALE - RENEW
        creating.renew()
        creating.check()
        time[0] += STALE
        with pytest.raises(StoreBusy), Deleting(place, "b", lambda: time[0]):
            pass
        with pytest.raises(StoreBusy, match="again"):
            creating.check()
        time[0] += timedelta(seconds=1)
        with pytest.raises(StoreBusy, match="again"):
            creating.renew()
        # It is taken for dead, so its manifest must not be written.
        with Deleting(place, "c", lambda: time[0]), pytest.raises(StoreBusy, match="again"):
            creating.check()
    assert place.files("markers") == []


def test_a_damaged_marker_is_named(place: Place) -> None:
    place.write("markers/create-x.json", b"{}")
    with pytest.raises(CorruptData, match=r"markers/create-x\.json"), Deleting(place, "a"):
        pass


def test_a_template_that_is_twice_in_a_snapshot_is_found(tmp_path: Path, runtime: LocalRuntime) -> None:
    enroll(runtime, 20)
    store = SnapshotStore.open(tmp_path / "store")
    made = make(store, runtime)
    (shard,) = made.shards
    twice = dataclasses.replace(made, templates=40, shards=(shard, dataclasses.replace(shard, shard=1)))
    assert decode_manifest(encode_manifest(twice), "here") == twice
    (damage,) = verify_snapshot(store, twice).damage
    assert "20 templates" in damage
    assert "'t0'" in damage


def test_a_snapshot_is_announced_before_it_is_there(tmp_path: Path, runtime: LocalRuntime) -> None:
    """So that a catalog never misses one, whenever the process is killed."""
    enroll(runtime, 20)
    store = SnapshotStore.open(tmp_path / "store")
    announced: list[tuple[str, int]] = []
    made = make(store, runtime, announce=lambda m: announced.append((m.snapshot_id, len(store.snapshots()))))
    assert announced == [(made.snapshot_id, 0)]


def test_what_is_asked_for_is_checked(tmp_path: Path, runtime: LocalRuntime) -> None:
    store = SnapshotStore.open(tmp_path / "store")
    for wrong in ("", "../x", "20260131T120000Z-0A1b2c3d"):
        with pytest.raises(InvalidParameter):
            store.snapshot(wrong)
    with pytest.raises(InvalidParameter):
        store.snapshots("../..")
    with pytest.raises(InvalidParameter, match="expires_at"):
        make(store, runtime, now=NOW, expires_at=NOW)
    with pytest.raises(InvalidParameter, match="zone"):
        format_time(datetime(2026, 1, 1))
    assert store.place.files("") == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("backups/", "backups/t1"),
        ("/mnt/backups", "/mnt/backups/t1"),
        ("file:///mnt/backups/", "file:///mnt/backups/t1"),
        ("s3://bucket", "s3://bucket/t1"),
        ("s3://bucket/prefix?region=r&scheme=http", "s3://bucket/prefix/t1?region=r&scheme=http"),
    ],
)
def test_a_folder_of_a_place_keeps_the_parameters(url: str, expected: str) -> None:
    assert below(url, "t1") == expected
