"""`cluster.faceflash`: FaceFlash's class on a gallery. One script on both packages, and what ours promises alone."""

import gc
import importlib.util
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.faceflash import FaceFlash
from cluster.faces import FacePipeline, ModelPlaces, PipelineOptions
from cluster.images import probe_face
from shard.errors import (
    AlreadyExists,
    InvalidEmbedding,
    InvalidFile,
    InvalidImage,
    InvalidParameter,
    ModelMismatch,
    WriteFailed,
)
from tests.faces_like import unit_rows

DIM = 128
"""Of the default embedder."""
HAS_FACEFLASH = importlib.util.find_spec("faceflash") is not None
needs_faceflash = pytest.mark.skipif(
    not HAS_FACEFLASH, reason="faceflash is in the extra bench, which is not installed"
)
SIGNATURES = {
    "__init__": "(index_path=None, n_bits=512, n_candidates=100)",
    "register": "(name, image_path)",
    "register_folder": "(folder_path, progress=True)",
    "search": "(image_path, k=1, threshold=0.4, n_candidates=None)",
    "verify": "(image1, image2)",
    "save": "(path)",
    "load": "(path)",
    "stats": "()",
    "names": "()",
    "remove": "(name)",
    "__len__": "()",
    "__contains__": "(name)",
}
MATCH_KEYS = {"name", "confidence", "index"}
SEARCH_KEYS = {"matches", "time_ms", "embed_time_ms", "search_time_ms", "index_size"}
STATS_KEYS = {
    "count", "pca_fitted", "rust_backend", "binary_memory_mb", "float_storage_mb", "float_mode", "resident_memory_mb",
    "compression_ratio",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "RUNTIME", "MODELS", "EMBEDDER", "DETECTOR", "KERNEL", "CATALOG", "SHARD_HOSTS"):
        monkeypatch.delenv(f"FACEGRID_{name}", raising=False)


@pytest.fixture
def ff() -> Iterator[FaceFlash]:
    ff = FaceFlash()
    yield ff
    ff.close()


def signature(function: Callable[..., Any]) -> str:
    found = inspect.signature(function)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in list(found.parameters.values())[1:]]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def saved(directory: Path, rows: Any, names: list[str], **more: Any) -> Path:
    """An index as faceflash 0.1.1 saves it."""
    directory.mkdir()
    np.save(directory / "float_vectors.npy", rows)
    np.save(directory / "vectors.npy", np.zeros((len(rows), 64), np.uint8))
    paths = [f"{i}.jpg" for i in range(len(names))]
    document = {"labels": names, "paths": paths, "count": len(names), "pca_fitted": False, **more}
    (directory / "metadata.json").write_text(json.dumps(document))
    return directory


def found_by(ff: FaceFlash, probe: Any, k: int) -> list[tuple[str | None, float]]:
    batch = ff.gallery.search(probe[None, :], k, exact=True)
    return [(name, round(float(s), 4)) for name, s in zip(batch.identities[0], batch.scores[0], strict=True)]


def test_signatures_are_those_of_faceflash() -> None:
    assert {name: signature(getattr(FaceFlash, name)) for name in SIGNATURES} == SIGNATURES
    if HAS_FACEFLASH:
        import faceflash

        assert {name: signature(getattr(faceflash.FaceFlash, name)) for name in SIGNATURES} == SIGNATURES


def test_an_empty_index(ff: FaceFlash, tmp_path: Path) -> None:
    assert (len(ff), ff.names(), "Ann" in ff, ff.remove("Ann")) == (0, [], False, 0)
    assert repr(ff) == "FaceFlash(registered=0, people=0)"
    assert ff.stats().keys() == STATS_KEYS
    ff.save(str(tmp_path / "index"))
    ff.load(str(tmp_path / "index"))
    assert len(ff) == 0
    assert len(FaceFlash(str(tmp_path / "nothing is here"))) == 0


def test_an_index_is_loaded_changed_saved_and_loaded(ff: FaceFlash, tmp_path: Path) -> None:
    rows = unit_rows(30, DIM, 1)
    rows[29] = rows[28]  # the same photo registered twice counts twice
    index = saved(tmp_path / "index", rows, [f"p{i // 3}" for i in range(30)])
    ff.load(str(index))
    assert len(ff) == 30
    assert ff.names() == sorted(f"p{i}" for i in range(10))
    assert ff.stats()["count"] == 30
    assert ff.remove("p1") == 3
    assert ("p1" in ff, "p2" in ff, len(ff)) == (False, True, 27)
    assert found_by(ff, rows[6], 1) == [("p2", 1.0)]
    assert found_by(ff, rows[3], 1) != [("p1", 1.0)]
    for _ in range(2):  # the second replaces the first
        ff.save(str(tmp_path / "again"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "index"]
    assert np.array_equal(np.load(tmp_path / "again" / "float_vectors.npy"), np.delete(rows, [3, 4, 5], axis=0))
    document = json.loads((tmp_path / "again" / "metadata.json").read_text())
    assert document["labels"] == [f"p{i // 3}" for i in range(30) if i // 3 != 1]
    assert document["paths"][3] == "6.jpg"
    other = FaceFlash(str(tmp_path / "again"))
    assert (len(other), other.names()) == (27, ff.names())
    other.close()


@needs_faceflash
def test_faceflash_reads_what_ours_saves_and_finds_the_same(ff: FaceFlash, tmp_path: Path) -> None:
    import faceflash

    rows = unit_rows(60, 512, 2)
    real = faceflash.FaceIndex()
    real.add_batch(rows, [f"p{i % 20}" for i in range(60)])
    real.save(str(tmp_path / "theirs"))
    ff.load(str(tmp_path / "theirs"))
    assert (len(ff), ff.names()) == (len(real), real.names())
    assert (ff.remove("p3"), real.remove("p3")) == (3, 3)
    ff.save(str(tmp_path / "ours"))
    again = faceflash.FaceIndex()
    again.load(str(tmp_path / "ours"))
    assert np.array_equal(again.float_vectors, real.float_vectors)
    assert np.array_equal(again.vectors, real.vectors), "its codes, bit for bit"
    assert (again.labels, len(again), again.names()) == (real.labels, len(real), real.names())
    for probe in unit_rows(10, 512, 3):
        expected, found = again.search(probe, k=5), found_by(ff, probe, 5)
        assert [name for name, _ in found] == [name for name, _, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score, _ in expected], abs=1e-4)


def test_an_index_that_cannot_be_read_changes_nothing(ff: FaceFlash, tmp_path: Path) -> None:
    rows = unit_rows(5, DIM, 4)
    ff.load(str(saved(tmp_path / "good", rows, list("abcde"))))
    rows[2] = 0
    with pytest.raises(InvalidFile, match="row 2: the embedding is all zeros"):
        ff.load(str(saved(tmp_path / "bad", rows, list("vwxyz"))))
    with pytest.raises(InvalidFile, match=r"expected an index directory with metadata\.json"):
        ff.load(str(tmp_path))
    np.save(tmp_path / "bad" / "float_vectors.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidEmbedding, match="Python objects"):
        ff.load(str(tmp_path / "bad"))
    assert ff.names() == list("abcde")
    assert found_by(ff, unit_rows(5, DIM, 4)[1], 1) == [("b", 1.0)]


def test_a_save_that_fails_leaves_the_index_before(
    ff: FaceFlash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unit_rows(5, DIM, 4)
    ff.load(str(saved(tmp_path / "index", rows, list("abcde"))))
    ff.remove("a")
    rename, calls = os.rename, []

    def second_fails(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr("shard.files.os.rename", second_fails)
    with pytest.raises(WriteFailed, match="No space left"):
        ff.save(str(tmp_path / "index"))
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    other = FaceFlash(str(tmp_path / "index"))
    assert other.names() == list("abcde")
    other.close()


def test_a_directory_of_other_things_is_not_replaced(ff: FaceFlash, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(AlreadyExists, match="holiday"):
        ff.save(str(tmp_path))
    assert (tmp_path / "holiday.jpg").exists()


def test_an_index_of_another_network_is_not_searched_with_photos(ff: FaceFlash, tmp_path: Path) -> None:
    ff.load(str(saved(tmp_path / "theirs", unit_rows(2, DIM, 5), ["a", "b"])))
    with pytest.raises(ModelMismatch, match="does not name"):
        ff.search("a.jpg")
    ff.load(str(saved(tmp_path / "ours", unit_rows(2, DIM, 5), ["a", "b"], facegrid_embedder="edgeface_xs")))
    with pytest.raises(ModelMismatch, match="made by edgeface_xs"):
        ff.register("a", "a.jpg")


def test_options_out_of_range() -> None:
    with pytest.raises(InvalidParameter, match="code_bits"):
        FaceFlash(n_bits=500)
    with pytest.raises(InvalidParameter, match="n_candidates"):
        FaceFlash(n_candidates=0)


def test_the_private_directory_goes_with_the_object() -> None:
    ff = FaceFlash()
    home = ff.gallery._cluster.home.directory
    assert home.exists()
    del ff
    gc.collect()
    assert not home.exists()


# With photos


@pytest.fixture
def networks(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineOptions:
    monkeypatch.setenv("FACEGRID_MODELS", str(data_dir / "models"))
    monkeypatch.setenv("FACEGRID_EMBEDDER", "edgeface_xs")
    return PipelineOptions(embedder="edgeface_xs", places=ModelPlaces((data_dir / "models",)))


@pytest.fixture
def people(data_dir: Path, tmp_path: Path) -> Path:
    """folder/<name>/<photo> of four people, two photos lie flat, one file is no photo."""
    folder = tmp_path / "people"
    photos = {"ann": ["img10", "img12"], "bob": ["img14"], "cid": ["img16", "img17"]}
    for name, files in photos.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            shutil.copy(data_dir / "photos" / f"{file}.jpg", folder / name)
    shutil.copy(data_dir / "photos" / "img27.jpg", folder / "dora_e_1.jpg")
    (folder / "bob" / "broken.png").write_bytes(b"no photo")
    return folder


def script(ff: Any, people: Path, photos: Path, tmp_path: Path) -> list[Any]:
    """What a user of FaceFlash does; every result that does not depend on time or on the order of files."""
    said: list[Any] = [ff.register("zoe", str(photos / "img34.jpg"))]
    said.append(ff.register_folder(str(people), progress=False))
    said += [ff.names(), len(ff), "ann" in ff, "nobody" in ff, repr(ff)]
    for photo, k, threshold in (("img34", 1, 0.4), ("img10", 3, -1.0), ("img62", 2, 0.99), ("img16", 2, 0.3)):
        result = ff.search(str(photos / f"{photo}.jpg"), k=k, threshold=threshold)
        assert result.keys() == SEARCH_KEYS
        assert all(match.keys() == MATCH_KEYS for match in result["matches"])
        said.append([(match["name"], pytest.approx(match["confidence"], abs=2e-4)) for match in result["matches"]])
        said.append(result["index_size"])
    said.append(ff.search(str(photos / "img34.jpg"))["matches"][0]["index"])
    verified = ff.verify(str(photos / "img10.jpg"), str(photos / "img10.jpg"))
    said += [verified["match"], verified["confidence"], sorted(verified)]
    said += [ff.remove("ann"), ff.remove("nobody"), "ann" in ff, len(ff)]
    ff.save(str(tmp_path / type(ff).__module__))
    again = type(ff)(str(tmp_path / type(ff).__module__))
    said += [len(again), again.names(), sorted(again.stats())]
    return said


@pytest.mark.data
def test_photos(networks: PipelineOptions, people: Path, data_dir: Path, tmp_path: Path) -> None:
    ff = FaceFlash()
    said = script(ff, people, data_dir / "photos", tmp_path)
    assert said[:2] == [
        {"name": "zoe", "registered": True, "index_size": 1},
        {"registered": 6, "errors": 1, "total": 7},
    ]
    assert said[2:7] == [["ann", "bob", "cid", "dora_e", "zoe"], 7, True, False, "FaceFlash(registered=7, people=5)"]
    assert said[7] == [("zoe", 1.0)]
    with pytest.raises(InvalidImage, match=r"broken\.png"):
        ff.register("bob", str(people / "bob" / "broken.png"))
    assert len(ff) == 5
    ff.register("ann", str(data_dir / "photos" / "img10.jpg"))
    match = ff.search(str(data_dir / "photos" / "img10.jpg"))["matches"]
    assert match == [{"name": "ann", "confidence": 1.0, "index": 5}]
    ff.close()


@pytest.mark.data
@needs_faceflash
def test_the_same_script_says_the_same_on_faceflash(
    networks: PipelineOptions, people: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FaceFlash's engine and index, with our networks: its own would have to be fetched."""
    import faceflash
    import faceflash.engine

    pipeline = FacePipeline(networks)

    class Ours:
        def embed(self, path: str) -> Any:
            return probe_face(pipeline.faces(path)).embedding

    monkeypatch.setattr(faceflash.engine, "load_image", lambda path: path)
    monkeypatch.setattr(faceflash.engine, "detect_and_align", lambda path: path)
    monkeypatch.setattr(faceflash.engine, "FaceEmbedder", Ours)
    ours = script(FaceFlash(), people, data_dir / "photos", tmp_path)
    theirs = script(faceflash.FaceFlash(), people, data_dir / "photos", tmp_path)
    assert [_plain(value) for value in ours] == theirs


def _plain(value: Any) -> Any:
    """Ours without the tolerance, which theirs has."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return [(name, score.expected) for name, score in value]
    return value
