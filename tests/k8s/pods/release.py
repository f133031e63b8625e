"""A rendered release: which pods it has, and which of its objects no machine without a cluster can exercise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.k8s.pods.fields import Untranslatable
from tests.k8s.pods.kuberay import head_pod, head_service, worker_pod
from tests.k8s.pods.workloads import Document, Pod, deployment_pod, statefulset_pod

_RUN = {"StatefulSet", "Deployment", "RayCluster", "Service", "ConfigMap", "Secret"}
NOT_EXERCISED_KINDS = {
    "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress", "ServiceMonitor",
    "PodMonitor", "PrometheusRule", "CronJob", "RayCronJob", "RayJob", "Job", "Pod",
}  # fmt: skip


class Release:
    """The documents of `helm template`. Pods are made one by one, as controllers do."""

    def __init__(self, documents: Iterable[Document | None], namespace: str) -> None:
        """Raises Untranslatable for a kind of object that nobody thought of."""
        self.namespace = namespace
        self._documents: dict[tuple[str, str], Document] = {}
        for document in documents:
            if document is None:
                continue
            kind, name = document["kind"], document["metadata"]["name"]
            if kind not in _RUN and kind not in NOT_EXERCISED_KINDS:
                raise Untranslatable(f"{kind}/{name}: this kind is neither run nor named among those that are not")
            self._documents[kind, name] = document

    def not_exercised(self) -> list[str]:
        """Objects that are not run, as `Kind/name`."""
        return sorted(f"{kind}/{name}" for kind, name in self._documents if kind in NOT_EXERCISED_KINDS)

    def document(self, kind: str, name: str) -> Document:
        if (kind, name) not in self._documents:
            raise Untranslatable(f"the release has no {kind}/{name}; it has {sorted(self._documents)}")
        return self._documents[kind, name]

    @property
    def ray_cluster(self) -> Document:
        (found,) = (document for (kind, _), document in self._documents.items() if kind == "RayCluster")
        return found

    @property
    def name(self) -> str:
        """The release's full name, which its objects begin with."""
        return str(self.ray_cluster["metadata"]["name"])

    def replicas(self, component: str) -> int:
        kind = "Deployment" if component == "gateway" else "StatefulSet"
        return int(self.document(kind, f"{self.name}-{component}")["spec"]["replicas"])

    def head(self, suffix: str) -> Pod:
        return head_pod(self.ray_cluster, self.namespace, suffix)

    def worker(self, group: str, suffix: str) -> Pod:
        return worker_pod(self.ray_cluster, group, self.namespace, suffix)

    def stateful(self, component: str, ordinal: int) -> Pod:
        """Pod `<release>-<component>-<ordinal>`: control, shard, postgres."""
        return statefulset_pod(self.document("StatefulSet", f"{self.name}-{component}"), ordinal, self.namespace)

    def gateway(self, suffix: str) -> Pod:
        return deployment_pod(self.document("Deployment", f"{self.name}-gateway"), suffix, self.namespace)

    def config_maps(self) -> dict[str, dict[str, bytes]]:
        """Data of the release's own ConfigMaps."""
        return {
            name: {key: value.encode() for key, value in document.get("data", {}).items()}
            for (kind, name), document in self._documents.items()
            if kind == "ConfigMap"
        }

    def headless_names(self, pod: Pod) -> list[str]:
        """Names that resolve to this pod: of the headless Services that select it, and its own below its subdomain.

        Raises Untranslatable for a headless Service that hides pods that are not ready: DNS here knows no readiness.
        """
        names: list[str] = []
        for service in self._services(pod):
            if service["spec"].get("clusterIP") != "None":
                continue
            if not service["spec"].get("publishNotReadyAddresses"):
                raise Untranslatable(
                    f"Service/{service['metadata']['name']}: headless without publishNotReadyAddresses"
                )
            names.append(service["metadata"]["name"])
        if pod.spec.get("subdomain") in names:
            names.append(f"{pod.name}.{pod.spec['subdomain']}")
        if pod.labels.get("ray.io/node-type") == "head":
            names.append(head_service(self.ray_cluster))
        return [full for name in names for full in self._qualified(name)]

    def _services(self, pod: Pod) -> list[Document]:
        services = (document for (kind, _), document in self._documents.items() if kind == "Service")
        return [service for service in services if _selects(service["spec"].get("selector", {}), pod.labels)]

    def _qualified(self, name: str) -> list[str]:
        """The name as resolvers in the namespace complete it."""
        return [name, *(f"{name}.{self.namespace}{rest}" for rest in ("", ".svc", ".svc.cluster.local"))]

    def service_ports(self, name: str) -> list[tuple[int, int]]:
        """Port of the Service and port of the pods behind it, for each."""
        service = self.document("Service", name)
        (workload,) = (
            document
            for (kind, _), document in self._documents.items()
            if kind == "Deployment"
            and _selects(service["spec"]["selector"], document["spec"]["template"]["metadata"]["labels"])
        )
        named = {
            port["name"]: port["containerPort"]
            for container in workload["spec"]["template"]["spec"]["containers"]
            for port in container.get("ports", ())
        }
        ports: list[tuple[int, int]] = []
        for port in service["spec"]["ports"]:
            target: Any = port.get("targetPort", port["port"])
            ports.append((port["port"], target if isinstance(target, int) else named[target]))
        return ports


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())
