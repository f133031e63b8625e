"""Pods of a render are those that will run: what KubeRay's operator adds is there, and held to the policies."""

from typing import Any

import pytest

from tests.k8s import charts, manifests, matrix
from tests.k8s.edits import DELETE, edited
from tests.k8s.pods import kuberay
from tests.k8s.policies import security
from tests.k8s.workloads import Pod, pods, pods_of


def names(pod: Pod) -> list[str]:
    return [one["name"] for _, one, _ in pod.containers()]


def test_the_operator_adds_its_containers() -> None:
    made = edited(manifests.ray_cluster(), "spec.enableInTreeAutoscaling", True)
    head, worker = pods_of(made)
    assert names(head) == ["head", "autoscaler"]
    assert names(worker) == ["wait-gcs-ready", "worker"]
    assert head.labels["ray.io/node-type"] == "head"
    assert worker.labels["ray.io/group"] == "batch"
    assert names(pods_of(manifests.ray_cluster())[0]) == ["head"]


def test_the_autoscaler_is_what_its_options_say() -> None:
    made = edited(manifests.ray_cluster(), "spec.enableInTreeAutoscaling", True)
    options = {"securityContext": {"runAsUser": 10001}, "resources": {"limits": {"memory": "1Gi"}}}
    head, _ = pods_of(edited(made, "spec.autoscalerOptions", options))
    scaler = head.spec["containers"][1]
    assert scaler["image"] == "facegrid:1"
    assert {key: scaler[key] for key in options} == options


def test_the_token_comes_from_the_secret_that_the_cluster_names() -> None:
    def secret(manifest: Any) -> str:
        (token,) = [env for env in pods_of(manifest)[0].spec["containers"][0]["env"] if env["name"] == "RAY_AUTH_TOKEN"]
        return str(token["valueFrom"]["secretKeyRef"]["name"])

    assert secret(manifests.ray_cluster()) == "token"
    assert secret(edited(manifests.ray_cluster(), "spec.authOptions.secretName", DELETE)) == "faces"


@pytest.mark.parametrize("made", [manifests.ray_job(), manifests.ray_cron_job()], ids=lambda made: made["kind"])
def test_jobs_bring_a_cluster_and_a_submitter(made: charts.Manifest) -> None:
    assert [names(pod)[-1] for pod in pods_of(made)] == ["head", "worker", "ray-job-submitter"]
    assert not pods_of(made)[-1].runs_on
    found = list(security.containers_are_confined([made]))
    assert any("submitter: container ray-job-submitter may escalate" in one for one in found)


def test_a_job_by_http_on_a_cluster_that_is_there_brings_no_pod() -> None:
    made = edited(edited(manifests.ray_job(), "spec.rayClusterSpec", DELETE), "spec.submissionMode", "HTTPMode")
    assert pods_of(edited(made, "spec.clusterSelector", {"ray.io/cluster": "faces"})) == []


def test_a_cron_job_brings_its_pod() -> None:
    template = {"spec": manifests.pod("a")["spec"], "metadata": {"labels": {"a": "b"}}}
    job = {"kind": "CronJob", "metadata": {"name": "n"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    (pod,) = pods_of(job)
    assert (pod.labels, pod.runs_on) == ({"a": "b"}, False)


def test_podman_gets_the_same_pods() -> None:
    """tests/k8s/pods makes them to run, workloads.py to ask about: the same labels, containers and volumes."""
    rendered = charts.render(matrix.AXES["embedders"]["fixed"])
    (cluster,) = charts.of_kind(rendered, "RayCluster")
    asked = {pod.component: pod for pod in pods(rendered) if pod.owner.startswith("RayCluster")}
    run = {"head": kuberay.head_pod(cluster, charts.NAMESPACE, "abcde")}
    run |= {g: kuberay.worker_pod(cluster, g, charts.NAMESPACE, "abcde") for g in ("embedder", "batch")}
    for component, pod in run.items():
        ours = asked[component]
        assert dict(pod.labels).items() <= ours.labels.items(), component
        assert [name for name in names(ours) if name != "autoscaler"] == [
            one["name"] for key in ("initContainers", "containers") for one in pod.spec.get(key) or []
        ]
        assert {one["name"] for one in ours.spec["volumes"]} <= {one["name"] for one in pod.spec["volumes"]}
