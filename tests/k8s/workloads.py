"""Every pod that a render leads to: of workloads, of jobs' templates, of Ray clusters as KubeRay fills them in.

The operator's part is written after v1.7.0's controllers/ray/common/pod.go and job.go: labels, the autoscaler's
container beside the head, the one that waits for the head, what a job's submitter is if nobody says it. So policies are
asked about what will run, not about what was written.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]

# Of containers that the operator adds, with no say about probes.
ADDED_BY_OPERATOR = {"autoscaler", "wait-gcs-ready", "ray-job-submitter"}


@dataclass(frozen=True)
class Pod:
    """One pod template: whose it is, its metadata's labels and annotations, its spec. `runs_on` says it is no job."""

    owner: str
    labels: dict[str, str]
    spec: Manifest
    runs_on: bool = True
    annotations: dict[str, str] = field(default_factory=dict)

    def containers(self) -> Iterator[tuple[str, Manifest, bool]]:
        """(where, container, is_init) of each."""
        for key, is_init in (("initContainers", True), ("containers", False)):
            for one in self.spec.get(key) or []:
                yield f"{self.owner}: container {one['name']}", one, is_init

    @property
    def component(self) -> str:
        return self.labels.get("app.kubernetes.io/component", "")

    def ports(self) -> dict[str, int]:
        """Container ports by name (or number)."""
        found = [port for _, one, _ in self.containers() for port in one.get("ports", [])]
        return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in found}


def pods(manifests: list[Manifest]) -> list[Pod]:
    """All pods of a render, in its order."""
    return [pod for one in manifests for pod in pods_of(one)]


def pods_of(manifest: Manifest) -> list[Pod]:
    """Pods that one manifest leads to; none if it is no workload."""
    made = MAKERS.get(manifest["kind"])
    return [] if made is None else list(made(f"{manifest['kind']}/{manifest['metadata']['name']}", manifest))


def _pod(owner: str, template: Manifest, runs_on: bool = True) -> Pod:
    about = template.get("metadata") or {}
    return Pod(owner, about.get("labels") or {}, template["spec"], runs_on, about.get("annotations") or {})


def _bare(owner: str, manifest: Manifest) -> Iterator[Pod]:
    yield _pod(owner, manifest, runs_on=manifest["spec"].get("restartPolicy", "Always") == "Always")


def _workload(owner: str, manifest: Manifest) -> Iterator[Pod]:
    yield _pod(owner, manifest["spec"]["template"])


def _job(owner: str, manifest: Manifest) -> Iterator[Pod]:
    yield _pod(owner, manifest["spec"]["template"], runs_on=False)


def _cron_job(owner: str, manifest: Manifest) -> Iterator[Pod]:
    yield _pod(owner, manifest["spec"]["jobTemplate"]["spec"]["template"], runs_on=False)


def _ray_cluster(owner: str, manifest: Manifest) -> Iterator[Pod]:
    name = manifest["metadata"]["name"]
    yield from ray_pods(owner, name, manifest["spec"])


def _ray_job(owner: str, manifest: Manifest) -> Iterator[Pod]:
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    if "rayClusterSpec" in spec:
        yield from ray_pods(owner, f"{name}-00000", spec["rayClusterSpec"])
    if spec.get("submissionMode", "K8sJobMode") == "K8sJobMode":
        yield _submitter(owner, spec)


def _ray_cron_job(owner: str, manifest: Manifest) -> Iterator[Pod]:
    yield from _ray_job(owner, {"metadata": manifest["metadata"], "spec": manifest["spec"]["jobTemplate"]})


def _submitter(owner: str, spec: Manifest) -> Pod:
    """GetSubmitterTemplate: without a template of one's own, a container with resources and no security at all."""
    template = copy.deepcopy(spec.get("submitterPodTemplate"))
    if template is None:
        image = spec.get("rayClusterSpec", {}).get("headGroupSpec", {}).get("template", {"spec": {"containers": [{}]}})
        resources = {
            "limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "500m", "memory": "200Mi"},
        }
        container = {
            "name": "ray-job-submitter",
            "resources": resources,
            "image": image["spec"]["containers"][0].get("image"),
        }
        template = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    return _pod(f"{owner} submitter", template, runs_on=False)


def ray_pods(owner: str, cluster: str, spec: Manifest) -> Iterator[Pod]:
    """Head and one pod of each worker group, as DefaultHeadPodTemplate and DefaultWorkerPodTemplate make them."""
    head = copy.deepcopy(spec["headGroupSpec"]["template"])
    if spec.get("enableInTreeAutoscaling"):
        head["spec"]["containers"].append(_autoscaler(head, spec))
    _complete(head, spec, cluster, "head", "headgroup")
    yield _pod(f"{owner} head", head)
    for group in spec.get("workerGroupSpecs", []):
        worker = copy.deepcopy(group["template"])
        worker["spec"].setdefault("initContainers", []).append(_wait_for_head(worker))
        _complete(worker, spec, cluster, "worker", group["groupName"])
        yield _pod(f"{owner} {group['groupName']}", worker)


def _autoscaler(head: Manifest, spec: Manifest) -> Manifest:
    """BuildAutoscalerContainer and mergeAutoscalerOverrides."""
    standard = {"cpu": "500m", "memory": "512Mi"}
    made = {
        "name": "autoscaler",
        "image": head["spec"]["containers"][0]["image"],
        "resources": {"requests": standard, "limits": standard},
    }
    options = spec.get("autoscalerOptions") or {}
    taken = (
        "resources",
        "image",
        "imagePullPolicy",
        "env",
        "envFrom",
        "volumeMounts",
        "securityContext",
        "command",
        "args",
    )
    return {**made, **{key: copy.deepcopy(options[key]) for key in taken if key in options}}


def _wait_for_head(worker: Manifest) -> Manifest:
    ray = worker["spec"]["containers"][0]
    small = {"cpu": "200m", "memory": "256Mi"}
    made = {"name": "wait-gcs-ready", "image": ray["image"], "resources": {"requests": small, "limits": small}}
    return {
        **made,
        **{key: copy.deepcopy(ray[key]) for key in ("securityContext", "env", "volumeMounts") if key in ray},
    }


def _complete(template: Manifest, spec: Manifest, cluster: str, kind: str, group: str) -> None:
    """labelPod, configureTokenAuth and addEmptyDir, as far as a policy may ask about it."""
    about = template.setdefault("metadata", {})
    own = {
        "ray.io/is-ray-node": "yes",
        "ray.io/identifier": f"{cluster}-{kind}",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    fixed = {"ray.io/cluster": cluster, "ray.io/node-type": kind, "ray.io/group": group}
    about["labels"] = {**own, **(about.get("labels") or {}), **fixed}
    options = spec.get("authOptions") or {}
    if options.get("mode") == "token":
        secret = {"name": options.get("secretName") or cluster, "key": "auth_token"}
        token = {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}}
        for one in [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]:
            if one["name"] in {template["spec"]["containers"][0]["name"], *ADDED_BY_OPERATOR}:
                one.setdefault("env", []).append(token)


MAKERS: dict[str, Callable[[str, Manifest], Iterator[Pod]]] = {
    "Pod": _bare,
    "Deployment": _workload,
    "StatefulSet": _workload,
    "DaemonSet": _workload,
    "Job": _job,
    "CronJob": _cron_job,
    "RayCluster": _ray_cluster,
    "RayJob": _ray_job,
    "RayCronJob": _ray_cron_job,
}
