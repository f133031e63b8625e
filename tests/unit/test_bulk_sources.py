"""Sources of bulk enrollment: folders, manifests, hostile archives, arrays and tables, and what is refused of them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from cluster.bulk.allowed import check_allowed  # noqa: E402
from cluster.bulk.batch import Batch  # noqa: E402
from cluster.bulk.listing import Listing, listed  # noqa: E402
from cluster.bulk.outcomes import SeenIds, decided  # noqa: E402
from cluster.bulk.parameters import EnrollParameters  # noqa: E402
from cluster.bulk.places import SourceFiles, shown_url  # noqa: E402
from cluster.bulk.stages import UnitWork, read_rows  # noqa: E402
from cluster.bulk.tar_headers import MAX_EXTENSION  # noqa: E402
from cluster.bulk.tars import TarReader  # noqa: E402
from cluster.faces import ImageLimits  # noqa: E402
from shard.errors import InvalidEmbedding, InvalidFile, InvalidParameter, PermissionDenied  # noqa: E402

LIMITS = ImageLimits(max_bytes=10_000)
DIM = 64


def listing(*sources: Any, **values: Any) -> Listing:
    return listed(EnrollParameters(sources=sources, **values), DIM, LIMITS)


def items(found: Listing) -> list[Any]:
    return [item for number in range(found.units) for item in found.unit(number).items]


def reasons(found: Listing) -> dict[str, str | None]:
    return {item.name: item.reason for item in items(found)}


def write_tar(path: Path, members: list[tuple[Any, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_folder_is_listed_in_order_and_links_are_refused(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("b/2.jpg", "a/1.jpg", "a.b/3.jpg", "flat.jpg", ".hidden/4.jpg", "a/.x.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"x")
    (photos / "a" / "huge.jpg").write_bytes(bytes(10_001))
    (photos / "a" / "link.jpg").symlink_to("/etc/passwd")
    (photos / "elsewhere").symlink_to("/etc")
    found = listing(str(photos))
    assert [(i.name, i.identity, i.reason) for i in items(found)] == [
        ("a/1.jpg", "a", None),
        ("a/huge.jpg", "a", "too_many_bytes"),
        ("a/link.jpg", "a", "link"),
        ("a.b/3.jpg", "a.b", None),
        ("b/2.jpg", "b", None),
        ("flat.jpg", None, None),
    ]


def test_a_manifest_names_the_items(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    manifest = tmp_path / "list.jsonl"
    lines: list[Any] = [
        {"path": "1.jpg", "identity": "ann", "template_id": "t1", "metadata": {"site": "north"}},
        {"path": "../list.jsonl", "identity": "eve"},
        {"path": "/etc/passwd"},
        {"path": "gone.jpg"},
        {"path": "1.jpg", "identity": ["no"]},
    ]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    found = items(listing({"url": str(tmp_path), "manifest": str(manifest)}))
    assert [i.reason for i in found] == [None, "unsafe_path", "unsafe_path", "missing", "bad_metadata"]
    assert (found[0].identity, found[0].template_id, found[0].metadata_object()) == ("ann", "t1", {"site": "north"})
    table = tmp_path / "list.csv"
    table.write_text("path,identity,site\n1.jpg,ann,north\n")
    (row,) = items(listing({"url": str(tmp_path), "manifest": str(table)}))
    assert (row.identity, row.metadata_object()) == ("ann", {"site": "north"})
    table.write_text("path,identity\n1.jpg\n")
    with pytest.raises(InvalidFile, match="line 2"):
        listing({"url": str(tmp_path), "manifest": str(table)})


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_as_they_were_written(tmp_path: Path, mode: str, format: int) -> None:  # noqa: A002
    path = tmp_path / ("x.tar" if mode == "w" else "x.tar.gz")
    rng = np.random.default_rng(1)
    names = ["./a/1.jpg", "a/2.jpg", "flat.jpg"]
    names += [] if format == tarfile.USTAR_FORMAT else ["b/" + "n" * 150 + ".jpg", "ü/é.jpg"]
    wanted = {name: rng.bytes(int(size)) for name, size in zip(names, (0, 512, 700, 1, 1025), strict=False)}
    with tarfile.open(path, mode, format=format) as archive:  # type: ignore[call-overload]
        for name, data in wanted.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = listing(str(path), unit_photos=2)
    unit_items = items(found)
    files, reader = SourceFiles(str(path)), TarReader()
    file = dict(found.unit(0).files)[unit_items[0].file]
    got = {f"x.tar/{name}": reader.read(files, file, i, 100.0) for i, name in zip(unit_items, wanted, strict=True)}
    assert list(got.values()) == list(wanted.values())
    assert [i.name.partition("/")[2] for i in unit_items] == [name.removeprefix("./") for name in names]
    assert [i.identity for i in unit_items][:3] == ["a", "a", None]
    assert reader.read(files, file, unit_items[0], 100.0) == wanted[names[0]]  # back to the beginning


def test_hostile_members_are_refused_by_name(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar",
        [
            ("ann/1.jpg", b"good"),
            ("../../escape.jpg", b"x"),
            ("/abs.jpg", b"x"),
            ("a/../../b.jpg", b"x"),
            (special("sym.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (special("hard.jpg", tarfile.LNKTYPE, "ann/1.jpg"), b""),
            (special("null", tarfile.CHRTYPE), b""),
            (special("pipe", tarfile.FIFOTYPE), b""),
            ("huge.jpg", bytes(10_001)),
            ("bob/2.jpg", b"good"),
        ],
    )
    assert list(reasons(listing(str(tmp_path / "x.tar"))).values()) == [
        None,
        *["unsafe_path"] * 3,
        *["link"] * 2,
        *["not_a_file"] * 2,
        "too_many_bytes",
        None,
    ]


def test_a_bomb_ends_its_archive_and_no_other(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        first = io.BytesIO()
        with tarfile.open(fileobj=first, mode="w") as archive:
            info = tarfile.TarInfo("ann/1.jpg")
            info.size = 4
            archive.addfile(info, io.BytesIO(b"good"))
            info = tarfile.TarInfo("bomb")
            info.size = 1 << 40
            archive.fileobj.write(info.tobuf())  # type: ignore[union-attr]
        file.write(first.getvalue().rstrip(b"\0"))
        for _ in range(64):
            file.write(bytes(1 << 20))
    write_tar(tmp_path / "b.tar", [("bob/2.jpg", b"good")])
    found = reasons(listing(str(tmp_path / "*.tar*")))
    assert found == {
        "a.tar.gz/ann/1.jpg": None,
        "a.tar.gz/bomb": "too_many_bytes",
        "a.tar.gz": "decompression_bomb",
        "b.tar/bob/2.jpg": None,
    }


def test_damage_loses_what_comes_after_it_and_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a/1.jpg", b"1" * 600), ("a/2.jpg", b"2" * 600)])
    data = path.read_bytes()
    path.write_bytes(data[: 512 + 1024 + 100])
    assert reasons(listing(str(path))) == {"x.tar/a/1.jpg": None, "x.tar": "truncated"}
    path.write_bytes(data[: 512 + 1024 + 512 + 300])
    assert reasons(listing(str(path)))["x.tar"] == "truncated"
    path.write_bytes(data[:1536] + b"\xff" + data[1537:])
    assert reasons(listing(str(path))) == {"x.tar/a/1.jpg": None, "x.tar": "damaged"}
    large = tarfile.TarInfo("x")
    large.type, large.size = tarfile.XHDTYPE, MAX_EXTENSION + 1
    path.write_bytes(large.tobuf() + bytes(2 * MAX_EXTENSION))
    assert reasons(listing(str(path))) == {"x.tar": "damaged"}
    packed = tmp_path / "y.tar.gz"
    packed.write_bytes(gzip.compress(data)[:-20])
    assert "damaged" in reasons(listing(str(packed))).values()


def test_labels_beside_photos(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("0001.jpg", b"x"),
            ("0001.json", json.dumps({"identity": "ann", "template_id": "t", "metadata": {"a": 1}}).encode()),
            ("0002.cls", b"bob\n"),
            ("0002.jpg", b"y"),
            ("0003.json", b"{"),
            ("0003.jpg", b"z"),
            ("0004.json", b"{}"),
        ],
    )
    found = items(listing(str(path)))
    assert [(i.identity, i.template_id, i.reason) for i in found] == [
        ("ann", "t", None),
        ("bob", None, None),
        (None, None, "bad_metadata"),
        (None, None, "no_photo"),
    ]


def rows_of(found: Listing) -> list[Batch]:
    return [read_rows(UnitWork(found.unit(n), DIM, None, 100.0)) for n in range(found.units)]


def test_an_array_with_labels_is_cut_into_units(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((10, DIM)).astype(np.float32)
    rows[3] = 0
    rows[7, 1] = np.nan
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "ids.txt").write_text("".join(f"t{i}\n" for i in range(10)))
    (tmp_path / "who.txt").write_text("ann\n\n" * 5)
    source = {
        "url": str(tmp_path / "x.npy"),
        "template_ids": str(tmp_path / "ids.txt"),
        "identities": str(tmp_path / "who.txt"),
    }
    found = Listing.from_bytes(listing(source, unit_rows=4).to_bytes())
    assert (found.items, found.units, found.has_photos) == (10, 3, False)
    batches = rows_of(found)
    assert [i for b in batches for i in b.items] == [f"x.npy row {i}" for i in range(10)]
    assert [i for b in batches for i in b.reasons if i] == ["zero_vector", "not_finite"]
    assert [i for b in batches for i in b.template_ids if i] == [f"t{i}" for i in range(10) if i not in (3, 7)]
    assert np.array_equal(np.concatenate([b.vectors for b in batches]), np.delete(rows, [3, 7], 0))
    assert batches[0].identities[:3] == ("ann", None, "ann")
    assert Batch.from_bytes(batches[1].to_bytes()).to_bytes() == batches[1].to_bytes()
    (tmp_path / "ids.txt").write_text("one\n")
    with pytest.raises(InvalidFile, match="expected 10 lines"):
        listing(source)
    np.save(tmp_path / "x.npy", rows[:, :32])
    with pytest.raises(InvalidEmbedding, match="32"):
        listing(str(tmp_path / "x.npy"))


def test_a_file_that_changed_since_it_was_listed_is_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, DIM), np.float32))
    found = listing(str(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", np.ones((5, DIM), np.float32))
    with pytest.raises(InvalidFile, match="changed"):
        rows_of(found)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_of_embeddings(tmp_path: Path, ending: str) -> None:
    rows = np.random.default_rng(3).standard_normal((10, DIM)).astype(np.float32)
    values: list[Any] = list(rows)
    values[4], values[5] = None, rows[5][:7]
    table = pa.table(
        {
            "vector": pa.array(values, pa.list_(pa.float32())),
            "who": ["ann"] * 10,
            "template_id": [f"t{i}" for i in range(9)] + ["x" * 1000],
            "metadata": ['{"n": 1}'] * 9 + ["["],
        }
    )
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=6)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=6)
    source = {"url": str(path), "embedding_column": "vector", "identity_column": "who"}
    batches = rows_of(listing(source, unit_rows=4))
    assert [len(b) for b in batches] == [4, 2, 4]
    assert [i for b in batches for i in b.items] == [f"x.{ending} row {i}" for i in range(10)]
    assert [r for b in batches for r in b.reasons] == [None] * 4 + ["no_embedding", "dimension"] + [None] * 3 + [
        "bad_id"
    ]
    assert np.array_equal(np.concatenate([b.vectors for b in batches]), np.delete(rows, [4, 5, 9], 0))
    assert batches[0].metadata[0] == '{"n":1}'
    with pytest.raises(InvalidFile, match="column embedding or image"):
        listing({"url": str(path)})
    with pytest.raises(InvalidFile, match="no_such"):
        listing({**source, "identity_column": "no_such"})


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    for source in ("gone.tar", str(tmp_path / "*.tar"), str(tmp_path / "x.bin"), "nowhere://x/y", "s3://key:word@b/c"):
        with pytest.raises(InvalidParameter) as refused:
            listing(source)
        assert "word" not in str(refused.value)
    with pytest.raises(InvalidParameter, match="manifest does not go"):
        listing({"url": str(tmp_path / "x.bin"), "kind": "tar", "manifest": "m"})
    assert shown_url("s3://b/c?endpoint_override=x") == "s3://b/c"


def batch(ids: list[str], identities: list[str | None]) -> Batch:
    nothing = (None,) * len(ids)
    names = tuple(f"i{n}" for n in range(len(ids)))
    return Batch(names, tuple(ids), tuple(identities), nothing, nothing, nothing, np.ones((len(ids), DIM), np.float32))


def test_the_first_item_of_an_id_counts() -> None:
    seen = SeenIds()
    seen.add(["old"])
    found = decided(
        batch(["a", "a", "a", "b", "c", "old", "old"], ["ann", "ann", "bob", "bob", "cid", "ann", "bob"]),
        {"b": "bob", "c": "dan", "old": "ann"},
        seen,
    )
    assert found.reasons == (None, "repeated", "duplicate_id", None, "duplicate_id", "repeated", "duplicate_id")
    assert found.is_new == (True, False, False, False, False, False, False)
    assert found.accepted_ids == ["a", "b"]
    assert type(found).from_bytes(found.to_bytes()) == found


def test_seen_ids_are_found_among_many() -> None:
    seen = SeenIds()
    for start in range(0, 200_000, 50_000):
        seen.add([f"t{i}" for i in range(start, start + 50_000)])
    assert seen.have(["t0", "t199999", "t200000", "t65536"]) == [True, True, False, True]


def test_keys_read_what_the_operator_named(tmp_path: Path) -> None:
    mine, other = tmp_path / "acme", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
    (mine / "link").symlink_to(other)
    roots = [str(tmp_path / "{tenant}"), "s3://faces/{tenant}?endpoint_override=store"]

    def check(*sources: Any) -> None:
        check_allowed(EnrollParameters(sources=sources), "acme", roots)

    check(str(mine), str(mine / "*.tar"), "s3://faces/acme/x.tar?endpoint_override=store")
    for wrong in (
        str(other),
        str(tmp_path),
        str(mine / ".." / "other"),
        str(mine / "link" / "x"),
        "s3://faces/other/x.tar?endpoint_override=store",
        "s3://faces/acmeother?endpoint_override=store",
        "s3://faces/acme/x.tar?endpoint_override=evil",
        "s3://faces/acme/../other/x.tar?endpoint_override=store",
        "file:///etc/passwd",
        {"url": str(mine), "manifest": str(other / "m.csv")},
    ):
        with pytest.raises(PermissionDenied):
            check(wrong)
