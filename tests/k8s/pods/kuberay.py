"""The pods of a RayCluster, as the KubeRay operator v1.7.0 makes them.

After `ray-operator/controllers/ray/common/pod.go` of that version (DefaultHeadPodTemplate, DefaultWorkerPodTemplate,
BuildPod), for what the chart uses: start parameters, environment, token authentication, GCS fault tolerance on RocksDB,
the init container that waits for the GCS, the volume of /dev/shm, default probes. Of the autoscaler what it changes in
the head's and the workers' own containers; its container beside the head needs Kubernetes' API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from tests.k8s.pods.fields import Untranslatable, check
from tests.k8s.pods.quantities import quantity, rounded_up
from tests.k8s.pods.workloads import Document, Pod, pod_from_template

OPERATOR_VERSION = "v1.7.0"
_GCS_PATH = "/data/gcs"
_AGENT_PORT = "52365"
_METRICS_PORT = "8080"
# These take `=true` or `=false`; of all others `true` is the bare option, and `false` leaves it out.
_VALUED_BOOLEANS = {"log-color", "include-dashboard", "include-log-monitor"}
_WAIT_FOR_GCS = """
SECONDS=0
while true; do
  if ray health-check --address {address} > /dev/null 2>&1; then echo "GCS is ready."; break; fi
  echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."
  sleep 5
done
"""

Env = list[dict[str, Any]]


def head_service(cluster: Document) -> str:
    """Name of the Service that the operator makes for the head."""
    return f"{cluster['metadata']['name']}-head-svc"


def head_pod(cluster: Document, namespace: str, suffix: str) -> Pod:
    """The head as the operator would make it. Raises Untranslatable for what is not translated."""
    return _Builder(cluster, namespace).pod(cluster["spec"]["headGroupSpec"], "headgroup", "head", suffix)


def worker_pod(cluster: Document, group_name: str, namespace: str, suffix: str) -> Pod:
    """One worker of that group. Raises Untranslatable if there is no such group, too."""
    for group in cluster["spec"].get("workerGroupSpecs", ()):
        if group["groupName"] == group_name:
            return _Builder(cluster, namespace).pod(group, group_name, "worker", suffix)
    raise Untranslatable(f"RayCluster/{cluster['metadata']['name']}: no worker group {group_name!r}")


class _Builder:
    def __init__(self, cluster: Document, namespace: str) -> None:
        self.name: str = cluster["metadata"]["name"]
        self.namespace = namespace
        self.spec: Mapping[str, Any] = cluster["spec"]
        self.owner = f"RayCluster/{self.name}"
        self.left_out = check("raycluster", self.spec, f"{self.owner}.spec")
        annotations = cluster["metadata"].get("annotations", {})
        if "ray.io/overwrite-container-cmd" in annotations:
            raise Untranslatable(f"{self.owner}: ray.io/overwrite-container-cmd is not translated")
        self.address = f"{head_service(cluster)}.{namespace}.svc.cluster.local"
        self.port = str(self.spec["headGroupSpec"].get("rayStartParams", {}).get("port", "6379"))

    def pod(self, group: Mapping[str, Any], group_name: str, node: str, suffix: str) -> Pod:
        self.left_out += check("ray group", group, f"{self.owner}.{group_name}")
        template = deepcopy(dict(group["template"]))
        container = template["spec"]["containers"][0]
        environment: Env = container.setdefault("env", [])
        parameters = _start_parameters(group, container, node, f"{self.address}:{self.port}")
        if self.spec.get("enableInTreeAutoscaling"):
            self._autoscaling(template["spec"], container, parameters, node)
        if node == "worker":
            template["spec"].setdefault("initContainers", []).append(self._wait_for_gcs(container))
        self._fault_tolerance(template["spec"], container, node)
        self._authentication(template["spec"])
        _shared_memory(template["spec"], container, parameters)
        command = f"ray start {'--head ' if node == 'head' else ''}{_options(parameters)}"
        _set_command(container, command)
        for init in template["spec"].get("initContainers", ()):
            init.setdefault("env", []).extend(self._address_variables())
        self._environment(environment, node, command)
        _default_probes(container, node, self.spec.get("rayVersion", ""), parameters)
        labels = {
            "ray.io/is-ray-node": "yes",
            "ray.io/cluster": self.name,
            "ray.io/node-type": node,
            "ray.io/group": group_name,
        }
        pod_name = f"{self.name}-head-{suffix}" if node == "head" else f"{self.name}-{group_name}-worker-{suffix}"
        made = pod_from_template(template, pod_name, self.namespace, f"{self.owner}.{group_name}", labels=labels)
        fields = {name: getattr(made, name) for name in Pod.__dataclass_fields__}
        return Pod(**{**fields, "not_exercised": (*made.not_exercised, *self.left_out)})

    def _autoscaling(
        self, spec: dict[str, Any], container: dict[str, Any], parameters: dict[str, str], node: str
    ) -> None:
        version = self.spec.get("autoscalerOptions", {}).get("version", "v1")
        if version == "v2":
            # A node of that name never comes back: the pod is not restarted but replaced.
            spec["restartPolicy"] = "Never"
        if node == "head":
            parameters["no-monitor"] = "true"
            container["env"].append({"name": "RAY_enable_autoscaler_v2", "value": str(version == "v2").lower()})
            _empty_dir(spec, container, "ray-logs", "/tmp/ray", {})

    def _wait_for_gcs(self, container: Mapping[str, Any]) -> dict[str, Any]:
        copied = deepcopy(
            {key: container[key] for key in ("image", "env", "volumeMounts", "securityContext") if key in container}
        )
        limits = {"cpu": "200m", "memory": "256Mi"}
        return {
            "name": "wait-gcs-ready",
            "command": ["/bin/bash", "-c", "--"],
            "args": [_WAIT_FOR_GCS.format(address=f"{self.address}:{self.port}")],
            "resources": {"limits": limits, "requests": dict(limits)},
            **copied,
        }

    def _fault_tolerance(self, spec: dict[str, Any], container: dict[str, Any], node: str) -> None:
        options = self.spec.get("gcsFaultToleranceOptions")
        if options is None:
            return
        self.left_out += check("gcs", options, f"{self.owner}.spec.gcsFaultToleranceOptions")
        environment: Env = container["env"]
        if node == "worker":
            _default(environment, "RAY_gcs_rpc_server_reconnect_timeout_s", "600")
            return
        if options.get("backend") != "rocksdb":
            self._redis(options, environment)
            return
        storage = options.get("storage", {})
        self.left_out += check("gcs storage", storage, f"{self.owner}.spec.gcsFaultToleranceOptions.storage")
        _default(environment, "RAY_gcs_storage", "rocksdb")
        _default(environment, "RAY_gcs_storage_path", _GCS_PATH)
        mount = {"name": "gcs-storage", "mountPath": _GCS_PATH}
        if storage.get("subPath"):
            mount["subPath"] = storage["subPath"]
        container.setdefault("volumeMounts", []).append(mount)
        claim = storage.get("claimName") or f"{self.name}-gcs-pvc"
        spec.setdefault("volumes", []).append({"name": "gcs-storage", "persistentVolumeClaim": {"claimName": claim}})

    def _redis(self, options: Mapping[str, Any], environment: Env) -> None:
        if "redisUsername" in options:
            raise Untranslatable(f"{self.owner}.spec.gcsFaultToleranceOptions.redisUsername is not translated")
        # The operator takes the RayCluster's uid where no namespace is given; any name does that no other cluster has.
        _default(environment, "RAY_external_storage_namespace", options.get("externalStorageNamespace") or self.name)
        environment.append({"name": "RAY_REDIS_ADDRESS", "value": options["redisAddress"]})
        if "redisPassword" in options:
            raise Untranslatable(f"{self.owner}.spec.gcsFaultToleranceOptions.redisPassword is not translated")

    def _authentication(self, spec: Mapping[str, Any]) -> None:
        options = self.spec.get("authOptions", {})
        if options.get("mode") != "token":
            return
        unknown = set(options) - {"mode", "secretName"}
        if unknown:
            raise Untranslatable(f"{self.owner}.spec.authOptions: {sorted(unknown)} not translated")
        waiting = [init for init in spec.get("initContainers", ()) if init["name"] == "wait-gcs-ready"]
        reference = {"name": options.get("secretName") or self.name, "key": "auth_token"}
        for container in [spec["containers"][0], *waiting]:
            _default(container["env"], "RAY_AUTH_MODE", "token")
            if all(variable["name"] != "RAY_AUTH_TOKEN" for variable in container["env"]):
                container["env"].append({"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": reference}})

    def _address_variables(self) -> Env:
        return [{"name": "FQ_RAY_IP", "value": self.address}, {"name": "RAY_IP", "value": self.address.split(".")[0]}]

    def _environment(self, environment: Env, node: str, command: str) -> None:
        if node == "worker":
            environment += self._address_variables()
        for name, path in (
            ("RAY_CLUSTER_NAME", "metadata.labels['ray.io/cluster']"),
            ("RAY_CLUSTER_NAMESPACE", "metadata.namespace"),
            ("RAY_CLOUD_INSTANCE_ID", "metadata.name"),
            ("RAY_NODE_TYPE_NAME", "metadata.labels['ray.io/group']"),
        ):
            environment.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
        environment.append({"name": "KUBERAY_GEN_RAY_START_CMD", "value": command})
        _default(environment, "RAY_PORT", self.port)
        _default(environment, "RAY_ADDRESS", f"{'127.0.0.1' if node == 'head' else self.address}:{self.port}")
        _default(environment, "RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
        if node == "head":
            tags = f"kuberay_version={OPERATOR_VERSION};kuberay_crd=RayCluster"
            environment.append({"name": "RAY_USAGE_STATS_EXTRA_TAGS", "value": tags})
        _default(environment, "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "1")


def _default(environment: Env, name: str, value: str) -> None:
    if all(variable["name"] != name for variable in environment):
        environment.append({"name": name, "value": value})


def _start_parameters(
    group: Mapping[str, Any], container: Mapping[str, Any], node: str, address: str
) -> dict[str, str]:
    """What `ray start` is given: the group's parameters, its resources over them, and the operator's defaults."""
    parameters = {key: str(value) for key, value in group.get("rayStartParams", {}).items()}
    custom: dict[str, float] = {}
    for name, amount in group.get("resources", {}).items():
        whole = str(rounded_up(quantity(amount)))
        if name.lower() in ("cpu", "memory"):
            parameters["num-cpus" if name.lower() == "cpu" else "memory"] = whole
        elif name.lower().endswith("gpu"):
            parameters["num-gpus"] = whole
        else:
            custom[name] = float(quantity(amount))
    if custom:
        parameters["resources"] = f"'{json.dumps(custom, sort_keys=True, separators=(',', ':'))}'"
    parameters.setdefault(*("dashboard-host", "0.0.0.0") if node == "head" else ("address", address))
    parameters.setdefault("metrics-export-port", _METRICS_PORT)
    parameters["block"] = "true"
    parameters.setdefault("dashboard-agent-listen-port", _AGENT_PORT)
    limits, requests = (container.get("resources", {}).get(kind, {}) for kind in ("limits", "requests"))
    cpu = limits.get("cpu", requests.get("cpu"))
    if cpu is not None:
        parameters.setdefault("num-cpus", str(rounded_up(quantity(cpu))))
    if "memory" in limits:
        parameters.setdefault("memory", str(rounded_up(quantity(limits["memory"]))))
    for name, amount in limits.items():
        if name.endswith("gpu"):
            parameters.setdefault("num-gpus", str(amount))
    return parameters


def _options(parameters: Mapping[str, str]) -> str:
    shown: list[str] = []
    for name in sorted(parameters):
        value = parameters[name]
        if value.lower() in ("true", "false") and name not in _VALUED_BOOLEANS:
            shown += [f"--{name}"] if value.lower() == "true" else []
        else:
            shown.append(f"--{name}={value}")
    return "  ".join(shown)


def _set_command(container: dict[str, Any], generated: str) -> None:
    own: Sequence[str] = [*container.get("command", ()), *container.get("args", ())]
    joined = "".join(f" {word} " for word in own)
    if "ray start" in joined:
        return
    started = f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {generated}"
    container["command"] = ["/bin/bash", "-c", "--"]
    container["args"] = [f"{joined} && {started}" if joined else started]


def _shared_memory(spec: dict[str, Any], container: dict[str, Any], parameters: Mapping[str, str]) -> None:
    if "plasma-directory" in parameters:
        return
    resources = container.get("resources", {})
    limit = resources.get("limits", {}).get("memory", resources.get("requests", {}).get("memory"))
    _empty_dir(
        spec, container, "shared-mem", "/dev/shm", {"medium": "Memory", **({"sizeLimit": limit} if limit else {})}
    )


def _empty_dir(
    spec: dict[str, Any], container: dict[str, Any], name: str, path: str, source: Mapping[str, Any]
) -> None:
    """An emptyDir there, unless something is mounted at that path already."""
    mounted = container.setdefault("volumeMounts", [])
    if any(mount["mountPath"] == path for mount in mounted):
        return
    volumes = spec.setdefault("volumes", [])
    if all(volume["name"] != name for volume in volumes):
        volumes.append({"name": name, "emptyDir": dict(source)})
    mounted.append({"name": name, "mountPath": path})


def _default_probes(container: dict[str, Any], node: str, version: str, parameters: Mapping[str, str]) -> None:
    """Where the group gives none. Ray 2.53 and later answer for the whole node at one address."""
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 53):
        raise Untranslatable(f"rayVersion {version!r}: probes of Ray before 2.53 are not translated")
    action = {"httpGet": {"path": "/api/healthz", "port": int(parameters["dashboard-agent-listen-port"])}}
    timeout = 5 if node == "head" else 2
    common = {"timeoutSeconds": timeout, "periodSeconds": 5, "successThreshold": 1, **action}
    container.setdefault("livenessProbe", {"initialDelaySeconds": 30, "failureThreshold": 120, **common})
    container.setdefault("readinessProbe", {"initialDelaySeconds": 10, "failureThreshold": 10, **common})
