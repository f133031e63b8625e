"""The validators refuse what an API server or KubeRay's operator refuses, and say where; what is right passes."""

from typing import Any

import kubernetes_validate
import pytest

from tests.k8s import core_kinds, crds, kuberay_rules, manifests, structural
from tests.k8s.edits import DELETE, edited

GATES = kuberay_rules.DEFAULT_GATES | {kuberay_rules.EMBEDDED_GCS, kuberay_rules.CRON}
MADE = {"RayCluster": manifests.ray_cluster, "RayJob": manifests.ray_job, "RayCronJob": manifests.ray_cron_job}
HEAD = "spec.headGroupSpec"
GROUP = "spec.workerGroupSpecs.0"
GCS = "spec.gcsFaultToleranceOptions"


@crds.needs_crds
@pytest.mark.parametrize("kind", MADE)
def test_a_right_manifest_passes(kind: str) -> None:
    assert crds.refusals(MADE[kind]()) == []
    assert kuberay_rules.refusals(MADE[kind](), GATES) == []


OF_SCHEMA = [
    ("RayCluster", "spec.headGroupSpecs", {}, "spec.headGroupSpecs: unknown field"),
    ("RayCluster", f"{HEAD}.template.spec.containers.0.livenessprobe", {}, "livenessprobe: unknown field"),
    ("RayCluster", "metadata.label", {"a": "b"}, "metadata.label: unknown field"),
    ("RayCluster", "metadata.name", DELETE, "metadata.name: required"),
    ("RayCluster", HEAD, DELETE, "spec.headGroupSpec: required"),
    ("RayCluster", f"{GROUP}.maxReplicas", "two", "maxReplicas: expected integer, got str"),
    ("RayCluster", f"{GROUP}.maxReplicas", True, "maxReplicas: expected integer, got bool"),
    ("RayCluster", f"{GROUP}.maxReplicas", 2**31, "maxReplicas: 2147483648 is not in"),
    ("RayCluster", f"{GROUP}.rayStartParams", {"num-cpus": 1}, "num-cpus: expected string"),
    ("RayCluster", f"{GROUP}.rayStartParams", None, "rayStartParams: null"),
    ("RayCluster", f"{GCS}.backend", "etcd", "'etcd' is not one of ['redis', 'rocksdb']"),
    ("RayCluster", f"{GCS}.storage.size", "1 Gi", "storage.size: '1 Gi' does not match"),
    ("RayCluster", f"{GCS}.storage.size", 1.5, "storage.size: expected integer or string"),
    ("RayCluster", f"{HEAD}.template.spec.containers.0.env.+", {"name": "A"}, "twice in a list"),
    ("RayCluster", "spec.managedBy", "me", "must be either 'ray.io/kuberay-operator'"),
    ("RayJob", "spec.deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}, "requires either BOTH"),
    ("RayCronJob", "spec.schedule", DELETE, "spec.schedule: required"),
    ("RayCronJob", "spec.jobTemplate.rayClusterSpec.x", 1, "spec.jobTemplate.rayClusterSpec.x: unknown field"),
]


@crds.needs_crds
@pytest.mark.parametrize(("kind", "path", "value", "message"), OF_SCHEMA, ids=lambda v: str(v)[:40])
def test_the_crd_refuses(kind: str, path: str, value: Any, message: str) -> None:
    refused = crds.refusals(edited(MADE[kind](), path, value))
    assert any(message in one for one in refused), refused


@crds.needs_crds
def test_rules_about_a_change_need_an_old_object() -> None:
    old = manifests.ray_cluster()
    new = edited(edited(old, f"{GCS}.backend", "redis"), f"{GCS}.storage", DELETE)
    assert crds.refusals(new) == []
    assert crds.refusals(old, old) == []
    assert crds.refusals(new, old) == [f"{GCS}.backend: gcsFaultToleranceOptions.backend is immutable"]


@crds.needs_crds
def test_defaults_are_filled_in_before_rules_are_asked() -> None:
    made = manifests.ray_cluster()
    ports = [{"containerPort": 6379}, {"containerPort": 6379, "protocol": "UDP"}]
    two = edited(made, f"{HEAD}.template.spec.containers.0.ports", ports)
    filled = structural.defaulted(crds.schema_of(two), two)
    assert filled["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] == "TCP"
    assert filled["spec"]["workerGroupSpecs"][0]["numOfHosts"] == 1
    assert crds.refusals(two) == []
    same = edited(
        made, f"{HEAD}.template.spec.containers.0.ports", [ports[0], {"containerPort": 6379, "protocol": "TCP"}]
    )
    assert any("twice in a list" in one for one in crds.refusals(same))


def test_a_schema_that_says_more_than_is_understood_is_an_error() -> None:
    with pytest.raises(AssertionError, match="allOf"):
        list(structural.findings({"type": "object", "allOf": []}, {}))
    with pytest.raises(AssertionError, match="format ipv4"):
        list(structural.findings({"type": "string", "format": "ipv4"}, "x"))


def test_parts_that_the_crds_of_today_do_not_use() -> None:
    open_schema = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"a": {"type": "string"}},
    }
    assert list(structural.findings(open_schema, {"b": {"c": [1]}})) == []
    assert list(structural.findings(open_schema, {"a": 1})) == ["a: expected string, got int 1"]
    assert list(structural.findings({"type": "object", "nullable": True}, None)) == []
    embedded = {"type": "object", "x-kubernetes-embedded-resource": True}
    assert list(structural.findings(embedded, {"kind": "Pod", "metadata": {"name": "a"}})) == []
    assert list(structural.findings(embedded, {"spec": 1})) == ["spec: unknown field"]
    unique = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "maxItems": 2}
    assert list(structural.findings(unique, ["a", "a", "b"])) == [
        ": 3 items, allowed 0 to 2",
        ": 'a' twice in a list that must not repeat it",
    ]


def test_an_unknown_kind_of_custom_resource_is_an_error() -> None:
    with pytest.raises(KeyError, match="no CRD"):
        crds.refusals({"apiVersion": "ray.io/v2", "kind": "RayCluster", "metadata": {"name": "a"}})


OF_OPERATOR = [
    ("RayCluster", "metadata.name", "a" * 54, "at most 53"),
    ("RayCluster", "metadata.name", "my.faces", "no DNS-1035 label"),
    ("RayCluster", "metadata.name", "1faces", "no DNS-1035 label"),
    ("RayJob", "metadata.name", "a" * 48, "at most 47"),
    ("RayCronJob", "metadata.name", "a" * 37, "at most 36"),
    ("RayCluster", f"{HEAD}.template.spec.containers", [], "no container"),
    ("RayCluster", f"{GROUP}.minReplicas", 3, "3 <= 1 <= 2 does not hold"),
    ("RayCluster", f"{GROUP}.replicas", 3, "0 <= 3 <= 2 does not hold"),
    ("RayCluster", f"{GROUP}.minReplicas", -1, "does not hold"),
    ("RayCluster", f"{GROUP}.maxReplicas", DELETE, "needs minReplicas and maxReplicas"),
    ("RayCluster", f"{GROUP}.resources", {"CPU": "1"}, "resources beside those"),
    ("RayCluster", f"{GROUP}.labels", {"a b": "c"}, "has the label"),
    ("RayCluster", f"{GROUP}.rayStartParams.labels", "a=b", "labels in rayStartParams"),
    ("RayCluster", f"{GCS}.redisAddress", "redis:6379", "redisAddress with the backend rocksdb"),
    ("RayCluster", f"{GCS}.storage.claimName", "mine", "storage.claimName beside"),
    ("RayCluster", GCS, {"backend": "redis", "storage": {}, "redisAddress": ""}, "without redisAddress"),
    ("RayCluster", GCS, {"redisAddress": "r:1", "storage": {"size": "1Gi"}}, "storage with the backend redis"),
    ("RayCluster", "metadata.annotations", {"ray.io/ft-enabled": "true"}, "annotation ray.io/ft-enabled"),
    ("RayCluster", f"{HEAD}.rayStartParams.redis-password", "x", "redis-password in rayStartParams"),
    ("RayCluster", f"{HEAD}.template.spec.containers.0.env.0.name", "RAY_gcs_storage", "which the operator sets"),
    ("RayCluster", f"{HEAD}.template.spec.containers.0.env.0.name", "REDIS_USERNAME", "redis username outside"),
    ("RayCluster", f"{HEAD}.template.spec.volumes", [{"name": "gcs-storage"}], "a volume gcs-storage"),
    ("RayCluster", "spec.autoscalerOptions", {"idleTimeoutSeconds": -1}, "is negative"),
    ("RayCluster", "spec.rayVersion", "2.51.9", "needs rayVersion 2.52.0"),
    ("RayCluster", "spec.rayVersion", "latest", "needs rayVersion 2.52.0"),
    ("RayCluster", "spec.rayVersion", DELETE, "needs rayVersion 2.52.0"),
    ("RayCluster", "spec.authOptions.enableK8sTokenAuth", True, "no secretName"),
    ("RayCluster", "spec.networkPolicy", {}, "feature gate RayClusterNetworkPolicy"),
    ("RayCluster", "spec.tlsOptions", {"enabled": True}, "feature gate RayClusterMTLS"),
    ("RayCluster", "spec.upgradeStrategy", {"type": "Rolling"}, "is not one of"),
    ("RayCluster", f"{GROUP}.idleTimeoutSeconds", 60, "with the autoscaler v2 alone"),
    ("RayCluster", f"{GROUP}.priority", 1, "with the autoscaler v2 of Ray 2.56"),
    ("RayJob", "spec.rayClusterSpec.upgradeStrategy", {"type": "Recreate"}, "is not one of"),
    ("RayJob", "spec.rayClusterSpec", DELETE, "neither rayClusterSpec nor clusterSelector"),
    ("RayJob", "spec.clusterSelector", {"app": "x"}, "clusterSelector needs ray.io/cluster"),
    ("RayJob", "spec.submissionMode", "Mail", "submissionMode 'Mail'"),
    ("RayJob", "spec.ttlSecondsAfterFinished", -1, "ttlSecondsAfterFinished"),
    ("RayJob", "spec.activeDeadlineSeconds", 0, "is not positive"),
    ("RayJob", "spec.backoffLimit", -1, "backoffLimit is negative"),
    ("RayJob", "spec.deletionStrategy", {"deletionRules": [{}]}, "deletionRules beside"),
    ("RayCronJob", "spec.schedule", "TZ=UTC 5 3 * * *", "a time zone in schedule"),
    ("RayCronJob", "spec.schedule", "5 24 * * *", "no five fields"),
    ("RayCronJob", "spec.schedule", "5 3 * *", "no five fields"),
    ("RayCronJob", "spec.timeZone", "", "empty timeZone"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), OF_OPERATOR, ids=lambda v: str(v)[:40])
def test_the_operator_refuses(kind: str, path: str, value: Any, message: str) -> None:
    refused = kuberay_rules.refusals(edited(MADE[kind](), path, value), GATES)
    assert any(message in one for one in refused), refused


def test_the_operator_wants_its_feature_gates() -> None:
    refused = kuberay_rules.refusals(manifests.ray_cluster())
    assert refused == [
        "RayCluster/faces: the backend rocksdb needs the operator's feature gate GCSFaultToleranceEmbeddedStorage"
    ]
    assert any("feature gate RayCronJob" in one for one in kuberay_rules.refusals(manifests.ray_cron_job()))


def test_an_autoscaled_cluster() -> None:
    made = edited(manifests.ray_cluster(), "spec.enableInTreeAutoscaling", True)
    made = edited(made, "spec.autoscalerOptions", {"version": "v2"})
    assert kuberay_rules.refusals(edited(made, f"{GROUP}.idleTimeoutSeconds", 60), GATES) == []
    for path, value, message in [
        (f"{GROUP}.template.spec.restartPolicy", "Always", "restartPolicy Always of group batch"),
        (f"{HEAD}.template.spec.restartPolicy", "OnFailure", "restartPolicy OnFailure of group head"),
        (f"{GROUP}.suspend", True, "suspended beside the autoscaler"),
        (f"{HEAD}.template.spec.containers.0.env.0", {"name": kuberay_rules.V2_GATE, "value": "1"}, "beside"),
    ]:
        refused = kuberay_rules.refusals(edited(made, path, value), GATES)
        assert any(message in one for one in refused), (path, refused)


@pytest.mark.parametrize("said", ["5 3 * * *", "*/15 0-6,22 1 1-12/2 0", "@daily"])
def test_schedules_of_cron(said: str) -> None:
    assert kuberay_rules.is_schedule(said)


@pytest.mark.parametrize("said", ["60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "a b c d e", "", "@often"])
def test_what_is_no_schedule(said: str) -> None:
    assert not kuberay_rules.is_schedule(said)


SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "faces"},
    "spec": {"ports": [{"port": 443}], "selector": {"a": "b"}},
}


@pytest.mark.parametrize("version", [core_kinds.OLDEST, core_kinds.NEWEST])
def test_core_kinds(version: str) -> None:
    assert core_kinds.refusals(SERVICE, version) == []
    assert core_kinds.refusals(edited(SERVICE, "spec.port", 1), version)[0].startswith("spec: Additional properties")
    assert core_kinds.refusals(edited(SERVICE, "spec.ports.0.port", "x"), version)[0].startswith("spec.ports.0.port:")
    with pytest.raises(core_kinds.UnknownKind, match="raycluster-ray-v1"):
        core_kinds.refusals(manifests.ray_cluster(), version)
    with pytest.raises(core_kinds.UnknownKind):
        core_kinds.refusals(edited(SERVICE, "apiVersion", "v2"), version)


@pytest.mark.parametrize("path", ["spec.port", "spec.ports.0.port", "metadata.labels"])
def test_the_package_says_the_same(path: str) -> None:
    kubernetes_validate.validate(SERVICE, core_kinds.NEWEST, strict=True)
    wrong = edited(SERVICE, path, "x")
    assert core_kinds.refusals(wrong)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, core_kinds.NEWEST, strict=True)
