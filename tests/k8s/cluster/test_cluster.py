"""The chart on a real Kubernetes, with its scheduler, kubelets, network policies and KubeRay's operator."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.client import RemoteCluster
from tests.k8s import manual
from tests.k8s.charts import ROOT
from tests.k8s.cluster.kubernetes import Kubernetes
from tests.k8s.cluster.processes import polls
from tests.k8s.cluster.release import NAME, NAMESPACE, RELEASE, Installed, installed
from tests.k8s.crds import CRDS
from tests.k8s.image import built_image
from tests.k8s.smoke.traffic import DIM, Ledger, Loop, Traffic, connect, missing

pytestmark = pytest.mark.kubernetes
PROGRAMS = ROOT / ".stamp/kubernetes"
GALLERY = "acme/staff"
CONTROL = f"{NAME}-control-0"
SHARDS = [f"{NAME}-shard-{i}" for i in range(3)]
NEEDED = ("containerd", "ctr", "etcd", "iptables", "ipset", "conntrack", "podman", "openssl")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking or not (PROGRAMS / "bin/kubelet").exists():
        pytest.skip(f"needs {', '.join(lacking) or 'tests/k8s/cluster/build.sh'}; run `make test-k8s-cluster`")
    folder = tmp_path_factory.mktemp("release")
    image = folder / "facegrid.tar"
    subprocess.run(["podman", "save", "--quiet", "--output", image, built_image()], check=True)
    cluster = Kubernetes(PROGRAMS)
    try:
        cluster.load(image)
        with installed(cluster, CRDS, folder) as made:
            yield made
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def key(release: Installed) -> str:
    return release.operator_key()


@pytest.fixture(scope="module")
def client(release: Installed, key: str) -> Iterator[RemoteCluster]:
    with connect(release.url, key, release.authority) as grid:
        grid.tenants.create("acme")
        grid.gallery(GALLERY, create=True, dim=DIM, shards=4, replicas=2)
        yield grid


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def running(release: Installed, key: str, client: RemoteCluster, ledger: Ledger) -> Iterator[Traffic]:
    """Writes and searches while something happens; what was acknowledged is there afterwards."""
    acknowledged = ledger.acknowledged
    with Traffic(release.url, key, release.authority, GALLERY, ledger) as running:
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 20, "the first writes")
        began = time.monotonic()
        yield running
        ended, count = time.monotonic(), len(acknowledged)
        until(lambda: len(acknowledged) > count, "writes go on")
    for loop in (running.writer, running.searcher):
        gap, failed = loop.longest_gap(began, ended), [text for _, text in loop.errors]
        print(
            f"\n{loop.name}: longest gap {gap:.1f} s of {ended - began:.0f}, {len(loop.answers)} done, failed {failed}"
        )
    assert missing(client, GALLERY, acknowledged) == []
    assert running.wrong == []
    print(f"{len(acknowledged):,} acknowledged in all, none lost")


@pytest.fixture
def written(running: Traffic, ledger: Ledger) -> list[int]:
    """What is acknowledged while something happens: it grows."""
    return ledger.acknowledged


def until(holds: Callable[[], bool], what: str, limit_s: float = 300.0) -> None:
    for _ in polls(limit_s):
        if holds():
            return
    raise AssertionError(f"not within {limit_s:g} s: {what}")


def none_failed(loop: Loop) -> None:
    """No call of the loop failed, the one under way included."""
    ended = len(loop.answers) + len(loop.errors)
    until(lambda: len(loop.answers) + len(loop.errors) > ended, f"the {loop.name} goes on")
    assert [text for _, text in loop.errors] == []


def uids(release: Installed, *parts: str) -> dict[str, str]:
    """Uid of each pod of these components."""
    return {name: release.uid(name) for part in parts for name in release.nodes(part)}


def lacking(release: Installed) -> list[object]:
    """What is not whole, as the control plane sees it."""
    found: list[object] = json.loads(release.facegrid("--json", "cluster", "status"))["lacking"]
    return found


def test_what_is_placed_where(release: Installed) -> None:
    hosts = release.nodes("shard")
    assert sorted(hosts) == SHARDS
    assert len(set(hosts.values())) == 3, "two shard hosts share a node"


def test_policies_are_enforced(release: Installed) -> None:
    """A pod of another namespace reaches the gateways, and nothing else of the release."""
    pods = {
        pod["metadata"]["labels"].get("app.kubernetes.io/component", "head"): pod["status"]["podIP"]
        for pod in json.loads(release.kubectl("get", "pods", "--output", "json"))["items"]
    }
    wanted = {
        ("gateway", 8443): "open", ("gateway", 6380): "shut", ("shard", 7600): "shut", ("shard", 7601): "shut",
        ("head", 6379): "shut", ("head", 8265): "shut", ("control", 6380): "shut",
    }  # fmt: skip
    script = (
        "import socket, sys\n"
        "for place in sys.argv[1:]:\n"
        "    host, port = place.rsplit(':', 1)\n"
        "    try:\n"
        "        socket.create_connection((host, int(port)), 3).close()\n"
        "        print('open')\n"
        "    except OSError:\n"
        "        print('shut')\n"
    )
    places = [f"{pods[component]}:{port}" for component, port in wanted]
    image = release.images()[CONTROL]
    seen = release.cluster.kubectl(
        "run", "stranger", "--namespace=default", "--rm", "--attach", "--quiet", "--restart=Never", f"--image={image}",
        "--image-pull-policy=Never", "--command", "--", "python3", "-c", script, *places,
    )  # fmt: skip
    assert dict(zip(wanted, seen.split(), strict=True)) == wanted


@pytest.mark.parametrize("pod", [SHARDS[1], CONTROL])
def test_a_pod_that_is_killed_is_not_missed(release: Installed, written: list[int], pod: str) -> None:
    before = release.uid(pod)
    release.kill(pod)
    print(f"\n{pod} ready again after {release.until_ready(pod, before):.0f} s")


def test_the_head_is_made_again_by_the_operator(release: Installed, written: list[int]) -> None:
    before = release.head()
    release.kill(before["metadata"]["name"])
    print(f"\nhead ready again after {release.until_head(before['metadata']['uid']):.0f} s")
    assert lacking(release) == []


def test_an_upgrade_replaces_every_pod(release: Installed, running: Traffic) -> None:
    """In one step, the worst case: shard hosts leave while the control pod is away."""
    parts = ("shard", "gateway", "control")
    before = uids(release, *parts)
    release.change({part: {"annotations": {"rolled": "yes"}} for part in parts})
    release.upgrade()
    assert not set(before.values()) & set(uids(release, *parts).values())
    none_failed(running.searcher)


def test_an_image_that_cannot_start_is_rolled_back(release: Installed, running: Traffic) -> None:
    """The manual's Roll back, after the first step of its Upgrade: control, head and a new gateway do not start."""
    good = release.images()[CONTROL]
    repository, _, tag = good.rpartition(":")
    stay, head = uids(release, "shard", "gateway"), release.head()["metadata"]["uid"]
    for node in release.cluster.nodes:
        done = node.ctr("images", "tag", "localhost/pause:1", f"{repository}:broken")
        assert done.returncode == 0, done.stderr
    release.change({"image": {"tag": "broken"}})
    release.follow(manual.typed("Upgrade", "shard.partition")[0])

    def broken() -> set[str]:
        return {name for name, image in release.images().items() if image != good}

    until(lambda: len(broken()) == 3 and broken() <= release.tried_again(), "three pods of the broken image")
    assert CONTROL in broken()
    assert not broken() & set(stay)
    broken_head = release.head()["metadata"]["uid"]
    assert broken_head != head
    none_failed(running.searcher)
    release.change({"image": {"tag": tag}})
    for line in manual.typed("Roll back", "helm upgrade"):
        if "if it is still the broken one" in line:
            until(lambda: release.images().get(CONTROL) == good, "the control pod is made anew by itself", 60)
        else:
            release.follow(line)
    release.until_head(broken_head)
    until(lambda: not broken(), "the broken pods are gone")
    assert uids(release, "shard", "gateway") == stay
    assert lacking(release) == []
    none_failed(running.searcher)


def test_an_empty_control_volume_gets_its_backup(release: Installed, running: Traffic) -> None:
    """The manual's Backups, and A lost volume of the control pod: a new home is refused, the old one comes back."""
    release.follow(*manual.typed("Backups", "cluster.secret"))
    stay = uids(release, "shard", "gateway")
    release.kubectl("delete", "pvc", f"home-{CONTROL}", "--wait=false")
    release.kubectl("delete", "pod", CONTROL)
    until(lambda: "belongs to home" in release.said(CONTROL), "the catalog refuses the home of an empty volume")
    none_failed(running.searcher)
    theirs = manual.files()["restore.yaml"]
    for named, ours in {
        "storageClassName: fast": "storageClassName: local",
        "imagePullSecrets: [{name: registry}]": "imagePullSecrets: []",
        "image: registry.example.org/facegrid/facegrid:0.1.0": f"image: {release.images()[CONTROL]}",
    }.items():
        assert named in theirs
        theirs = theirs.replace(named, ours)
    (release.desk / "restore.yaml").write_text(theirs)
    release.follow(*(line for line in manual.typed("Replace a node", "restore.yaml") if "sqlite only" not in line))
    assert uids(release, "shard", "gateway") == stay
    assert lacking(release) == []
    kept = json.loads((release.desk / "facegrid.json").read_text())["home_id"]
    assert kept in release.kubectl("exec", CONTROL, "--", "cat", "/var/lib/facegrid/facegrid.json")
    none_failed(running.searcher)


def test_a_job_of_the_cluster_finds_duplicates(release: Installed, client: RemoteCluster) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "k8s", "render-job", "dedup", GALLERY, "--threshold", "0.9",
         "--release", RELEASE, "--namespace", NAMESPACE],
        check=True, capture_output=True, text=True, timeout=120, cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    ).stdout  # fmt: skip
    release.cluster.apply(printed)

    def state() -> str:
        jobs = json.loads(release.kubectl("get", "rayjobs", "--output", "json"))["items"]
        return str(jobs[0].get("status", {}).get("jobDeploymentStatus", ""))

    until(lambda: state() in ("Complete", "Failed"), "the job ends", 600)
    assert state() == "Complete"
    (record,) = client.jobs.list(kind="dedup")
    assert record.state == "succeeded"


def test_a_node_that_is_lost_is_gone_without(release: Installed, written: list[int]) -> None:
    """One with a shard host, and a gateway if need be; the control pod's volume could be nowhere else."""
    needed = {release.head()["spec"]["nodeName"], *release.nodes("control").values()}
    spare = [node for node in release.cluster.nodes if node.name not in needed]
    lost = min(spare, key=lambda node: node.name in release.nodes("gateway").values())
    print("\nlost with the node:", *sorted(name for name, node in release.pods().items() if node == lost.name))
    lost.lose()
    count = len(written)
    until(lambda: len(written) > count + 40, "writes go on without the node")
