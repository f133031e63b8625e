"""Rendered manifests as pods, and pods as podman's containers: what is translated, and that nothing is passed over."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.pods.containers import runnable
from tests.k8s.pods.environment import Place, expanded
from tests.k8s.pods.fields import Untranslatable
from tests.k8s.pods.kuberay import head_pod, worker_pod
from tests.k8s.pods.quantities import quantity, rounded_up
from tests.k8s.pods.release import Release
from tests.k8s.pods.workloads import Pod, pod_from_template, statefulset_pod
from tests.k8s.smoke.storage import write_files

PLACE = Place("10.0.0.9", "node-a", {"grid": {"auth_token": b"secret"}, "tls": {"tls.crt": b"c", "tls.key": b"k"}}, {})


def container(**changes: Any) -> dict[str, Any]:
    return {
        "name": "main",
        "image": "facegrid:1",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **changes,
    }


def pod(spec: dict[str, Any] | None = None, **changes: Any) -> Pod:
    whole = {"automountServiceAccountToken": False, "containers": [container(**changes)], **(spec or {})}
    return pod_from_template({"metadata": {"labels": {"a": "b"}}, "spec": whole}, "one", "ns", "StatefulSet/one")


def ray_cluster(**changes: Any) -> dict[str, Any]:
    template = {"spec": {"automountServiceAccountToken": False, "containers": [container(name="ray")]}}
    return {
        "metadata": {"name": "grid"},
        "spec": {
            "rayVersion": "2.60.0",
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": template},
            "workerGroupSpecs": [
                {
                    "groupName": "batch",
                    "resources": {"CPU": "1500m", "facegrid_embedder": "1"},
                    "rayStartParams": {"disable-usage-stats": "true", "include-dashboard": "false"},
                    "template": deepcopy(template),
                }
            ],
            **changes,
        },
    }


def test_security_limits_and_command() -> None:
    changes = {"command": ["run", "$(POD_IP)"], "args": ["$$(A)", "$(NOBODY)"]}
    made = runnable(
        pod(
            resources={"limits": {"memory": "1536Mi"}, "requests": {"cpu": "1500m"}},
            env=[
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "grid", "key": "auth_token"}}},
            ],
            **changes,
        ),
        PLACE,
    ).main
    assert (made.entrypoint, made.words) == ("run", ("10.0.0.9", "$(A)", "$(NOBODY)"))
    assert made.environment == {"POD_IP": "10.0.0.9", "LABEL": "b", "CPUS": "2", "TOKEN": "secret"}
    assert made.memory_bytes == 1536 << 20
    assert made.arguments == (
        "--user=10001:10001",
        "--read-only",
        "--read-only-tmpfs=false",
        "--security-opt=no-new-privileges",
        "--cap-drop=ALL",
    )


@pytest.mark.parametrize(
    ("spec", "changes", "expected"),
    [
        ({"hostNetwork": True}, {}, "hostNetwork"),
        ({}, {"stdin": True}, "stdin"),
        ({}, {"securityContext": {"privileged": True, "runAsUser": 1}}, "privileged"),
        ({}, {"securityContext": {"runAsNonRoot": True}}, "no runAsUser"),
        ({}, {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}]}, "no Secret"),
        ({}, {"volumeMounts": [{"name": "gone", "mountPath": "/x"}]}, "no volume gone"),
        ({}, {"livenessProbe": {"grpc": {"port": 1}}}, "grpc"),
        ({}, {"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}, "preStop"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
         {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, "hostPath"),
        ({"automountServiceAccountToken": True}, {}, "token"),
        ({"containers": [container(), container(name="two")]}, {}, "2 containers"),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_refused(spec: dict[str, Any], changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(Untranslatable, match=expected):
        runnable(pod(spec, **changes), PLACE)


def test_fields_that_only_a_cluster_carries_out_are_named() -> None:
    made = runnable(pod({"affinity": {"podAntiAffinity": {}}}, imagePullPolicy="Always"), PLACE)
    assert made.not_exercised == ("StatefulSet/one.template.spec.affinity", "one.main.imagePullPolicy")


def test_a_stateful_pod_has_claims_of_its_own() -> None:
    document = {
        "metadata": {"name": "shard"},
        "spec": {
            "serviceName": "shard",
            "template": {"spec": {"automountServiceAccountToken": False, "containers": [
                container(volumeMounts=[{"name": "home", "mountPath": "/home", "subPath": "a"}])
            ]}},
            "volumeClaimTemplates": [{"metadata": {"name": "home"}}],
        },
    }  # fmt: skip
    (mount,) = runnable(statefulset_pod(document, 2, "ns"), PLACE).main.mounts
    assert (mount.volume.kind, mount.volume.name, mount.sub_path) == ("claim", "home-shard-2", "a")
    document["spec"]["updateStrategy"] = {"type": "OnDelete"}
    with pytest.raises(Untranslatable, match="OnDelete"):
        statefulset_pod(document, 2, "ns")


def test_the_head_as_the_operator_makes_it() -> None:
    options = {"backend": "rocksdb", "storage": {"size": "1Gi"}}
    made = runnable(head_pod(ray_cluster(gcsFaultToleranceOptions=options), "ns", "x"), PLACE).main
    assert made.entrypoint == "/bin/bash"
    assert made.words[-1].startswith("ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head --block")
    assert "--num-cpus=0" in made.words[-1]
    wanted = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "secret",
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": "/data/gcs",
        "RAY_ADDRESS": "127.0.0.1:6379",
        "RAY_CLUSTER_NAME": "grid",
        "RAY_CLOUD_INSTANCE_ID": "grid-head-x",
    }
    assert wanted.items() <= made.environment.items()
    places = {mount.path: (mount.volume.kind, mount.volume.name) for mount in made.mounts}
    assert places == {"/data/gcs": ("claim", "grid-gcs-pvc"), "/dev/shm": ("memory", "shared-mem")}
    assert made.readiness is not None
    assert made.readiness.http == ("http", "/api/healthz", 52365)


def test_the_autoscaler_changes_the_head_and_is_not_run() -> None:
    cluster = ray_cluster(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2"})
    head = head_pod(cluster, "ns", "x")
    assert head.spec["restartPolicy"] == "Never"
    assert "RayCluster/grid.spec.autoscalerOptions" in head.not_exercised
    made = runnable(head, PLACE).main
    assert "--no-monitor" in made.words[-1]
    assert made.environment["RAY_enable_autoscaler_v2"] == "true"


def test_a_worker_waits_for_the_gcs_and_joins_by_the_services_full_name() -> None:
    worker = runnable(
        worker_pod(ray_cluster(gcsFaultToleranceOptions={"backend": "rocksdb"}), "batch", "ns", "y"), PLACE
    )
    address = "grid-head-svc.ns.svc.cluster.local"
    (init,) = worker.init
    assert f"ray health-check --address {address}:6379" in init.words[-1]
    assert init.environment["RAY_AUTH_TOKEN"] == "secret"
    command = worker.main.words[-1]
    assert f"--address={address}:6379" in command
    assert "--num-cpus=2" in command
    assert """--resources='{"facegrid_embedder":1.0}'""" in command
    assert "--disable-usage-stats" in command
    assert "--include-dashboard=false" in command
    assert worker.main.environment["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    with pytest.raises(Untranslatable, match="no worker group"):
        worker_pod(ray_cluster(), "none", "ns", "y")


def test_a_kind_that_nobody_thought_of_is_refused() -> None:
    with pytest.raises(Untranslatable, match="DaemonSet/x"):
        Release([{"kind": "DaemonSet", "metadata": {"name": "x"}}], "ns")


@pytest.mark.parametrize(
    ("text", "value"), [("512Mi", 512 << 20), ("1500m", Fraction(3, 2)), ("2", 2), ("1e3", 1000), ("1G", 10**9)]
)
def test_quantities(text: str, value: Fraction | int) -> None:
    assert quantity(text) == value
    assert rounded_up(quantity("1500m")) == 2
    with pytest.raises(Untranslatable):
        quantity("12 apples")


def test_references_in_values() -> None:
    assert expanded("$(A)-$$(A)-$(B)", {"A": "1"}) == "1-$(A)-$(B)"


def test_files_of_a_secret_are_replaced_at_once(tmp_path: Path) -> None:
    write_files(tmp_path, {"tls.crt": b"old", "tls.key": b"old"}, 0o440, None)
    reader = (tmp_path / "tls.crt").open("rb")
    write_files(tmp_path, {"tls.crt": b"new", "tls.key": b"new"}, 0o440, None)
    assert reader.read() == b"old"
    assert [(tmp_path / name).read_bytes() for name in ("tls.crt", "tls.key")] == [b"new", b"new"]
