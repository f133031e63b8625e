"""What KubeRay's operator itself refuses, beyond its CRDs: rules of v1.7.0, written again as a table.

Each rule says which function of ray-operator/controllers/ray/utils/validation.go it mirrors (or another file). Feature
gates that the operator must be started with are a parameter: which ones a release needs, k8s/README.md has to say.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

Manifest = dict[str, Any]
Rule = Callable[[Manifest, frozenset[str]], Iterator[str]]

# On unless an operator is told otherwise (pkg/features/features.go), of those that matter here.
DEFAULT_GATES = frozenset({"RayClusterStatusConditions", "RayJobDeletionPolicy", "RayMultiHostIndexing"})
EMBEDDED_GCS, CRON = "GCSFaultToleranceEmbeddedStorage", "RayCronJob"

# controllers/ray/utils/constant.go. Names become those of Services ("-serve-svc"), children get a suffix.
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
GCS_VOLUME, GCS_PATH = "gcs-storage", "/data/gcs"
V2_GATE = "RAY_enable_autoscaler_v2"
CRON_FIELDS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]


def refusals(manifest: Manifest, gates: frozenset[str] = DEFAULT_GATES) -> list[str]:
    """Why the operator would not reconcile a RayCluster, RayJob or RayCronJob, as `kind/name: reason`."""
    where = f"{manifest['kind']}/{manifest['metadata']['name']}"
    return [f"{where}: {reason}" for rule in RULES[manifest["kind"]] for reason in rule(manifest, gates)]


def _clusters(manifest: Manifest) -> Iterator[Manifest]:
    """Specs of RayClusters in the manifest, wherever they stand."""
    spec = manifest["spec"]
    if manifest["kind"] == "RayCluster":
        yield spec
    elif manifest["kind"] == "RayCronJob":
        yield from _clusters({"kind": "RayJob", "spec": spec["jobTemplate"]})
    elif "rayClusterSpec" in spec:
        yield spec["rayClusterSpec"]


def _groups(cluster: Manifest) -> Iterator[tuple[str, Manifest]]:
    yield "head", cluster["headGroupSpec"]
    yield from ((group["groupName"], group) for group in cluster.get("workerGroupSpecs", []))


def _containers(group: Manifest) -> list[Manifest]:
    return list(group["template"].get("spec", {}).get("containers") or [])


def _env(group: Manifest) -> dict[str, Manifest]:
    return {one["name"]: one for container in _containers(group)[:1] for one in container.get("env", [])}


def _is_scaled(cluster: Manifest) -> bool:
    return bool(cluster.get("enableInTreeAutoscaling"))


def _is_v2(cluster: Manifest) -> bool:
    return cluster.get("autoscalerOptions", {}).get("version") == "v2"


def names(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterMetadata, ValidateRayJobMetadata, ValidateRayCronJobSpec."""
    name, longest = manifest["metadata"]["name"], LONGEST[manifest["kind"]]
    if len(name) > longest:
        yield f"the name has {len(name)} characters, at most {longest}"
    if not DNS_1035.fullmatch(name):
        yield f"the name {name!r} is no DNS-1035 label"


def containers(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterSpec: at least one container a group."""
    for cluster in _clusters(manifest):
        yield from (f"group {name} has no container" for name, group in _groups(cluster) if not _containers(group))


def replicas(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterSpec: bounds of worker groups; and GetWorkerGroupDesiredReplicas, which clamps in silence."""
    for cluster in _clusters(manifest):
        for group in cluster.get("workerGroupSpecs", []):
            name, low, high = group["groupName"], group.get("minReplicas"), group.get("maxReplicas")
            if not _is_scaled(cluster) and (low is None or high is None):
                yield f"group {name} needs minReplicas and maxReplicas where autoscaling is off"
            low, high = low or 0, 2**31 - 1 if high is None else high
            if not 0 <= low <= group.get("replicas", low) <= high:
                yield f"group {name}: {low} <= {group.get('replicas')} <= {high} does not hold for its replicas"


def group_resources(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """validateRayGroupResources, validateRayGroupLabels."""
    for cluster in _clusters(manifest):
        for name, group in _groups(cluster):
            start = group.get("rayStartParams") or {}
            if group.get("resources") and any(
                start.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")
            ):
                yield f"group {name} has resources beside those of rayStartParams"
            if "labels" in start:
                yield f"group {name} has labels in rayStartParams"
            for key, value in (group.get("labels") or {}).items():
                if not QUALIFIED.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                    yield f"group {name} has the label {key}={value}"


def gcs_options(manifest: Manifest, gates: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterSpec and validateGcsFaultToleranceBackend: one backend, and nothing of the other."""
    annotations = manifest["metadata"].get("annotations", {})
    for cluster in _clusters(manifest):
        options, env = cluster.get("gcsFaultToleranceOptions"), _env(cluster["headGroupSpec"])
        start = cluster["headGroupSpec"].get("rayStartParams") or {}
        if "REDIS_USERNAME" in env or start.get("redis-username"):
            yield "redis username outside gcsFaultToleranceOptions"
        if options is None:
            if "RAY_REDIS_ADDRESS" in env and annotations.get("ray.io/ft-enabled", "").lower() != "true":
                yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
            continue
        for key in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
            if annotations.get(key):
                yield f"annotation {key} beside gcsFaultToleranceOptions"
        for key in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
            if key in env:
                yield f"{key} in the head's environment beside gcsFaultToleranceOptions"
        if start.get("redis-password"):
            yield "redis-password in rayStartParams beside gcsFaultToleranceOptions"
        is_embedded = options.get("backend", "redis") == "rocksdb"
        yield from _of_rocksdb(cluster, options, gates) if is_embedded else _of_redis(options)


def _of_rocksdb(cluster: Manifest, options: Manifest, gates: frozenset[str]) -> Iterator[str]:
    head = cluster["headGroupSpec"]
    if EMBEDDED_GCS not in gates:
        yield f"the backend rocksdb needs the operator's feature gate {EMBEDDED_GCS}"
    for key in ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"):
        if options.get(key):
            yield f"{key} with the backend rocksdb"
    storage = options.get("storage") or {}
    if storage.get("claimName") and any(storage.get(key) for key in ("size", "storageClassName", "accessModes")):
        yield "storage.claimName beside size, storageClassName or accessModes"
    for key in ("RAY_gcs_storage", "RAY_gcs_storage_path"):
        if key in _env(head):
            yield f"{key} in the head's environment, which the operator sets"
    mounts = [mount for container in _containers(head)[:1] for mount in container.get("volumeMounts", [])]
    volumes = head["template"]["spec"].get("volumes", [])
    if any(m["name"] == GCS_VOLUME or m["mountPath"] == GCS_PATH for m in mounts):
        yield f"a mount of {GCS_VOLUME} or at {GCS_PATH}, which the operator adds"
    if any(volume["name"] == GCS_VOLUME for volume in volumes):
        yield f"a volume {GCS_VOLUME}, which the operator adds"


def _of_redis(options: Manifest) -> Iterator[str]:
    if options.get("storage"):
        yield "storage with the backend redis"
    if not options.get("redisAddress"):
        yield "the backend redis without redisAddress"  # Not the operator's rule: Ray's head would keep nothing.


def autoscaling(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterSpec, validateWorkerGroupIdleTimeout, validateWorkerGroupPriority."""
    for cluster in _clusters(manifest):
        options, head = cluster.get("autoscalerOptions") or {}, cluster["headGroupSpec"]
        gate = _env(head).get(V2_GATE, {}).get("value")
        if not _is_scaled(cluster) and gate in ("1", "true"):
            yield f"{V2_GATE} without enableInTreeAutoscaling"
        if _is_scaled(cluster) and options.get("version") and gate is not None:
            yield f"{V2_GATE} beside autoscalerOptions.version"
        if options.get("idleTimeoutSeconds", 0) < 0:
            yield "autoscalerOptions.idleTimeoutSeconds is negative"
        if any(one["name"] == "KUBERAY_GEN_AUTOSCALER_START_CMD" for one in options.get("env", [])):
            yield "autoscalerOptions.env has KUBERAY_GEN_AUTOSCALER_START_CMD, which the operator sets"
        for name, group in _groups(cluster):
            policy = group["template"].get("spec", {}).get("restartPolicy", "")
            if _is_scaled(cluster) and _is_v2(cluster) and policy not in ("", "Never"):
                yield f"restartPolicy {policy} of group {name} with the autoscaler v2"
            if group.get("suspend") and _is_scaled(cluster):
                yield f"group {name} is suspended beside the autoscaler"
            is_v2 = _is_v2(cluster) or gate in ("1", "true")
            if group.get("idleTimeoutSeconds") is not None and (group["idleTimeoutSeconds"] < 0 or not is_v2):
                yield f"idleTimeoutSeconds of group {name}: not negative, and with the autoscaler v2 alone"
            if group.get("priority") and (not is_v2 or version(cluster) < (2, 56, 0)):
                yield f"priority of group {name}: with the autoscaler v2 of Ray 2.56 alone"


def version(cluster: Manifest) -> tuple[int, ...]:
    """rayVersion as numbers, (0,) if it says none."""
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)([-+.].*)?", cluster.get("rayVersion", ""))
    return tuple(map(int, found.groups()[:3])) if found else (0,)


def authentication(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterSpec: token authentication needs a version of Ray that knows it."""
    for cluster in _clusters(manifest):
        options = cluster.get("authOptions") or {}
        of_kubernetes = options.get("enableK8sTokenAuth")
        if options.get("mode") != "token":
            if of_kubernetes:
                yield "enableK8sTokenAuth without the mode token"
            continue
        if version(cluster) < (2, 52, 0):
            yield f"the mode token needs rayVersion 2.52.0 or later, got {cluster.get('rayVersion')!r}"
        if of_kubernetes and (version(cluster) < (2, 55, 0) or options.get("secretName")):
            yield "enableK8sTokenAuth needs rayVersion 2.55.0 or later and no secretName"
        if of_kubernetes and manifest["kind"] != "RayCluster":
            yield "enableK8sTokenAuth is not for jobs"  # ValidateRayJobSpec


def gated(manifest: Manifest, gates: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterSpec: parts that an operator has only behind a feature gate."""
    needed = {
        "networkPolicy": "RayClusterNetworkPolicy",
        "tlsOptions": "RayClusterMTLS",
        "historyServerOptions": "RayClusterHistoryServer",
    }
    for cluster in _clusters(manifest):
        yield from (
            f"{key} needs the feature gate {g}" for key, g in needed.items() if key in cluster and g not in gates
        )
    if manifest["kind"] == "RayCronJob" and CRON not in gates:
        yield f"RayCronJob needs the operator's feature gate {CRON}"  # main.go: no controller without it


def upgrade(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayClusterUpgradeOptions."""
    kinds = {"RayCluster": ("Recreate", "None", None)}.get(manifest["kind"], (None,))
    for cluster in _clusters(manifest):
        kind = (cluster.get("upgradeStrategy") or {}).get("type")
        if kind not in kinds:
            yield f"upgradeStrategy {kind!r} is not one of {kinds}"


def jobs(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayJobSpec and validateDeletionConfiguration."""
    spec = manifest["spec"]["jobTemplate"] if manifest["kind"] == "RayCronJob" else manifest["spec"]
    by_selector, ends = bool(spec.get("clusterSelector")), bool(spec.get("shutdownAfterJobFinishes"))
    mode, backoff = spec.get("submissionMode", "K8sJobMode"), spec.get("backoffLimit", 0)
    if mode not in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"):
        yield f"submissionMode {mode!r} is unknown"  # rayjob_controller.go: fails when it comes to submitting
    if spec.get("suspend") and (not ends or by_selector):
        yield "suspend needs shutdownAfterJobFinishes, and a cluster of its own"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or (spec.get("ttlSecondsAfterFinished") and not ends):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes, and is not negative"
    if "rayClusterSpec" not in spec and not by_selector:
        yield "neither rayClusterSpec nor clusterSelector"
    if by_selector and (not spec["clusterSelector"].get("ray.io/cluster") or mode == "SidecarMode" or backoff > 0):
        yield "clusterSelector needs ray.io/cluster, no SidecarMode and no backoffLimit"
    if mode == "InteractiveMode" and backoff > 0:
        yield "backoffLimit with InteractiveMode"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode with submitterPodTemplate or submitterConfig"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"{key} is not positive"
    if backoff < 0:
        yield "backoffLimit is negative"
    rules = (spec.get("deletionStrategy") or {}).get("deletionRules", [])
    if rules and ends:
        yield "deletionRules beside shutdownAfterJobFinishes"
    if by_selector and any(rule.get("policy") in ("DeleteCluster", "DeleteWorkers") for rule in rules):
        yield "deletionRules that end a cluster which the job only selects"


def schedule(manifest: Manifest, _: frozenset[str]) -> Iterator[str]:
    """ValidateRayCronJobSpec: five fields as cron has them, the time zone apart from them."""
    said = manifest["spec"].get("schedule", "")
    if "TZ" in said:
        yield "a time zone in schedule"
    elif not is_schedule(said):
        yield f"schedule {said!r} is no five fields of cron"
    if manifest["spec"].get("timeZone") == "":
        yield "an empty timeZone"


def is_schedule(said: str) -> bool:
    """Whether these are numbers, ranges, steps and lists in the bounds of cron's fields, or a name such as @daily."""
    if said in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"):
        return True
    fields = said.split()
    return len(fields) == 5 and all(
        _is_field(part, low, high)
        for field, (low, high) in zip(fields, CRON_FIELDS, strict=True)
        for part in field.split(",")
    )


def _is_field(part: str, low: int, high: int) -> bool:
    found = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?", part)
    if found is None:
        return False
    first, last, step = (None if text is None else int(text) for text in found.groups())
    first, last = (low, high) if first is None else (first, first if last is None else last)
    return low <= first <= last <= high and step != 0


OF_CLUSTERS: list[Rule] = [
    *(names, containers, replicas, group_resources, gcs_options),
    *(autoscaling, authentication, gated, upgrade),
]
RULES: dict[str, list[Rule]] = {
    "RayCluster": OF_CLUSTERS,
    "RayJob": [*OF_CLUSTERS, jobs],
    "RayCronJob": [*OF_CLUSTERS, jobs, schedule],
}
