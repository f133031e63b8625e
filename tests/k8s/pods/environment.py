"""Environment variables of a container, and `$(NAME)` in its command, as the kubelet resolves them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.k8s.pods.fields import Untranslatable
from tests.k8s.pods.quantities import quantity, rounded_up
from tests.k8s.pods.workloads import Pod

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_LABEL = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod runs: what is known of it before it starts.

    secrets, config_maps: by name, their keys' bytes.   node_name: of the machine, for spec.nodeName.
    """

    pod_ip: str
    node_name: str
    secrets: Mapping[str, Mapping[str, bytes]]
    config_maps: Mapping[str, Mapping[str, bytes]]


def variables(container: Mapping[str, Any], pod: Pod, place: Place) -> dict[str, str]:
    """Name and value of each variable, later over earlier. Raises Untranslatable for a missing Secret or key."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        for kind, table in (("secretRef", place.secrets), ("configMapRef", place.config_maps)):
            if kind in source:
                data = _data(table, source[kind], f"{pod.name}: envFrom.{kind}")
                found.update({source.get("prefix", "") + key: value.decode() for key, value in data.items()})
    for variable in container.get("env", ()):
        if "valueFrom" in variable:
            value = _value_from(variable, container, pod, place)
        else:
            value = expanded(str(variable.get("value", "")), found)
        if value is not None:
            found[variable["name"]] = value
    return found


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced where NAME is known, and `$$` by `$`."""
    return _REFERENCE.sub(lambda match: "$" if match[0] == "$$" else known.get(match[1], match[0]), text)


def expanded_words(words: Sequence[str], known: Mapping[str, str]) -> list[str]:
    return [expanded(str(word), known) for word in words]


def _value_from(variable: Mapping[str, Any], container: Mapping[str, Any], pod: Pod, place: Place) -> str | None:
    ((kind, reference),) = variable["valueFrom"].items()
    where = f"{pod.name}: env {variable['name']}"
    if kind in ("secretKeyRef", "configMapKeyRef"):
        data = _data(place.secrets if kind == "secretKeyRef" else place.config_maps, reference, where)
        if reference["key"] not in data:
            if reference.get("optional"):
                return None
            raise Untranslatable(f"{where}: {reference['name']} has no key {reference['key']}; it has {sorted(data)}")
        return data[reference["key"]].decode()
    if kind == "fieldRef":
        return _field(reference["fieldPath"], pod, place, where)
    if kind == "resourceFieldRef":
        return _resource(reference, container, where)
    raise Untranslatable(f"{where}: valueFrom.{kind} is not translated")


def _data(table: Mapping[str, Mapping[str, bytes]], reference: Mapping[str, Any], where: str) -> Mapping[str, bytes]:
    if reference["name"] in table:
        return table[reference["name"]]
    if reference.get("optional"):
        return {}
    raise Untranslatable(f"{where}: there is no Secret or ConfigMap {reference['name']}; known: {sorted(table)}")


def _field(path: str, pod: Pod, place: Place, where: str) -> str:
    simple = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "status.podIP": place.pod_ip,
        "status.podIPs": place.pod_ip,
        "spec.nodeName": place.node_name,
    }
    if path in simple:
        return simple[path]
    match = _LABEL.match(path)
    if match is None:
        raise Untranslatable(f"{where}: fieldRef {path} is not translated")
    return (pod.labels if match[1] == "labels" else pod.annotations).get(match[2], "")


def _resource(reference: Mapping[str, Any], container: Mapping[str, Any], where: str) -> str:
    """Limits and requests in units of the divisor, rounded up."""
    kind, _, name = reference["resource"].partition(".")
    amounts = container.get("resources", {}).get(kind, {})
    if name not in amounts:
        raise Untranslatable(f"{where}: the container has no {reference['resource']}, which its node would decide")
    divisor = quantity(reference.get("divisor", "1"))
    return str(rounded_up(quantity(amounts[name]) / (divisor or 1)))
