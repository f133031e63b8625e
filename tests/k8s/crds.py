"""KubeRay's published CustomResourceDefinitions, read where FACEGRID_DATA has them, and resources against them."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import structural

Manifest = dict[str, Any]
CRDS = Path(os.environ.get("FACEGRID_DATA", Path(__file__).parents[3] / "shared/data")) / "crds"

# A test that reads them says so by this mark.
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"no CRDs of KubeRay in {CRDS}; set FACEGRID_DATA")

# What an API server itself knows of every object's metadata.
METADATA: structural.Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 253},
        "generateName": {"type": "string"},
        "namespace": {"type": "string", "maxLength": 63},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
}


@cache
def schemas() -> dict[tuple[str, str], structural.Schema]:
    """(apiVersion, kind) to structural schema, of every version that is served."""
    found = {}
    for path in sorted(CRDS.glob("*.yaml")):
        spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            if version["served"]:
                schema = version["schema"]["openAPIV3Schema"]
                schema["properties"]["metadata"] = METADATA
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def schema_of(manifest: Manifest) -> structural.Schema:
    """Schema of a manifest's kind; KeyError names the kinds that there are."""
    key = manifest["apiVersion"], manifest["kind"]
    if key not in schemas():
        raise KeyError(f"no CRD for {key} among {sorted(schemas())}")
    return schemas()[key]


def refusals(manifest: Manifest, old: Manifest | None = None) -> list[str]:
    """Why an API server with these CRDs refuses the manifest, or `old`'s replacement by it; empty if it takes it."""
    schema = schema_of(manifest)
    before = None if old is None else structural.defaulted(schema, old)
    return list(structural.findings(schema, structural.defaulted(schema, manifest), before))
