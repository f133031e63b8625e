"""Every render keeps to the policies; and every policy finds it when a render does not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.k8s import charts, matrix
from tests.k8s.edits import DELETE, with_one_edited
from tests.k8s.policies import availability, containers, reach, references, secrets, security

Manifests = list[charts.Manifest]
Check = Callable[[Manifests], Iterator[str]]

CHECKS: list[Check] = [
    *security.CHECKS,
    *containers.CHECKS,
    *secrets.CHECKS,
    *references.CHECKS,
    *availability.CHECKS,
    *reach.CHECKS,
]
# What a row asks for that a policy forbids.
CONSENT = {
    availability.hosts_share_no_node: ("hosts", ("preferred", "together")),
    availability.have_budgets: ("budgets", ("off",)),
    reach.isolated: ("network policies", ("off",)),
    reach.ports_are_covered: ("network policies", ("off",)),
}
# What is made before a release, by the name that the values give it: k8s/README.md lists them.
PREREQUISITES = {
    *(("Secret", name) for name in ("facegrid-catalog", "facegrid-gateway-tls", "facegrid-postgres", "data-tls")),
    *(("Secret", name) for name in ("host-tls", "master", "operator-key", "ray-token", "redis", "registry", "s3")),
    ("PersistentVolumeClaim", "models"),
}


def applies(check: Check, row: str) -> bool:
    """Whether the row did not ask for what the check forbids; the small example is for one node."""
    axis, options = CONSENT.get(check, ("", ()))
    if row == "small" and check in (availability.hosts_share_no_node, availability.have_budgets):
        return False
    return matrix.row_of(row).get(axis) not in options


def test_policies_hold(row: str) -> None:
    manifests = matrix.render(row)
    found = [f"{check.__name__}: {said}" for check in CHECKS if applies(check, row) for said in check(manifests)]
    assert found == []


def test_what_is_named_is_there(row: str) -> None:
    if row not in charts.EXAMPLES:
        assert references.missing(matrix.render(row), PREREQUISITES) == []


def test_hosts_may_only_share_a_node_if_asked() -> None:
    for row in matrix.NAMES:
        consents = row == "small" or matrix.row_of(row).get("hosts") in ("preferred", "together")
        assert bool(list(availability.hosts_share_no_node(matrix.render(row)))) <= consents


# Everything that the policies are about, in one render.
FULL = matrix.merged(
    matrix.AXES["catalog"]["trial"],
    matrix.AXES["data tls"]["on"],
    matrix.AXES["gateways"]["scaled"],
    matrix.AXES["embedders"]["scaled"],
    matrix.AXES["ingress"]["on"],
    matrix.AXES["monitoring"]["on"],
    matrix.AXES["encryption"]["key"],
)
SHARD, CONTROL, GATEWAY = (
    "StatefulSet/prod-facegrid-shard",
    "StatefulSet/prod-facegrid-control",
    "Deployment/prod-facegrid-gateway",
)
CLUSTER, POSTGRES = "RayCluster/prod-facegrid", "StatefulSet/prod-facegrid-postgres"
POD = "spec.template.spec"
MAIN = f"{POD}.containers.0"
HEAD = "spec.headGroupSpec.template.spec"
WORKER = "spec.workerGroupSpecs.0.template.spec"
POLICY = "NetworkPolicy/prod-facegrid"

WRONG: list[tuple[Check, str, str, Any, str]] = [
    (security.nobody_is_root, SHARD, f"{MAIN}.securityContext.runAsUser", 0, "runAsUser 0"),
    (security.nobody_is_root, CONTROL, f"{POD}.initContainers.0.securityContext.runAsNonRoot", False, "runAsNonRoot"),
    (security.nobody_is_root, CLUSTER, f"{WORKER}.containers.0.securityContext.runAsGroup", 0, "runAsGroup 0"),
    (security.containers_are_confined, SHARD, f"{MAIN}.securityContext.privileged", True, "is privileged"),
    (
        security.containers_are_confined,
        CLUSTER,
        "spec.autoscalerOptions.securityContext",
        DELETE,
        "autoscaler may escalate",
    ),
    (security.containers_are_confined, CLUSTER, f"{WORKER}.containers.0.securityContext", DELETE, "wait-gcs-ready"),
    (security.containers_are_confined, GATEWAY, f"{MAIN}.securityContext.allowPrivilegeEscalation", True, "escalate"),
    (
        security.containers_are_confined,
        GATEWAY,
        f"{MAIN}.securityContext.capabilities.add",
        ["NET_RAW"],
        "capabilities",
    ),
    (security.containers_are_confined, CLUSTER, f"{HEAD}.containers.0.securityContext.capabilities.drop", [], "keeps"),
    (security.containers_are_confined, POSTGRES, f"{MAIN}.securityContext.readOnlyRootFilesystem", False, "written to"),
    (
        security.containers_are_confined,
        SHARD,
        f"{MAIN}.securityContext.seccompProfile.type",
        "Unconfined",
        "Unconfined",
    ),
    (security.hosts_are_apart, SHARD, f"{POD}.hostNetwork", True, "hostNetwork"),
    (security.hosts_are_apart, SHARD, f"{POD}.volumes.+", {"name": "x", "hostPath": {"path": "/"}}, "hostPath"),
    (security.hosts_are_apart, GATEWAY, f"{MAIN}.ports.0.hostPort", 8443, "hostPort"),
    (security.tokens_are_for_few, GATEWAY, f"{POD}.automountServiceAccountToken", True, "automount"),
    (security.tokens_are_for_few, CLUSTER, f"{HEAD}.automountServiceAccountToken", DELETE, "automount"),
    (
        security.tokens_are_for_few,
        CLUSTER,
        f"{HEAD}.containers.0.volumeMounts.+",
        {"name": "kubernetes-api", "mountPath": "/t"},
        "ray-head has a token",
    ),
    (security.accounts_have_no_rights, GATEWAY, f"{POD}.serviceAccountName", DELETE, "default account"),
    (security.accounts_have_no_rights, "Service/prod-facegrid-shard", "kind", "RoleBinding", "gives rights"),
    (
        security.accounts_have_no_rights,
        "ServiceAccount/prod-facegrid",
        "automountServiceAccountToken",
        DELETE,
        "automount",
    ),
    (containers.have_probes, SHARD, f"{MAIN}.readinessProbe", DELETE, "has no readinessProbe"),
    (containers.have_probes, CLUSTER, f"{WORKER}.containers.0.livenessProbe", DELETE, "has no livenessProbe"),
    (containers.have_probes, SHARD, f"{MAIN}.livenessProbe.httpGet.port", "prob", "asks the port prob"),
    (containers.have_resources, SHARD, f"{MAIN}.resources.limits.memory", DELETE, "no limit of memory"),
    (containers.have_resources, SHARD, f"{MAIN}.resources.requests.cpu", DELETE, "requests no cpu"),
    (containers.have_resources, SHARD, f"{MAIN}.resources.limits.memory", "1Gi", "limit 1Gi"),
    (containers.have_resources, SHARD, f"{MAIN}.resources.limits.memory", "64Gi", "may have 64Gi"),
    (containers.scratch_fits, SHARD, f"{POD}.volumes.0.emptyDir.sizeLimit", DELETE, "without sizeLimit"),
    (containers.scratch_fits, SHARD, f"{POD}.volumes.1.emptyDir.sizeLimit", "64Gi", "of memory"),
    (containers.images_are_one, SHARD, f"{MAIN}.image", "localhost/facegrid", "without a version"),
    (containers.images_are_one, SHARD, f"{MAIN}.image", "localhost/facegrid:latest", "without a version"),
    (containers.images_are_one, SHARD, f"{MAIN}.image", "localhost/facegrid:0.2.0", "several versions"),
    (containers.images_are_one, SHARD, f"{MAIN}.image", "elsewhere/facegrid:0.1.0", "several repositories"),
    (containers.images_are_one, POSTGRES, f"{MAIN}.image", "registry.example:5000/postgres", "without a version"),
    (containers.names_fit, SHARD, "metadata.name", "s" * 53, "at most 52"),
    (containers.names_fit, "Service/prod-facegrid-shard", "metadata.name", "my.shards", "no DNS label"),
    (containers.names_fit, SHARD, "metadata.labels.x", "a b", "is no label"),
    (containers.names_fit, SHARD, f"{MAIN}.ports.1.containerPort", 7600, "port 7600 twice"),
    (containers.names_fit, SHARD, f"{MAIN}.ports.1.name", "a-name-of-16-let", "more than 15"),
    (containers.names_fit, SHARD, f"{MAIN}.env.+", {"name": "HOME", "value": "/"}, "HOME twice"),
    (secrets.no_literals, CONTROL, f"{MAIN}.env.+", {"name": "API_TOKEN", "value": "hunter2"}, "as text"),
    (secrets.no_literals, CONTROL, f"{MAIN}.env.0.value", "postgresql://a:b@db/c", "looks like a secret"),
    (secrets.no_literals, CONTROL, f"{MAIN}.args.0", f"--key={'0f' * 32}", "looks like a secret"),
    (secrets.no_literals, "ConfigMap/prod-facegrid-dashboard", "data.x", "-----BEGIN PRIVATE KEY", "looks like"),
    (secrets.no_secret_objects, "ConfigMap/prod-facegrid-dashboard", "kind", "Secret", "Secret/prod"),
    (
        secrets.keys_are_for_control,
        GATEWAY,
        f"{MAIN}.env.+",
        {"name": "FACEGRID_CATALOG", "valueFrom": {}},
        "has FACEGRID_CATALOG",
    ),
    (
        secrets.keys_are_for_control,
        GATEWAY,
        f"{MAIN}.volumeMounts.+",
        {"name": "encryption", "mountPath": "/k"},
        "mounts encryption",
    ),
    (secrets.secret_files_are_narrow, GATEWAY, f"{MAIN}.volumeMounts.4.readOnly", False, "to write to"),
    (references.volumes_exist, SHARD, f"{MAIN}.volumeMounts.0.name", "tmpp", "mounts tmpp, which is no volume"),
    (references.volumes_exist, SHARD, f"{POD}.volumes.+", {"name": "x", "emptyDir": {}}, "nothing mounts x"),
    (references.selectors_find_pods, SHARD, "spec.selector.matchLabels.x", "y", "its own pods"),
    (references.selectors_find_pods, "Service/prod-facegrid-shard", "spec.selector.x", "y", "selects no pod"),
    (
        references.selectors_find_pods,
        "Service/prod-facegrid-gateway",
        "spec.selector",
        {"app.kubernetes.io/part-of": "facegrid"},
        "selects pods of",
    ),
    (references.selectors_find_pods, "Service/prod-facegrid-shard", "spec.ports.0.targetPort", "dat", "no port dat"),
    (
        references.selectors_find_pods,
        "PodDisruptionBudget/prod-facegrid-shard",
        "spec.selector.matchLabels.x",
        "y",
        "selects no pod",
    ),
    (
        references.selectors_find_pods,
        "ServiceMonitor/prod-facegrid-gateway",
        "spec.endpoints.0.port",
        "web",
        "no Service has the port web",
    ),
    (
        references.selectors_find_pods,
        "PodMonitor/prod-facegrid-ray",
        "spec.podMetricsEndpoints.0.port",
        "web",
        "no pod has the port web",
    ),
    (references.targets_exist, SHARD, "spec.serviceName", "shards", "no headless Service"),
    (references.targets_exist, GATEWAY, "spec.replicas", 2, "says replicas itself"),
    (
        references.targets_exist,
        "HorizontalPodAutoscaler/prod-facegrid-gateway",
        "spec.minReplicas",
        11,
        "more replicas at least",
    ),
    (
        references.targets_exist,
        "Ingress/prod-facegrid",
        "spec.rules.0.http.paths.0.backend.service.port.name",
        "web",
        "no port",
    ),
    (references.targets_exist, CLUSTER, "metadata.name", "other", "joins prod-facegrid-head-svc"),
    (availability.hosts_share_no_node, SHARD, f"{POD}.affinity", DELETE, "may share a node"),
    (
        availability.hosts_share_no_node,
        SHARD,
        f"{POD}.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution.0.labelSelector.matchLabels.x",
        "y",
        "may share a node",
    ),
    (availability.control_is_apart, CONTROL, f"{POD}.affinity", DELETE, "does not mind"),
    (availability.zones_are_spread, GATEWAY, f"{POD}.topologySpreadConstraints", [], "not spread"),
    (availability.have_budgets, "PodDisruptionBudget/prod-facegrid-shard", "spec.maxUnavailable", 2, "expected one"),
    (
        availability.have_budgets,
        "PodDisruptionBudget/prod-facegrid-shard",
        "spec.selector",
        {},
        "keep its node from being drained",
    ),
    (
        availability.have_budgets,
        "PodDisruptionBudget/prod-facegrid-shard",
        "spec.unhealthyPodEvictionPolicy",
        "AlwaysAllow",
        "pods that are not ready are evicted by ['AlwaysAllow']",
    ),
    (availability.volumes_stay, CONTROL, "spec.podManagementPolicy", DELETE, "keeps a pod that never gets ready"),
    (
        availability.volumes_stay,
        SHARD,
        "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
        "Delete",
        "volumes are deleted",
    ),
    (availability.volumes_stay, SHARD, "spec.updateStrategy", {"type": "OnDelete"}, "not updated in order"),
    (availability.volumes_stay, SHARD, "spec.volumeClaimTemplates", [], "has no volumes"),
    (availability.gateways_roll, GATEWAY, "spec.strategy.rollingUpdate.maxUnavailable", 1, "takes pods away"),
    (availability.have_time_to_leave, SHARD, f"{MAIN}.lifecycle", DELETE, "does not leave"),
    (availability.have_time_to_leave, SHARD, f"{POD}.terminationGracePeriodSeconds", 60, "is killed after 60 s"),
    (reach.isolated, f"{POLICY}-default-deny", "spec.podSelector.matchLabels.x", "y", "nothing denies its Ingress"),
    (reach.isolated, f"{POLICY}-default-deny", "spec.policyTypes", ["Ingress"], "nothing denies its Egress"),
    (reach.ports_are_covered, f"{POLICY}-shard", "spec.ingress", [], "no rule is about its port data"),
    (reach.no_rule_is_for_everyone, f"{POLICY}-catalog", "spec.egress.0.to", [], "a rule of egress for everyone"),
    (reach.no_rule_is_for_everyone, f"{POLICY}-shard", "spec.ingress.0.ports", DELETE, "for all ports"),
]


@pytest.mark.parametrize(
    ("check", "title", "path", "value", "message"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)[-40:])
)
def test_a_policy_finds_it(check: Check, title: str, path: str, value: Any, message: str) -> None:
    manifests = charts.render(FULL)
    assert list(check(manifests)) == []
    found = list(check(with_one_edited(manifests, title, path, value)))
    assert any(message in one for one in found), found


def test_every_policy_has_been_seen_to_fail() -> None:
    assert {check for check, *_ in WRONG} == set(CHECKS)


def test_a_name_that_nobody_made_is_found() -> None:
    manifests = charts.render(FULL)
    wrong = with_one_edited(manifests, CONTROL, f"{POD}.serviceAccountName", "somebody")
    assert "ServiceAccount somebody is referred to, and made by nobody" in references.missing(wrong, PREREQUISITES)
    assert "Secret master is referred to, and made by nobody" in references.missing(
        manifests, PREREQUISITES - {("Secret", "master")}
    )


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("facegrid/facegrid:1", ("facegrid/facegrid", "1")),
        ("r:5000/facegrid", ("r:5000/facegrid", "")),
        ("r:5000/facegrid@sha256:0a", ("r:5000/facegrid", "sha256:0a")),
        ("r:5000/facegrid:1@sha256:0a", ("r:5000/facegrid", "sha256:0a")),
        ("", ("", "")),
    ],
)
def test_names_of_images(image: str, parts: tuple[str, str]) -> None:
    assert containers.split_image(image) == parts
