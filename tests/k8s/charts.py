"""What helm makes of the chart: manifests of a release with given values, or why it refuses to make them."""

import copy
import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.tools import program

Manifest = dict[str, Any]
Values = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s/chart/facegrid"
EXAMPLES = {path.stem.removeprefix("values-"): path for path in sorted((ROOT / "k8s/examples").glob("values-*.yaml"))}
NAMESPACE = "faces"


class Refused(Exception):
    """Helm made no manifests of these values; the message is helm's."""


def render(values: Values, release: str = "prod", *files: Path) -> list[Manifest]:
    """Manifests of a release, in helm's order, with those of its hooks: the files' values, then `values` over them.

    The caller may change what it gets. Raises Refused.
    """
    return copy.deepcopy(parsed(text(json.dumps(values, sort_keys=True), release, files)))


@cache
def text(values: str, release: str, files: tuple[Path, ...] = ()) -> str:
    """What `helm template` prints; values as JSON."""
    given = [part for path in files for part in ("--values", str(path))]
    ran = subprocess.run(
        [program("helm"), "template", release, str(CHART), "--namespace", NAMESPACE, *given, "--values", "-"],
        input=values,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        # That files/ has links to the service's alerts and dashboard is said each time.
        raise Refused("\n".join(line for line in ran.stderr.splitlines() if not line.startswith("level=INFO")))
    return ran.stdout


@cache
def parsed(printed: str) -> list[Manifest]:
    return [one for one in yaml.load_all(printed, Loader=yaml.CSafeLoader) if one]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def title(manifest: Manifest) -> str:
    """How findings name a manifest."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"
