"""Imports: every format into a gallery, twice; what is refused and why; pickles that would run code do not."""

import contextlib
import json
import os
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import Cluster, Gallery
from cluster.cli import run
from cluster.imports import import_into, pickled
from cluster.imports.formats import format_of
from cluster.imports.pickled import PickleReader
from shard.errors import InvalidEmbedding, InvalidFile, InvalidParameter, ModelMismatch, UnsafeFile
from tests.faces_like import unit_rows

DIM = 64
ROWS = unit_rows(20, DIM, 1)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home", runtime="local") as grid:
        yield grid


@pytest.fixture
def gallery(grid: Cluster) -> Gallery:
    return grid.gallery("acme/staff", create=True, dim=DIM, shards=2)


def outcome(gallery: Gallery, path: Path, **options: Any) -> tuple[int, int, int, dict[str, int]]:
    report = import_into(gallery, path, progress=False, **options)
    assert report.records == report.enrolled + report.skipped + sum(report.reasons.values())
    return report.records, report.enrolled, report.skipped, report.reasons


def people(gallery: Gallery) -> dict[str, int]:
    return {found.identity: found.templates for found in gallery.identities()}


# FaceFlash


def faceflash_index(directory: Path, rows: Any, names: list[str], changes: dict[str, Any] | None = None) -> Path:
    """As FaceFlash 0.1.1 saves it."""
    directory.mkdir()
    np.save(directory / "float_vectors.npy", rows)
    np.save(directory / "vectors.npy", np.zeros((len(rows), 64), np.uint8))
    paths = [f"photos/{name}-{i}.jpg" for i, name in enumerate(names)]
    document = {"labels": names, "paths": paths, "count": len(names), "pca_fitted": False, **(changes or {})}
    (directory / "metadata.json").write_text(json.dumps(document))
    return directory


def test_faceflash_index(gallery: Gallery, tmp_path: Path) -> None:
    labels = [f"person {i // 2}" for i in range(20)]
    path = faceflash_index(tmp_path / "index", ROWS, labels)
    assert format_of(path) == "faceflash"
    assert outcome(gallery, path) == (20, 20, 0, {})
    assert outcome(gallery, path) == (20, 0, 20, {})
    assert people(gallery) == {f"person {i}": 2 for i in range(10)}
    found = gallery.search(ROWS[:1], 1, exact=True)
    assert found.identities[0] == ("person 0",)
    assert gallery.get(found.template_ids[0][0]).metadata == {"source": "photos/person 0-0.jpg"}


def test_faceflash_index_that_is_empty(gallery: Gallery, tmp_path: Path) -> None:
    path = faceflash_index(tmp_path / "index", np.empty((0, DIM)), [])
    np.save(path / "float_vectors.npy", np.array(None, dtype=object), allow_pickle=True)  # as FaceFlash does
    assert outcome(gallery, path) == (0, 0, 0, {})


@pytest.mark.parametrize(
    "changes",
    [{"count": 19}, {"labels": "x" * 20}, {"paths": None}, {"paths": [1] * 20}, {"labels": ["a"] * 19, "count": 19}],
)
def test_faceflash_metadata_that_does_not_fit(gallery: Gallery, tmp_path: Path, changes: dict[str, Any]) -> None:
    path = faceflash_index(tmp_path / "index", ROWS, ["a"] * 20, changes)
    with pytest.raises(InvalidFile, match=r"metadata\.json|float_vectors"):
        import_into(gallery, path, progress=False)
    assert len(gallery) == 0


def test_arrays_are_never_unpickled(gallery: Gallery, tmp_path: Path) -> None:
    path = faceflash_index(tmp_path / "index", ROWS, ["a"] * 20)
    np.save(path / "float_vectors.npy", np.array([Payload(tmp_path)], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidEmbedding):
        import_into(gallery, path, progress=False)
    assert not (tmp_path / "executed").exists()


def test_another_dimension_is_refused_before_anything_is_written(gallery: Gallery, tmp_path: Path) -> None:
    path = faceflash_index(tmp_path / "index", unit_rows(3, 128, 1), ["a"] * 3)
    with pytest.raises(InvalidEmbedding, match="expected embeddings of 64 dimensions"):
        import_into(gallery, path, progress=False)


# deepface


def face(path: str, row: Any, **more: Any) -> dict[str, Any]:
    box = {"target_x": 1, "target_y": 2, "target_w": 30, "target_h": 40}
    return {"identity": path, "hash": "ab12", "embedding": row, **box, **more}


def datastore(tmp_path: Path, content: object, protocol: int = 4) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir(exist_ok=True)
    path = folder / "ds_model_facenet_detector_opencv_aligned.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_deepface_datastore(gallery: Gallery, tmp_path: Path, protocol: int) -> None:
    rows = unit_rows(1_100, DIM, 2)
    same = "photos/Zoë/group.jpg"  # two faces of one photo share their path, also in the pickle's memo
    faces = [face(same, rows[0].tolist()), face(same, rows[1].tolist(), target_x=77)]
    faces += [face(f"photos/person {i % 7}/{i}.jpg", row.tolist()) for i, row in enumerate(rows[2:])]
    faces += [face("photos/nobody.jpg", None), face("photos/a/x.jpg", [1.0] * 5), face("photos/flat.jpg", [2] * DIM)]
    path = datastore(tmp_path, faces, protocol)
    assert format_of(path) == "deepface"
    reasons = {"no_embedding": 1, "dimension": 1}
    assert outcome(gallery, path) == (1_103, 1_101, 0, reasons)
    assert outcome(gallery, path) == (1_103, 0, 1_101, reasons)
    assert people(gallery)["Zoë"] == 2
    found = gallery.search(rows[1:2], 1, exact=True)
    template = gallery.get(found.template_ids[0][0])
    assert template.identity == "Zoë"
    assert template.metadata == {"source": same, "box": [77.0, 2.0, 30.0, 40.0], "hash": "ab12"}
    flat = gallery.search(np.ones((1, DIM), np.float32), 1, exact=True)
    assert flat.identities[0] == (None,)


def test_deepface_datastore_of_early_versions(gallery: Gallery, tmp_path: Path) -> None:
    path = datastore(tmp_path, [["db\\Ann\\1.jpg", ROWS[0].tolist()], ["db/Bob/2.jpg", ROWS[1].tolist(), 1, 2, 3, 4]])
    assert outcome(gallery, path) == (2, 2, 0, {})
    assert people(gallery) == {"Ann": 1, "Bob": 1}


def test_values_that_cannot_be_embeddings_are_refused_one_by_one(gallery: Gallery, tmp_path: Path) -> None:
    good = ROWS[0].tolist()
    faces = [
        face("p/a/1.jpg", [float("nan"), *good[1:]]),
        face("p/a/2.jpg", [1e300, *good[1:]]),
        face("p/a/3.jpg", [0.0] * DIM),
        face("p/a/4.jpg", ["0.1", *good[1:]]),
        face("p/a/5.jpg", "text"),
        face(f"p/{'n' * 200}/6.jpg", [*good]),
        face("p/a\x07/7.jpg", [*good]),
        face("p/a/8\udc80.jpg", [*good]),
    ]
    reasons = {"not_finite": 2, "no_embedding": 2, "bad_identity": 2, "zero_vector": 1}
    assert outcome(gallery, datastore(tmp_path, faces)) == (8, 1, 0, reasons)


def test_a_folder_of_photos_with_a_pickle_has_to_be_named(tmp_path: Path) -> None:
    path = datastore(tmp_path, [])
    with pytest.raises(InvalidParameter, match="name the format"):
        format_of(path.parent)


# Pickles that are none of ours


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.where / 'executed'}",)


def global_payload(tmp_path: Path) -> bytes:
    return b"cos\nsystem\n(S'touch " + bytes(tmp_path / "executed") + b"'\ntR."


def instance_payload(tmp_path: Path) -> bytes:
    command = b"touch " + bytes(tmp_path / "executed")
    return b"\x80\x02(X" + struct.pack("<I", len(command)) + command + b"ios\nsystem\n."


UNSAFE: dict[str, Callable[[Path], bytes]] = {
    "in the list": lambda p: pickle.dumps([face("a/b/c.jpg", [0.5]), Payload(p)], 4),
    "as an embedding": lambda p: pickle.dumps([face("a/b/c.jpg", Payload(p))], 2),
    "as a key": lambda p: pickle.dumps([{Payload(p): 1}], 5),
    "alone": lambda p: pickle.dumps(Payload(p), 4),
    "protocol 0": global_payload,
    "instance": instance_payload,
    "persistent id": lambda _: b"\x80\x02]K\x01Qa.",
    "extension": lambda _: b"\x80\x02]\x82\x01a.",
    "buffer": lambda _: b"\x80\x05]\x97a.",
    "numpy array": lambda _: pickle.dumps([face("a/b/c.jpg", ROWS[0])], 4),
    "build": lambda _: b"\x80\x02]}}ba.",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_code_in_a_pickle_is_not_run(gallery: Gallery, tmp_path: Path, name: str) -> None:
    path = datastore(tmp_path, [])
    path.write_bytes(UNSAFE[name](tmp_path))
    with pytest.raises(UnsafeFile, match="nothing was executed"):
        import_into(gallery, path, progress=False)
    assert not (tmp_path / "executed").exists()
    assert len(gallery) == 0


def test_the_payloads_are_what_they_claim_to_be(tmp_path: Path) -> None:
    for name in ("protocol 0", "instance", "alone"):
        with contextlib.suppress(TypeError):  # of an instance made of a function's result
            pickle.loads(UNSAFE[name](tmp_path))
        (tmp_path / "executed").unlink()


NESTED = b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
BOMBS = {
    "nested lists": NESTED,
    "nested in a record": b"\x80\x02](]" + b"]" * 50 + b"a" * 50 + b"e.",
    "marks": b"\x80\x04]" + b"(" * 100_000 + b".",
    "text of 2**63 bytes": b"\x80\x04]\x8d" + struct.pack("<Q", 2**63) + b"a.",
    "text of 4 GiB": b"\x80\x04]X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "integer of 4 GiB": b"\x80\x04]\x8b" + struct.pack("<I", 2**32 - 1) + b"a.",
    "values": b"\x80\x04](" + b"N" * 10_001 + b"e.",
    "floats": b"\x80\x04](" + b"G\x00\x00\x00\x00\x00\x00\x00\x00" * 10_001 + b"e.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_counts_and_nesting_have_limits(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_VALUES", 10_000)
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[name])
    with pytest.raises(UnsafeFile):
        list(PickleReader(path).records())


MALFORMED = {
    "nothing": b"",
    "no list": pickle.dumps({"a": 1}),
    "two lists": b"\x80\x04]].",
    "no end": pickle.dumps([1, 2])[:-1],
    "takes too much": b"\x80\x04]aa.",
    "takes from below the group": b"\x80\x04](Na.",
    "no group": b"\x80\x04]e.",
    "adds to a number": b"\x80\x04K\x01(Ne.",
    "odd pairs": b"\x80\x04](}(K\x01ue.",
    "number as key": pickle.dumps([{1: 2}]),
    "memo of nothing": b"\x80\x04\x94.",
    "memo out of order": b"\x80\x02]q\x05.",
    "memo that is not there": b"\x80\x04]h\x00a.",
    "recursive list": b"\x80\x04]\x94h\x00a.",
    "text that is not UTF-8": b"\x80\x04]\x8c\x01\xffa.",
    "protocol 9": b"\x80\x09].",
    "protocol twice": b"\x80\x04\x80\x04].",
    "tuple": pickle.dumps([(1, 2)]),
    "set": pickle.dumps([{1, 2}], 4),
    "bytes": pickle.dumps([b"x"], 4),
    "text file": b"hello",
    "NumPy file": b"\x93NUMPY",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_pickle_is_a_named_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(MALFORMED[name])
    with pytest.raises(InvalidFile, match=r"bad\.pkl"):
        list(PickleReader(path).records())


def test_every_truncation_and_every_changed_byte_is_read_or_named(tmp_path: Path) -> None:
    whole = pickle.dumps([face("a/b/c.jpg", [0.5, 1.5, -2]), face("a/b/d.jpg", None, hash="é" * 200)], 4)
    path = tmp_path / "some.pkl"
    rng = np.random.default_rng(3)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] = rng.integers(256)
        for data in (whole[:at], bytes(changed)):
            path.write_bytes(data)
            try:
                list(PickleReader(path).records())
            except InvalidFile:
                continue
            assert data != whole[:at], f"cut at byte {at}"


def test_plain_values_are_what_pickle_reads(tmp_path: Path) -> None:
    values = [
        None,
        True,
        False,
        0,
        255,
        65_535,
        -1,
        2**31 - 1,
        -(2**31),
        2**40,
        -(2**70),
        0.1,
        float("inf"),
        "",
        "é" * 300,
    ]
    values += [{"a": [1.5, {"b": None}]}, [], {}, ["x", "x"], "x" * 70_000, *(float(i) for i in range(5_000))]
    path = tmp_path / "plain.pkl"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(values, protocol))
        assert list(PickleReader(path).records()) == values
        path.write_bytes(pickletools.optimize(pickle.dumps(values, 4)))
        assert list(PickleReader(path).records()) == values


# .npy


def test_npy_with_labels_beside_it(gallery: Gallery, tmp_path: Path) -> None:
    np.save(tmp_path / "faces.npy", ROWS)
    lines = [{"template_id": f"t{i}", "identity": f"p{i % 3}", "metadata": {"n": i}} for i in range(19)]
    (tmp_path / "faces.jsonl").write_text("\n".join(json.dumps(line) for line in [*lines, {}]))
    assert outcome(gallery, tmp_path / "faces.npy") == (20, 20, 0, {})
    assert outcome(gallery, tmp_path / "faces.npy") == (20, 0, 20, {})
    assert gallery.get("t4").metadata == {"n": 4}
    assert people(gallery) == {"p0": 7, "p1": 6, "p2": 6}


def test_npy_with_identities_as_text(gallery: Gallery, tmp_path: Path) -> None:
    np.save(tmp_path / "faces.npy", ROWS.astype(np.float16))
    (tmp_path / "names.txt").write_bytes(b"Ann\r\n\n" + b"Bob\n" * 18)
    assert outcome(gallery, tmp_path / "faces.npy", labels=tmp_path / "names.txt") == (20, 20, 0, {})
    assert people(gallery) == {"Ann": 1, "Bob": 18}


def test_npy_records_are_refused_one_by_one(gallery: Gallery, tmp_path: Path) -> None:
    rows = ROWS[:8].copy()
    rows[0, 3], rows[1], rows[7] = np.nan, 0, rows[6]
    np.save(tmp_path / "faces.npy", rows)
    labels: list[dict[str, Any]] = [
        {},
        {},
        {"template_id": 7},
        {"identity": ""},
        {"metadata": [1]},
        {"metadata": {"long": "x" * 20_000}},
        {"template_id": "same", "identity": "a"},
        {"template_id": "same", "identity": "b"},
    ]
    (tmp_path / "faces.jsonl").write_text("\n".join(json.dumps(line) for line in labels))
    reasons = {"not_finite": 1, "zero_vector": 1, "bad_id": 1, "bad_identity": 1, "bad_metadata": 2, "duplicate_id": 1}
    assert outcome(gallery, tmp_path / "faces.npy") == (8, 1, 0, reasons)
    report = import_into(gallery, tmp_path / "faces.npy", progress=False)
    assert {r.where for r in report.refused} == {f"row {i}" for i in (0, 1, 2, 3, 4, 5, 7)}
    assert "another record's" in report.refused[-1].message


@pytest.mark.parametrize("text", ['{"identity": "a"}\n', "[]\n" * 20, "no json\n" * 20, '{"name": 1}\n' * 20])
def test_labels_that_do_not_fit(gallery: Gallery, tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "faces.npy", ROWS)
    (tmp_path / "faces.jsonl").write_text(text)
    with pytest.raises(InvalidFile, match=r"faces\.jsonl"):
        import_into(gallery, tmp_path / "faces.npy", progress=False)
    assert len(gallery) == 0


def test_a_line_of_labels_has_a_limit(gallery: Gallery, tmp_path: Path) -> None:
    np.save(tmp_path / "faces.npy", ROWS[:1])
    (tmp_path / "faces.jsonl").write_text(json.dumps({"identity": "x" * (1 << 18)}))
    with pytest.raises(InvalidFile, match="line 1: expected at most"):
        import_into(gallery, tmp_path / "faces.npy", progress=False)


def test_a_template_of_somebody_else_is_not_replaced(gallery: Gallery, tmp_path: Path) -> None:
    gallery.enroll(ROWS[:1], identities=["Ann"], template_ids=["t0"])
    np.save(tmp_path / "faces.npy", ROWS[1:3])
    (tmp_path / "faces.jsonl").write_text('{"template_id": "t0", "identity": "Bob"}\n{"identity": "Bob"}\n')
    assert outcome(gallery, tmp_path / "faces.npy") == (2, 1, 0, {"duplicate_id": 1})
    assert gallery.get("t0").identity == "Ann"


# Parquet


LISTS = {
    "list": pa.list_(pa.float64()),
    "large list": pa.large_list(pa.float32()),
    "fixed-size list": pa.list_(pa.float32(), DIM),
    "halves": pa.list_(pa.float16()),
}


@pytest.mark.parametrize("kind", LISTS)
def test_parquet(gallery: Gallery, tmp_path: Path, kind: str) -> None:
    values = [list(row.astype(np.float16)) if kind == "halves" else row.tolist() for row in ROWS]
    table = pa.table(
        {
            "embedding": pa.array(values, LISTS[kind]),
            "identity": pa.array([f"p{i % 2}" for i in range(20)]),
            "metadata": pa.array([{"camera": f"c{i}"} for i in range(20)]),
            "other": pa.array(range(20)),
        }
    )
    pq.write_table(table, tmp_path / "faces.parquet", row_group_size=7)
    assert outcome(gallery, tmp_path / "faces.parquet") == (20, 20, 0, {})
    assert outcome(gallery, tmp_path) == (20, 0, 20, {})
    found = gallery.search(ROWS[3:4], 1, exact=True)
    assert gallery.get(found.template_ids[0][0]).metadata == {"camera": "c3"}
    assert people(gallery) == {"p0": 10, "p1": 10}


def test_parquet_records_are_refused_one_by_one(gallery: Gallery, tmp_path: Path) -> None:
    good = ROWS[0].tolist()
    embeddings = [None, [], [1.0], [*good, 1.0], [None, *good[1:]], good, ROWS[1].tolist()]
    metadata = [None, None, None, None, None, "no json", '{"a":1}']
    table = pa.table({"embedding": pa.array(embeddings, pa.list_(pa.float32())), "metadata": metadata})
    pq.write_table(table, tmp_path / "faces.parquet")
    reasons = {"dimension": 3, "no_embedding": 1, "not_finite": 1, "bad_metadata": 1}
    assert outcome(gallery, tmp_path / "faces.parquet") == (7, 1, 0, reasons)


def test_metadata_that_no_gallery_takes(gallery: Gallery, tmp_path: Path) -> None:
    deep = '{"a":' * 500 + "1" + "}" * 500
    table = pa.table({"embedding": pa.array(ROWS[:4].tolist(), pa.list_(pa.float32()))})
    texts = table.append_column("metadata", pa.array([deep, '{"a":' * 100_000, '{"a":NaN}', "1" * 5_000]))
    pq.write_table(texts, tmp_path / "texts.parquet")
    assert outcome(gallery, tmp_path / "texts.parquet") == (4, 0, 0, {"bad_metadata": 4})
    maps = pa.array([[(1, 2)], [], None, [(3, 4)]], pa.map_(pa.int32(), pa.int32()))
    pq.write_table(table.append_column("metadata", maps), tmp_path / "maps.parquet")
    assert outcome(gallery, tmp_path / "maps.parquet") == (4, 2, 0, {"bad_metadata": 2})
    maps = pa.array([[("a", "b")], None, None, None], pa.map_(pa.string(), pa.string()))
    pq.write_table(table.append_column("metadata", maps).slice(0, 1), tmp_path / "one.parquet")
    assert outcome(gallery, tmp_path / "one.parquet") == (1, 1, 0, {})
    assert {"a": "b"} in [gallery.get(i).metadata for i in gallery.search(ROWS[:1], 1).template_ids[0]]


def test_parquet_that_is_none_or_has_no_embeddings(gallery: Gallery, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    for content in (b"", b"PAR1 and nothing else PAR1"):
        path.write_bytes(content)
        with pytest.raises(InvalidFile, match="expected a Parquet file"):
            import_into(gallery, path, progress=False)
    pq.write_table(pa.table({"vector": [[1.0]]}), path)
    with pytest.raises(InvalidFile, match="expected a column `embedding`, found vector"):
        import_into(gallery, path, progress=False)
    pq.write_table(pa.table({"embedding": ["a"]}), path)
    with pytest.raises(InvalidFile, match="expected lists of floats, got string"):
        import_into(gallery, path, progress=False)
    pq.write_table(pa.table({"embedding": pa.array([[1.0] * 3], pa.list_(pa.float32(), 3))}), path)
    with pytest.raises(InvalidFile, match="64 dimensions"):
        import_into(gallery, path, progress=False)


def test_parquet_that_is_damaged_inside(gallery: Gallery, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    pq.write_table(pa.table({"embedding": pa.array(ROWS.tolist(), pa.list_(pa.float32()))}), path)
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    with pytest.raises(InvalidFile, match=r"faces\.parquet: row 0"):
        import_into(gallery, path, progress=False)


def test_embeddings_of_another_network_are_refused(grid: Cluster, tmp_path: Path) -> None:
    gallery = grid.gallery("acme/photos", create=True, embedder="edgeface_xs")
    schema = pa.schema([("embedding", pa.list_(pa.float32()))], metadata={b"facegrid": b'{"embedder": "sface_int8"}'})
    pq.write_table(pa.table({"embedding": [[1.0]]}, schema=schema), tmp_path / "faces.parquet")
    with pytest.raises(ModelMismatch, match="holds embeddings of sface_int8"):
        import_into(gallery, tmp_path / "faces.parquet", progress=False)


# Command line and the rest


def test_progress_and_batches(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.imports.records.MAX_BATCH_ROWS", 8)
    np.save(tmp_path / "faces.npy", ROWS)
    told: list[tuple[int, int]] = []
    import_into(gallery, tmp_path / "faces.npy", progress=lambda done, total: told.append((done, total)))
    assert told == [(8, 20), (16, 20), (20, 20)]


def test_what_cannot_be_told(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    for path, message in ((tmp_path / "none", "nothing is at"), (tmp_path / "notes.md", "none of the endings")):
        with pytest.raises(InvalidParameter, match=message):
            import_into(gallery, path, progress=False)
    with pytest.raises(InvalidParameter, match="expected one of auto, faceflash"):
        import_into(gallery, tmp_path, format="csv")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="labels go with"):
        import_into(gallery, tmp_path, format="deepface", labels="x")


@pytest.mark.data
def test_a_folder_of_photos(tmp_path: Path, data_dir: Path) -> None:
    models = (data_dir / "models",)
    folder = tmp_path / "people" / "ann"
    folder.mkdir(parents=True)
    for name in ("img10.jpg", "img12.jpg"):
        (folder / name).write_bytes((data_dir / "photos" / name).read_bytes())
    (folder / "broken.jpg").write_bytes(b"no image")
    with Cluster.open(tmp_path / "home", runtime="local", models=models, embedder="edgeface_xs") as grid:
        gallery = grid.gallery("acme/staff", create=True)
        assert outcome(gallery, folder.parent) == (3, 2, 0, {"not_an_image": 1})
        assert outcome(gallery, folder.parent) == (3, 0, 2, {"not_an_image": 1})


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FACEGRID_HOME", str(tmp_path / "home"))
    path = datastore(tmp_path, [face("photos/ann/1.jpg", ROWS[0].tolist()), face("photos/x.jpg", None)])
    assert run(["gallery", "create", "acme/staff", "--dim", str(DIM)]) == 0
    capsys.readouterr()
    assert run(["import", "acme/staff", str(path), "--json"]) == 10
    document = json.loads(capsys.readouterr().out)
    assert document["enrolled"] == 1
    assert document["reasons"] == {"no_embedding": 1}
    assert document["refused"][0]["where"] == "record 1 (photos/x.jpg)"
    assert run(["import", "acme/staff", str(path), "--format", "deepface"]) == 10
    assert "0 of 2 deepface records imported, 1 there already, 1 refused" in capsys.readouterr().out
    path.write_bytes(UNSAFE["alone"](tmp_path))
    assert run(["import", "acme/staff", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "unsafe_file"
