"""Every command of k8s/README.md is one: parsed by the program that it is for, about objects that the chart renders.

What the commands do one after another is in test_readme_steps.py.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

from cluster.cli.app import command, hoisted
from tests.k8s import charts, manual
from tests.k8s.manual import Step, Words
from tests.k8s.policies import references
from tests.k8s.tools import program

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
VERBS = ("get", "delete", "describe", "wait", "patch")
ALL = manual.commands()
OF = {name: sorted({words for words in ALL if words[0] == name}) for name in manual.PROGRAMS}
STEPS = manual.steps()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No cluster, and a folder with the files that commands name."""
    place = tmp_path_factory.mktemp("nowhere")
    (place / "config").write_text(KUBECONFIG)
    (place / "k8s").symlink_to(charts.ROOT / "k8s")
    named = {word.rpartition("=")[2] for words in ALL for word in words if word.startswith(("--from-file=", "--cert="))}
    copied = {word for words in ALL if "cp" in words for word in words if re.fullmatch(r"[a-z]+\.[a-z]+", word)}
    for name in named | copied | {"tls.key"}:
        (place / name).write_bytes(b"a certificate, a key or a copy")
    for name, text in manual.files().items():
        (place / name).write_text(text)
    return {**os.environ, "KUBECONFIG": str(place / "config"), "HOME": str(place), "PLACE": str(place)}


def ran(words: Words, environment: dict[str, str], place: Path) -> subprocess.CompletedProcess[str]:
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
    assert {words[0] for words in ALL} == {*manual.PROGRAMS, "make", "cp", "docker", "kind"}
    assert all(len(OF[name]) > 8 for name in manual.PROGRAMS)


def kubectl_takes(words: Words, environment: dict[str, str]) -> None:
    place = Path(environment["PLACE"])
    if "create" in words and "secret" in words and "tls" not in words[words.index("secret") + 1]:
        dry = () if "--dry-run=client" in words else ("--dry-run=client", "-o", "yaml")
        assert ran((*words, *dry), environment, place).returncode == 0
        return
    done = ran(words, environment, place)
    assert any(message in done.stderr for message in (*PARSED, "tls: failed to find any PEM")), done.stderr


@pytest.mark.parametrize("words", OF["kubectl"], ids=" ".join)
def test_kubectl_takes_it(words: Words, environment: dict[str, str]) -> None:
    kubectl_takes(words, environment)


def helm_takes(words: Words, environment: dict[str, str]) -> None:
    nobody = tuple("http://127.0.0.1:1/" if word.startswith("https://") else word for word in words)
    done = ran(nobody, environment, Path(environment["PLACE"]))
    assert any(message in done.stderr for message in PARSED), done.stderr


@pytest.mark.parametrize("words", [words for words in OF["helm"] if manual.CHART not in words], ids=" ".join)
def test_helm_takes_it(words: Words, environment: dict[str, str]) -> None:
    helm_takes(words, environment)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.section)
def test_helm_takes_the_chart_with_the_values_of_the_step(step: Step, environment: dict[str, str]) -> None:
    place = Path(environment["PLACE"])
    (place / manual.MINE).write_text(step.values)
    done = ran(step.words, environment, place)
    assert PARSED[0] in done.stderr, done.stderr


@pytest.mark.parametrize("words", OF["facegrid"], ids=" ".join)
def test_facegrid_takes_it(words: Words) -> None:
    node, rest = command(), hoisted(words[1:])
    with node.make_context("facegrid", list(rest), resilient_parsing=False) as context:
        rest = [*context._protected_args, *context.args]
        while isinstance(node, click.Group) or hasattr(node, "commands"):
            node, rest = node.commands[rest[0]], rest[1:]
        node.make_context(words[-1], list(rest), parent=context)


@cache
def there(example: str = "production") -> set[tuple[str, str]]:
    """(kind, name) of everything that an example makes, or what is made for it by a controller."""
    values = {"shard": {"replicas": 5}} if example == "production" else {}
    made = charts.render(values, "faces", charts.EXAMPLES[example])
    found = {(one["kind"], one["metadata"]["name"]) for one in made}
    for one in charts.of_kind(made, "StatefulSet"):
        for number in range(one["spec"]["replicas"]):
            pod = f"{one['metadata']['name']}-{number}"
            found.add(("Pod", pod))
            claims = one["spec"].get("volumeClaimTemplates", [])
            found |= {("PersistentVolumeClaim", f"{claim['metadata']['name']}-{pod}") for claim in claims}
    # KubeRay makes the head's Service, a Secret of the token, and with RocksDB a claim.
    (cluster,) = charts.of_kind(made, "RayCluster")
    name = cluster["metadata"]["name"]
    found |= {("Service", f"{name}-head-svc"), ("Secret", name)}
    return found | {("PersistentVolumeClaim", f"{name}-gcs-pvc")}


def named(words: Words) -> Iterator[tuple[str, str]]:
    """(kind, name) of the objects that a command of kubectl is about."""
    words = words[: words.index("--")] if "--" in words else words
    if "create" in words or "rayjobs" in words or "job/JOB" in words or "kuberay-operator" in words:
        return
    values = {place + 1 for place, word in enumerate(words) if word in ("-n", "-c", "-o", "-l", "-p", "-f")}
    bare = [word for place, word in enumerate(words) if not word.startswith("-") and place not in values]
    for word in bare:
        kind, _, name = word.partition("/")
        if name and kind in KINDS:
            yield KINDS[kind], name
    for verb in ("exec", "logs"):
        if verb in bare and "/" not in bare[bare.index(verb) + 1]:
            yield "Pod", bare[bare.index(verb) + 1]
    for verb in VERBS:
        if verb in bare and len(bare) > bare.index(verb) + 1 and bare[bare.index(verb) + 1] in KINDS:
            kind = KINDS[bare[bare.index(verb) + 1]]
            yield from ((kind, name) for name in bare[bare.index(verb) + 2 :])
    if "cp" in bare:
        yield "Pod", next(word for word in bare if ":" in word).partition(":")[0]


def test_objects_that_are_named_are_there() -> None:
    asked = {one for words in OF["kubectl"] for one in named(words)}
    assert {kind for kind, _ in asked} >= {"Pod", "PersistentVolumeClaim", "StatefulSet", "Deployment", "Service"}
    written = [one for text in manual.files().values() for one in yaml.safe_load_all(text)]
    assert asked <= there() | {(one["kind"], one["metadata"]["name"]) for one in written}


def prerequisites() -> set[tuple[str, str]]:
    """What the manual has one make before a release."""
    made = {words[words.index("secret") + 2] for words in OF["kubectl"] if "secret" in words and "create" in words}
    claims = re.findall(r"claim `([a-z-]+)`", manual.README.read_text())
    return {("Secret", name) for name in made} | {("PersistentVolumeClaim", name) for name in claims}


@pytest.mark.parametrize("example", charts.EXAMPLES)
def test_what_an_example_names_is_made_before(example: str) -> None:
    over = {"gpu": ["production", "gpu"]}.get(example, [example])
    made = charts.render({}, "faces", *(charts.EXAMPLES[name] for name in over))
    # The small one is installed before any of it.
    assert references.missing(made, set() if example == "small" else prerequisites()) == []
    classes = set(re.findall(r"storageClassName: (\S+)", yaml.safe_dump(made)))
    assert classes <= set(re.findall(r"StorageClass `([a-z]+)`", manual.README.read_text()))
    assert bool(classes) == (example != "small")


def test_what_is_not_made_before_is_noticed() -> None:
    made = charts.render({"image": {"pullSecrets": [{"name": "another"}]}}, "faces", charts.EXAMPLES["production"])
    assert references.missing(made, prerequisites()) == ["Secret another is referred to, and made by nobody"]


@pytest.mark.parametrize("example", ["production", "small"])
def test_commands_of_the_notes_are_some(example: str, environment: dict[str, str]) -> None:
    words = ("helm", "install", "faces", manual.CHART, "-n", "faces", "--dry-run=client")
    done = ran((*words, "-f", f"k8s/examples/values-{example}.yaml"), environment, Path(environment["PLACE"]))
    notes = re.sub(r"\\\n", " ", done.stdout.partition("\nNOTES:\n")[2])
    said = [
        one for line in re.findall(r"^  ((?:kubectl|helm) .*)$", notes, re.MULTILINE) for one in manual.words_of(line)
    ]
    assert len(said) > 5, done.stderr
    assert {one[0] for one in said} <= {"kubectl", "helm", "base64"}
    for one in said:
        if one[0] != "base64":
            {"kubectl": kubectl_takes, "helm": helm_takes}[one[0]](one, environment)
        if one[0] == "kubectl":
            assert set(named(one)) - there(example) == set(), one


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", manual.README.read_text()):
        assert (manual.README.parent / target).exists(), target


def test_links_within_it_lead_to_sections() -> None:
    titles = re.findall(r"^## (.+)$", manual.README.read_text(), re.MULTILINE)
    there = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    asked = set(re.findall(r"\]\(#([^)]+)\)", manual.README.read_text()))
    assert asked
    assert asked - there == set()


def test_numbers_are_those_of_the_docs() -> None:
    texts = (manual.README.read_text(), (charts.ROOT / "docs/sizing.md").read_text())
    for number in ("153 MB", "4.41 GB", "15.3 GB", "441 GB", "153 GB", "4.41 TB", "1.37 ms", "21.8 ms", "8.69 s"):
        assert [number in text for text in texts] == [True, True], number
