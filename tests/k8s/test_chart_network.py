"""Who reaches whom in a release, port by port, is what policies/reach.py wants and nothing else."""

import re

import pytest
import yaml

from tests.k8s import charts, matrix
from tests.k8s.edits import with_one_edited
from tests.k8s.policies import reach

ON = [name for name in matrix.NAMES if matrix.row_of(name).get("network policies") != "off"]


def differences(manifests: list[charts.Manifest]) -> list[str]:
    """As the render itself says: monitored if it has a monitor, open if its gateways' rule names nobody."""
    is_monitored = bool(charts.of_kind(manifests, "ServiceMonitor"))
    rules = [
        rule
        for one in charts.of_kind(manifests, "NetworkPolicy")
        if one["metadata"]["name"].endswith("-gateway") and "metrics" not in one["metadata"]["name"]
        for rule in one["spec"]["ingress"]
    ]
    return reach.differences(manifests, is_monitored, is_open=any(not rule.get("from") for rule in rules))


@pytest.mark.parametrize("name", ON)
def test_nobody_reaches_more_or_less_than_wanted(name: str) -> None:
    assert differences(matrix.render(name)) == []


def test_without_policies_everyone_reaches_everything() -> None:
    manifests = charts.render(matrix.AXES["network policies"]["off"])
    assert charts.of_kind(manifests, "NetworkPolicy") == []
    assert "outside can reach shard:7600" in differences(manifests)


FULL = matrix.merged(matrix.AXES["catalog"]["trial"], matrix.AXES["monitoring"]["on"])
WITH_ALL_PODS = matrix.merged(FULL, matrix.AXES["embedders"]["fixed"], matrix.AXES["schedules"]["on"])
MADE = "NetworkPolicy/prod-facegrid"


@pytest.mark.parametrize(
    ("title", "path", "value", "message"),
    [
        (f"{MADE}-shard", "spec.ingress.0.from", [], "neighbour can reach shard:7600"),
        (f"{MADE}-postgres", "spec.ingress.0.from.0.podSelector", {}, "neighbour can reach postgres:5432"),
        (f"{MADE}-head", "spec.ingress.1.ports.+", {"port": 10001}, "operator can reach head:10001"),
        (f"{MADE}-head", "spec.ingress.0.from.0.podSelector", {}, "neighbour can reach head:8265"),
        (f"{MADE}-ray", "spec.ingress.0.ports.0.endPort", 6380, "shard cannot reach shard:6381"),
        (
            f"{MADE}-metrics-shard",
            "spec.ingress.0.ports.0",
            {"endPort": 7700, "port": 7600},
            "monitoring can reach shard:7600",
        ),
        (f"{MADE}-gateway", "spec.ingress.0.ports.0.port", 443, "outside cannot reach gateway:8443"),
        (f"{MADE}-catalog", "spec.egress.0.ports.0.port", 5433, "control cannot reach postgres:5432"),
    ],
)
def test_a_slip_is_found(title: str, path: str, value: object, message: str) -> None:
    manifests = charts.render(FULL)
    assert differences(manifests) == []
    found = differences(with_one_edited(manifests, title, path, value))
    assert any(message in one for one in found), found


def test_pods_reach_outside_only_what_the_values_allow() -> None:
    """Egress: DNS for all, an external database for the control pod, Kubernetes' API for the autoscaler's pod."""
    manifests = charts.render(matrix.AXES["network policies"]["narrow"])
    there, policies = reach.ends(manifests), reach.of_release(manifests)
    allowed = {
        (source, target, port)
        for source in (*reach.NODES, "test")
        if source in there
        for target, end in outside().items()
        for port in (53, 80, 443, 5432, 6443)
        if reach.reaches(policies, there[source], end, port, blocks_mean_pods=False)
    }
    dns = {(source, "dns", 53) for source in (*reach.NODES, "test") if source in there}
    node_local = {(source, "node's dns", 53) for source, _, _ in dns}
    api = {("head", target, port) for target in ("database", "internet", "node's dns") for port in (443, 6443)}
    assert allowed == dns | node_local | api | {("control", "database", 5432)}


def test_roles_of_nodes_need_the_egress_that_the_values_name() -> None:
    """Kept out by default; the lines beside s3.secretName let in those who use the object store, and nobody else."""
    text = (charts.CHART / "values.yaml").read_text()
    lines = re.findall(
        r"^  #   - (\{cidrs: \[169\.254\..*\})$", text.partition("\ns3:")[2].partition("secretName")[0], re.M
    )
    added = yaml.safe_load("".join(f"- {line}\n" for line in lines))
    (default,) = yaml.safe_load(text)["networkPolicy"]["egress"]
    users = {"control", "shard", "gateway", "embedder", "batch"}
    inside = {*reach.NODES, "postgres", "test", "job"}
    for egress, wanted in (([default], set()), ([default, *added], users)):
        manifests = charts.render(matrix.merged(WITH_ALL_PODS, {"networkPolicy": {"egress": egress}}))
        there, policies = reach.ends(manifests), reach.of_release(manifests)
        assert inside <= there.keys()
        for address in ("169.254.169.254", "169.254.170.23"):
            keys = reach.End("keys", ip=address)
            found = {name for name in inside if reach.reaches(policies, there[name], keys, 80, blocks_mean_pods=False)}
            assert found == wanted, address


@pytest.mark.parametrize("client", ["test", "job"])
def test_clients_are_allowed_gateways_and_nothing_else(client: str) -> None:
    """By their own egress, whatever ingress of the others says."""
    manifests = charts.render(WITH_ALL_PODS)
    there, policies = reach.ends(manifests), reach.of_release(manifests)
    outwards = [one for one in policies if one["spec"]["policyTypes"] == ["Egress"]]
    found = {
        (name, port)
        for name, end in {**there, **outside()}.items()
        for port in reach.PORTS
        if reach.reaches(outwards, there[client], end, port, blocks_mean_pods=False)
    }
    assert found == {("gateway", 8443), ("dns", 53)}


def outside() -> dict[str, reach.End]:
    return {
        "database": reach.End("database", ip="10.9.8.7"),
        "internet": reach.End("internet", ip="198.51.100.7"),
        "node's dns": reach.End("node's dns", ip="169.254.20.10"),
        "dns": reach.End("dns", "kube-system", {"k8s-app": "kube-dns"}),
    }
