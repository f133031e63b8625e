"""Kinds of the Prometheus operator that the chart makes, as far as it uses them; a field that is not here is refused.

After the CRDs of monitoring.coreos.com/v1 (prometheus-operator/prometheus-operator, example/prometheus-operator-crd),
which are no part of FACEGRID_DATA: types and names of these fields, not their every rule.
"""

from typing import Any

from tests.k8s import crds, structural

Schema = structural.Schema

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
DURATION: Schema = {
    "type": "string",
    "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
}


def _object(required: list[str] | None = None, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required or []}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


KEY = _object(["key"], name=TEXT, key=TEXT, optional={"type": "boolean"})
EXPRESSION = _object(["key", "operator"], key=TEXT, operator=TEXT, values=_list(TEXT))
SELECTOR = _object(matchLabels=TEXTS, matchExpressions=_list(EXPRESSION))
ACTION: Schema = {
    "type": "string",
    "enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep", "hashmod"],
}
RELABELING = _object(
    sourceLabels=_list(TEXT), targetLabel=TEXT, replacement=TEXT, regex=TEXT, separator=TEXT, action=ACTION
)
SCHEME: Schema = {"type": "string", "enum": ["http", "https", "HTTP", "HTTPS"]}
TLS = _object(
    serverName=TEXT,
    insecureSkipVerify={"type": "boolean"},
    ca=_object(secret=KEY, configMap=KEY),
    cert=_object(secret=KEY, configMap=KEY),
    keySecret=KEY,
)
ENDPOINT: dict[str, Schema] = {
    "port": TEXT,
    "path": TEXT,
    "scheme": SCHEME,
    "interval": DURATION,
    "scrapeTimeout": DURATION,
    "honorLabels": {"type": "boolean"},
    "authorization": _object(type=TEXT, credentials=KEY),
    "tlsConfig": TLS,
    "relabelings": _list(RELABELING),
    "metricRelabelings": _list(RELABELING),
}
NAMESPACES = _object(any={"type": "boolean"}, matchNames=_list(TEXT))
RULE = _object(
    ["expr"],
    alert=TEXT,
    record=TEXT,
    expr={"x-kubernetes-int-or-string": True},
    labels=TEXTS,
    annotations=TEXTS,
    **{"for": DURATION, "keep_firing_for": DURATION},
)
GROUP = _object(["name"], name={"type": "string", "minLength": 1}, interval=DURATION, rules=_list(RULE))
SPECS: dict[str, Schema] = {
    "ServiceMonitor": _object(
        ["endpoints", "selector"],
        jobLabel=TEXT,
        targetLabels=_list(TEXT),
        podTargetLabels=_list(TEXT),
        selector=SELECTOR,
        namespaceSelector=NAMESPACES,
        endpoints=_list(_object(**ENDPOINT)),
    ),
    "PodMonitor": _object(
        ["podMetricsEndpoints", "selector"],
        jobLabel=TEXT,
        podTargetLabels=_list(TEXT),
        selector=SELECTOR,
        namespaceSelector=NAMESPACES,
        podMetricsEndpoints=_list(_object(**ENDPOINT)),
    ),
    "PrometheusRule": _object(groups=_list(GROUP)),
}


def refusals(manifest: dict[str, Any]) -> list[str]:
    """Why the manifest is not what the Prometheus operator knows, as `path: reason`. KeyError for other kinds."""
    schema = _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"type": "string", "enum": ["monitoring.coreos.com/v1"]},
        kind=TEXT,
        metadata=crds.METADATA,
        spec=SPECS[manifest["kind"]],
    )
    return list(structural.findings(schema, manifest))
