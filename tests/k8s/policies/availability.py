"""What keeps galleries there while nodes go: hosts apart from each other, budgets, time to leave, volumes that stay."""

import re
from collections.abc import Iterator

from tests.k8s.charts import ROOT
from tests.k8s.network import selects
from tests.k8s.workloads import Manifest, pods

NODE_SCRIPT = ROOT / "k8s/image/bin/facegrid-node"
HOSTNAME = "kubernetes.io/hostname"
EVICTION = {"shard": "IfHealthyBudget", "gateway": "AlwaysAllow"}


def hosts_share_no_node(manifests: list[Manifest]) -> Iterator[str]:
    """Two shard hosts never come to one node. Not for renders that say otherwise: a trial on one node."""
    for pod in pods(manifests):
        if pod.component != "shard":
            continue
        wanted = (pod.spec.get("affinity") or {}).get("podAntiAffinity") or {}
        terms = wanted.get("requiredDuringSchedulingIgnoredDuringExecution") or []
        if not any(term["topologyKey"] == HOSTNAME and selects(term["labelSelector"], pod.labels) for term in terms):
            yield f"{pod.owner}: two of its pods may share a node"


def control_is_apart(manifests: list[Manifest]) -> Iterator[str]:
    """The control pod is on a node without a shard host where there is one: a node that is lost is one fault then."""
    found = list(pods(manifests))
    for pod in found:
        if pod.component != "control":
            continue
        wanted = (pod.spec.get("affinity") or {}).get("podAntiAffinity") or {}
        terms = [one["podAffinityTerm"] for one in wanted.get("preferredDuringSchedulingIgnoredDuringExecution") or []]
        hosts = [one for one in found if one.component == "shard"]
        if not any(
            term["topologyKey"] == HOSTNAME and all(selects(term["labelSelector"], host.labels) for host in hosts)
            for term in terms
        ):
            yield f"{pod.owner} does not mind a node with a shard host"


def zones_are_spread(manifests: list[Manifest]) -> Iterator[str]:
    """Shard hosts and gateways are spread over zones, counting their own pods."""
    for pod in pods(manifests):
        if pod.component not in ("shard", "gateway"):
            continue
        said = pod.spec.get("topologySpreadConstraints") or []
        if not any(one["topologyKey"] != HOSTNAME and selects(one["labelSelector"], pod.labels) for one in said):
            yield f"{pod.owner} is not spread over zones"


def have_budgets(manifests: list[Manifest]) -> Iterator[str]:
    """Shard hosts and gateways have a budget, of one pod at a time, and no pod has two (evictions would fail).

    A gateway that is broken keeps no node from being drained; a shard host counts as long as it is not ready.
    """
    budgets = [one for one in manifests if one["kind"] == "PodDisruptionBudget"]
    for pod in pods(manifests):
        found = [one for one in budgets if selects(one["spec"]["selector"], pod.labels)]
        if pod.component in ("shard", "gateway") and [one["spec"].get("maxUnavailable") for one in found] != [1]:
            yield f"{pod.owner} has budgets {[one['spec'] for one in found]}, expected one with maxUnavailable 1"
        policies = [one["spec"].get("unhealthyPodEvictionPolicy") for one in found]
        if policies and policies != [EVICTION.get(pod.component)]:
            yield f"{pod.owner}: pods that are not ready are evicted by {policies}"
        if pod.component in ("head", "control") and found:
            yield f"{pod.owner} has a budget: one pod of its kind would keep its node from being drained"


def volumes_stay(manifests: list[Manifest]) -> Iterator[str]:
    """No volume goes with its StatefulSet or with scaling in; hosts are updated one by one, in order.

    A pod that never gets ready is replaced when its template is corrected, which OrderedReady does not do.
    """
    for one in manifests:
        if one["kind"] == "StatefulSet":
            where, spec = f"StatefulSet/{one['metadata']['name']}", one["spec"]
            policy = spec.get("persistentVolumeClaimRetentionPolicy") or {}
            if set(policy.values()) - {"Retain"}:
                yield f"{where}: its volumes are deleted: {policy}"
            if spec.get("updateStrategy", {}).get("type", "RollingUpdate") != "RollingUpdate":
                yield f"{where} is not updated in order"
            if spec.get("podManagementPolicy") != "Parallel":
                yield f"{where} keeps a pod that never gets ready, whatever its template becomes"
            if not spec.get("volumeClaimTemplates"):
                yield f"{where} has no volumes"


def gateways_roll(manifests: list[Manifest]) -> Iterator[str]:
    """A gateway is never taken away before another one is ready."""
    for one in manifests:
        if one["kind"] == "Deployment":
            rolling = one["spec"].get("strategy", {}).get("rollingUpdate", {})
            if rolling.get("maxUnavailable") != 0 or not rolling.get("maxSurge"):
                yield f"Deployment/{one['metadata']['name']} takes pods away before others are ready: {rolling}"


def have_time_to_leave(manifests: list[Manifest]) -> Iterator[str]:
    """Shard hosts and gateways leave (preStop), and are given longer than that takes at most."""
    for pod in pods(manifests):
        if pod.component not in ("shard", "gateway"):
            continue
        main = pod.spec["containers"][0]
        command = (((main.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}).get("command")
        if command is None or command[:2] != ["facegrid-node", "leave"]:
            yield f"{pod.owner} does not leave before it is stopped: {command}"
            continue
        bound, grace = leaving_seconds(main), pod.spec.get("terminationGracePeriodSeconds", 30)
        if grace <= bound:
            yield f"{pod.owner} may take {bound} s to leave, and is killed after {grace} s"


def leaving_seconds(container: Manifest) -> int:
    """Seconds that `facegrid-node leave` may take in a container: LEAVE_SECONDS, or what the script says without it."""
    said = {env["name"]: env.get("value") for env in container.get("env") or []}
    (otherwise,) = set(re.findall(r"LEAVE_SECONDS:-(\d+)", NODE_SCRIPT.read_text()))
    return int(said.get("LEAVE_SECONDS") or otherwise)


CHECKS = [
    hosts_share_no_node,
    control_is_apart,
    zones_are_spread,
    have_budgets,
    volumes_stay,
    gateways_roll,
    have_time_to_leave,
]
