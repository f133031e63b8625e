"""A custom resource against the structural schema of its CustomResourceDefinition, as an API server judges it.

Unknown fields are findings (an API server asked for strict validation refuses them), defaults are filled in, and the
CEL rules of `x-kubernetes-validations` are evaluated, those about `oldSelf` if there is an old object. A keyword of the
schema that is not understood here is an error: nothing is passed over.
Reference: kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
"""

import copy
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import celpy

Schema = dict[str, Any]

# Without a say in what is valid: prose, and how server-side apply merges.
SILENT = {"description", "title", "example", "externalDocs", "default", "x-kubernetes-map-type"}
KEYWORDS = SILENT | {
    *("type", "nullable", "enum", "format", "pattern", "minimum", "maximum", "minLength", "maxLength"),
    *("properties", "required", "additionalProperties", "items", "minItems", "maxItems", "anyOf"),
    *("x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-validations"),
}
INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
RANGES = {"int32": 2**31, "int64": 2**63}
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
EMBEDDED = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}


def defaulted(schema: Schema, value: Any) -> Any:
    """A copy of value with the defaults that the schema gives to fields it lacks, in depth."""
    if isinstance(value, dict):
        filled = dict(value)
        for name, part in schema.get("properties", {}).items():
            if name not in filled and "default" in part:
                filled[name] = copy.deepcopy(part["default"])
        return {name: defaulted(_part(schema, name) or {}, one) for name, one in filled.items()}
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), one) for one in value]
    return value


def findings(schema: Schema, value: Any, old: Any = None, path: str = "") -> Iterator[str]:
    """What an API server would refuse, each as `path: reason`; `old` is the object that value replaces, if any."""
    unknown = set(schema) - KEYWORDS
    assert not unknown, f"{path}: the schema says {sorted(unknown)}, which is not understood here"
    if value is None:
        if not schema.get("nullable"):
            yield f"{path or '.'}: null, but the field is not nullable"
        return
    if not _is_of_type(schema, value):
        yield f"{path or '.'}: expected {_type_name(schema)}, got {type(value).__name__} {value!r:.60}"
        return
    yield from _of_scalar(schema, value, path)
    if isinstance(value, dict):
        yield from _of_object(schema, value, old if isinstance(old, dict) else {}, path)
    elif isinstance(value, list):
        yield from _of_list(schema, value, old if isinstance(old, list) else [], path)
    yield from _of_rules(schema, value, old, path)


def _part(schema: Schema, name: str) -> Schema | None:
    """Schema of a field, or None where the object may not have it."""
    properties = schema.get("properties", {})
    if schema.get("x-kubernetes-embedded-resource"):
        properties = {**EMBEDDED, "metadata": {"x-kubernetes-preserve-unknown-fields": True}, **properties}
    if name in properties:
        return dict(properties[name])
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        return more
    is_open = more is True or schema.get("x-kubernetes-preserve-unknown-fields")
    return {"x-kubernetes-preserve-unknown-fields": True} if is_open else None


def _is_of_type(schema: Schema, value: Any) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        assert schema.get("anyOf", INT_OR_STRING) == INT_OR_STRING, schema
        return isinstance(value, int | str) and not isinstance(value, bool)
    assert "anyOf" not in schema, f"anyOf is understood for integers or strings alone: {schema['anyOf']}"
    if "type" not in schema:
        return True
    if isinstance(value, bool):
        return bool(schema["type"] == "boolean")
    return isinstance(value, TYPES[schema["type"]])


def _type_name(schema: Schema) -> str:
    return "integer or string" if schema.get("x-kubernetes-int-or-string") else str(schema["type"])


def _of_scalar(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    if isinstance(value, str):
        yield from _of_string(schema, value, path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from _of_number(schema, value, path)


def _of_string(schema: Schema, value: str, path: str) -> Iterator[str]:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} does not match {schema['pattern']}"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{path}: {len(value)} characters, allowed {schema.get('minLength', 0)} to {schema.get('maxLength')}"
    form = schema.get("format")
    if form == "date-time" and not DATE_TIME.fullmatch(value):
        yield f"{path}: {value!r} is no date and time"
    assert form is None or form == "date-time", f"{path}: format {form} of a string is not understood here"


def _of_number(schema: Schema, value: float, path: str) -> Iterator[str]:
    form = schema.get("format")
    assert form is None or form in RANGES, f"{path}: format {form} of a number is not understood here"
    low, high = (-RANGES[form], RANGES[form] - 1) if form else (value, value)
    low, high = max(low, schema.get("minimum", low)), min(high, schema.get("maximum", high))
    if not low <= value <= high:
        yield f"{path}: {value} is not in {low} to {high}"


def _of_object(schema: Schema, value: dict[str, Any], old: dict[str, Any], path: str) -> Iterator[str]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{_join(path, name)}: required"
    for name, one in value.items():
        part = _part(schema, name)
        if part is None:
            yield f"{_join(path, name)}: unknown field"
        else:
            yield from findings(part, one, old.get(name), _join(path, name))


def _of_list(schema: Schema, value: list[Any], old: list[Any], path: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path}: {len(value)} items, allowed {schema.get('minItems', 0)} to {schema.get('maxItems')}"
    keys = _keys(schema, value)
    for key in sorted({repr(key) for key in keys if key is not None and keys.count(key) > 1}):
        yield f"{path}: {key} twice in a list that must not repeat it"
    # Only the items of a map-like list have a past: others are replaced as a whole.
    is_map = schema.get("x-kubernetes-list-type") == "map"
    past = dict(zip(map(repr, _keys(schema, old)), old, strict=True)) if is_map else {}
    for i, (key, one) in enumerate(zip(keys, value, strict=True)):
        yield from findings(schema.get("items", {}), one, past.get(repr(key)), f"{path}[{i}]")


def _keys(schema: Schema, value: list[Any]) -> list[Any]:
    """What makes each item the one it is, None in lists where equal items may stand."""
    kind = schema.get("x-kubernetes-list-type", "atomic")
    assert kind in ("atomic", "set", "map"), kind
    if kind == "set":
        return value
    if kind == "atomic":
        return [None] * len(value)
    names = schema["x-kubernetes-list-map-keys"]
    parts = schema["items"].get("properties", {})
    return [
        tuple(one.get(n, parts.get(n, {}).get("default")) for n in names) if isinstance(one, dict) else None
        for one in value
    ]


def _of_rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        unknown = set(rule) - {"rule", "message"}
        assert not unknown, f"{path}: a rule says {sorted(unknown)}, which is not understood here"
        if re.search(r"\boldSelf\b", rule["rule"]) and old is None:
            continue  # A rule about a change, and there was nothing before.
        given = {"self": celpy.json_to_cel(value)}
        if old is not None:
            given["oldSelf"] = celpy.json_to_cel(old)
        if not _program(rule["rule"]).evaluate(given):
            yield f"{path}: {rule.get('message', rule['rule'])}"


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
