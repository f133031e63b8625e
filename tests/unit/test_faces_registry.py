"""The registry, and finding, downloading and checking model files: against a real HTTP server on loopback."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.faces import ModelFile, ModelPlaces, ModelSpec, list_models, locate, model_spec, pull
from cluster.faces.registry import parse_spec
from shard.errors import ModelFileCorrupt, ModelFileMissing, UnknownModel

CONTENT = b"not a network, but bytes with a hash" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keeps the test's output clean."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "served"
    root.mkdir()
    (root / "net.onnx").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(root))) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def spec_of(url: str | None, *, sha256: str | None = SHA256, size: int | None = len(CONTENT)) -> ModelSpec:
    return replace(model_spec("sface_2021dec"), files=(ModelFile("net.onnx", sha256, size),), url=url)


def test_every_entry_says_what_a_user_must_know() -> None:
    specs = list_models()
    assert {spec.kind for spec in specs} == {"detector", "embedder"}
    for spec in specs:
        assert spec.licence
        assert spec.note
        assert spec.input_size in (112, 640)
        assert (spec.threshold is None) == (spec.threshold_source is None)


def test_defaults_may_be_shipped_by_anyone() -> None:
    for name in ("yunet_2023mar", "sface_2021dec"):
        spec = model_spec(name)
        assert spec.is_commercial_use_allowed
        assert spec.url is not None
        assert spec.url.startswith("https://")
        assert spec.file.sha256 is not None


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownModel, match=r"arcface_r999.*sface_2021dec"):
        model_spec("arcface_r999")
    with pytest.raises(UnknownModel, match="no embedder is called 'yunet_2023mar'"):
        model_spec("yunet_2023mar", "embedder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "ABC"}, "64 lower-case hex"),
        ({"kind": "oracle"}, "kind is detector or embedder"),
        ({"dim": None}, "an embedder has dim"),
        ({"threshold_source": None}, "threshold comes with its source"),
        ({"sha256": None}, "a url is only given with a sha256"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_table_is_refused(change: dict[str, object], message: str) -> None:
    table: dict[str, object] = {"kind": "embedder", "family": "f", "file": "f.onnx", "sha256": "0" * 64, "bytes": 1}
    table |= {"url": "https://x.example/f", "licence": "MIT", "is_commercial_use_allowed": True, "dim": 128}
    table |= {"input_size": 112, "channels": "RGB", "scale": 1.0, "mean": 0.0, "batch": 1, "note": "n"}
    table |= {"threshold": 0.4, "threshold_source": "measured"}
    assert parse_spec("m", dict(table)).dim == 128
    with pytest.raises(ValueError, match=message):
        parse_spec("m", table | change)


def test_pull_fetches_checks_and_shows_the_licence(server: str, tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[tuple[int, int | None]] = []
    cache = tmp_path / "cache"
    path = pull(spec_of(f"{server}/net.onnx"), cache, announce=said.append, progress=lambda *at: seen.append(at))
    assert path.read_bytes() == CONTENT
    assert "Apache-2.0" in said[0]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in cache.iterdir()] == ["net.onnx"]


def test_pull_again_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(CONTENT)
    assert pull(spec_of("http://127.0.0.1:1/net.onnx"), tmp_path) == tmp_path / "net.onnx"


def test_pull_replaces_a_torn_file(server: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "net.onnx").write_bytes(CONTENT[:100])
    assert pull(spec_of(f"{server}/net.onnx"), cache).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), 10, None])
def test_wrong_bytes_are_refused_and_leave_nothing(server: str, tmp_path: Path, size: int | None) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(ModelFileCorrupt, match=f"expected SHA-256 {'0' * 64}.*got [0-9a-f]{{64}}.*net.onnx served"):
        pull(spec_of(f"{server}/net.onnx", sha256="0" * 64, size=size), cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("path", ["/absent.onnx", None])
def test_a_failed_download_is_named_and_leaves_nothing(server: str, tmp_path: Path, path: str | None) -> None:
    url = f"{server}{path}" if path else "http://127.0.0.1:1/net.onnx"
    with pytest.raises(ModelFileMissing, match=r"fetching http.* failed after 0 bytes"):
        pull(spec_of(url), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_looks_in_the_stated_order(server: str, tmp_path: Path) -> None:
    first, second, cache = (tmp_path / name for name in ("first", "second", "cache"))
    spec = spec_of(f"{server}/net.onnx")
    places = ModelPlaces((first, second), cache)
    assert locate(spec, places, allow_download=True) == cache / "net.onnx"
    for directory in (second, first):
        directory.mkdir()
        (directory / "net.onnx").write_bytes(CONTENT)
        assert locate(spec, places) == directory / "net.onnx"
    own = tmp_path / "any name"
    own.write_bytes(CONTENT)
    assert locate(spec, places, path=own) == own


def test_missing_names_every_place_and_the_remedy(tmp_path: Path) -> None:
    places = ModelPlaces((tmp_path / "a", tmp_path / "b"), tmp_path / "cache")
    with pytest.raises(ModelFileMissing) as raised:
        locate(model_spec("sface_2021dec"), places)
    message = str(raised.value)
    for directory in ("a", "b", "cache"):
        assert str(tmp_path / directory / "face_recognition_sface_2021dec.onnx") in message
    assert "facegrid models pull sface_2021dec" in message


def test_a_wrong_file_in_a_model_dir_is_refused_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"something else")
    with pytest.raises(ModelFileCorrupt, match=r"net\.onnx; it was not loaded"):
        locate(spec_of(None), ModelPlaces((tmp_path,), None))


def test_without_a_hash_only_the_users_own_places_count(tmp_path: Path) -> None:
    spec = model_spec("w600k_r50")
    assert spec.file.sha256 is None
    cache, own = tmp_path / "cache", tmp_path / "own"
    for directory in (cache, own):
        directory.mkdir()
        (directory / "w600k_r50.onnx").write_bytes(CONTENT)
    with pytest.raises(ModelFileMissing, match="no download address is known"):
        locate(spec, ModelPlaces((), cache), allow_download=True)
    said: list[str] = []
    assert locate(spec, ModelPlaces((own,), cache), announce=said.append) == own / "w600k_r50.onnx"
    assert "states no SHA-256" in said[0]
    assert "non-commercial" in said[0]
