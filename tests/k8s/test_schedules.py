"""Jobs by a schedule: the chart's snapshots and dedup are what the command line and the client's jobs are."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import run
from cluster.config import Settings
from cluster.dedup.parameters import DedupParameters
from tests.k8s import charts, matrix
from tests.k8s.matrix import AXES, merged

ON = AXES["schedules"]["on"]


def rendered(kind: str, **values: Any) -> dict[str, Any]:
    (found,) = charts.of_kind(charts.render(merged(ON, values)), kind)
    return found


def test_the_dedup_is_the_one_that_render_job_prints(capsys: pytest.CaptureFixture[str]) -> None:
    (asked,) = ON["schedules"]["dedup"]
    found = rendered("RayCronJob")
    arguments = ["--threshold", "0.5", "--store", asked["parameters"]["store"], "--schedule", asked["schedule"]]
    of = ["--release", "prod", "--namespace", charts.NAMESPACE, "--json"]
    assert run(["k8s", "render-job", "dedup", asked["gallery"], *arguments, *of]) == 0
    printed = json.loads(capsys.readouterr().out)
    ours, theirs = found["spec"]["jobTemplate"], printed["spec"]["jobTemplate"]
    words = [shlex.split(spec.pop("entrypoint")) for spec in (ours, theirs)]
    assert words[0][:-1] == words[1][:-1]
    parameters = [DedupParameters(**json.loads(one[-1])) for one in words]
    assert parameters[0] == parameters[1]
    resources = [json.loads(spec.pop("entrypointResources")) for spec in (ours, theirs)]
    assert resources[0] == resources[1]
    assert ours == theirs
    assert found["spec"]["schedule"] == printed["spec"]["schedule"]


def test_the_schema_knows_the_parameters_of_dedup() -> None:
    schema = json.loads((charts.CHART / "values.schema.json").read_text())
    parameters = schema["properties"]["schedules"]["properties"]["dedup"]["items"]["properties"]["parameters"]
    assert set(parameters["properties"]) == set(DedupParameters.model_fields)


@pytest.mark.parametrize("galleries", [[], ["acme/staff", "beta/x"]])
@pytest.mark.parametrize("fails", ["", "create", "delete"])
def test_what_a_run_of_snapshots_does(galleries: list[str], fails: str, tmp_path: Path) -> None:
    pod = rendered("CronJob", schedules={"snapshots": {"galleries": galleries}})["spec"]["jobTemplate"]["spec"][
        "template"
    ]
    (container,) = pod["spec"]["containers"]
    told = tmp_path / "told"
    program = tmp_path / "facegrid"
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}\n[ "$2" = "{fails}" ] && exit 10\nexit 0\n')
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run([*container["command"], *container["args"]], env=path, check=False)
    assert ran.returncode == (10 if fails else 0)
    creates = [f"snapshot create {name} --keep-days 30" for name in galleries or ["--all"]]
    assert told.read_text().splitlines() == [*creates, "snapshot delete --expired --yes"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schedules": {"snapshots": {"keySecretName": ""}}}, "keySecretName"),
        ({"schedules": {"snapshots": {"schedule": "@daily"}}}, "schedule"),
        ({"facegrid": {"snapshotStore": ""}}, "needs facegrid.snapshotStore"),
        ({"schedules": {"dedup": [{"gallery": "acme/staff", "schedule": "0 3 * * 0"}]}}, "parameters"),
        (
            {"schedules": {"dedup": [{"gallery": "acme/staff", "schedule": "0 3 * * 0", "parameters": {"limit": 1}}]}},
            "limit",
        ),
        (
            {
                "schedules": {
                    "dedup": [{"gallery": "a/b", "schedule": "0 3 * * 0", "parameters": {"store": "relative/dir"}}]
                }
            },
            "store",
        ),
        ({"schedules": {"dedup": [{"gallery": "staff", "schedule": "0 3 * * 0", "parameters": {}}]}}, "gallery"),
    ],
)
def test_what_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(charts.Refused, match=says):
        charts.render(merged(ON, values))


def test_no_two_dedups_have_one_name() -> None:
    """Neither those of a gallery, nor those of releases whose names begin alike."""
    entry = {"parameters": {"threshold": 0.5}}
    entries = [
        {**entry, "gallery": gallery, "schedule": schedule}
        for gallery in ("acme/staff", "acme/guests")
        for schedule in ("0 3 * * 0", "0 3 * * 3")
    ]
    values = {"schedules": {"dedup": entries}}
    names = [
        one["metadata"]["name"]
        for release in (matrix.LONGEST, f"{matrix.LONGEST[:-1]}y", "prod")
        for one in charts.of_kind(charts.render(values, release), "RayCronJob")
    ]
    assert len(set(names)) == len(names) == 12
    assert max(map(len, names)) <= 36
    with pytest.raises(charts.Refused, match="expected one entry for acme/staff at"):
        charts.render({"schedules": {"dedup": [*entries, entries[0]]}})


def test_names_of_every_length_are_taken() -> None:
    for release in (matrix.LONGEST, "prod"):
        found = charts.of_kind(charts.render(ON, release), "RayCronJob", "CronJob")
        assert [len(one["metadata"]["name"]) <= (36 if one["kind"] == "RayCronJob" else 52) for one in found] == [
            True
        ] * 2


@pytest.mark.parametrize("tls", [True, False])
def test_the_client_of_a_schedule_reads_settings_that_there_are(tls: bool) -> None:
    values = {} if tls else {"gateway": {"tls": {"enabled": False}}}
    pod = rendered("CronJob", **values)["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"] if one["name"].startswith("FACEGRID_")}
    settings = Settings(**{name.removeprefix("FACEGRID_").lower(): value for name, value in given.items()})
    assert settings.url_insecure is not tls
    assert (settings.url_authority is not None) is tls
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(settings.key_file).rpartition("/")[0] in mounts
