"""Who may reach whom in a release, asked of its NetworkPolicies port by port, and what is wanted.

`WANTED` is the whole truth: a port that it does not name must be closed between these two, one that it names open.
"""

from collections.abc import Iterator

from tests.k8s.charts import NAMESPACE
from tests.k8s.network import End, isolating, port_ranges, reaches
from tests.k8s.workloads import Manifest, pods

NODES = ("head", "control", "shard", "gateway", "embedder", "batch")
GCS, DASHBOARD, METRICS, DATA, PROBE, POSTGRES = 6379, 8265, 6384, 7600, 7601, 5432
# Between Ray nodes: node and object manager, agents, first and last port of workers.
RAY = (6380, 6381, 6382, 6383, 52365, 20000, 20999)
# Asked besides: Ray's client, its default ports of metrics and Serve, ssh, web, Kubernetes, etcd, the kubelet.
OTHERS = (22, 53, 80, 443, 2379, 6385, 6443, 7599, 7602, 8000, 8079, 8080, 8443, 8444, 9090, 10001, 10250, 19999, 21000)
PORTS = sorted({GCS, DASHBOARD, METRICS, DATA, PROBE, POSTGRES, *RAY, *OTHERS})


def ends(manifests: list[Manifest]) -> dict[str, End]:
    """Every pod of the release by its component, and those who have no business there."""
    (operator, monitoring) = ("kuberay-operator", "monitoring")
    strangers = {
        "outside": End("outside", ip="198.51.100.7"),
        "neighbour": End("neighbour", NAMESPACE, {"app": "other"}),
        "other release": End(
            "other release", NAMESPACE, {**_labels(manifests), "app.kubernetes.io/instance": "another"}
        ),
        "other namespace": End("other namespace", "default", {"app": "other"}),
        "same labels elsewhere": End("same labels elsewhere", "default", _labels(manifests)),
        "operator": End("operator", operator, {"app.kubernetes.io/name": operator}),
        "beside operator": End("beside operator", operator, {"app": "other"}),
        "monitoring": End("monitoring", monitoring, {"app": "prometheus"}),
        "ingress": End("ingress", "ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
        "dns": End("dns", "kube-system", {"k8s-app": "kube-dns"}),
    }
    return strangers | {
        pod.component: End(pod.component, NAMESPACE, pod.labels, ports=pod.ports()) for pod in pods(manifests)
    }


def of_release(manifests: list[Manifest]) -> list[Manifest]:
    """The release's policies, with the namespace that it is installed to."""
    found = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    return [{**one, "metadata": {"namespace": NAMESPACE, **one["metadata"]}} for one in found]


def _labels(manifests: list[Manifest]) -> dict[str, str]:
    return dict(next(pod.labels for pod in pods(manifests) if pod.component == "control"))


def gateway_port(manifests: list[Manifest]) -> int:
    (found,) = [pod.ports() for pod in pods(manifests) if pod.component == "gateway"]
    return found.get("https") or found["http"]


def wanted(source: str, target: str, gateway: int, is_monitored: bool, is_open: bool) -> set[int]:
    """TCP ports of PORTS that source should reach at a pod of the release; is_open: gateways are for everyone."""
    found: set[int] = set()
    if source in NODES and target in NODES:
        # Ray's port of metrics lies within the range of its agents.
        found |= {*RAY, METRICS}
    if target == "head" and source in NODES:
        found |= {GCS, DASHBOARD}
    if target == "head" and source == "operator":
        found |= {DASHBOARD}
    if target == "shard" and source in NODES and source != "head":
        found |= {DATA}
    if target == "shard" and source == "control":
        found |= {PROBE}
    if target == "postgres" and source == "control":
        found |= {POSTGRES}
    if target in NODES and source == "monitoring" and is_monitored:
        found |= {METRICS} | {"gateway": {gateway}, "shard": {PROBE}}.get(target, set())
    if target == "gateway" and _uses_gateways(source, is_open):
        found |= {gateway}
    return found


def _uses_gateways(source: str, is_open: bool) -> bool:
    inside = (*NODES, "postgres")  # Denied by their own egress: they have no business with the service.
    return source in ("test", "job", "ingress") or (is_open and source not in inside)


def differences(manifests: list[Manifest], is_monitored: bool, is_open: bool) -> list[str]:
    """Every (source, target, port) where the policies differ from WANTED."""
    policies = of_release(manifests)
    there, gateway, found = ends(manifests), gateway_port(manifests), []
    targets = [end for end in there.values() if end.namespace == NAMESPACE and end.name in {*NODES, "postgres"}]
    for source in there.values():
        for target in targets:
            should = wanted(source.name, target.name, gateway, is_monitored, is_open)
            for port in PORTS:
                # Open for certain, closed for certain: whatever the network takes an ipBlock for.
                is_wanted = port in should
                if reaches(policies, source, target, port, blocks_mean_pods=not is_wanted) != is_wanted:
                    found.append(f"{source.name} {'cannot' if is_wanted else 'can'} reach {target.name}:{port}")
    return found


def isolated(manifests: list[Manifest]) -> Iterator[str]:
    """Every pod is denied by default, in both directions: by a policy that allows nothing, whatever others allow."""
    policies = of_release(manifests)
    for end in _pods_of(manifests):
        for direction in ("Ingress", "Egress"):
            if all(one["spec"].get(direction.lower()) for one in isolating(policies, direction, end)):
                yield f"{end.name}: nothing denies its {direction} by default"


def ports_are_covered(manifests: list[Manifest]) -> Iterator[str]:
    """Every port that a container names is named by a rule for it, and so are those that probes ask."""
    policies = of_release(manifests)
    for pod, end in zip(pods(manifests), _pods_of(manifests), strict=True):
        rules = [rule for one in isolating(policies, "Ingress", end) for rule in one["spec"].get("ingress") or []]
        ranges = list(port_ranges(rules, end))
        for name, port in pod.ports().items():
            if not any(first <= port <= last for first, last in ranges):
                yield f"{pod.owner}: no rule is about its port {name} ({port})"


def no_rule_is_for_everyone(manifests: list[Manifest]) -> Iterator[str]:
    """A rule without peers or ports is a slip: only gateways may say it, and name their port."""
    for one in manifests:
        if one["kind"] != "NetworkPolicy":
            continue
        where = one["metadata"]["name"]
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in one["spec"].get(direction) or []:
                if not rule.get("ports"):
                    yield f"{where}: a rule of {direction} for all ports"
                if not rule.get(key) and not (direction == "ingress" and where.endswith("-gateway")):
                    yield f"{where}: a rule of {direction} for everyone"


def _pods_of(manifests: list[Manifest]) -> list[End]:
    return [End(pod.owner, NAMESPACE, pod.labels, ports=pod.ports()) for pod in pods(manifests)]


CHECKS = [isolated, ports_are_covered, no_rule_is_for_everyone]
