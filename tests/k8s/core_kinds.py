"""Kubernetes' own kinds against the strict schemas of kubernetes-validate: unknown fields and kinds are refused.

The package's own function reads a file of megabytes for every manifest; here each is read once. `test_validators.py`
holds the two against each other.
"""

from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate import utils as published
from referencing import Registry, Resource

Manifest = dict[str, Any]

# What Chart.yaml asks for at least, and the newest that is published.
OLDEST, NEWEST = "1.27.0", published.latest_version()


class UnknownKind(Exception):
    """There is no schema for an apiVersion and kind."""


def schema_name(manifest: Manifest) -> str:
    """File of the kind's schema: `rbac.authorization.k8s.io/v1` Role is role-rbac-v1."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    parts = [manifest["kind"].lower(), group.split(".")[0], version]
    return "-".join(part for part in parts if part)


@cache
def validator(version: str, name: str) -> Any:
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    try:
        schema = published.schema_contents(f"{folder}/{name}.json", version)
    except FileNotFoundError:
        raise UnknownKind(f"no schema of Kubernetes {version} for {name}") from None
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    shared = published.schema_contents(f"kubernetes-json-schema/v{version}-local-strict/_definitions.json", version)
    return Resource.from_contents(shared) @ Registry()


def refusals(manifest: Manifest, version: str = NEWEST) -> list[str]:
    """Why Kubernetes of that version refuses the manifest, as `path: reason`. Raises UnknownKind."""
    errors = validator(version, schema_name(manifest)).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path)) or '.'}: {error.message:.300}" for error in errors]
