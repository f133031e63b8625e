"""Helm and kubectl: where the tests find them, and how `make .stamp/k8s` brings them beside the interpreter.

Both are Linux programs for x86-64 inside a wheel of PyPI, whose version and digest are in tools.txt. Elsewhere a
program of that name on PATH is taken, and without one the tests that need it are skipped; on such a Linux never.
"""

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

REQUIREMENT = Path(__file__).with_name("tools.txt")
PROGRAMS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
LAYER = "package/lib/layer.zip"


def can_be_had() -> bool:
    """Whether the wheel's programs run on this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def program(name: str) -> str:
    """Path of helm, kubectl or a linter: beside the interpreter, else on PATH.

    A program that this machine cannot have skips the test; one that is merely not there yet fails it.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None and not can_be_had():
        pytest.skip(f"no {name} for {sys.platform} {platform.machine()}; put one on PATH")
    assert found is not None, f"{name} is neither beside {sys.executable} nor on PATH: run `make .stamp/k8s`"
    return found


def download(folder: Path) -> Path:
    """The wheel of tools.txt, brought by pip, which compares its digest."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
    ]
    subprocess.run([*pip, "--dest", str(folder), "--requirement", str(REQUIREMENT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, into: Path) -> None:
    """Programs of the wheel, executable in `into`: a zip inside a tar inside the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            layer = middle.extractfile(LAYER)
            assert layer is not None, f"expected {LAYER} in {name}"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for program_name, member in PROGRAMS.items():
                    written = into / f".{program_name}.part"
                    written.write_bytes(inner.read(member))
                    written.chmod(0o755)
                    written.replace(into / program_name)


def main() -> None:
    into = Path(sys.argv[1])
    if not can_be_had():
        print(f"no helm and kubectl for {sys.platform} {platform.machine()} in the wheel; tests/k8s looks on PATH")
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(download(Path(folder)), into)
    version = subprocess.run([into / "helm", "version", "--short"], check=True, capture_output=True, text=True).stdout
    print(f"helm {version.strip()} and kubectl in {into}")


if __name__ == "__main__":
    main()
