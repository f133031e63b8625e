"""The evaluator of NetworkPolicies says what kubernetes.io/docs/concepts/services-networking/network-policies says."""

from typing import Any

import pytest

from tests.k8s.network import End, port_ranges, reaches, selects

WEB = End("web", "shop", {"app": "web"}, ports={"http": 8080})
DB = End("db", "shop", {"app": "db"}, ports={"sql": 5432})
GUEST = End("guest", "elsewhere", {"app": "web"}, {"team": "red"})
OUTSIDE = End("outside", ip="192.0.2.9")


def policy(app: str | None, types: list[str], ingress: Any = None, egress: Any = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"app": app}} if app else {}, "policyTypes": types}
    rules = {"ingress": ingress, "egress": egress}
    return {
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": spec | {k: v for k, v in rules.items() if v is not None},
    }


def can(policies: list[dict[str, Any]], source: End, target: End, port: int = 5432, **options: Any) -> bool:
    return reaches(policies, source, target, port, **{"blocks_mean_pods": False, **options})


def test_without_a_policy_everything_is_open() -> None:
    assert can([], WEB, DB)
    assert can([], OUTSIDE, DB)


def test_denied_by_default() -> None:
    deny = policy(None, ["Ingress", "Egress"])
    assert not can([deny], WEB, DB)
    assert not can([deny], OUTSIDE, DB)
    assert not can([deny], DB, OUTSIDE)
    assert can([deny], OUTSIDE, GUEST), "the policy is of another namespace"


def test_both_ends_have_a_say() -> None:
    deny = policy(None, ["Ingress", "Egress"])
    into = policy("db", ["Ingress"], ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])
    out = policy("web", ["Egress"], egress=[{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}]}])
    assert not can([deny, into], WEB, DB)
    assert not can([deny, out], WEB, DB)
    assert can([deny, into, out], WEB, DB)
    assert not can([deny, into, out], DB, WEB)


def test_a_pod_selector_means_its_own_namespace() -> None:
    into = policy("db", ["Ingress"], ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])
    assert can([into], WEB, DB)
    assert not can([into], GUEST, DB)
    red = {"namespaceSelector": {"matchLabels": {"team": "red"}}}
    both = policy("db", ["Ingress"], ingress=[{"from": [{**red, "podSelector": {"matchLabels": {"app": "web"}}}]}])
    other = policy("db", ["Ingress"], ingress=[{"from": [{**red, "podSelector": {"matchLabels": {"app": "api"}}}]}])
    either = policy("db", ["Ingress"], ingress=[{"from": [red, {"podSelector": {"matchLabels": {"app": "web"}}}]}])
    assert [can([one], GUEST, DB) for one in (both, other, either)] == [True, False, True]
    assert [can([one], WEB, DB) for one in (both, other, either)] == [False, False, True]


def test_ports_names_and_ranges() -> None:
    named = policy("db", ["Ingress"], ingress=[{"ports": [{"port": "sql"}]}])
    assert can([named], WEB, DB)
    assert not can([named], WEB, DB, 5433)
    ranged = policy("db", ["Ingress"], ingress=[{"ports": [{"port": 20000, "endPort": 20999, "protocol": "TCP"}]}])
    assert [can([ranged], WEB, DB, port) for port in (19999, 20000, 20999, 21000)] == [False, True, True, False]
    assert not can([ranged], WEB, DB, 20000, protocol="UDP")
    assert list(port_ranges(ranged["spec"]["ingress"], DB)) == [(20000, 20999)]
    assert list(port_ranges([{}], DB)) == [(1, 65535)]


def test_blocks_of_addresses() -> None:
    block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.0/28"]}}
    into = policy("db", ["Ingress"], ingress=[{"from": [block]}])
    assert not can([into], OUTSIDE, DB)
    assert can([into], End("far", ip="198.51.100.1"), DB)
    assert not can([into], WEB, DB)
    assert can([into], WEB, DB, blocks_mean_pods=True)


def test_an_empty_list_allows_nothing_and_an_empty_rule_everything() -> None:
    assert not can([policy("db", ["Ingress"], ingress=[])], WEB, DB)
    assert can([policy("db", ["Ingress"], ingress=[{}])], OUTSIDE, DB)
    assert can([policy("db", ["Ingress"], ingress=[{"from": []}])], OUTSIDE, DB)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "1", "b": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["0", "1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_selectors(selector: dict[str, Any], expected: bool) -> None:
    assert selects(selector, {"a": "1"}) is expected
