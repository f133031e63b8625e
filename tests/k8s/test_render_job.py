"""What `facegrid k8s render-job` prints is what the CRDs of KubeRay and its operator take."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli import run
from cluster.cron import check_cron
from shard.errors import InvalidParameter
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


FIELD = st.from_regex(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?)(/[0-9])?(,[0-9]{1,2})?", fullmatch=True)


@given(st.lists(FIELD, min_size=4, max_size=6))
def test_schedules_are_refused_that_the_operator_refuses(fields: list[str]) -> None:
    said = " ".join(fields)
    try:
        check_cron(said)
    except InvalidParameter:
        assert not kuberay_rules.is_schedule(said)
    else:
        assert kuberay_rules.is_schedule(said)
