"""The command line end to end: real processes, a real home, real photos and networks."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cluster.cli import run
from tests.interrupts import interruptible

pytestmark = pytest.mark.data

ROOT = Path(__file__).resolve().parents[2]
EMBEDDER = "edgeface_xs"
PEOPLE = {"Ann": ["img1.jpg", "img2.jpg"], "Bob [red]x": ["img20.jpg"]}
HELD_OUT = "img4.jpg"
Answer = Callable[..., tuple[int, Any, Any]]


@pytest.fixture
def photos(data_dir: Path) -> Path:
    return data_dir / "photos"


@pytest.fixture
def employees(photos: Path, tmp_path: Path) -> Path:
    """Three good photos, a text file, a picture without a face, and a file name that tries to be markup."""
    folder = tmp_path / "employees"
    for person, names in PEOPLE.items():
        (folder / person).mkdir(parents=True)
        for name in names:
            shutil.copy(photos / name, folder / person)
    (folder / "Ann" / "text.jpg").write_text("not a photo")
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "Ann" / "[bold]noise.png"), noise)
    return folder


@pytest.fixture
def environment(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings for this test alone: a home and an empty cache in its folder, and the networks of the data."""
    for name in [name for name in os.environ if name.startswith("FACEGRID_")]:
        monkeypatch.delenv(name)
    settings = {"HOME": tmp_path / "home", "CACHE": tmp_path / "cache", "MODELS": data_dir / "models", "THREADS": 2}
    for name, value in settings.items():
        monkeypatch.setenv(f"FACEGRID_{name}", str(value))
    return dict(os.environ)


@pytest.fixture
def answer(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Answer:
    """A command with --json in this process: exit code, document, error."""

    def call(*arguments: object) -> tuple[int, Any, Any]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        errors = [json.loads(line).get("error") for line in err.splitlines()]
        return code, json.loads(out) if out else None, errors[-1] if errors else None

    return call


@pytest.fixture
def staff(answer: Answer) -> str:
    assert answer("gallery", "create", "acme/staff", "--embedder", EMBEDDER)[0] == 0
    return "acme/staff"


def test_the_main_job(answer: Answer, staff: str, employees: Path, photos: Path) -> None:
    """create, enroll, search, delete, status; the embedder is the gallery's, though nothing configures it."""
    code, report, _ = answer("enroll", staff, employees)
    assert (code, report["photos"], report["enrolled"], report["skipped"]) == (10, 5, 3, 0)
    assert {Path(r["path"]).name: r["reason"] for r in report["refused"]} == {
        "text.jpg": "not_an_image",
        "[bold]noise.png": "no_face",
    }
    code, report, _ = answer("enroll", staff, employees)
    assert (code, report["enrolled"], report["skipped"]) == (10, 0, 3)

    for options in ((), ("--exact",), ("--recall", "0.9")):
        code, found, _ = answer("search", staff, photos / HELD_OUT, "-k", 2, "--threshold", 0.4, *options)
        assert code == 0
        assert [candidate["identity"] for candidate in found["candidates"]] == ["Ann", "Ann"]
        assert {candidate["metadata"]["source"] for candidate in found["candidates"]} == {
            f"Ann/{name}" for name in PEOPLE["Ann"]
        }
        assert found["face"]["width"] > 100
        assert found["coverage"]["answered"] == found["coverage"]["asked"] == 4

    assert answer("gallery", "show", staff, "--identities")[1]["gallery"]["identities"] == [
        {"identity": "Ann", "templates": 2},
        {"identity": "Bob [red]x", "templates": 1},
    ]
    assert answer("delete", staff, "--identity", "Ann", "--yes")[1]["deleted"] == 2
    assert answer("search", staff, photos / HELD_OUT, "--threshold", 0.4)[0] == 1
    assert answer("status")[1]["templates"] == 1


def test_single_photos_are_enrolled_with_their_owner(answer: Answer, staff: str, photos: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    code, report, _ = answer("enroll", staff, photos / "img1.jpg", photos / "img2.jpg", text, "--identity", "Ann")
    assert (code, report["enrolled"]) == (10, 2)
    assert [refusal["reason"] for refusal in report["refused"]] == ["not_an_image"]
    code, report, _ = answer("enroll", staff, photos / "img1.jpg", "--identity", "Ann")
    assert (code, report["enrolled"], report["skipped"]) == (0, 0, 1)
    code, report, _ = answer("enroll", staff, photos / "img1.jpg", "--identity", "Eve")
    assert (code, [refusal["reason"] for refusal in report["refused"]]) == (10, ["duplicate_photo"])


def test_a_bad_name_refuses_its_photo_and_no_other(
    answer: Answer, staff: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that no identity can have, and a photo's own name that is not UTF-8, beside a photo like any other."""
    folder = tmp_path / "named"
    for person, photo in (("Ann\udcff", "img1.jpg"), ("x" * 129, "img2.jpg"), ("a\x1b[31mb", "img4.jpg")):
        (folder / person).mkdir(parents=True)
        shutil.copy(photos / photo, folder / person)
    (folder / "Bob").mkdir()
    shutil.copy(photos / "img20.jpg", folder / "Bob" / "caf\udce9.jpg")
    code, report, _ = answer("enroll", staff, folder)
    assert (code, report["photos"], report["enrolled"]) == (10, 4, 1)
    assert [refusal["reason"] for refusal in report["refused"]] == ["bad_name"] * 3
    assert {Path(refusal["path"]).parent.name for refusal in report["refused"]} == {
        "Ann\udcff",
        "x" * 129,
        "a\x1b[31mb",
    }
    (found,) = answer("search", staff, photos / "img20.jpg")[1]["candidates"]
    assert (found["identity"], found["metadata"]["source"]) == ("Bob", "Bob/caf\\udce9.jpg")

    single = shutil.copy(photos / "img1.jpg", tmp_path / "d\udce9j\x1b[31m.jpg")
    assert answer("enroll", staff, single, "--identity", "Ann")[1]["enrolled"] == 1
    assert run(["enroll", staff, str(folder)]) == 10
    out = capsys.readouterr().out
    assert "Ann\\udcff" in out
    assert out.encode().decode() == out.replace("\x1b", ""), "printable as UTF-8, and no escape sequence"


def test_image_verbs_refuse_another_embedder(answer: Answer, staff: str, photos: Path) -> None:
    code, _, error = answer("search", staff, photos / HELD_OUT, "--embedder", "mobilefacenet_512")
    assert (code, error["code"]) == (7, "model_mismatch")


def test_a_probe_that_is_no_face_is_a_named_error(answer: Answer, staff: str, employees: Path) -> None:
    code, _, error = answer("search", staff, employees / "Ann" / "text.jpg")
    assert (code, error["code"], error["reason"]) == (2, "invalid_image", "not_an_image")
    code, _, error = answer("search", staff, employees / "Ann" / "[bold]noise.png")
    assert (code, error["code"], error["reason"]) == (2, "invalid_image", "no_face")
    assert "[bold]noise.png: expected a face" in error["message"]
    noise, good = employees / "Ann" / "[bold]noise.png", employees / "Ann" / "img1.jpg"
    for command in (("verify", good, noise), ("find", noise, employees)):
        code, _, error = answer(*command, "--embedder", EMBEDDER)
        assert (code, error["reason"]) == (2, "no_face")
        assert f"{noise}: " in error["message"]


def test_verify_answers_by_exit_code_without_a_home(answer: Answer, photos: Path, tmp_path: Path) -> None:
    code, same, _ = answer("verify", photos / "img1.jpg", photos / "img2.jpg", "--embedder", EMBEDDER)
    assert (code, same["is_match"]) == (0, True)
    code, other, _ = answer("verify", photos / "img1.jpg", photos / "img20.jpg", "--embedder", EMBEDDER)
    assert (code, other["is_match"]) == (1, False)
    assert other["score"] < other["threshold"] < same["score"]
    assert answer("verify", photos / "img1.jpg", photos / "img2.jpg", "--embedder", EMBEDDER, "--threshold", 1)[0] == 1
    assert not (tmp_path / "home").exists()


def test_find_needs_no_home(answer: Answer, photos: Path, employees: Path, tmp_path: Path) -> None:
    code, found, _ = answer("find", photos / HELD_OUT, employees, "--embedder", EMBEDDER)
    assert code == 0
    assert {Path(match["path"]).name for match in found["matches"]} == set(PEOPLE["Ann"])
    scores = [match["score"] for match in found["matches"]]
    assert scores == sorted(scores, reverse=True)
    assert all(match["box"]["width"] > 50 for match in found["matches"])
    assert [refused["reason"] for refused in found["refused"]] == ["not_an_image"]
    assert answer("find", photos / HELD_OUT, employees, "--embedder", EMBEDDER, "--min-face", 100_000)[0] == 1
    assert answer("find", photos / HELD_OUT, tmp_path / "none", "--embedder", EMBEDDER)[0] == 2
    assert not (tmp_path / "home").exists()


def test_a_network_that_lies_nowhere_is_named(answer: Answer, photos: Path) -> None:
    code, _, error = answer("verify", photos / "img1.jpg", photos / "img2.jpg", "--embedder", "w600k_r50")
    assert (code, error["code"]) == (7, "model_file_missing")
    assert "w600k_r50.onnx" in error["message"]


def test_doctor_checks_the_networks_of_the_galleries(answer: Answer, staff: str) -> None:
    code, report, _ = answer("doctor", "--deep")
    found = {finding["check"]: finding["status"] for finding in report["findings"]}
    assert code == 0
    assert found[f"network {EMBEDDER}"] == found["network yunet_2023mar"] == found["extra faces"] == "ok"


def test_people_read_tables_and_names_stay_as_they_are(
    answer: Answer, staff: str, employees: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["enroll", staff, str(employees)]) == 10
    out, err = capsys.readouterr()
    assert "[bold]noise.png" in out
    assert "3 of 5 photos enrolled" in out
    assert err == "", "no progress bar where there is no terminal"
    assert run(["search", staff, str(employees / "Bob [red]x" / "img20.jpg"), "-k", "1"]) == 0
    assert "Bob [red]x" in capsys.readouterr().out


def test_hosts_are_drained_and_the_deleted_erased(
    answer: Answer, employees: Path, photos: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Photos on three hosts with two replicas; what moves or erases data is a process of its own."""

    def process(*arguments: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "cluster.cli", *arguments, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    options = ("--embedder", EMBEDDER, "--replicas", "2", "--shards", "2", "--shard-hosts", "3")
    assert process("gallery", "create", "acme/staff", *options)[0] == 0
    assert answer("enroll", "acme/staff", employees)[1]["enrolled"] == 3
    code, drained = process("cluster", "drain", "host-0", "--timeout", "120")
    assert (code, drained["state"], drained["left"]) == (0, "draining", 0)
    assert not list((tmp_path / "home" / "hosts" / "host-0").glob("tenants/*/*/shard-*"))
    found = answer("search", "acme/staff", photos / HELD_OUT, "-k", 1)[1]
    assert [candidate["identity"] for candidate in found["candidates"]] == ["Ann"]

    assert answer("delete", "acme/staff", "--identity", "Ann", "--yes")[1]["deleted"] == 2
    code, report, _ = answer("erasure-report")
    assert (code, sum(entry["dead_rows"] for entry in report["replicas"])) == (0, 4)
    assert process("compact", "acme/staff", "--now")[1]["clean"] == 4
    files = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not any(b"Ann/img" in data for data in files)
    assert any(b"Bob [red]x" in data for data in files)
    assert answer("cluster", "undrain", "host-0")[:2] == (0, {"host": "host-0", "state": "up"})
    assert answer("cluster", "status")[1]["lacking"] == []


@contextlib.contextmanager
def opened_by(process: subprocess.Popen[str], pipe: Path) -> Iterator[None]:
    """Wait until the process has opened a named pipe for reading, and hold the other end; fails if it ends first."""
    while True:
        try:
            end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                pytest.fail(f"ended with {process.returncode} before it read the pipe: {process.communicate()}")
    try:
        yield
    finally:
        os.close(end)


def test_ctrl_c_is_clean_and_the_home_was_locked_meanwhile(
    answer: Answer, staff: str, environment: dict[str, str], photos: Path, tmp_path: Path
) -> None:
    """The process waits for a photo from a pipe, with the home open: the moment to lock others out and be stopped."""
    pipe = tmp_path / "slow.jpg"
    os.mkfifo(pipe)
    arguments = ["enroll", staff, str(photos / "img1.jpg"), str(pipe), "--identity", "Ann", "--json"]
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    with (
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True, preexec_fn=interruptible
        ) as process,
        opened_by(process, pipe),
    ):
        code, _, error = answer("status")
        assert (code, error["code"]) == (5, "home_locked")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "interrupted"
    assert answer("status")[1]["templates"] == 1, "what was acknowledged is durable"
