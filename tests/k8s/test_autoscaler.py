"""What Ray's autoscaler makes of the chart's RayCluster, and of the nodes that it did not start.

Our control, shard and gateway pods join its cluster by themselves. Here Ray's own reconciler and scheduler of version 2
run on the chart's RayCluster and on states of a cluster as the GCS would report them; nothing else of Ray runs.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import CloudInstance
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeState, NodeStatus
from ray.core.generated.instance_manager_pb2 import GetInstanceManagerStateRequest, Instance, NodeKind

from tests.k8s.tools import program

CHART = Path(__file__).parents[2] / "k8s/chart/facegrid"
ROUNDS = 4
LONG_MS = 10_000_000


@pytest.fixture(scope="module")
def groups() -> dict[str, Any]:
    """What Ray's provider for KubeRay reads from the RayCluster of the production example, with GPUs."""
    values = [f"--values={CHART}/../../examples/values-{name}.yaml" for name in ("production", "gpu")]
    # Kubernetes gives a RayCluster its namespace.
    command = [program("helm"), "template", "prod", str(CHART), *values, "--show-only=templates/raycluster.yaml"]
    cluster = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    cluster["metadata"]["namespace"] = "faces"
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)
    return config


def node(number: int, pod: str, group: str, *, is_head: bool = False) -> NodeState:
    """A node that has been idle for long. pod: its RAY_CLOUD_INSTANCE_ID; group: its RAY_NODE_TYPE_NAME."""
    state = NodeState(
        node_id=bytes([number] * 28),
        instance_id=pod,
        ray_node_type_name=group,
        status=NodeStatus.IDLE,
        idle_duration_ms=LONG_MS,
        node_state_version=1,
    )
    state.total_resources["node:__internal_head__" if is_head else "facegrid_host_a"] = 1
    return state


def reconciled(groups: dict[str, Any], *others: NodeState, workers: tuple[str, ...] = ()) -> dict[str, str]:
    """Status by pod, of those that the autoscaler counts as its own after some rounds. workers: pods of batch."""
    manager = InstanceManager(InstanceStorage("grid", InMemoryStorage()), [])
    supply = SimpleNamespace(get_resource_availabilities=dict, get_recoverable_resource_availabilities=dict)
    known = {"head": CloudInstance("head", "headgroup", True, NodeKind.HEAD)}
    known.update({pod: CloudInstance(pod, "batch", True, NodeKind.WORKER) for pod in workers})
    nodes = [node(1, "head", "headgroup", is_head=True), *others]
    for version in range(1, ROUNDS + 1):
        Reconciler.reconcile(
            instance_manager=manager,
            scheduler=ResourceDemandScheduler(SimpleNamespace(log_cluster_scheduling_update=lambda **_: None)),
            cloud_provider=None,
            cloud_resource_monitor=supply,
            ray_cluster_resource_state=ClusterResourceState(cluster_resource_state_version=version, node_states=nodes),
            non_terminated_cloud_instances=known,
            cloud_provider_errors=[],
            ray_install_errors=[],
            autoscaling_config=AutoscalingConfig(groups, skip_content_hash=True),
        )
    instances = manager.get_instance_manager_state(GetInstanceManagerStateRequest()).state.instances
    return {
        one.cloud_instance_id: Instance.InstanceStatus.Name(one.status) for one in instances if one.cloud_instance_id
    }


def test_the_autoscaler_reads_what_each_group_offers(groups: dict[str, Any]) -> None:
    offered = {name: group["resources"] for name, group in groups["available_node_types"].items()}
    assert offered["headgroup"]["CPU"] == 0
    assert (offered["embedder"]["CPU"], offered["embedder"]["GPU"], offered["embedder"]["facegrid_embedder"]) == (
        0,
        1,
        1,
    )
    assert offered["batch"]["CPU"] == 8
    assert "facegrid_embedder" not in offered["batch"]
    scaled = {
        name: (group["min_workers"], group["max_workers"]) for name, group in groups["available_node_types"].items()
    }
    assert scaled == {"headgroup": (0, 0), "embedder": (1, 4), "batch": (0, 8)}


def test_a_node_without_an_instance_id_is_passed_over_however_idle_it_is(groups: dict[str, Any]) -> None:
    assert reconciled(groups, node(2, "", "")) == {"head": "RAY_RUNNING"}


def test_an_idle_worker_of_its_own_is_asked_to_stop(groups: dict[str, Any]) -> None:
    # So the test above would notice if ours were taken for workers.
    assert reconciled(groups, node(2, "batch-1", "batch"), workers=("batch-1",))["batch-1"] == "RAY_STOP_REQUESTED"


def test_a_node_with_an_instance_id_and_no_group_ends_the_autoscaler(groups: dict[str, Any]) -> None:
    # Why no pod of ours may have the variable.
    with pytest.raises(AssertionError, match="instance_type"):
        reconciled(groups, node(2, "prod-facegrid-shard-0", ""))
