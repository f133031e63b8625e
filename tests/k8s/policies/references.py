"""What a manifest names exists: in the render, or among the things that are made before it (PREREQUISITES)."""

from collections.abc import Iterator
from typing import Any

from tests.k8s.network import selects
from tests.k8s.workloads import Manifest, Pod, pods

# Kubernetes puts it into every namespace.
OF_KUBERNETES = {("ConfigMap", "kube-root-ca.crt")}
OWNERS_OF_PODS = ("Deployment", "StatefulSet")


def volumes_exist(manifests: list[Manifest]) -> Iterator[str]:
    """Every mount is of a volume (or a claim's template), every volume is mounted."""
    templates = {
        f"{one['kind']}/{one['metadata']['name']}": [c["metadata"]["name"] for c in one["spec"]["volumeClaimTemplates"]]
        for one in manifests
        if one["kind"] == "StatefulSet" and "volumeClaimTemplates" in one["spec"]
    }
    for pod in pods(manifests):
        said = [volume["name"] for volume in pod.spec.get("volumes") or []] + templates.get(pod.owner, [])
        mounted = {mount["name"] for _, one, _ in pod.containers() for mount in one.get("volumeMounts") or []}
        yield from (f"{pod.owner}: volume {name} twice" for name in sorted(set(said)) if said.count(name) > 1)
        yield from (f"{pod.owner}: mounts {name}, which is no volume" for name in sorted(mounted - set(said)))
        yield from (f"{pod.owner}: nothing mounts {name}" for name in sorted(set(said) - mounted))


def named(manifests: list[Manifest]) -> set[tuple[str, str]]:
    """(kind, name) of every Secret, ConfigMap, PersistentVolumeClaim and ServiceAccount that the render refers to."""
    found = {(kind, name) for one in manifests for kind, name in _named(one) if name}
    return found | {
        ("ServiceAccount", pod.spec["serviceAccountName"])
        for pod in pods(manifests)
        if "serviceAccountName" in pod.spec
    }


def _named(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        if key == "imagePullSecrets":
            yield from (("Secret", item["name"]) for item in one)
        elif isinstance(one, dict):
            if key in ("secretKeyRef", "secretRef") or (key == "credentials" and "key" in one):
                yield "Secret", one.get("name", "")
            elif key in ("configMapKeyRef", "configMapRef", "configMap"):
                yield "ConfigMap", one.get("name", "")
            elif key == "secret":
                yield "Secret", one.get("secretName") or one.get("name", "")
            elif key == "persistentVolumeClaim":
                yield "PersistentVolumeClaim", one.get("claimName", "")
            yield from _named(one)
        elif isinstance(one, list):
            yield from _named(one)
        elif key == "secretName":
            yield "Secret", one


def missing(manifests: list[Manifest], prerequisites: set[tuple[str, str]]) -> list[str]:
    """What the render refers to that is neither in it, nor made by the operator, nor a prerequisite."""
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests} | OF_KUBERNETES | prerequisites
    for one in manifests:
        auth = one["spec"].get("authOptions") or {} if one["kind"] == "RayCluster" else {}
        if auth.get("mode") == "token" and not auth.get("secretName"):
            there.add(("Secret", one["metadata"]["name"]))  # KubeRay makes the token.
    return [f"{kind} {name} is referred to, and made by nobody" for kind, name in sorted(named(manifests) - there)]


def selectors_find_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Workloads select their own pods; Services, budgets and monitors select something; their ports are there."""
    all_pods = pods(manifests)
    for one in manifests:
        where, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec") or {}
        if one["kind"] in OWNERS_OF_PODS and not selects(spec["selector"], all_labels(one)):
            yield f"{where} does not select its own pods"
        elif one["kind"] == "Service":
            found = [pod for pod in all_pods if selects({"matchLabels": spec.get("selector")}, pod.labels)]
            yield from _service(where, spec, found)
        elif one["kind"] == "PodDisruptionBudget" and not any(selects(spec["selector"], p.labels) for p in all_pods):
            yield f"{where} selects no pod"
        elif one["kind"] == "PodMonitor":
            found = [pod for pod in all_pods if selects(spec["selector"], pod.labels)]
            for end in spec["podMetricsEndpoints"]:
                if not any(end["port"] in pod.ports() for pod in found):
                    yield f"{where}: no pod has the port {end['port']}"
        elif one["kind"] == "ServiceMonitor":
            services = [
                s for s in manifests if s["kind"] == "Service" and selects(spec["selector"], s["metadata"]["labels"])
            ]
            for end in spec["endpoints"]:
                if not any(port.get("name") == end["port"] for s in services for port in s["spec"]["ports"]):
                    yield f"{where}: no Service has the port {end['port']}"


def all_labels(manifest: Manifest) -> dict[str, str]:
    return dict(manifest["spec"]["template"]["metadata"].get("labels") or {})


def _service(where: str, spec: Manifest, found: list[Pod]) -> Iterator[str]:
    if not spec.get("selector") or not found:
        yield f"{where} selects no pod"
    owners = {pod.owner for pod in found}
    if len(owners) > 1:
        yield f"{where} selects pods of {sorted(owners)}"
    for port in spec.get("ports", []):
        target = port.get("targetPort", port["port"])
        for pod in found:
            if target not in pod.ports() and target not in pod.ports().values():
                yield f"{where}: {pod.owner} has no port {target}"


def targets_exist(manifests: list[Manifest]) -> Iterator[str]:
    """Headless Services of StatefulSets, targets of autoscalers, backends of Ingresses, names that pods connect to."""
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    for one in manifests:
        where, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec") or {}
        if one["kind"] == "StatefulSet":
            service = by_name.get(("Service", spec["serviceName"]))
            if service is None or service["spec"].get("clusterIP") != "None":
                yield f"{where}: {spec['serviceName']} is no headless Service"
        elif one["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            workload = by_name.get((target["kind"], target["name"]))
            if workload is None or "replicas" in workload["spec"]:
                yield f"{where}: {target['name']} is not there, or says replicas itself"
            if not spec["minReplicas"] <= spec["maxReplicas"]:
                yield f"{where}: more replicas at least than at most"
        elif one["kind"] == "Ingress":
            yield from _backends(where, spec, by_name)
    yield from _connects(manifests, by_name)


def _backends(where: str, spec: Manifest, by_name: dict[tuple[str, str], Manifest]) -> Iterator[str]:
    for rule in spec.get("rules", []):
        for path in rule["http"]["paths"]:
            said = path["backend"]["service"]
            ports = by_name.get(("Service", said["name"]), {"spec": {"ports": []}})["spec"]["ports"]
            if not any(port.get("name") == said["port"].get("name") for port in ports):
                yield f"{where}: Service {said['name']} has no port {said['port']}"


def _connects(manifests: list[Manifest], by_name: dict[tuple[str, str], Manifest]) -> Iterator[str]:
    """GRID_HEAD names the Service that KubeRay makes for the head of the render's own RayCluster."""
    heads = {f"{name}-head-svc:6379" for kind, name in by_name if kind == "RayCluster"}
    for pod in pods(manifests):
        for where, one, _ in pod.containers():
            for env in one.get("env") or []:
                if env["name"] == "GRID_HEAD" and heads and env.get("value") not in heads:
                    yield f"{where} joins {env.get('value')}, the head is {sorted(heads)}"


CHECKS = [volumes_exist, selectors_find_pods, targets_exist]
