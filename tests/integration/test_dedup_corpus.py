"""A corpus against what the snapshot's own reader says."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.dedup.corpus import Corpus
from cluster.dedup.objects import MappedObjects
from coordinator.snapshots.read import read_blocks
from coordinator.snapshots.store import SnapshotStore
from shard.errors import CorruptData, InvalidParameter, ModelMismatch, UnknownSnapshot
from shard.types import FloatArray
from tests.dedup import DIM, enroll_doubled, snapshot_of
from tests.faces_like import unit_rows
from tests.integration.snapshot_stores import new_bucket, s3_server

PEOPLE = 300


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else new_bucket(request.getfixturevalue("s3_address"))


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


def expected(url: str, snapshot_id: str) -> tuple[FloatArray, list[tuple[str, str | None, Any]]]:
    store = SnapshotStore.open(url)
    batches = list(read_blocks(store, store.snapshot(snapshot_id)))
    labels = [
        (template_id, identity, metadata)
        for b in batches
        for template_id, identity, metadata in zip(b.template_ids, b.identities, b.metadata, strict=True)
    ]
    return np.concatenate([b.embeddings for b in batches]), labels


def text_of(metadata: Any) -> Any:
    return None if metadata is None else json.loads(metadata)


def test_rows_of_two_snapshots_are_one_sequence(grid: Cluster, url: str) -> None:
    enroll_doubled(grid, "acme/a", PEOPLE, shards=3)
    enroll_doubled(grid, "acme/b", 50, shards=2, seed=7, prefix="u")
    ids = [snapshot_of(grid, name, url) for name in ("acme/a", "acme/b")]
    corpus = pickle.loads(pickle.dumps(Corpus.open([(url, i) for i in ids], part_rows=150).spec))
    corpus = Corpus(corpus)
    floats, labels = (a + b if isinstance(a, list) else np.concatenate([a, b])
                      for a, b in zip(expected(url, ids[0]), expected(url, ids[1]), strict=True))  # fmt: skip
    assert len(corpus) == len(floats) == 2 * PEOPLE + 100
    assert corpus.dim == DIM
    assert [(p.input, p.start, p.stop) for p in corpus.parts] == [
        (0, 0, 150), (0, 150, 300), (0, 300, 450), (0, 450, 600), (1, 600, 700)
    ]  # fmt: skip
    mapped = [part for p in corpus.parts for part in corpus.part_floats(p)]
    assert np.concatenate(mapped).tobytes() == floats.tobytes()
    assert not any(part.flags.writeable for part in mapped)
    some = np.array([699, 3, 3, 250, 0, 651], dtype=np.int64)
    assert corpus.floats(some).tobytes() == floats[some].tobytes()
    assert corpus.floats(np.empty(0, np.int64)).shape == (0, DIM)

    rows = np.array([0, 1, 17, 299, 300, 599, 600, 699], dtype=np.int64)
    table = corpus.labels(rows).to_pydict()
    assert table["row"] == rows.tolist()
    assert table["input"] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert sorted(set(corpus.labels(np.arange(600))["shard"].to_pylist())) == [0, 1, 2]
    assert [
        (t, i, text_of(m)) for t, i, m in zip(table["template_id"], table["identity"], table["metadata"], strict=True)
    ] == [(t, i, text_of(m)) for t, i, m in (labels[row] for row in rows.tolist())]
    assert corpus.labels(np.empty(0, np.int64), ["template_id"]).column_names == [
        "row", "input", "shard", "template_id"
    ]  # fmt: skip


def test_rows_that_are_none_are_refused(grid: Cluster, tmp_path: Path) -> None:
    enroll_doubled(grid, "acme/a", 10)
    store = str(tmp_path / "store")
    corpus = Corpus.open([(store, snapshot_of(grid, "acme/a", store))])
    with pytest.raises(InvalidParameter, match="0 to 19"):
        corpus.floats(np.array([20]))
    with pytest.raises(InvalidParameter, match="ascending"):
        corpus.labels(np.array([3, 3]))
    with pytest.raises(UnknownSnapshot):
        Corpus.open([(store, "20200101T000000Z-00000000")])


def test_snapshots_of_other_dimensions_are_not_compared(grid: Cluster, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    enroll_doubled(grid, "acme/a", 10)
    grid.gallery("acme/b", create=True, dim=DIM + 1).enroll(unit_rows(3, DIM + 1, seed=1))
    ids = [snapshot_of(grid, name, store) for name in ("acme/a", "acme/b")]
    with pytest.raises(ModelMismatch, match="65"):
        Corpus.open([(store, i) for i in ids])


def test_a_damaged_object_is_named(grid: Cluster, url: str) -> None:
    enroll_doubled(grid, "acme/a", PEOPLE)
    snapshot_id = snapshot_of(grid, "acme/a", url)
    corpus = Corpus.open([(url, snapshot_id)], part_rows=100)
    size = sum(b.floats.size + b.labels.size for m in corpus.manifests for b in m.blocks())
    assert sum(corpus.verify(part) for part in corpus.parts) == size
    store = SnapshotStore.open(url)
    ref = list(corpus.manifests[0].blocks())[-1].floats
    path = f"objects/{ref.sha256[:2]}/{ref.sha256}"
    data = bytearray(store.place.read(path) or b"")
    data[5] ^= 1
    store.place.write(path, bytes(data))
    with pytest.raises(CorruptData, match=ref.sha256):
        [corpus.verify(part) for part in Corpus.open([(url, snapshot_id)], part_rows=100).parts]
    store.place.write(path, bytes(data[:-4]))
    with pytest.raises(CorruptData, match="expected"):
        corpus.floats(np.arange(len(corpus)))
    store.place.remove(path)
    with pytest.raises(CorruptData, match="missing"):
        corpus.floats(np.arange(len(corpus)))


def test_an_empty_gallery_is_a_corpus_of_no_parts(grid: Cluster, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    grid.gallery("acme/none", create=True, dim=DIM)
    corpus = Corpus.open([(store, snapshot_of(grid, "acme/none", store))])
    assert (len(corpus), corpus.parts) == (0, ())


def test_parts_are_of_one_input_and_of_about_one_size() -> None:
    from cluster.dedup.corpus import _parts_of

    assert len(_parts_of((0, 1_000_000), None)) == 8
    assert len(_parts_of((0, 10_000), None)) == 2
    assert {len(p) for p in _parts_of((0, 3_000_000), None)} <= {130_434, 130_435}
    parts = _parts_of((0, 20_000, 20_003), None)
    assert [(p.input, len(p)) for p in parts] == [(0, 6_666), (0, 6_667), (0, 6_667), (1, 3)]


def test_few_objects_are_kept_mapped(grid: Cluster, url: str) -> None:
    enroll_doubled(grid, "acme/a", PEOPLE, shards=4)
    store = SnapshotStore.open(url)
    manifest = store.snapshot(snapshot_of(grid, "acme/a", url))
    refs = [block.floats for block in manifest.blocks()]
    objects = MappedObjects(store, kept_bytes=refs[0].size + refs[1].size)
    first = objects.get(refs[0])
    for ref in refs:
        assert bytes(objects.get(ref)) == store.get(ref)
    assert objects.get(refs[0]) is not first
    assert bytes(first) == store.get(refs[0])
