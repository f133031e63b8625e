"""Small manifests written by hand, that every validator takes: what tests of the validators change."""

from typing import Any

Manifest = dict[str, Any]


def pod(name: str) -> Manifest:
    return {"spec": {"containers": [{"name": name, "image": "facegrid:1", "env": [{"name": "A", "value": "b"}]}]}}


def cluster_spec() -> Manifest:
    worker = {
        "groupName": "batch",
        "replicas": 1,
        "minReplicas": 0,
        "maxReplicas": 2,
        "rayStartParams": {"num-cpus": "1"},
        "template": pod("worker"),
    }
    return {
        "rayVersion": "2.60.0",
        "authOptions": {"mode": "token", "secretName": "token"},
        "gcsFaultToleranceOptions": {"backend": "rocksdb", "storage": {"size": "1Gi"}},
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod("head")},
        "workerGroupSpecs": [worker],
    }


def ray_cluster() -> Manifest:
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "faces"}, "spec": cluster_spec()}


def ray_job() -> Manifest:
    spec = {"entrypoint": "true", "rayClusterSpec": cluster_spec(), "shutdownAfterJobFinishes": True}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "dedup"}, "spec": spec}


def ray_cron_job() -> Manifest:
    spec = {"schedule": "5 3 * * *", "jobTemplate": ray_job()["spec"]}
    return {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": "nightly"}, "spec": spec}
