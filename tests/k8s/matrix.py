"""Values that the chart is rendered with: every pair of choices in some row, and the examples as they are.

An axis is one choice; its options are values to merge. `ROWS` is made of them by a greedy covering of all pairs, the
same on every run: with a new axis, other rows may come.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from tests.k8s import charts

Values = dict[str, Any]

# At most as long as the chart takes: KubeRay and Kubernetes append to it.
LONGEST = "facegrid-of-a-long-name-for-a-test-x"

AXES: dict[str, dict[str, Values]] = {
    "gateway tls": {"on": {}, "off": {"gateway": {"tls": {"enabled": False}}}},
    "data tls": {"off": {}, "on": {"dataPlane": {"tls": {"enabled": True, "secretName": "data-tls"}}}},
    "gcs": {
        "rocksdb": {},
        "claim": {"ray": {"gcs": {"rocksdb": {"claimName": "gcs"}}}},
        "redis": {"ray": {"gcs": {"backend": "redis", "redis": {"address": "redis.example:6379"}}}},
        "redis with password": {
            "ray": {
                "gcs": {
                    "backend": "redis",
                    "redis": {"address": "rediss://redis.example:6379", "passwordSecretName": "redis"},
                }
            }
        },
    },
    "catalog": {"external": {}, "trial": {"catalog": {"type": "trial"}}, "sqlite": {"catalog": {"type": "sqlite"}}},
    "gateways": {
        "fixed": {"gateway": {"replicas": 3, "resources": {"cpuLimit": "2"}}},
        "scaled": {"gateway": {"autoscaling": {"enabled": True}}},
    },
    "embedders": {
        "none": {},
        "fixed": {"embedder": {"minReplicas": 2, "maxReplicas": 2}},
        "scaled": {"embedder": {"minReplicas": 0, "maxReplicas": 4}},
        "gpu": {"embedder": {"minReplicas": 1, "maxReplicas": 2, "gpus": 1, "nodeSelector": {"gpu": "yes"}}},
    },
    "batch": {
        "scaled": {},
        "none": {"batch": {"minReplicas": 0, "maxReplicas": 0}},
        "fixed": {"batch": {"minReplicas": 1, "maxReplicas": 1}},
    },
    "ingress": {
        "off": {},
        "on": {
            "ingress": {"enabled": True, "className": "nginx", "host": "faces.example", "tlsSecretName": "host-tls"}
        },
    },
    "service": {
        "ClusterIP": {},
        "LoadBalancer": {
            "gateway": {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]}}
        },
    },
    "monitoring": {
        "off": {},
        "on": {"monitoring": {"enabled": True, "keySecretName": "operator-key"}},
        "bare": {
            "monitoring": {"enabled": True, "keySecretName": "operator-key", "rules": False, "dashboard": False},
            "gateway": {"tls": {"caKey": ""}},
        },
    },
    "network policies": {
        "on": {},
        "narrow": {
            "networkPolicy": {
                "gatewayFrom": [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
                ],
                "egress": [],
                "dns": {"cidrs": ["169.254.20.10/32"]},
            }
        },
        "off": {"networkPolicy": {"enabled": False}},
    },
    "encryption": {
        "off": {},
        "key": {"encryption": {"secretName": "master"}},
        "kms": {"encryption": {"kms": "ours.keys:service"}},
    },
    "models": {
        "pull": {},
        "claim": {"models": {"source": "claim", "claimName": "models"}},
        "none": {"models": {"source": "none"}},
    },
    "object store": {
        "none": {},
        "s3": {
            "s3": {"secretName": "s3", "region": "eu-central-1", "endpoint": "https://s3.example"},
            "facegrid": {"snapshotStore": "s3://backups/faces", "bulkSources": ["s3://photos/{tenant}/"]},
        },
    },
    "schedules": {
        "off": {},
        "on": {
            "facegrid": {"snapshotStore": "s3://backups/faces"},
            "schedules": {
                "snapshots": {"enabled": True, "keySecretName": "operator-key"},
                "dedup": [
                    {
                        "gallery": "acme/staff",
                        "schedule": "0 3 * * 0",
                        "parameters": {"threshold": 0.5, "store": "s3://b/it's?region=x&scheme=http"},
                    }
                ],
            },
        },
    },
    "hosts": {
        "apart": {},
        "preferred": {"shard": {"antiAffinity": "preferred", "zoneSpread": "DoNotSchedule"}},
        "together": {"shard": {"antiAffinity": "none", "replicas": 1}},
    },
    "image": {
        "version": {},
        "digest": {"image": {"repository": "registry.example:5000/facegrid", "digest": f"sha256:{'0a' * 32}"}},
        "private": {"image": {"tag": "0.1.0", "pullSecrets": [{"name": "registry"}]}},
    },
    "token": {"of KubeRay": {}, "own": {"ray": {"auth": {"secretName": "ray-token"}}}},
    "budgets": {"on": {}, "off": {"podDisruptionBudget": {"enabled": False}}},
    "helm test": {"plain": {}, "key": {"tests": {"keySecretName": "operator-key"}}},
    "release": {"prod": {}, "facegrid": {}, LONGEST: {}, "my-faces-2": {"fullnameOverride": "faces"}},
}
Row = dict[str, str]


def merged(*parts: Values) -> Values:
    """One tree of values: later parts win, mappings are merged in depth as helm does."""
    whole: Values = {}
    for part in parts:
        for key, value in part.items():
            is_both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = merged(whole[key], value) if is_both else value
    return whole


def covering(axes: dict[str, list[str]]) -> Iterator[Row]:
    """Rows in which every two options of two axes stand together at least once."""
    left = {
        frozenset({(a, one), (b, other)}): None
        for a, b in combinations(axes, 2)
        for one in axes[a]
        for other in axes[b]
    }
    while left:
        row: Row = dict(sorted(next(iter(left))))
        for axis in sorted(axes.keys() - row.keys()):
            gains = {
                option: sum(frozenset({(axis, option), said}) in left for said in row.items()) for option in axes[axis]
            }
            row[axis] = max(axes[axis], key=gains.__getitem__)
        for pair in combinations(row.items(), 2):
            left.pop(frozenset(pair), None)
        yield row


ROWS = list(covering({axis: list(options) for axis, options in AXES.items()}))
NAMES = [f"row-{i}" for i in range(len(ROWS))] + list(charts.EXAMPLES)


def values_of(row: Row) -> Values:
    return merged(*(AXES[axis][option] for axis, option in row.items()))


def row_of(name: str) -> Row:
    """What a render was asked for; empty for an example, which says it in its file."""
    return ROWS[int(name.removeprefix("row-"))] if name.startswith("row-") else {}


def render(name: str) -> list[charts.Manifest]:
    """Manifests of a row or an example."""
    if name in charts.EXAMPLES:
        return charts.render({}, "prod", charts.EXAMPLES[name])
    return charts.render(values_of(row_of(name)), row_of(name)["release"])
