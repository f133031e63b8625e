"""A release of the chart on a real cluster, as k8s/README.md has people install it."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.certificates import Authority
from tests.integration.postgres import PostgresServer
from tests.k8s import manual
from tests.k8s.charts import ROOT
from tests.k8s.cluster.kubernetes import Kubernetes
from tests.k8s.cluster.processes import polls
from tests.k8s.smoke.services import Service

NAMESPACE = "faces"
RELEASE = "faces"
NAME = "faces-facegrid"
"""Namespace, release and its objects are called what the manual calls them."""
VALUES = Path(__file__).with_name("values.yaml")


class Installed:
    """A release that was installed. `url`: of its gateways, from this machine. `desk`: where commands are typed."""

    def __init__(self, cluster: Kubernetes, crds: Path, folder: Path, catalog: str, catalog_port: int) -> None:
        """catalog: URL of a PostgreSQL that pods reach at the machine's address."""
        self.cluster = cluster
        for file in sorted(crds.glob("*.yaml")):
            cluster.kubectl("apply", "--server-side", "--filename", str(file))
        cluster.apply(Path(__file__).with_name("operator.yaml").read_text())
        cluster.kubectl("create", "namespace", NAMESPACE)
        restricted = "pod-security.kubernetes.io/enforce=restricted"
        cluster.kubectl("label", "namespace", NAMESPACE, restricted)
        gateways, data = Authority("gateways"), Authority("data plane")
        self.authority = folder / "gateways.pem"
        self.authority.write_bytes(gateways.pem)
        names = [f"{NAME}-gateway.{NAMESPACE}.svc", f"{NAME}-gateway"]
        self._secret("facegrid-gateway-tls", gateways.secret("gateway", names, [cluster.address]))
        self._secret("facegrid-data-tls", data.secret("facegrid", ["facegrid"]))
        self._secret("facegrid-catalog", {"url": catalog.encode()})
        self.desk = folder / "desk"
        self.desk.mkdir()
        (self.desk / "k8s").symlink_to(ROOT / "k8s")
        self._values: dict[str, Any] = yaml.safe_load(VALUES.read_text())
        # Whoever runs the database opens its address; nothing else of the machine is.
        self.change({"networkPolicy": {"postgres": {"cidrs": [f"{cluster.address}/32"], "port": catalog_port}}})
        self.upgrade()

    def change(self, values: Mapping[str, Any]) -> None:
        """Write these into the user's values; the release has them with its next upgrade."""
        self._values = manual.merged(self._values, values)
        (self.desk / manual.MINE).write_text(yaml.safe_dump(self._values))

    def follow(self, *lines: str) -> None:
        """Type lines of the manual at the desk, and print how long each took."""
        for line in lines:
            began = time.monotonic()
            self.cluster.typed(line, self.desk)
            print(f"\n{time.monotonic() - began:.1f} s: {line}")

    def upgrade(self) -> None:
        """Install, or upgrade everything at once, and wait until all pods are those of the user's values."""
        self.follow(*manual.typed("Install", "helm upgrade"), *manual.typed("Install", "rollout status"))

    def kubectl(self, *words: str, given: str | None = None, limit_s: float = 600.0) -> str:
        """kubectl in the release's namespace."""
        return self.cluster.kubectl("--namespace", NAMESPACE, *words, given=given, limit_s=limit_s)

    def facegrid(self, *words: str) -> str:
        """The command line, in the control pod."""
        return self.kubectl("exec", f"{NAME}-control-0", "--container", "control", "--", "facegrid", *words)

    @property
    def url(self) -> str:
        service = json.loads(self.kubectl("get", "service", f"{NAME}-gateway", "--output", "json"))
        return f"https://{self.cluster.address}:{service['spec']['ports'][0]['nodePort']}"

    def operator_key(self) -> str:
        """The first key, which the control pod wrote into its volume."""
        path = "/var/lib/facegrid/operator.key"
        return self.kubectl("exec", f"{NAME}-control-0", "--container", "control", "--", "cat", path).strip()

    def nodes(self, component: str) -> dict[str, str]:
        """Node of each pod of a component."""
        return self.pods(f"app.kubernetes.io/component={component}")

    def pods(self, selector: str = "") -> dict[str, str]:
        """Node of each pod that the labels select; all if none are given."""
        found = json.loads(self.kubectl("get", "pods", f"--selector={selector}", "--output", "json"))
        return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in found["items"]}

    def images(self) -> dict[str, str]:
        """Image of each pod."""
        found = json.loads(self.kubectl("get", "pods", "--output", "json"))["items"]
        return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in found}

    def tried_again(self) -> set[str]:
        """Pods whose container ended, and was started again."""
        found = json.loads(self.kubectl("get", "pods", "--output", "json"))["items"]
        states = {pod["metadata"]["name"]: pod["status"].get("containerStatuses", []) for pod in found}
        return {name for name, of_pod in states.items() if any(state["restartCount"] for state in of_pod)}

    def said(self, pod: str) -> str:
        """What a pod's container has printed, with what the one before it had; nothing where there is no pod."""
        ours = ("--namespace", NAMESPACE, "logs", pod)
        return "".join(self.cluster.try_kubectl(*ours, *more).stdout for more in (("--previous",), ()))

    def kill(self, pod: str) -> None:
        """End a pod at once, as if its node had."""
        self.kubectl("delete", "pod", pod, "--grace-period=0", "--force")

    def until_ready(self, pod: str, before: str, limit_s: float = 600.0) -> float:
        """Seconds until a pod of that name is ready which is not `before` (a uid)."""
        for gone in polls(limit_s):
            found = self.cluster.try_kubectl("--namespace", NAMESPACE, "get", "pod", pod, "--output", "json")
            if found.returncode:
                continue
            now = json.loads(found.stdout)
            if now["metadata"]["uid"] != before and is_ready(now):
                return gone
        raise AssertionError(f"{pod} is not ready again within {limit_s:g} s")

    def head(self) -> Any:
        """The head's pod; AssertionError unless there is one."""
        found = json.loads(self.kubectl("get", "pods", "--selector=ray.io/node-type=head", "--output", "json"))["items"]
        assert len(found) == 1, f"expected one head, got {len(found)}"
        return found[0]

    def until_head(self, before: str, limit_s: float = 600.0) -> float:
        """Seconds until there is a head which is not `before` (a uid), and ready."""
        for gone in polls(limit_s):
            found = json.loads(self.kubectl("get", "pods", "--selector=ray.io/node-type=head", "--output", "json"))
            if any(is_ready(pod) for pod in found["items"] if pod["metadata"]["uid"] != before):
                return gone
        raise AssertionError(f"there is no new head within {limit_s:g} s")

    def uid(self, pod: str) -> str:
        return str(json.loads(self.kubectl("get", "pod", pod, "--output", "json"))["metadata"]["uid"])

    def _secret(self, name: str, values: Mapping[str, bytes]) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in values.items()}
        metadata = {"name": name, "namespace": NAMESPACE}
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}))


def is_ready(pod: Any) -> bool:
    """Whether a pod says so of itself."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))


@contextmanager
def installed(cluster: Kubernetes, crds: Path, folder: Path) -> Iterator[Installed]:
    """The release, with a PostgreSQL of this machine as its catalog."""
    postgres = PostgresServer()
    door = Service("0.0.0.0", 0, lambda: [("127.0.0.1", postgres.port)])
    try:
        url = postgres.new_database().replace(f"127.0.0.1:{postgres.port}", f"{cluster.address}:{door.port}")
        yield Installed(cluster, crds, folder, url, door.port)
    finally:
        door.close()
        postgres.close()
