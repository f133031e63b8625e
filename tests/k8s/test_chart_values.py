"""Values: unknown keys and wrong values are refused by a message that names the key; every key is documented."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.client.operations.requests import SLOW_S
from cluster.service.leave import CLOSE_S, QUIET_S
from tests.k8s import charts, matrix
from tests.k8s.pods.quantities import quantity
from tests.k8s.policies.availability import have_time_to_leave, leaving_seconds
from tests.k8s.workloads import pods

SCHEMA = json.loads((charts.CHART / "values.schema.json").read_text())
TEXT = (charts.CHART / "values.yaml").read_text()
DEFAULTS = yaml.safe_load(TEXT)


def nested(path: str, value: Any) -> dict[str, Any]:
    """Values that say one thing: `shard.replicas`, 3."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


def message(values: dict[str, Any], release: str = "prod") -> str:
    """What helm says of values that it must refuse."""
    with pytest.raises(charts.Refused) as refused:
        charts.render(values, release)
    return str(refused.value)


# (key, value, what the message has besides the key's last name)
WRONG = [
    ("shards", {}, "additional properties 'shards' not allowed"),
    ("shard.replica", 3, "additional properties 'replica' not allowed"),
    ("shard.replicas", 0, "minimum"),
    ("shard.replicas", "three", "got string, want integer"),
    ("shard.replicas", None, "missing property"),
    ("shard.antiAffinity", "requird", "value must be one of"),
    ("shard.resources.cpus", 2, "additional properties 'cpus' not allowed"),
    ("shard.resources.memory", "8 GB", "does not match pattern"),
    ("shard.storage.size", "much", "does not match pattern"),
    ("shard.terminationGraceSeconds", 5, "minimum"),
    ("gateway.terminationGraceSeconds", 29, "minimum"),
    ("shard.tolerations", {"key": "a"}, "want array"),
    ("shard.nodeSelector", {"a": 1}, "want string"),
    ("image.tag", "a b", "does not match pattern"),
    ("image.digest", "sha256:abc", "does not match pattern"),
    ("image.pullPolicy", "Sometimes", "value must be one of"),
    ("image.repository", "Facegrid Image", "does not match pattern"),
    ("catalog.type", "mysql", "value must be one of"),
    ("catalog.external.url", "postgresql://a:b@c/d", "additional properties 'url' not allowed"),
    ("catalog.trial.password", "hunter2", "additional properties 'password' not allowed"),
    ("gateway.service.type", "External", "value must be one of"),
    ("gateway.service.port", 70000, "maximum"),
    ("gateway.autoscaling.cpuPercent", 0, "minimum"),
    ("gateway.autoscaling", {"enabled": True, "minReplicas": 5, "maxReplicas": 2}, "minReplicas <= maxReplicas"),
    ("embedder", {"minReplicas": 3, "maxReplicas": 1}, "minReplicas <= maxReplicas"),
    ("embedder.gpus", -1, "minimum"),
    ("batch.rayCpus", 0, "minimum"),
    ("ray.gcs.backend", "etcd", "value must be one of"),
    ("ray.gcs.redis.address", "redis", "does not match pattern"),
    ("ray.gcs", {"backend": "redis"}, "redis"),
    ("ray.version", "latest", "does not match pattern"),
    ("ray.version", "2.40.0", "2.53.0 or later"),
    ("ray.upgradeStrategy", "Rolling", "value must be one of"),
    ("ray.auth.token", "secret", "additional properties 'token' not allowed"),
    ("dataPlane.tls", {"enabled": True}, "secretName"),
    ("encryption", {"secretName": "a", "kms": "b:c"}, "kms"),
    ("encryption.kms", "no function", "does not match pattern"),
    ("models", {"source": "claim"}, "claimName"),
    ("models.source", "download", "value must be one of"),
    ("ingress", {"enabled": True}, "host"),
    ("monitoring", {"enabled": True}, "keySecretName"),
    ("monitoring.interval", "often", "does not match pattern"),
    ("networkPolicy.egress", [{"cidrs": [], "ports": [443]}], "minItems"),
    ("networkPolicy.egress", [{"cidrs": ["10.0.0.0"], "ports": [443]}], "does not match pattern"),
    ("networkPolicy.egress", [{"cidrs": ["10.0.0.0/8"], "ports": [0]}], "minimum"),
    ("networkPolicy.kubernetesApi.cidrs", [], "minItems"),
    ("networkPolicy.gatewayFrom", [{"podSelectr": {}}], "additional properties 'podSelectr' not allowed"),
    ("networkPolicy.gatewayFrom", [{"podSelector": {"app": "x"}}], "additional properties 'app' not allowed"),
    ("podDisruptionBudget.enabled", "yes", "got string, want boolean"),
    ("serviceAccount.annotations", {"a": True}, "want string"),
    ("facegrid.recallShare", 2, "maximum"),
    ("facegrid.traceEndpoint", "collector:4318", "does not match pattern"),
    ("nameOverride", "Faces", "does not match pattern"),
    ("fullnameOverride", "a" * 37, "at most 36"),
    ("tests.key", "k", ""),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_value_is_refused_by_name(key: str, value: Any, says: str) -> None:
    said = message(nested(key, value))
    assert says in said.replace("minItems: got 0, want 1", "minItems"), said
    assert any(name in said for name in (key.rpartition(".")[2], key.replace(".", "/"), key)), said


@pytest.mark.parametrize(
    "path", ["facegrid.snapshotStore", "facegrid.bulkSources", "facegrid.traceEndpoint", "s3.endpoint"]
)
def test_a_url_with_credentials_is_refused_and_not_repeated(path: str) -> None:
    def values(url: str) -> dict[str, Any]:
        return nested(path, [url] if path.endswith("Sources") else url)

    for user in ("", "ID@", "ID:hunter2@", ":hunter2@"):
        url = f"https://{user}store.example/a@b?region=x"
        if user:
            said = message(values(url))
            assert path.replace(".", "/") in said
            assert "hunter2" not in said
        else:
            assert charts.render(values(url))


def test_the_shortest_grace_lets_a_gateway_leave() -> None:
    """`facegrid-node leave` has LEAVE_SECONDS: it waits for quiet, then closes."""
    shortest = SCHEMA["properties"]["gateway"]["properties"]["terminationGraceSeconds"]["minimum"]
    manifests = charts.render(nested("gateway.terminationGraceSeconds", shortest))
    (gateway,) = [pod for pod in pods(manifests) if pod.component == "gateway"]
    assert leaving_seconds(gateway.spec["containers"][0]) >= QUIET_S + CLOSE_S
    assert list(have_time_to_leave(manifests)) == []


@pytest.mark.parametrize("release", ["1st", "my.faces", "a-release-with-a-name-that-is-too-long"])
def test_a_release_whose_name_kuberay_cannot_take_is_refused(release: str) -> None:
    assert "fullnameOverride" in message({}, release)
    assert charts.render({"fullnameOverride": "faces"}, release)


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of every object that the schema describes, definitions and items too."""
    if isinstance(schema, dict):
        if "properties" in schema or schema.get("type") == "object":
            yield path, schema
        for key, part in schema.items():
            # Conditions restrict what stands elsewhere: they close nothing.
            if key not in ("allOf", "anyOf", "oneOf", "if", "then", "else", "not"):
                yield from objects(part, f"{path}/{key}")


def test_unknown_keys_are_refused_at_every_level() -> None:
    found = list(objects(SCHEMA))
    assert len(found) > 40
    open_ones = [path for path, one in found if one.get("additionalProperties") is not False and not is_mapping(one)]
    # Helm puts `global` into every chart's values, whatever they are.
    assert open_ones == ["/properties/global"]


def is_mapping(schema: dict[str, Any]) -> bool:
    """Keys are the user's, values of one kind: labels, annotations."""
    return "properties" not in schema and isinstance(schema.get("additionalProperties"), dict)


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict) and values:
        for key, one in values.items():
            yield from leaves(one, (*path, key))
    else:
        yield path


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        at: Any = SCHEMA
        for part in schema["$ref"].removeprefix("#/").split("/"):
            at = at[part]
        schema = at
    return schema


def test_schema_and_defaults_know_the_same_keys() -> None:
    def keys(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        properties = resolved(schema).get("properties", {})
        for key, part in properties.items():
            yield from keys(part, (*path, key))
        if not properties:
            yield path

    optional = {"cpuLimit"}  # Without a default: no limit.
    known = {path for path in keys(SCHEMA) if path != ("global",) and path[-1] not in optional}
    said = set(leaves(DEFAULTS))
    assert {
        path for path in said if path not in known and not any(path[:i] in known for i in range(len(path)))
    } == set()
    assert {path for path in known if path not in said and not any(p[: len(path)] == path for p in said)} == set()


def test_every_key_has_a_comment_at_it_or_at_its_first_like() -> None:
    """A key is explained where it first stands: `nodeSelector` of the head, not again of every group."""
    explained: set[str] = set()
    missing, comment = [], False
    for line in TEXT.splitlines():
        key = re.match(r"\s*([A-Za-z]\w*):", line)
        if line.strip().startswith("#"):
            comment = True
        elif key is None:
            comment = False
        else:
            is_parent = line.rstrip().endswith(":")
            if comment or " #" in line:
                explained.add(key[1])
            elif key[1] not in explained and not is_parent:
                missing.append(line.strip())
            comment = comment and not is_parent  # Keys in one block share the comment above it.
    assert missing == []


def test_no_value_is_a_secret() -> None:
    """Secrets are named, never given: no key of the values takes one."""
    names = {path[-1] for path in leaves(DEFAULTS)}
    assert not [name for name in names if re.search(r"password$|token$|apiKey$", name, re.IGNORECASE)]


@pytest.mark.parametrize("example", charts.EXAMPLES)
def test_an_example_follows_the_tag(example: str) -> None:
    """Nothing in it pins a version: embedders on GPUs take the tag of the others."""
    manifests = charts.render({"image": {"tag": "9.9.9"}}, "prod", charts.EXAMPLES[example])
    tags = {one["image"].rpartition(":")[2] for pod in pods(manifests) for _, one, _ in pod.containers()}
    assert tags - {"9.9.9-gpu"} == {"9.9.9"}
    assert ("9.9.9-gpu" in tags) == (example == "gpu")


def test_the_small_example_needs_what_its_head_says() -> None:
    manifests, text = charts.render({}, "prod", charts.EXAMPLES["small"]), charts.EXAMPLES["small"].read_text()
    replicas = {charts.title(one): one["spec"].get("replicas", 1) for one in manifests if "spec" in one}
    requests = [
        (replicas.get(pod.owner, 1), one["resources"]["requests"])
        for pod in pods(manifests)
        for _, one, is_init in pod.containers()
        if pod.runs_on and not is_init
    ]
    cpus, memory = (sum(n * quantity(one[what]) for n, one in requests) for what in ("cpu", "memory"))
    claims = [
        one["spec"]["replicas"] * quantity(claim["spec"]["resources"]["requests"]["storage"])
        for one in charts.of_kind(manifests, "StatefulSet")
        for claim in one["spec"]["volumeClaimTemplates"]
    ]
    disk = sum(claims) + quantity(DEFAULTS["ray"]["gcs"]["rocksdb"]["size"])
    said = re.search(r"request ([\d.]+) CPUs and ([\d.]+) GiB together.*volumes are ([\d.]+) GiB", text, re.DOTALL)
    assert said is not None
    assert [float(number) for number in said.groups()] == [float(cpus), memory / 2**30, disk / 2**30]
    (image,) = {one["image"] for pod in pods(manifests) for _, one, _ in pod.containers()}
    assert re.findall(r"^#   (make image IMAGE=|kind load docker-image )(\S+)", text, re.MULTILINE) == [
        ("make image IMAGE=", image),
        ("kind load docker-image ", image),
    ]


def test_an_ingress_waits_as_long_as_the_client_does() -> None:
    (ingress,) = charts.of_kind(charts.render({}, "prod", charts.EXAMPLES["production"]), "Ingress")
    for name in ("proxy-read-timeout", "proxy-send-timeout"):
        assert int(ingress["metadata"]["annotations"][f"nginx.ingress.kubernetes.io/{name}"]) >= SLOW_S


def test_a_render_is_the_same_twice() -> None:
    values, release = matrix.values_of(matrix.ROWS[0]), matrix.ROWS[0]["release"]
    said = json.dumps(values, sort_keys=True)
    assert charts.text(said, release) == charts.text.__wrapped__(said, release)
