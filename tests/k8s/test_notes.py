"""What helm prints after an install."""

import json
import re
import subprocess
from typing import Any

import pytest

from tests.k8s import charts, kuberay_rules, matrix
from tests.k8s.tools import program

NEVER_SAID = {"ray": {"gcs": {"backend": "redis", "redis": {"address": "redis.example:6379"}}}}


def notes(values: dict[str, Any]) -> str:
    words = [program("helm"), "install", "prod", str(charts.CHART), "--namespace", charts.NAMESPACE]
    ran = subprocess.run(
        [*words, "--dry-run=client", "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.partition("\nNOTES:\n")[2]


def gates(text: str) -> list[dict[str, Any]]:
    return [gate for said in re.findall(r"'featureGates=(.*)'", text) for gate in json.loads(said)]


@pytest.mark.parametrize("values", [{}, matrix.merged(NEVER_SAID, matrix.AXES["schedules"]["on"])], ids=str)
def test_gates_are_set_together_because_the_list_is_replaced(values: dict[str, Any]) -> None:
    found = gates(notes(values))
    assert {gate["name"] for gate in found} == {kuberay_rules.EMBEDDED_GCS, kuberay_rules.CRON}
    assert all(gate["enabled"] is True for gate in found)


def test_gates_are_not_spoken_of_where_none_is_needed() -> None:
    assert gates(notes(NEVER_SAID)) == []
