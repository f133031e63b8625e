"""What `facegrid k8s render-job` prints is what the CRDs of KubeRay and its operator take."""

from typing import Any

import pytest
import yaml

from cluster.cli import run
from tests.k8s import crds, kuberay_rules

OF = ("--release", "prod", "--namespace", "faces")
GATES = kuberay_rules.DEFAULT_GATES | {kuberay_rules.CRON}
ASKED = [
    ("dedup", "acme/staff", "--threshold", "0.5", "--store", "s3://backups/faces?region=eu-central-1"),
    ("enroll", "acme/staff", "s3://faces/2026/*.tar?region=eu-west-1", "--column", "image=photo"),
    ("reembed", "acme/staff", "s3://faces/2026", "--into", "acme/new", "--network", "edgeface_xs"),
    ("calibrate", "acme/staff"),
]


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["k8s", "render-job", *arguments, *OF]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@crds.needs_crds
@pytest.mark.parametrize("asked", [*ASKED, ("resume", "20260131T120000Z-0a1b2c3d")], ids=lambda asked: asked[0])
def test_a_ray_job(asked: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    job = rendered(capsys, *asked)
    assert crds.refusals(job) == []
    assert kuberay_rules.refusals(job) == []


@crds.needs_crds
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked[0])
def test_a_ray_cron_job(asked: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    job = rendered(capsys, *asked, "--schedule", "30 2 * * 1-5", "--time-zone", "Europe/Berlin")
    assert crds.refusals(job) == []
    assert kuberay_rules.refusals(job, GATES) == []
