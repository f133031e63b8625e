"""The image's files without building it: linters of the Dockerfile and scripts, requirements against pyproject."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.tools import program

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "k8s" / "image"
DOCKERFILE = IMAGE / "Dockerfile"
SCRIPTS = sorted([*(IMAGE / "bin").iterdir(), *(ROOT / "tests/k8s/podman").glob("*.sh")])

READS_TOML = pytest.mark.skipif(sys.version_info < (3, 11), reason="requirements.py runs on the image's Python, 3.11")


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    done = ran(program("hadolint"), "--failure-threshold", "style", DOCKERFILE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = ran(program("shellcheck"), "--severity=style", script)
    assert done.returncode == 0, done.stdout
    assert script.stat().st_mode & 0o111, "expected it to be executable"
    assert re.search(r"^set -eu", script.read_text(), re.MULTILINE)


def test_bases_are_pinned_by_tag_and_digest() -> None:
    text = DOCKERFILE.read_text()
    bases = re.findall(r"^ARG (?:DEBIAN|RUST)_IMAGE=(\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"[\w./]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", base) for base in bases), bases
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?", text, re.MULTILINE)
    named = {name for _, name in stages}
    assert all(base in named or base.startswith("${") for base, _ in stages), "a base that is not an argument"
    assert text.rstrip().split("\nFROM ")[-1].count("USER 10001:10001") == 1


@READS_TOML
@pytest.mark.parametrize(
    ("variant", "wanted", "unwanted"),
    [("cpu", "onnxruntime>=", "onnxruntime-gpu"), ("gpu", "onnxruntime-gpu[cuda,cudnn]>=", "onnxruntime>=")],
)
def test_requirements_are_those_of_pyproject(variant: str, wanted: str, unwanted: str) -> None:
    done = ran(sys.executable, IMAGE / "requirements.py", ROOT / "pyproject.toml", variant)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith(wanted) for line in lines)
    assert not any(line.startswith(unwanted) for line in lines)
    for package in ("ray[default]", "ray[data]", "psycopg", "pyarrow", "fastapi", "opentelemetry-sdk", "sqlcipher3"):
        assert any(line.startswith(package) for line in lines), package
    assert not any("facegrid" in line or line.startswith("pytest") for line in lines)


@READS_TOML
def test_a_variant_that_there_is_not_is_refused() -> None:
    done = ran(sys.executable, IMAGE / "requirements.py", ROOT / "pyproject.toml", "tpu")
    assert done.returncode == 1
    assert "expected cpu or gpu, got 'tpu'" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("facegrid-node",), 2, "usage"),
        (("facegrid-node", "queen"), 2, "usage"),
        (("facegrid-node", "leave"), 1, "GRID_HEAD"),
        (("facegrid-node", "shard"), 1, "GRID_HEAD"),
        (("facegrid-healthcheck", "queen"), 2, "got 'queen'"),
        (("facegrid-healthcheck", "node"), 1, "http://127.0.0.1:1/api/healthz"),
    ],
)
def test_scripts_say_what_they_expected(arguments: tuple[str, ...], status: int, says: str) -> None:
    done = subprocess.run(
        [IMAGE / "bin" / arguments[0], *arguments[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PROBE_PORT": "1"},
    )
    assert done.returncode == status, done.stdout
    assert says in done.stdout
