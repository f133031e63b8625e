"""Linters have nothing to say about the chart: yamllint of values and renders, `helm lint --strict`, a package of it.

The image's files have theirs in test_image_lint.py.
"""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.k8s import charts, goldens, matrix, workloads
from tests.k8s.tools import program

RULES = Path(__file__).with_name("yamllint.yaml")
FILES = sorted(path for path in (charts.ROOT / "k8s").rglob("*.yaml") if "templates" not in path.parts)
# What helm prints has the empty lines and comments of templates, and files of others as they are.
LOOSE = ("empty-lines", "comments-indentation", "line-length", "indentation")
PRINTED = f"{{extends: {RULES}, rules: {{{', '.join(f'{rule}: disable' for rule in LOOSE)}}}}}"


def ran(*command: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(command), input=text, capture_output=True, text=True, check=False)


def test_yamllint_of_what_people_write() -> None:
    assert len(FILES) >= 5
    done = ran(program("yamllint"), "--strict", "--config-file", RULES, *FILES)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("example", charts.EXAMPLES)
def test_yamllint_of_what_helm_makes(example: str) -> None:
    done = ran(program("yamllint"), "--strict", "--config-data", PRINTED, "-", text=goldens.rendered(example))
    assert done.returncode == 0, done.stdout


def test_yamllint_finds_something() -> None:
    done = ran(program("yamllint"), "--strict", "--config-file", RULES, "-", text="a: yes\na: 1\nb:   2\n")
    assert done.returncode != 0
    for said in ("truthy", "key-duplicates", "colons"):
        assert said in done.stdout


@pytest.mark.parametrize("example", [None, *charts.EXAMPLES])
def test_helm_lint(example: str | None) -> None:
    values = [] if example is None else ["--values", str(charts.EXAMPLES[example])]
    done = ran(program("helm"), "lint", "--strict", charts.CHART, *values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout
    assert "[WARNING]" not in done.stdout, done.stdout


def test_helm_lint_finds_something(tmp_path: Path) -> None:
    wrong = tmp_path / "values.yaml"
    wrong.write_text("shard: {replicas: 0}\n")
    done = ran(program("helm"), "lint", "--strict", charts.CHART, "--values", wrong)
    assert done.returncode != 0
    assert "shard" in done.stdout + done.stderr


def test_a_package_of_the_chart_has_its_alerts_and_renders_the_same(tmp_path: Path) -> None:
    """files/ are links into the service: a package has their contents."""
    done = ran(program("helm"), "package", charts.CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as opened:
        inside = {one.name: one for one in opened.getmembers()}
    for name in ("alerts.yaml", "facegrid.json"):
        assert inside[f"facegrid/files/{name}"].isreg()
        assert inside[f"facegrid/files/{name}"].size > 1000
    values = charts.EXAMPLES["production"]
    namespace = ("--namespace", charts.NAMESPACE)
    printed = ran(program("helm"), "template", goldens.RELEASE, package, *namespace, "--values", values)
    assert printed.stdout == charts.text("{}", goldens.RELEASE, (values,)), printed.stderr


def scripts() -> dict[str, str]:
    """Every shell script that stands in a pod of some renders, by its place: rows differ in its names alone."""
    found = {}
    for name in (*matrix.NAMES[:3], *charts.EXAMPLES):
        for pod in workloads.pods(matrix.render(name)):
            for where, one, _ in pod.containers():
                command = [*(one.get("command") or []), *(one.get("args") or [])]
                if command and command[0].rpartition("/")[2] in ("sh", "bash") and "\n" in command[-1]:
                    found[command[-1]] = where
    return {where: script for script, where in found.items()}


def test_shellcheck_of_scripts_in_pods() -> None:
    found = scripts()
    assert found
    for where, script in found.items():
        done = ran(program("shellcheck"), "--shell=sh", "--severity=style", "-", text=script)
        assert done.returncode == 0, f"{where}: {done.stdout}"


def test_shellcheck_of_what_ci_runs() -> None:
    done = ran(program("shellcheck"), "--severity=style", charts.ROOT / ".ci/run")
    assert done.returncode == 0, done.stdout


def test_templates_of_helm_fit_its_notes() -> None:
    """NOTES.txt is rendered at an installation: with every row's values it says where the gateways are."""
    for row in matrix.ROWS[:4]:
        said = notes(matrix.values_of(row), row["release"])
        assert "NOTES:" in said
        assert "gateway" in said


def notes(values: matrix.Values, release: str) -> str:
    done = ran(
        *(program("helm"), "install", release, charts.CHART, "--dry-run=client", "--namespace", charts.NAMESPACE),
        *("--values", "-"),
        text=json.dumps(values),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
