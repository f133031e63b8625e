"""The image, built here and run as Kubernetes would: as 10001, read-only, without capabilities. `make test-k8s`."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from cluster import Cluster
from tests.faces_like import unit_rows
from tests.k8s.image import built_image
from tests.k8s.smoke.podman import execute, podman
from tests.ports import free_port

pytestmark = pytest.mark.podman
DIM = 128
SOON_S = 120.0
CONFINED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--user=10001:10001",
    # There is no systemd that would run it; it is run by hand.
    "--no-healthcheck",
    "--tmpfs=/tmp:mode=1777",
    "--tmpfs=/dev/shm:mode=1777",
    # Volumes of nobody else, with the owner that the image gives these directories.
    "--volume=/home/facegrid",
    "--volume=/var/lib/facegrid",
)


@pytest.fixture(scope="module")
def image() -> str:
    return built_image()


@contextlib.contextmanager
def container(image: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """The name of a confined container that runs `command`; it is removed afterwards."""
    name = f"image-{secrets.token_hex(4)}"
    podman("run", "--detach", "--name", name, *CONFINED, *options, image, *command)
    try:
        yield name
    finally:
        podman("rm", "--force", "--volumes", "--time", "0", name, must=False)


def once(image: str, script: str, *options: str) -> str:
    """What a shell script prints in a confined container."""
    return podman("run", "--rm", *CONFINED, *options, image, "bash", "-euc", script, timeout=300)


def until(what: Callable[[], bool], why: Callable[[], str], within_s: float = SOON_S) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.2)


def logs(name: str) -> str:
    done = subprocess.run(
        ["podman", "logs", "--tail", "40", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def test_doctor_finds_nothing_that_fails(image: str) -> None:
    report = json.loads(once(image, "facegrid --json doctor"))
    assert report["is_healthy"] is True
    versions = {finding["check"]: finding["detail"] for finding in report["findings"]}
    assert versions["python"].startswith("3.11")


@pytest.fixture(scope="module")
def served(image: str) -> Iterator[tuple[str, str]]:
    """A container with the image's own command, and its URL."""
    port = free_port()
    with container(image, options=(f"--publish=127.0.0.1:{port}:8080",)) as name:
        until(lambda: execute(name, "facegrid-healthcheck")[0] == 0, lambda: logs(name))
        yield name, f"http://127.0.0.1:{port}"


def test_it_serves_and_finds_what_was_enrolled(served: tuple[str, str]) -> None:
    name, url = served
    key = execute(name, "cat", "/var/lib/facegrid/operator.key")[1].splitlines()[0]
    rows = unit_rows(200, DIM, 1)
    with Cluster.connect(url, key) as grid:
        grid.tenants.create("acme")
        gallery = grid.gallery("acme/staff", create=True, dim=DIM)
        gallery.enroll(rows, template_ids=[f"t{i}" for i in range(len(rows))])
        found = gallery.search(rows[:20], k=1)
    assert found.template_ids == tuple((f"t{i}",) for i in range(20))


def test_its_healthcheck_passes_and_fails(served: tuple[str, str]) -> None:
    name, _ = served
    check = json.loads(podman("inspect", built_image(), "--format", "{{json .HealthCheck.Test}}"))
    assert check == ["CMD", "facegrid-healthcheck"]
    assert execute(name, "facegrid-healthcheck") == (0, "")
    status, says = execute(name, "env", "PROBE_PORT=1", "facegrid-healthcheck")
    assert status == 1
    assert "http://127.0.0.1:1/livez" in says


def test_a_signal_ends_it_in_order(image: str) -> None:
    with container(image) as name:
        until(lambda: execute(name, "facegrid-healthcheck")[0] == 0, lambda: logs(name))
        podman("stop", "--time", "30", name)
        assert podman("inspect", name, "--format", "{{.State.ExitCode}}").strip() == "0", logs(name)


def test_nothing_is_inside_that_runs_not(image: str) -> None:
    programs = "gcc cc g++ ld make cargo rustc pip pip3 curl wget"
    assert once(image, f"for name in {programs}; do command -v $name || true; done") == ""
    assert once(image, "find / -xdev -type f -perm /6000 2>/dev/null || true") == ""
    assert once(image, "ls /var/lib/apt/lists") == ""
    assert once(image, "python -c 'import pip' 2>/dev/null && echo there || true") == ""
    # Beside what a container's runtime mounts, 10001 may write where its volumes will be, and to the places for all.
    writable = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null || true"
    found = set(podman("run", "--rm", "--no-healthcheck", "--cap-drop=ALL", image, "bash", "-c", writable).split())
    own = {path for path in found if path.startswith(("/home/facegrid", "/var/lib/facegrid", "/models"))}
    assert found - own - {"/tmp", "/var/tmp", "/run/lock", "/dev", "/dev/shm"} == set()


def test_its_user_and_labels(image: str) -> None:
    about = json.loads(podman("inspect", image))[0]
    assert about["Config"]["User"] == "10001:10001"
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in about["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] in once(image, "facegrid --version").split()
    assert len(labels["revision"].removesuffix("-dirty")) == 40
    assert {"source", "title", "variant"} <= set(labels)
    print(f"\n{image}: {about['Size'] / 1e6:,.0f} MB")
    assert about["Size"] < 1.4e9


def test_its_sbom_lists_what_is_inside(image: str) -> None:
    sbom = json.loads(once(image, "cat /usr/share/sbom/facegrid.cdx.json"))
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(component["name"].lower(), component["version"]) for component in sbom["components"]}
    assert {"facegrid", "ray", "numpy", "onnxruntime", "rayon", "pyo3"} <= {name for name, _ in listed}
    lines = once(image, "dpkg-query --show --showformat '${Package} ${Version}\\n'").splitlines()
    assert {tuple(line.split()) for line in lines} <= listed
    installed = "import importlib.metadata as m; [print(d.name.lower(), d.version) for d in m.distributions()]"
    lines = once(image, f"python -c '{installed}'").splitlines()
    assert {tuple(line.split()) for line in lines} <= listed


def test_every_library_finds_those_it_needs(image: str) -> None:
    script = "find /opt/facegrid -name '*.so*' -type f -exec ldd {} + 2>/dev/null | grep 'not found' || true"
    assert once(image, script) == ""


def test_a_node_without_a_head_says_so(image: str) -> None:
    options = ("--env=GRID_HEAD=127.0.0.1:6379", "--env=POD_IP=127.0.0.1", "--env=GRID_HEAD_SECONDS=2")
    with container(image, "facegrid-node", "gateway", options=options) as name:
        assert podman("wait", name, timeout=SOON_S).strip() == "1"
        assert "no Ray head answered at 127.0.0.1:6379 within 2 s" in logs(name)
