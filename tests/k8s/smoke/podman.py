"""podman, called as a program; containers, volumes and networks of the smoke test begin with `smoke-`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PREFIX = "smoke-"
_CONFIGURATION = Path(__file__).parents[1] / "podman" / "containers.conf"


class PodmanFailed(RuntimeError):
    """A call of podman that ended with another status than 0."""


def podman(*arguments: str, timeout: float = 120, must: bool = True) -> str:
    """What `podman ARGUMENTS` prints. Raises PodmanFailed with its last lines unless `must` is False."""
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, errors="replace", timeout=timeout, env=_environment()
    )
    if must and done.returncode:
        raise PodmanFailed(f"podman {' '.join(arguments)}: status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "CONTAINERS_CONF": str(_CONFIGURATION)}


def run_once(*arguments: str, timeout: float = 120) -> tuple[int, str]:
    """Status and output of `podman run --rm ARGUMENTS`, whatever they are."""
    command = ["podman", "run", "--rm", "--no-healthcheck", *arguments]
    return _both(command, timeout)


def _both(command: list[str], timeout: float) -> tuple[int, str]:
    """Status, and stdout and stderr in one; 124 if it takes longer."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env=_environment(),
        )
    except subprocess.TimeoutExpired as late:
        return 124, str(late.stdout or "")
    return done.returncode, done.stdout


def execute(container: str, *command: str, timeout: float = 120) -> tuple[int, str]:
    """Status and output of a command in a running container; 124 if it takes longer than `timeout` seconds."""
    return _both(["podman", "exec", container, *command], timeout)


def logs(container: str, lines: int) -> str:
    """The last lines that a container wrote to stdout and stderr."""
    return _both(["podman", "logs", "--tail", str(lines), container], 60)[1]


def containers(label: str) -> list[dict[str, Any]]:
    """All containers with that label (`key=value`), also those that ended."""
    return list(json.loads(podman("ps", "--all", "--filter", f"label={label}", "--format", "json") or "[]"))


def remove_everything(label: str) -> None:
    """Containers, volumes and networks with that label; what is gone already is no error."""
    for container in containers(label):
        podman("rm", "--force", "--volumes", "--time", "0", container["Id"], must=False)
    for kind in ("volume", "network"):
        names = podman(kind, "ls", "--quiet", "--filter", f"label={label}").split()
        for name in names:
            podman(kind, "rm", "--force", name, must=False)
