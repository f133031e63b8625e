"""What is done to a running release: pods that die, a link that is cut, an image that is rolled."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

from tests.k8s.pods.release import Release
from tests.k8s.smoke.cluster import SmokeCluster
from tests.k8s.smoke.kubelet import RunningPod
from tests.k8s.smoke.podman import podman

READY_S = 600.0
"""The longest to wait for a pod: shows that it came back at all, on a machine that has much else to do."""


@contextlib.contextmanager
def cut_off(pod: RunningPod) -> Iterator[None]:
    """Nothing comes to the pod or leaves it, and nobody is told: packets are dropped in its network namespace."""
    process = podman("inspect", "--format", "{{.State.Pid}}", pod.container).strip()
    # Its own loopback stays: a link is cut, not the pod.
    rules = [(chain, "!", side, "lo", "-j", "DROP") for chain, side in (("INPUT", "-i"), ("OUTPUT", "-o"))]
    for rule in rules:
        _iptables(process, "-A", *rule)
    try:
        yield
    finally:
        for rule in rules:
            _iptables(process, "-D", *rule)


def _iptables(process: str, *arguments: str) -> None:
    subprocess.run(["nsenter", "--net", f"--target={process}", "iptables", *arguments], check=True)


def replace_lost_shard(cluster: SmokeCluster, ordinal: int) -> RunningPod:
    """SIGKILL of a shard host's pod, as with its node; a new one with the same claim and another address."""
    lost = cluster.pod("shard", ordinal)
    cluster.kubelet.lose(lost)
    found = cluster.start_shard(ordinal)
    assert found.address != lost.address
    cluster.wait_ready(found, seconds=READY_S)
    return found


def replace_lost_head(cluster: SmokeCluster) -> RunningPod:
    """SIGKILL of the head; the operator's new one opens the same claim, at another address."""
    lost = cluster.pod("head")
    cluster.kubelet.lose(lost)
    found = cluster.start_head()
    assert found.address != lost.address
    cluster.wait_ready(found, seconds=READY_S)
    return found


def replace_lost_control(cluster: SmokeCluster) -> RunningPod:
    """SIGKILL of the control pod: the process that has the home open, and the coordinator beside it."""
    cluster.kubelet.lose(cluster.pod("control"))
    found = cluster.start_control()
    cluster.wait_ready(found, seconds=READY_S)
    return found


def roll(cluster: SmokeCluster, release: Release) -> dict[str, str]:
    """All pods replaced by those of another release, as k8s/README.md upgrades; what preStop said, by pod.

    Control, gateways by a surge of one, the head as KubeRay's upgrade strategy Recreate does; then shard hosts from the
    highest ordinal down, the next one when the last is ready.
    """
    cluster.release = release
    said = {"control": cluster.kubelet.delete(cluster.pod("control"))}
    cluster.wait_ready(cluster.start_control(), seconds=READY_S)
    said.update(replace_gateways(cluster))
    said["head"] = cluster.kubelet.delete(cluster.pod("head"))
    cluster.wait_ready(cluster.start_head(), seconds=READY_S)
    for ordinal in reversed(range(release.replicas("shard"))):
        old = cluster.pod("shard", ordinal)
        said[old.name] = cluster.kubelet.delete(old)
        cluster.wait_ready(cluster.start_shard(ordinal), seconds=READY_S)
        # minReadySeconds: ready for so long before the next one.
        time.sleep(release.document("StatefulSet", f"{release.name}-shard")["spec"].get("minReadySeconds", 0))
    return said


def replace_gateways(cluster: SmokeCluster) -> dict[str, str]:
    """`kubectl rollout restart`: one more that is ready, then one fewer, until all are new; what preStop said."""
    said: dict[str, str] = {}
    for old in cluster.pods("gateway"):
        cluster.wait_ready(cluster.start_gateway(), seconds=READY_S)
        said[old.name] = cluster.kubelet.delete(old)
    return said
