"""Whether NetworkPolicies let one pod reach another: kubernetes.io/docs/concepts/services-networking/network-policies.

A connection needs both sides: egress of where it begins, ingress of where it ends. A side that no policy of its kind
selects is open; else one rule has to allow it. Networks differ in whether an ipBlock means pods too, so the caller
says: what must be possible is asked as if not, what must not be possible as if so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Manifest = dict[str, Any]
NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class End:
    """One end of a connection. Without labels it is no pod, but an address outside of the cluster."""

    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    namespace_labels: dict[str, str] = field(default_factory=dict)
    ip: str = "10.1.2.3"
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def all_namespace_labels(self) -> dict[str, str]:
        return {NAME_LABEL: self.namespace, **self.namespace_labels}


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """A label selector on labels; an empty one selects everything."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, f"a selector says {unknown}"
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and all(
        _holds(one, labels) for one in selector.get("matchExpressions") or []
    )


def _holds(expression: Manifest, labels: dict[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values", [])
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise AssertionError(f"operator {operator}")


def reaches(
    policies: list[Manifest], source: End, target: End, port: int, *, protocol: str = "TCP", blocks_mean_pods: bool
) -> bool:
    """Whether a connection from source to a port of target is allowed by all that have a say."""
    asked = (port, protocol, blocks_mean_pods)
    return _side(policies, "Egress", source, target, target, *asked) and _side(
        policies, "Ingress", target, source, target, *asked
    )


def isolating(policies: list[Manifest], direction: str, end: End) -> list[Manifest]:
    """Policies that have a say about one direction of a pod; each names its namespace."""
    if end.labels is None:
        return []
    return [
        one
        for one in policies
        if one["metadata"]["namespace"] == end.namespace
        and direction in _types(one["spec"])
        and selects(one["spec"]["podSelector"], end.labels)
    ]


def _types(spec: Manifest) -> list[str]:
    return list(spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])])


def _side(
    policies: list[Manifest],
    direction: str,
    subject: End,
    peer: End,
    target: End,
    port: int,
    protocol: str,
    blocks_mean_pods: bool,
) -> bool:
    having_a_say = isolating(policies, direction, subject)
    return not having_a_say or any(
        _has_peer(rule, direction, peer, subject.namespace, blocks_mean_pods)
        and _has_port(rule, port, protocol, target)
        for policy in having_a_say
        for rule in policy["spec"].get(direction.lower()) or []
    )


def _has_peer(rule: Manifest, direction: str, peer: End, namespace: str, blocks_mean_pods: bool) -> bool:
    said = rule.get("from" if direction == "Ingress" else "to")
    return not said or any(_is_peer(one, peer, namespace, blocks_mean_pods) for one in said)


def _is_peer(said: Manifest, peer: End, namespace: str, blocks_mean_pods: bool) -> bool:
    if "ipBlock" in said:
        block, address = said["ipBlock"], ip_address(peer.ip)
        is_meant = peer.labels is None or blocks_mean_pods
        is_in = address in ip_network(block["cidr"])
        return is_meant and is_in and not any(address in ip_network(part) for part in block.get("except", []))
    if peer.labels is None:
        return False
    if "namespaceSelector" in said:
        if not selects(said["namespaceSelector"], peer.all_namespace_labels):
            return False
    elif peer.namespace != namespace:
        return False
    return selects(said.get("podSelector", {}), peer.labels)


def _has_port(rule: Manifest, port: int, protocol: str, target: End) -> bool:
    said = rule.get("ports")
    return not said or any(_is_port(one, port, protocol, target) for one in said)


def _is_port(said: Manifest, port: int, protocol: str, target: End) -> bool:
    if said.get("protocol", "TCP") != protocol:
        return False
    if "port" not in said:
        return True
    first = target.ports.get(said["port"]) if isinstance(said["port"], str) else said["port"]
    return first is not None and first <= port <= said.get("endPort", first)


def port_ranges(rules: list[Manifest], target: End) -> Iterator[tuple[int, int]]:
    """(first, last) of every port that some rule names; (1, 65535) where one names none."""
    for rule in rules:
        for said in rule.get("ports") or [{}]:
            first = said.get("port", 1)
            first = target.ports.get(first, 0) if isinstance(first, str) else first
            yield first, said.get("endPort", first if "port" in said else 65535)
