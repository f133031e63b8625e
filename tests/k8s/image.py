"""The image, built by podman from this tree; the tests that run containers of it ask here for its name."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "localhost/facegrid:dev"


def needs_podman() -> None:
    """Skip where the image cannot be built: it needs root, podman, debootstrap and Rust."""
    lacking = [name for name in ("podman", "runc", "debootstrap", "rustc") if shutil.which(name) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    if lacking:
        pytest.skip(f"building the image needs {', '.join(lacking)}")


@functools.cache
def built_image() -> str:
    """Its name, once built in this run. Minutes the first time on a machine, seconds where nothing changed."""
    needs_podman()
    done = subprocess.run(
        [ROOT / "tests/k8s/podman/build.sh", NAME],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return NAME
