"""What the image installs: the requirements of facegrid and of its extras, one a line, read from pyproject.toml.

`requirements.py pyproject.toml cpu|gpu`. They are printed without facegrid itself, so that the layer of dependencies
does not change with the code. The GPU variant has ONNX Runtime's build for CUDA in place of the one for CPUs (they are
the same module and exclude each other), with the CUDA and cuDNN libraries that it loads as Python packages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib

EXTRAS = ("faces", "cluster", "postgres", "snapshots", "service", "tracing", "encryption")
# The dashboard's agent answers KubeRay's probes, and the job server runs RayJobs: both are in ray[default].
RAY = "ray[default]"
GPU = {"onnxruntime": "onnxruntime-gpu[cuda,cudnn]"}


def requirements(project: dict[str, Any], variant: str) -> Iterator[str]:
    """Requirements of the variant `cpu` or `gpu`, each as pip reads it."""
    extras = project["optional-dependencies"]
    yield RAY
    for requirement in [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None, requirement
        if variant == "gpu" and name[0] in GPU:
            requirement = GPU[name[0]] + requirement.removeprefix(name[0])
        yield requirement


def main() -> None:
    """Print the requirements; exits with 2 for a variant that there is not."""
    path, variant = sys.argv[1:]
    if variant not in ("cpu", "gpu"):
        sys.exit(f"VARIANT: expected cpu or gpu, got {variant!r}")
    project = tomllib.loads(Path(path).read_text(encoding="utf-8"))["project"]
    print(*dict.fromkeys(requirements(project, variant)), sep="\n")


if __name__ == "__main__":
    main()
