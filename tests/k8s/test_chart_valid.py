"""Every render of the matrix is what Kubernetes, KubeRay's CRDs and operator, and the Prometheus operator take."""

import pytest
import yaml

from tests.k8s import charts, core_kinds, crds, kuberay_rules, matrix, monitoring_kinds
from tests.k8s.edits import edited

# The operator has to be started with these for the release to come up (k8s/README.md says so).
GATES = kuberay_rules.DEFAULT_GATES | {kuberay_rules.EMBEDDED_GCS}


def refusals(manifest: charts.Manifest) -> list[str]:
    """By whoever knows the kind. A kind that nobody knows raises."""
    group = manifest["apiVersion"].rpartition("/")[0]
    if group == "ray.io":
        found = kuberay_rules.refusals(manifest, GATES | {kuberay_rules.CRON})
        return [*found, *(crds.refusals(manifest) if crds.CRDS.is_dir() else [])]
    if group == "monitoring.coreos.com":
        return monitoring_kinds.refusals(manifest)
    oldest, newest = (core_kinds.refusals(manifest, one) for one in (core_kinds.OLDEST, core_kinds.NEWEST))
    return [*oldest, *newest]


def test_every_manifest_is_taken(row: str) -> None:
    manifests = matrix.render(row)
    assert {one["kind"] for one in manifests} >= {
        "RayCluster",
        "StatefulSet",
        "Deployment",
        "Service",
        "ServiceAccount",
    }
    assert [f"{charts.title(one)}: {said}" for one in manifests for said in refusals(one)] == []


def test_every_manifest_says_whose_it_is(row: str) -> None:
    manifests = matrix.render(row)
    titles = [charts.title(one) for one in manifests]
    assert len(set(titles)) == len(titles)
    for one in manifests:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "facegrid", charts.title(one)
        assert labels["app.kubernetes.io/instance"], charts.title(one)
        assert "namespace" not in one["metadata"], "helm says the namespace"


@crds.needs_crds
def test_the_crds_were_asked() -> None:
    (cluster,) = charts.of_kind(matrix.render("row-0"), "RayCluster")
    assert refusals(edited(cluster, "spec.headGroupSpec.template.spec.container", [])) == [
        "spec.headGroupSpec.template.spec.container: unknown field"
    ]


def test_a_kind_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(core_kinds.UnknownKind):
        refusals({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "a"}})
    with pytest.raises(KeyError):
        refusals({"apiVersion": "monitoring.coreos.com/v1", "kind": "Probe", "metadata": {"name": "a"}})


@crds.needs_crds
def test_an_upgrade_may_change_everything_but_the_store_of_the_gcs() -> None:
    def cluster(*axes: tuple[str, str]) -> charts.Manifest:
        values = matrix.merged(*(matrix.AXES[axis][option] for axis, option in axes))
        return charts.of_kind(charts.render(values), "RayCluster")[0]

    old = cluster()
    for axes in (
        [("embedders", "gpu")],
        [("batch", "none")],
        [("image", "digest")],
        [("gcs", "claim")],
        [("token", "own")],
    ):
        assert crds.refusals(cluster(*axes), old) == []
    assert crds.refusals(cluster(("gcs", "redis")), old) == [
        "spec.gcsFaultToleranceOptions.backend: gcsFaultToleranceOptions.backend is immutable"
    ]


# Of a StatefulSet; Kubernetes refuses an update that changes anything else.
CHANGEABLE = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
}


def test_an_upgrade_leaves_what_a_stateful_set_cannot_change(row: str) -> None:
    release = matrix.row_of(row).get("release", "prod")
    name = {"fullnameOverride": "faces"} if release == "my-faces-2" else {}
    before = {charts.title(one): one for one in charts.of_kind(charts.render(name, release), "StatefulSet")}
    for one in charts.of_kind(matrix.render(row), "StatefulSet"):
        old = before.get(charts.title(one))
        if old is not None and row not in charts.EXAMPLES:
            fixed = one["spec"].keys() - CHANGEABLE
            assert {key: one["spec"][key] for key in fixed} == {key: old["spec"][key] for key in fixed}


def test_alerts_and_dashboard_are_those_of_the_service() -> None:
    """Their metrics are compared with a running service's in tests/integration/test_observability.py."""
    manifests = charts.render(matrix.AXES["monitoring"]["on"])
    boards = charts.ROOT / "cluster/service/dashboards"
    (rules,) = charts.of_kind(manifests, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((boards / "alerts.yaml").read_text())
    (dashboard,) = [one for one in charts.of_kind(manifests, "ConfigMap") if "facegrid.json" in one["data"]]
    assert dashboard["data"]["facegrid.json"] == (boards / "facegrid.json").read_text()


def test_snapshots_that_fail_are_told_of_this_release_alone() -> None:
    on = matrix.merged(matrix.AXES["schedules"]["on"], matrix.AXES["monitoring"]["bare"])
    (job,) = charts.of_kind(charts.render(on, "my-faces"), "CronJob")
    (rules,) = charts.of_kind(charts.render(on, "my-faces"), "PrometheusRule")
    (alert,) = rules["spec"]["groups"][0]["rules"]
    assert f'{{namespace="{charts.NAMESPACE}",cronjob="{job["metadata"]["name"]}"}}' in alert["expr"]
    deadline = job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert int(alert["for"].removesuffix("s")) > deadline, "a run is not late while it may run"
    assert f"`{alert['alert']}`" in (charts.ROOT / "docs/observability.md").read_text()
    without = charts.render(matrix.merged(on, {"schedules": {"snapshots": {"enabled": False}}}))
    assert charts.of_kind(without, "PrometheusRule") == []


def test_monitors_are_refused_for_what_they_do_not_have() -> None:
    manifests = charts.render(matrix.AXES["monitoring"]["on"])
    (monitor,) = charts.of_kind(manifests, "ServiceMonitor")
    assert monitoring_kinds.refusals(edited(monitor, "spec.endpoints.0.intervall", "30s"))
    assert monitoring_kinds.refusals(edited(monitor, "spec.endpoints.0.interval", "30 s"))
    assert monitoring_kinds.refusals(edited(monitor, "spec.endpoints.0.scheme", "ftp"))
    (rules,) = charts.of_kind(manifests, "PrometheusRule")
    assert monitoring_kinds.refusals(edited(rules, "spec.groups.0.rules.0.for", "soon"))
    assert monitoring_kinds.refusals(edited(rules, "spec.groups.0.rules.0.severity", "page"))
