"""Jobs as objects of KubeRay: what `facegrid k8s render-job` prints, and that it is what `jobs submit` would submit."""

import json
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli import run
from cluster.cli.app import command
from cluster.cli.job_options import ASKS
from cluster.jobs.kinds import KINDS
from cluster.kubernetes import (
    LONGEST_NAME,
    LONGEST_SCHEDULED_NAME,
    Release,
    Schedule,
    job_name,
    ray_cron_job,
    ray_job,
    scheduled_name,
)
from cluster.yaml_text import yaml_text
from shard.errors import InvalidParameter

OF = ("--release", "prod", "--namespace", "faces")
KEYS = st.text(max_size=100)
"""YAML takes no key of more than 1,024 characters on a line; those of manifests are shorter."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, VALUES))
def test_yaml_says_what_json_says(value: dict[str, Any]) -> None:
    text = yaml_text(value) or "{}"
    assert text.isascii()
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize(
    "text", ["no", "1e3", "~", "null", "\U0001f600 \u2028 \x85 \x00", " a: b # c", "'\"\\", "*x", "- a"]
)
def test_texts_that_yaml_could_read_otherwise(text: str) -> None:
    assert yaml.safe_load(yaml_text({text: [text, {text: text}, [], [[text]]]})) == {
        text: [text, {text: text}, [], [[text]]]
    }


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The object that the command prints; with another exit code its error."""
    capsys.readouterr()
    assert run(["k8s", "render-job", *arguments]) == code
    out, err = capsys.readouterr()
    return yaml.safe_load(out) if code == 0 else err


def parameters_of(job: dict[str, Any]) -> Any:
    """What the driver gets, after the one shell that reads the entrypoint."""
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    entrypoint = job["spec"]["entrypoint"]
    assert entrypoint.startswith("python -m cluster.jobs ")
    told = (
        f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {entrypoint.removeprefix('python -m cluster.jobs ')}"
    )
    words = json.loads(subprocess.run(["/bin/sh", "-c", told], check=True, capture_output=True).stdout)
    assert words[:3] == ["--address", "prod-facegrid-head-svc:6379", "submit"]
    assert job["spec"]["metadata"] == {"kind": words[3], "gallery": words[4]}
    return json.loads(words[5])


def test_a_dedup_job(capsys: pytest.CaptureFixture[str]) -> None:
    job = rendered(capsys, "dedup", "acme/staff", "--target-fpir", "0.001", "--store", "s3://b/p?region=x", *OF)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["namespace"] == "faces"
    assert job["metadata"]["name"].startswith("prod-facegrid-dedup-20")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "prod-facegrid"}
    assert job["spec"]["submissionMode"] == "HTTPMode"
    assert json.loads(job["spec"]["entrypointResources"]) == {"facegrid_control": 0.001}
    assert job["spec"]["backoffLimit"] == 0
    assert not {"submitterPodTemplate", "rayClusterSpec", "ttlSecondsAfterFinished"} & set(job["spec"])
    wanted = {"target_fpir": 0.001, "mode": "exact", "keep": "quality", "store": "s3://b/p?region=x"}
    assert parameters_of(job) == wanted


def test_sources_come_through_the_shell_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    odd = ['s3://b/it\'s "$HOME" `x` \\ *.tar?region=x', "/data/é\n;"]
    job = rendered(capsys, "enroll", "acme/staff", *odd, "--manifest", "s3://b/m.csv", *OF)
    assert [source["url"] for source in parameters_of(job)["sources"]] == odd
    assert {source["manifest"] for source in parameters_of(job)["sources"]} == {"s3://b/m.csv"}


def test_the_other_kinds_and_a_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    photos = ("s3://b/p", "--into", "acme/new", "--network", "edgeface_xs")
    assert parameters_of(rendered(capsys, "reembed", "acme/staff", *photos, *OF))["embedder"] == "edgeface_xs"
    when = ("--schedule", "0 3 * * 0", "--time-zone", "Europe/Berlin")
    cron = rendered(capsys, "calibrate", "acme/staff", "--samples", "500", *OF, *when)
    assert cron["kind"] == "RayCronJob"
    assert cron["metadata"]["name"] == scheduled_name(Release("prod", "faces"), "calibrate", "acme/staff")
    assert (cron["spec"]["schedule"], cron["spec"]["timeZone"]) == ("0 3 * * 0", "Europe/Berlin")
    assert parameters_of({"spec": cron["spec"]["jobTemplate"]}) == {"samples": 500}
    resumed = rendered(capsys, "resume", "20260131T120000Z-0a1b2c3d", *OF, "--fullname", "faces")
    assert resumed["spec"]["entrypoint"].endswith("faces-head-svc:6379 resume 20260131T120000Z-0a1b2c3d")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("dedup", "acme/staff", *OF), 2, "expected threshold or target_fpir"),
        (("dedup", "staff", "--threshold", "0.5", *OF), 2, "tenant"),
        (("dedup", "acme/staff", "--threshold", "2", *OF), 2, "--threshold"),
        (("dedup", "acme/staff", "--threshold", "0.5", "--store", "s3://k:s@b/p", *OF), 2, "without credentials"),
        (("enroll", "acme/staff", *OF), 2, "SOURCE"),
        (("enroll", "acme/staff", "photos", *OF), 2, "absolute path in the control pod"),
        (("enroll", "acme/staff", "s3://k:s@b/p", *OF), 2, "without credentials"),
        (("enroll", "acme/staff", "/" + "a" * 5_000, *OF), 2, "at most 4096"),
        (("enroll", "acme/staff", *(f"/{i}/{'a' * 4_000}" for i in range(30)), *OF), 2, "at most 100,000"),
        (("calibrate", "acme/staff", "--samples", "1", *OF), 2, "samples"),
        (("calibrate", "acme/staff", "--release", "Prod", "--namespace", "faces"), 2, "release"),
        (("calibrate", "acme/staff", "--release", "a" * 40, "--namespace", "faces"), 2, "fullname"),
        (("calibrate", "acme/staff", *OF, "--name", "1st"), 2, "name"),
        (("calibrate", "acme/staff", *OF, "--name", "a" * 48), 2, "at most 47"),
        (("calibrate", "acme/staff", *OF, "--schedule", "@daily"), 2, "five fields"),
        (("calibrate", "acme/staff", *OF, "--schedule", "99 99 * * *"), 2, "minute: expected numbers of 0 to 59"),
        (("calibrate", "acme/staff", *OF, "--time-zone", "UTC"), 2, "--schedule"),
        (("dedup", "acme/staff", "--threshold", "0.5", "--store", "relative/dir", *OF), 2, "expected a URL that pods"),
        (("dedup", "acme/staff", "--threshold", "0.5", "--store", "/var/lib/x", *OF), 2, "expected a URL that pods"),
        (("resume", "job-1", *OF), 3, "unknown_job"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert says in rendered(capsys, *arguments, code=code)


def test_every_kind_has_the_same_options_as_when_it_is_submitted() -> None:
    assert [ask.__name__ for ask in ASKS] == list(KINDS)
    tree: Any = command()
    submit = tree.commands["jobs"].commands["submit"].commands
    render = tree.commands["k8s"].commands["render-job"].commands
    own = {"release", "namespace", "fullname", "name", "cron", "time_zone"}
    for kind in KINDS:
        asked = {option.name for option in submit[kind].params} - {"is_detached"}
        assert {option.name for option in render[kind].params} - own == asked


@given(st.from_regex(r"[a-z][a-z0-9-]{0,25}[a-z0-9]", fullmatch=True), st.sampled_from([*KINDS, "resume"]))
def test_names_are_short_enough(name: str, kind: str) -> None:
    release = Release(name, "faces")
    made = job_name(release, kind, datetime(2026, 11, 22, 4, 46, tzinfo=timezone.utc), "1f3a")
    ray_job(release, made, ["true"], {})
    assert made.endswith(f"-{kind}-20261122-044600-1f3a")
    assert len(made) <= LONGEST_NAME
    with pytest.raises(InvalidParameter, match=f"at most {LONGEST_SCHEDULED_NAME}"):
        ray_cron_job(release, "a" * 37, ["true"], {}, Schedule("0 3 * * 0"))


@given(st.from_regex(r"[a-z][a-z0-9-]{0,25}[a-z0-9]", fullmatch=True), st.sampled_from(list(KINDS)))
def test_names_of_schedules_are_the_gallerys(name: str, kind: str) -> None:
    release = Release(name, "faces")
    made = scheduled_name(release, kind, "acme/a")
    ray_cron_job(release, made, ["true"], {}, Schedule("0 3 * * 0"))
    assert made == scheduled_name(release, kind, "acme/a")
    others = [(release, "acme/b"), (Release(f"{name[:-1]}{'b' if name[-1] == 'a' else 'a'}", "faces"), "acme/a")]
    assert made not in {scheduled_name(other, kind, gallery) for other, gallery in others}
