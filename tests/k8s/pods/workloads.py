"""StatefulSets and Deployments as the pods that their controllers would make."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tests.k8s.pods.fields import Untranslatable, check

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod as it reaches the kubelet.

    claims: names of the persistent volume claims that its volumes name, which outlive it.   not_exercised: fields that
    were read and have no counterpart here.   owner: `StatefulSet/name` and the like.
    """

    name: str
    namespace: str
    owner: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    not_exercised: tuple[str, ...] = field(default=())


def pod_from_template(
    template: Document, name: str, namespace: str, owner: str, *, labels: Mapping[str, str] | None = None
) -> Pod:
    """The pod of that name from a pod template."""
    metadata = template.get("metadata", {})
    where = f"{owner}.template.spec"
    return Pod(
        name=name,
        namespace=namespace,
        owner=owner,
        labels={**metadata.get("labels", {}), **(labels or {})},
        annotations=dict(metadata.get("annotations", {})),
        spec=template["spec"],
        not_exercised=tuple(check("pod", template["spec"], where)),
    )


def statefulset_pod(document: Document, ordinal: int, namespace: str) -> Pod:
    """Pod `<name>-<ordinal>`, its claims `<template>-<name>-<ordinal>` among its volumes.

    Raises Untranslatable for another update strategy than RollingUpdate without partition.
    """
    name, spec = document["metadata"]["name"], document["spec"]
    owner = f"StatefulSet/{name}"
    left_out = check("statefulset", spec, f"{owner}.spec")
    strategy = spec.get("updateStrategy", {"type": "RollingUpdate"})
    if strategy.get("type") != "RollingUpdate" or strategy.get("rollingUpdate", {}).get("partition", 0):
        raise Untranslatable(
            f"{owner}.spec.updateStrategy: only RollingUpdate of all pods is translated; got {strategy}"
        )
    template = deepcopy(dict(spec["template"]))
    pod_name = f"{name}-{ordinal}"
    volumes = template["spec"].setdefault("volumes", [])
    for claim in spec.get("volumeClaimTemplates", ()):
        claim_name = claim["metadata"]["name"]
        volumes.append({"name": claim_name, "persistentVolumeClaim": {"claimName": f"{claim_name}-{pod_name}"}})
    template["spec"].setdefault("subdomain", spec["serviceName"])
    identity = {"statefulset.kubernetes.io/pod-name": pod_name, "apps.kubernetes.io/pod-index": str(ordinal)}
    pod = pod_from_template(template, pod_name, namespace, owner, labels=identity)
    return Pod(**{**_fields(pod), "not_exercised": (*pod.not_exercised, *left_out)})


def deployment_pod(document: Document, suffix: str, namespace: str) -> Pod:
    """A pod `<name>-<suffix>` of a Deployment. Raises Untranslatable for another strategy than RollingUpdate."""
    name, spec = document["metadata"]["name"], document["spec"]
    owner = f"Deployment/{name}"
    left_out = check("deployment", spec, f"{owner}.spec")
    strategy = spec.get("strategy", {"type": "RollingUpdate"})
    if strategy.get("type") != "RollingUpdate":
        raise Untranslatable(f"{owner}.spec.strategy: only RollingUpdate is translated; got {strategy}")
    pod = pod_from_template(spec["template"], f"{name}-{suffix}", namespace, owner)
    return Pod(**{**_fields(pod), "not_exercised": (*pod.not_exercised, *left_out)})


def _fields(pod: Pod) -> dict[str, Any]:
    return {name: getattr(pod, name) for name in Pod.__dataclass_fields__}
