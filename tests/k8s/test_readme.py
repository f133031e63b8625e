"""Every command of k8s/README.md is one: parsed by the program that it is for, about objects that the chart renders."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from cluster.cli.app import command, hoisted
from tests.k8s import charts
from tests.k8s.tools import program

README = charts.ROOT / "k8s/README.md"
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:kubectl|helm|facegrid) [^`]+)`")
PROGRAMS = ("kubectl", "helm", "facegrid")
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""
PIPED = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "piped"}}'
"""What a command before it in a pipe could have printed."""
PARSED = (
    "127.0.0.1:1",  # the cluster that is not there: what was asked for was understood before
    "repo kuberay not found",
    'the path "kuberay-operator/crds/" does not exist',
)
KINDS = {"pod": "Pod", "pvc": "PersistentVolumeClaim", "raycluster": "RayCluster", "service": "Service"}
KINDS |= {"statefulset": "StatefulSet", "deployment": "Deployment", "secret": "Secret"}


def lines() -> Iterator[str]:
    """Commands of all blocks, and of the text those that are whole."""
    text = README.read_text()
    for block in SHELL.findall(text):
        yield from block.replace("\\\n", " ").strip().splitlines()
    for said in INLINE.findall(SHELL.sub("", text)):
        if said.startswith(("kubectl -n", "kubectl get", "helm rollback", "facegrid tenant show")):
            yield said


def commands() -> list[tuple[str, ...]]:
    """Words of each command: parts of pipes, and what is run inside a pod, are commands of their own."""
    found = []
    for line in lines():
        words = shlex.split(re.sub(r"\$\([^)]*\)", "made", line), comments=True)
        while words:
            end = words.index("|") if "|" in words else len(words)
            found += [tuple(words[:end])] if "--" not in words[:end] else list(_with_inner(words[:end]))
            words = words[end + 1 :]
    return found


def _with_inner(words: list[str]) -> Iterator[tuple[str, ...]]:
    yield tuple(words)
    inner = words[words.index("--") + 1 :]
    if inner[0] in PROGRAMS:
        yield tuple(inner)


ALL = commands()
OF = {name: sorted({words for words in ALL if words[0] == name}) for name in PROGRAMS}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("nowhere")
    (place / "config").write_text(KUBECONFIG)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (place / name).write_bytes(b"a certificate or a key")
    return {**os.environ, "KUBECONFIG": str(place / "config"), "HOME": str(place), "PLACE": str(place)}


def ran(words: tuple[str, ...], environment: dict[str, str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(words[0]), *words[1:]],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        input=PIPED,
        timeout=60,
    )


def test_there_is_nothing_else() -> None:
    assert {words[0] for words in ALL} == set(PROGRAMS)
    assert all(len(OF[name]) > 8 for name in PROGRAMS)


@pytest.mark.parametrize("words", OF["kubectl"], ids=" ".join)
def test_kubectl_takes_it(words: tuple[str, ...], environment: dict[str, str]) -> None:
    place = Path(environment["PLACE"])
    if "create" in words and "secret" in words and "tls" not in words[words.index("secret") + 1]:
        dry = () if "--dry-run=client" in words else ("--dry-run=client", "-o", "yaml")
        assert ran((*words, *dry), environment, place).returncode == 0
        return
    done = ran(words, environment, place)
    assert any(message in done.stderr for message in (*PARSED, "tls: failed to find any PEM")), done.stderr


@pytest.mark.parametrize("words", OF["helm"], ids=" ".join)
def test_helm_takes_it(words: tuple[str, ...], environment: dict[str, str]) -> None:
    nobody = tuple("http://127.0.0.1:1/" if word.startswith("https://") else word for word in words)
    done = ran(nobody, environment, charts.ROOT)
    if "k8s/chart/facegrid" not in words:
        assert any(message in done.stderr for message in PARSED), done.stderr
        return
    assert PARSED[0] in done.stderr, done.stderr
    rendered = [word for word in words[2:] if word not in ("--install", "--force-conflicts", "--create-namespace")]
    done = ran(("helm", "template", *rendered), environment, charts.ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", OF["facegrid"], ids=" ".join)
def test_facegrid_takes_it(words: tuple[str, ...]) -> None:
    node, rest = command(), hoisted(words[1:])
    with node.make_context("facegrid", list(rest), resilient_parsing=False) as context:
        rest = [*context._protected_args, *context.args]
        while isinstance(node, click.Group) or hasattr(node, "commands"):
            node, rest = node.commands[rest[0]], rest[1:]
        node.make_context(words[-1], list(rest), parent=context)


@cache
def there() -> set[tuple[str, str]]:
    """(kind, name) of everything that the production example makes, or what is made for it by a controller."""
    made = charts.render({"shard": {"replicas": 5}}, "faces", charts.EXAMPLES["production"])
    found = {(one["kind"], one["metadata"]["name"]) for one in made}
    for one in charts.of_kind(made, "StatefulSet"):
        for number in range(one["spec"]["replicas"]):
            pod = f"{one['metadata']['name']}-{number}"
            found.add(("Pod", pod))
            claims = one["spec"].get("volumeClaimTemplates", [])
            found |= {("PersistentVolumeClaim", f"{claim['metadata']['name']}-{pod}") for claim in claims}
    # KubeRay makes the head's Service, and a Secret of the token.
    (cluster,) = charts.of_kind(made, "RayCluster")
    name = cluster["metadata"]["name"]
    return found | {("Service", f"{name}-head-svc"), ("Secret", name)}


def named(words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(kind, name) of the objects that a command of kubectl is about."""
    words = words[: words.index("--")] if "--" in words else words
    if "create" in words or "rayjobs" in words or "job/JOB" in words:
        return
    values = {place + 1 for place, word in enumerate(words) if word in ("-n", "-c", "-o", "-l")}
    bare = [word for place, word in enumerate(words) if not word.startswith("-") and place not in values]
    for word in bare:
        kind, _, name = word.partition("/")
        if name and kind in KINDS:
            yield KINDS[kind], name
    for verb in ("exec", "logs"):
        if verb in bare and "/" not in bare[bare.index(verb) + 1]:
            yield "Pod", bare[bare.index(verb) + 1]
    for verb in ("get", "delete", "describe"):
        if verb in bare and bare[bare.index(verb) + 1] in KINDS:
            kind = KINDS[bare[bare.index(verb) + 1]]
            yield from ((kind, name) for name in bare[bare.index(verb) + 2 :])
    if "cp" in bare:
        yield "Pod", next(word for word in bare if ":" in word).partition(":")[0]


def test_objects_that_are_named_are_there() -> None:
    asked = {one for words in OF["kubectl"] for one in named(words)}
    assert {kind for kind, _ in asked} >= {"Pod", "PersistentVolumeClaim", "StatefulSet", "Deployment", "Service"}
    wanted = {(kind, name) for kind, name in asked if name.startswith("faces-facegrid") or kind != "Pod"}
    assert {one for one in wanted if one not in there()} == set()


def test_secrets_of_the_example_are_made() -> None:
    text = charts.EXAMPLES["production"].read_text()
    wanted = set(re.findall(r"[sS]ecretName: (facegrid-[a-z0-9-]+)", text))
    made = {words[words.index("secret") + 2] for words in OF["kubectl"] if "secret" in words and "create" in words}
    assert wanted <= made
    assert len(wanted) >= 7


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_numbers_are_those_of_the_docs() -> None:
    sizing = (charts.ROOT / "docs/sizing.md").read_text()
    for number in ("153 MB", "4.41 GB", "15.3 GB", "441 GB", "153 GB", "4.41 TB", "1.37 ms", "21.8 ms", "8.69 s"):
        assert number in sizing
