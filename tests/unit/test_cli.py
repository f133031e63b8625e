"""The command line without photos: arguments, JSON, exit codes, output that no file name can break."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.cli import embedding_files, run
from cluster.cli.app import hoisted
from cluster.cli.output import Grid, Output, printable
from coordinator.home import Home
from tests.faces_like import unit_rows

ROOT = Path(__file__).resolve().parents[2]
DIM = 64


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "RUNTIME", "MODELS", "EMBEDDER", "DETECTOR", "KERNEL", "CACHE", "THREADS"):
        monkeypatch.delenv(f"FACEGRID_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACEGRID_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, list[Any]]]:
    """Run with --json: exit code, the document on stdout (None if there is none), the objects on stderr."""

    def call(*arguments: object) -> tuple[int, Any, list[Any]]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert out == "" or out.count("\n") == 1, "one document, one line"
        return code, json.loads(out) if out else None, [json.loads(line) for line in err.splitlines()]

    return call


@pytest.fixture
def gallery(answer: Callable[..., Any]) -> str:
    assert answer("gallery", "create", "acme/staff", "--dim", DIM, "--shards", 2)[0] == 0
    return "acme/staff"


def saved(name: str, values: Any) -> str:
    np.save(name, values)
    return name


def test_a_gallery_is_created_listed_shown_and_dropped(answer: Any) -> None:
    code, created, _ = answer("gallery", "create", "acme/staff", "--dim", DIM, "--shards", 3, "--code-bits", 256)
    assert code == 0
    assert created["is_new"]
    stats = created["gallery"]
    assert (stats["name"], stats["dim"], stats["shards"], stats["code_bits"]) == ("acme/staff", DIM, 3, 256)
    (listed,) = answer("gallery", "list")[1]["galleries"]
    # Opening it again has emptied its logs.
    assert {**listed, "disk_bytes": 0} == {**stats, "disk_bytes": 0}
    assert 0 < listed["disk_bytes"] <= stats["disk_bytes"]
    assert answer("gallery", "show", "acme/staff", "--identities")[1]["gallery"]["identities"] == []
    assert answer("gallery", "drop", "acme/staff", "--yes")[1] == {"dropped": "acme/staff", "templates": 0}
    assert answer("gallery", "list")[1] == {"galleries": []}


def test_creating_twice_is_an_error_unless_said_otherwise(answer: Any, gallery: str) -> None:
    code, document, (error,) = answer("gallery", "create", gallery, "--dim", DIM)
    assert (code, document, error["error"]["code"]) == (4, None, "already_exists")
    code, document, _ = answer("gallery", "create", gallery, "--dim", DIM, "--exist-ok")
    assert (code, document["is_new"]) == (0, False)
    assert answer("gallery", "create", gallery, "--dim", DIM * 2, "--exist-ok")[0] == 4


def test_embeddings_are_enrolled_searched_and_deleted(answer: Any, gallery: str) -> None:
    rows = unit_rows(20, DIM, seed=1)
    saved("rows.npy", rows)
    saved("half.npy", rows[:3].astype(np.float16))
    Path("names.txt").write_text("\n".join(["Ann", ""] * 10) + "\n")
    Path("ids.txt").write_text("\n".join(f"t{i}" for i in range(20)))
    code, document, _ = answer(
        "enroll", gallery, "--embeddings", "rows.npy", "--identities", "names.txt", "--ids", "ids.txt"
    )
    assert (code, document["rows"], document["enrolled"], document["skipped"]) == (0, 20, 20, 0)

    code, document, _ = answer("search", gallery, "--embeddings", "half.npy", "-k", 2, "--exact")
    assert code == 0
    assert document["coverage"] == {"answered": 2, "asked": 2}
    best = [probe["candidates"][0] for probe in document["probes"]]
    assert [c["template_id"] for c in best] == ["t0", "t1", "t2"]
    assert [c["identity"] for c in best] == ["Ann", None, "Ann"]
    assert all(c["score"] == pytest.approx(1, abs=1e-3) for c in best)

    assert answer("delete", gallery, "--identity", "Ann", "--yes")[1]["deleted"] == 10
    assert answer("delete", gallery, "--identity", "Ann", "--yes")[0] == 1
    assert answer("delete", gallery, "--template-id", "t1", "--template-id", "t3", "--yes")[1]["deleted"] == 2
    assert answer("status")[1]["templates"] == 8


def test_an_interrupted_enrollment_is_completed_with_skip(answer: Any, gallery: str) -> None:
    rows = unit_rows(6, DIM, seed=2)
    for count in (4, 6):
        saved(f"{count}.npy", rows[:count])
        Path(f"{count}.txt").write_text("\n".join(f"t{i}" for i in range(count)))
    answer("enroll", gallery, "--embeddings", "4.npy", "--ids", "4.txt")
    again = ("enroll", gallery, "--embeddings", "6.npy", "--ids", "6.txt")
    assert answer(*again)[2][-1]["error"]["code"] == "duplicate_template"
    document = answer(*again, "--if-exists", "skip")[1]
    assert (document["enrolled"], document["skipped"]) == (2, 4)


def test_bad_rows_in_a_later_chunk_enroll_nothing(answer: Any, gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_files, "CHUNK_ROWS", 4)
    rows = unit_rows(10, DIM, seed=3)
    rows[9, 0] = np.nan
    code, _, errors = answer("enroll", gallery, "--embeddings", saved("rows.npy", rows))
    assert (code, errors[-1]["error"]["code"]) == (2, "invalid_embedding")
    assert answer("status")[1]["templates"] == 0
    rows[9] = rows[8]
    assert answer("enroll", gallery, "--embeddings", saved("rows.npy", rows))[1]["enrolled"] == 10


def test_a_search_that_finds_nothing_exits_with_1(answer: Any, gallery: str) -> None:
    probe = saved("probe.npy", unit_rows(1, DIM, seed=4)[0])
    code, document, _ = answer("search", gallery, "--embeddings", probe)
    assert (code, document["probes"]) == (1, [{"candidates": []}])


BAD = {
    "no home": (("--home", "elsewhere", "gallery", "list"), 3, "not_found"),
    "home is a file": (("--home", "names.txt", "gallery", "list"), 2, "invalid_parameter"),
    "home in a file": (("--home", "names.txt/home", "gallery", "create", "a/b"), 2, "invalid_parameter"),
    "unknown gallery": (("gallery", "show", "acme/none"), 3, "unknown_gallery"),
    "bad name": (("gallery", "create", "Staff"), 2, "invalid_parameter"),
    "dimension": (("gallery", "create", "a/b", "--dim", "3"), 2, "invalid_parameter"),
    "shards": (("gallery", "create", "a/b", "--dim", "64", "--shards", "0"), 2, "invalid_parameter"),
    "unknown embedder": (("--embedder", "none", "gallery", "create", "a/b"), 3, "unknown_model"),
    "k 0": (("search", "acme/staff", "--embeddings", "rows.npy", "-k", "0"), 2, "invalid_parameter"),
    "k too large": (("search", "acme/staff", "--embeddings", "rows.npy", "-k", "1001"), 2, "invalid_parameter"),
    "recall 1": (("search", "acme/staff", "--embeddings", "rows.npy", "--recall", "1"), 2, "invalid_parameter"),
    "threshold": (("search", "acme/staff", "--embeddings", "rows.npy", "--threshold", "nan"), 2, "invalid_parameter"),
    "recall and exact": (("search", "acme/staff", "x.jpg", "--recall", "0.9", "--exact"), 2, "invalid_parameter"),
    "no probe": (("search", "acme/staff"), 2, "invalid_parameter"),
    "wrong dimension": (("search", "acme/staff", "--embeddings", "wide.npy"), 2, "invalid_embedding"),
    "float64": (("enroll", "acme/staff", "--embeddings", "double.npy"), 2, "invalid_embedding"),
    "pickle": (("enroll", "acme/staff", "--embeddings", "pickle.npy"), 2, "invalid_embedding"),
    "archive": (("enroll", "acme/staff", "--embeddings", "archive.npz"), 2, "invalid_embedding"),
    "not an array": (("enroll", "acme/staff", "--embeddings", "names.txt"), 2, "invalid_embedding"),
    "damaged header": (("enroll", "acme/staff", "--embeddings", "damaged.npy"), 2, "invalid_embedding"),
    "no file": (("enroll", "acme/staff", "--embeddings", "none.npy"), 2, "invalid_embedding"),
    "too few names": (
        ("enroll", "acme/staff", "--embeddings", "rows.npy", "--identities", "names.txt"), 2, "invalid_parameter",
    ),
    "photos and embeddings": (("enroll", "acme/staff", "a.jpg", "--embeddings", "rows.npy"), 2, "invalid_parameter"),
    "nothing to enroll": (("enroll", "acme/staff"), 2, "invalid_parameter"),
    "folder that is not there": (("enroll", "acme/staff", "none/"), 2, "invalid_parameter"),
    "folder with identity": (("enroll", "acme/staff", ".", "--identity", "Ann"), 2, "invalid_parameter"),
    "if-exists": (("enroll", "acme/staff", "--embeddings", "rows.npy", "--if-exists", "x"), 2, "invalid_parameter"),
    "nothing to delete": (("delete", "acme/staff", "--yes"), 2, "invalid_parameter"),
    "delete without yes": (("delete", "acme/staff", "--identity", "Ann"), 2, "invalid_parameter"),
    "too few to train": (("train", "acme/staff"), 7, "not_enough_data"),
    "unknown network": (("models", "pull", "none"), 3, "unknown_model"),
    "network without address": (("models", "pull", "w600k_r50"), 7, "model_file_missing"),
    "runtime": (("--runtime", "moon", "gallery", "list"), 2, "invalid_parameter"),
    "kernel": (("--kernel", "none", "gallery", "list"), 2, "invalid_parameter"),
    "unknown command": (("enrol", "acme/staff"), 2, "usage"),
    "unknown option": (("gallery", "list", "--colour"), 2, "usage"),
    "missing argument": (("verify", "a.jpg"), 2, "usage"),
    "not a number": (("search", "acme/staff", "-k", "many"), 2, "usage"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_named_error(answer: Any, gallery: str, name: str) -> None:
    saved("rows.npy", unit_rows(3, DIM, seed=5))
    saved("wide.npy", unit_rows(3, DIM * 2, seed=5))
    saved("double.npy", np.ones((3, DIM)))
    saved("pickle.npy", np.array([{}], dtype=object))
    np.savez("archive.npz", a=np.ones(3))
    Path("damaged.npy").write_bytes(Path("rows.npy").read_bytes().replace(b"64), }", b"64,   "))
    Path("names.txt").write_text("Ann\n")
    arguments, exit_code, error_code = BAD[name]
    code, document, errors = answer(*arguments)
    assert (code, document) == (exit_code, None)
    assert errors[-1]["error"]["code"] == error_code
    assert errors[-1]["error"]["message"]
    assert answer("status")[1]["templates"] == 0


def test_a_locked_home_says_so_and_doctor_goes_on(answer: Any, gallery: str) -> None:
    home = Home(Path("facegrid-home"))
    try:
        code, _, errors = answer("gallery", "list")
        assert (code, errors[-1]["error"]["code"], errors[-1]["error"]["is_retryable"]) == (5, "home_locked", True)
        code, document, _ = answer("doctor")
        found = {finding["check"]: finding["status"] for finding in document["findings"]}
        assert (code, found["home"]) == (0, "warn")
    finally:
        home.close()


def test_a_newer_home_is_refused(answer: Any, gallery: str) -> None:
    Path("facegrid-home/facegrid.json").write_text('{"format": 999, "home_id": "x"}')
    code, _, errors = answer("gallery", "list")
    assert (code, errors[-1]["error"]["code"]) == (6, "format_too_new")
    code, document, _ = answer("doctor")
    assert code == 1
    assert not document["is_healthy"]


def test_doctor_names_the_damaged_shard(answer: Any, gallery: str) -> None:
    assert answer("doctor", "--deep")[1]["is_healthy"]
    (shard, _) = sorted(Path("facegrid-home").rglob("shard.db"))
    shard.write_bytes(b"not a database" * 100)
    code, document, _ = answer("doctor")
    (finding,) = [f for f in document["findings"] if f["check"] == f"gallery {gallery}"]
    assert (code, finding["status"]) == (1, "fail")
    assert "shard 0" in finding["detail"]
    assert "shard 1" not in finding["detail"]


def test_doctor_says_that_a_home_is_a_file(answer: Any) -> None:
    Path("file").write_text("x")
    code, document, _ = answer("doctor", "--home", "file")
    (finding,) = [f for f in document["findings"] if f["check"] == "home"]
    assert (code, finding["status"]) == (1, "fail")
    assert "expected a directory" in finding["detail"]


def test_doctor_names_a_damaged_catalog(answer: Any, gallery: str) -> None:
    Path("facegrid-home/catalog.db").write_bytes(b"not a database" * 100)
    code, document, _ = answer("doctor")
    found = {finding["check"]: finding["status"] for finding in document["findings"]}
    assert (code, found["home"], found["catalog"]) == (1, "ok", "fail")


def test_doctor_reads_checksums_when_asked(answer: Any, gallery: str) -> None:
    from cluster import Cluster

    answer("enroll", gallery, "--embeddings", saved("rows.npy", unit_rows(50, DIM, seed=6)))
    with Cluster.open("facegrid-home") as grid:
        grid.gallery(gallery).flush()
    floats = max(Path("facegrid-home").rglob("segment-*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(floats.read_bytes())
    data[7] ^= 1
    floats.write_bytes(data)
    assert answer("doctor")[0] == 0
    assert answer("doctor", "--deep")[0] == 1


def test_doctor_reports_a_misspelt_setting(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGRID_EMBEDER", "x")
    code, document, _ = answer("doctor")
    assert code == 1
    assert "FACEGRID_EMBEDER" in document["findings"][-1]["detail"]
    assert answer("gallery", "list")[0] == 2


def test_models_are_listed_with_their_licences(answer: Any) -> None:
    code, document, _ = answer("models", "list")
    by_name = {model["name"]: model for model in document["models"]}
    assert code == 0
    assert by_name["sface_2021dec"]["licence"] == "Apache-2.0"
    assert by_name["sface_2021dec"]["state"] == "can be pulled"
    assert not by_name["w600k_r50"]["is_commercial_use_allowed"]


def test_a_corrupt_network_file_is_refused(answer: Any) -> None:
    Path("networks").mkdir()
    Path("networks/face_detection_yunet_2023mar.onnx").write_bytes(b"no network")
    for photo in ("a.jpg", "b.jpg"):
        Path(photo).write_bytes(b"no photo")
    code, _, errors = answer("verify", "a.jpg", "b.jpg", "--models", "networks")
    assert (code, errors[-1]["error"]["code"]) == (7, "model_file_corrupt")
    states = {m["name"]: m["state"] for m in answer("models", "list", "--models", "networks")[1]["models"]}
    assert states["yunet_2023mar"] == "corrupt"
    assert answer("doctor", "--models", "networks")[0] == 1


def test_options_come_before_the_environment(answer: Any, gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGRID_HOME", "elsewhere")
    assert answer("gallery", "list")[0] == 3
    assert answer("gallery", "list", "--home", "facegrid-home")[0] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["gallery", "list", "--json"], ["--json", "gallery", "list"]),
        (["search", "g", "x.jpg", "--home", "h", "-vv"], ["--home", "h", "-vv", "search", "g", "x.jpg"]),
        (["search", "g", "--home=h", "-k", "3"], ["--home=h", "search", "g", "-k", "3"]),
        (["--json", "delete", "g", "--", "--json"], ["--json", "delete", "g", "--", "--json"]),
        (["gallery", "list", "--home"], ["--home"]),
        (["gallery", "--help"], ["gallery", "--help"]),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], expected: list[str]) -> None:
    assert hoisted(given) == expected


def test_a_global_option_without_its_value_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "gallery", "list", "--home"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def test_text_from_outside_is_neither_markup_nor_control(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "[bold red]x[/] \x1b[31m\r\udcff\u202e.jpg"
    Output().result({}, hostile, Grid(("path",), [(Path(hostile),)]))
    out = capsys.readouterr().out
    assert out.count("[bold red]x[/] \\x1b[31m\\r\\udcff\\u202e.jpg") == 2
    assert printable("Ærø 張\n") == "Ærø 張\n"


def test_json_carries_any_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\udcff\x1b[31m張.jpg"
    Output(as_json=True).result({"path": Path(name)})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"path": name}


def test_people_get_lines_and_tables(capsys: pytest.CaptureFixture[str], gallery: str) -> None:
    capsys.readouterr()
    assert run(["gallery", "list"]) == 0
    out, err = capsys.readouterr()
    assert gallery in out
    assert err == ""
    assert run(["gallery", "show", "acme/none"]) == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error [unknown_gallery]: no gallery 'acme/none'\n")


def test_starting_imports_no_engine() -> None:
    """`facegrid --help` must not wait for Ray, OpenCV, onnxruntime, SQLAlchemy or numpy."""
    probe = "import sys, cluster.cli; cluster.cli.run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    loaded = set(done.stderr.split())
    assert "cluster.cli.app" in loaded
    assert not loaded & {"ray", "cv2", "onnxruntime", "sqlalchemy", "numpy", "httpx", "shard._native"}


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("facegrid ")


def test_a_kernel_is_chosen_by_option(tmp_path: Path) -> None:
    """In a process of its own: the kernel is chosen once."""
    arguments = ["gallery", "create", "a/b", "--dim", "64", "--home", str(tmp_path / "home"), "--kernel", "scalar"]
    probe = f"import cluster.cli, shard.index; print(cluster.cli.run({arguments!r}), shard.index.kernel())"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 scalar"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = [sys.executable, "-m", "cluster.cli", "version"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
