"""No step of k8s/README.md undoes another: what each `helm upgrade` renders is what its section says (STATES).

And what belongs together in a procedure fits: sizes, names of images, what is copied and put back.
"""

import json
import re
import sqlite3
import subprocess
from pathlib import Path
from typing import NamedTuple

import yaml

from coordinator.catalog import open_catalog
from coordinator.home import Home
from tests.k8s import charts, core_kinds, manual
from tests.k8s.manual import Step
from tests.k8s.policies import security
from tests.k8s.workloads import pods

OURS = "registry.example.org/facegrid/facegrid"


class State(NamedTuple):
    """What a section leaves behind it."""

    image: str
    hosts: int
    disk: str


STATES = {
    "One node, to try it": State("localhost/facegrid:0.1.0", 2, "5Gi"),
    "Install": State(f"{OURS}:0.1.0", 3, "500Gi"),
    "Upgrade": State(f"{OURS}:0.1.1", 3, "500Gi"),
    "Roll back": State(f"{OURS}:0.1.0", 3, "500Gi"),
    "Scale out": State(f"{OURS}:0.1.0", 5, "500Gi"),
    "Scale in": State(f"{OURS}:0.1.0", 3, "500Gi"),
    "Larger volumes": State(f"{OURS}:0.1.0", 3, "1Ti"),
    "Replace a node": State(f"{OURS}:0.1.0", 3, "1Ti"),
    "Snapshots and restoring": State(f"{OURS}:0.1.0", 3, "1Ti"),
    "Rotate": State(f"{OURS}:0.1.0", 3, "1Ti"),
}
IN_TWO_STEPS = ("Upgrade", "Roll back")

ALL = manual.commands()
KUBECTL = [words for words in ALL if words[0] == "kubectl"]
STEPS = manual.steps()


def test_steps_read_the_users_values_and_no_others() -> None:
    for step in STEPS:
        given = [step.words[place + 1] for place, word in enumerate(step.words) if word in ("-f", "--values")]
        assert given == [manual.MINE], step
        changed = [step.words[place + 1] for place, word in enumerate(step.words) if word.startswith("--set")]
        assert all(one.startswith("shard.partition=") for one in changed), step


def test_a_step_changes_what_its_section_says() -> None:
    found: dict[str, set[State]] = {}
    for step in STEPS:
        found.setdefault(step.section, set()).add(state_of(step))
    assert list(found.items()) == [(section, {state}) for section, state in STATES.items()]


def state_of(step: Step) -> State:
    made = step.manifests()
    (image,) = {one["image"] for pod in pods(made) for _, one, _ in pod.containers()}
    shard = stateful(made, "shard")
    (claim,) = shard["spec"]["volumeClaimTemplates"]
    return State(image, shard["spec"]["replicas"], claim["spec"]["resources"]["requests"]["storage"])


def stateful(made: list[charts.Manifest], component: str) -> charts.Manifest:
    (one,) = (
        one for one in charts.of_kind(made, "StatefulSet") if one["metadata"]["name"] == f"faces-facegrid-{component}"
    )
    return one


def test_hosts_are_held_back_in_the_first_of_two_steps() -> None:
    for section in STATES:
        hosts, held = STATES[section].hosts, [partition(step) for step in STEPS if step.section == section]
        assert held == ([hosts, 0] if section in IN_TWO_STEPS else [0])


def partition(step: Step) -> int:
    shard = stateful(step.manifests(), "shard")
    return int(shard["spec"]["updateStrategy"]["rollingUpdate"]["partition"])


def test_hosts_that_are_taken_away_were_drained() -> None:
    of_section = [
        words
        for block in manual.blocks()
        if (block.section, block.kind) == ("Scale in", "sh")
        for line in manual.lines(block.body)
        for words in manual.words_of(line)
    ]
    gone = [f"faces-facegrid-shard-{n}" for n in range(STATES["Scale in"].hosts, STATES["Scale out"].hosts)]
    drained = [place for place, words in enumerate(of_section) if words[:3] == ("facegrid", "cluster", "drain")]
    (upgraded,) = (place for place, words in enumerate(of_section) if words[:2] == ("helm", "upgrade"))
    (removed,) = (place for place, words in enumerate(of_section) if words[3:5] == ("delete", "pvc"))
    assert sorted(of_section[place][3] for place in drained) == gone
    assert sorted(of_section[removed][5:]) == [f"home-{host}" for host in gone]
    assert max(drained) < upgraded < removed


def test_claims_grow_to_the_size_of_the_values() -> None:
    wanted = STATES["Larger volumes"]
    (patch,) = (words for words in KUBECTL if "patch" in words)
    asked = json.loads(patch[patch.index("-p") + 1])
    assert asked == {"spec": {"resources": {"requests": {"storage": wanted.disk}}}}
    claims = {f"home-faces-facegrid-shard-{number}" for number in range(wanted.hosts)}
    waits = next(words for words in KUBECTL if "wait" in words and "pvc" in words)
    assert {word for word in patch if word.startswith("home-")} == claims
    assert {word for word in waits if word.startswith("home-")} == claims
    assert f"--for=jsonpath={{.status.capacity.storage}}={wanted.disk}" in waits


def test_images_are_made_by_the_names_that_the_chart_has() -> None:
    made = {word.partition("=")[2] for words in ALL if words[0] == "make" for word in words if "IMAGE=" in word}
    assert made == {STATES["One node, to try it"].image, STATES["Install"].image, f"{STATES['Install'].image}-gpu"}
    for image in made:
        dry = ["make", "--dry-run", "image", "ENGINE=docker", f"IMAGE={image}"]
        said = subprocess.run(dry, cwd=charts.ROOT, capture_output=True, text=True, check=True).stdout
        assert f"--tag {image}" in said
    moved = {word for words in ALL if words[0] == "docker" for word in words if "/" in word}
    assert moved == {STATES["One node, to try it"].image, STATES["Install"].image}


def restoring() -> list[charts.Manifest]:
    """The claim of the control pod, and the pod that takes its backup."""
    return list(yaml.safe_load_all(manual.files()["restore.yaml"]))


def test_a_backup_is_restored_into_the_claim_of_the_control_pod() -> None:
    claim, pod = restoring()
    assert [core_kinds.refusals(one) for one in (claim, pod)] == [[], []]
    assert [said for check in security.CHECKS for said in check([pod])] == []
    (step,) = (step for step in STEPS if step.section == "Replace a node")
    control = stateful(step.manifests(), "control")
    (wanted,) = control["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == f"home-{control['metadata']['name']}-0"
    assert (claim["spec"], claim["metadata"]["labels"]) == (wanted["spec"], wanted["metadata"]["labels"])
    for key in ("runAsUser", "fsGroup"):
        assert pod["spec"]["securityContext"][key] == control["spec"]["template"]["spec"]["securityContext"][key]
    assert pod["spec"]["imagePullSecrets"] == control["spec"]["template"]["spec"]["imagePullSecrets"]
    assert {one["image"] for one in pod["spec"]["containers"]} == {state_of(step).image}


def copies(*, restored: bool) -> dict[str, str]:
    """Local file to path in a pod, of the commands that copy into one, or out of one."""
    pairs = [words[-2:] for words in KUBECTL if "cp" in words]
    split = [
        (source, target) if restored else (target, source) for source, target in pairs if (":" in target) == restored
    ]
    return {local: there.partition(":")[2] for local, there in split}


def test_what_was_copied_is_a_home_again(tmp_path: Path) -> None:
    before, after, kept = (tmp_path / name for name in ("before", "after", "tmp"))
    home = Home(before)
    catalog = open_catalog(home, None)
    (script,) = (words[-1] for words in KUBECTL if words[-3:-1] == ("python", "-c") and "VACUUM" in words[-1])
    places = {"/var/lib/facegrid": before, "/tmp": kept}
    try:
        kept.mkdir()
        exec(placed(script, places), {})  # as `python -c` does, while the service has the catalog open
    finally:
        catalog.close()
        home.close()
    backup = {local: Path(placed(path, places)).read_bytes() for local, path in copies(restored=False).items()}
    back = copies(restored=True)
    assert set(back) == set(backup) == {"facegrid.json", "cluster.secret", "catalog.db"}
    (after / "hosts").mkdir(parents=True)
    for local, path in back.items():
        Path(placed(path, {"/var/lib/facegrid": after})).write_bytes(backup[local])
    again = Home(after)
    try:
        assert (again.home_id, again.secret, again.local_hosts()) == (home.home_id, home.secret, ())
        open_catalog(again, None).close()
    finally:
        again.close()
    assert sqlite3.connect(after / "catalog.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def placed(text: str, places: dict[str, Path]) -> str:
    """The text with folders of a pod replaced by others."""
    return re.sub("|".join(f"{place}(?=/)" for place in places), lambda found: str(places[found[0]]), text)
