"""k8s/README.md as a program: its commands in order, and what the user's values are when each `helm upgrade` runs.

A block of YAML that begins with `# values-mine.yaml` is merged into those values; `cp FILE values-mine.yaml` begins
them anew.
"""

import copy
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import yaml

from tests.k8s import charts

README = charts.ROOT / "k8s/README.md"
CHART = "k8s/chart/facegrid"
MINE = "values-mine.yaml"
PROGRAMS = ("kubectl", "helm", "facegrid")
"""Programs whose commands are parsed; others of the blocks are looked at where they matter."""
_BLOCK = re.compile(r"^## (?P<title>[^\n]+)$|^```(?P<kind>sh|yaml)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:kubectl|helm|facegrid|make) [^`]+)`")
_WHOLE = ("kubectl -n", "kubectl get", "facegrid tenant show", "make image")
"""How commands of the text begin that are more than a program's name."""

Words = tuple[str, ...]


class Block(NamedTuple):
    """A block of sh or yaml, and the section that it is in."""

    section: str
    kind: str
    body: str


class Step(NamedTuple):
    """A helm command about the chart, and the user's values when it runs, as JSON."""

    section: str
    words: Words
    values: str

    def manifests(self) -> list[charts.Manifest]:
        """What helm renders for it."""
        values = json.loads(self.values)
        for word in self.words:
            if word.startswith("shard.partition="):
                values = merged(values, {"shard": {"partition": int(word.partition("=")[2])}})
        return charts.render(values, "faces")


@cache
def blocks() -> tuple[Block, ...]:
    found, section = [], ""
    for match in _BLOCK.finditer(README.read_text()):
        section = match["title"] or section
        if match["kind"]:
            found.append(Block(section, match["kind"], match["body"]))
    return tuple(found)


def lines(text: str) -> list[str]:
    """Commands of a block, one a line."""
    return text.replace("\\\n", " ").strip().splitlines()


def commands() -> list[Words]:
    """Words of each command, in order; after the blocks' those of the text that are whole.

    Parts of pipes, and what is run inside a pod, are commands of their own.
    """
    said = [line for block in blocks() if block.kind == "sh" for line in lines(block.body)]
    said += [one for one in _INLINE.findall(_BLOCK.sub("", README.read_text())) if one.startswith(_WHOLE)]
    return [words for line in said for words in words_of(line)]


def typed(section: str, holding: str) -> list[str]:
    """Lines of the section's one block of sh that has this text, as a user types them."""
    (body,) = (one.body for one in blocks() if (one.section, one.kind) == (section, "sh") and holding in one.body)
    return lines(body)


def words_of(line: str) -> Iterator[Words]:
    """The commands of one line."""
    words = shlex.split(re.sub(r"\$\([^)]*\)", "made", line), comments=True)
    while words:
        end = words.index("|") if "|" in words else len(words)
        one, words = tuple(words[:end]), words[end + 1 :]
        yield one
        inner = one[one.index("--") + 1 :] if "--" in one else ()
        if inner and inner[0] in PROGRAMS:
            yield inner


def files() -> dict[str, str]:
    """What the manual has one write: name to text. The user's values are not among them."""
    found = {}
    for block in blocks():
        name = re.match(r"# (\S+)\n", block.body)
        if block.kind == "yaml" and name is not None and name[1] != MINE:
            found[name[1]] = block.body
    return found


def steps() -> list[Step]:
    """The helm commands about the chart, in order."""
    found, values = [], {}
    for block in blocks():
        if block.kind == "yaml":
            values = merged(values, yaml.safe_load(block.body)) if block.body.startswith(f"# {MINE}\n") else values
            continue
        for words in (words for line in lines(block.body) for words in words_of(line)):
            if words[0] == "cp" and words[2] == MINE:
                values = yaml.safe_load((charts.ROOT / words[1]).read_text())
            elif words[0] == "helm" and CHART in words:
                found.append(Step(block.section, words, json.dumps(values, sort_keys=True)))
    return found


def merged(values: Any, over: Any) -> Any:
    """Values as helm merges them: maps by key, anything else is replaced."""
    if not isinstance(values, dict) or not isinstance(over, dict):
        return copy.deepcopy(over)
    return {**values, **{key: merged(values.get(key), one) for key, one in over.items()}}
