"""A release of the chart on a podman network: what controllers, operator and kubelets would do, step by step."""

from __future__ import annotations

import itertools
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.certificates import Authority
from tests.integration.postgres import PostgresServer
from tests.k8s.pods.containers import RunnablePod, runnable
from tests.k8s.pods.environment import Place
from tests.k8s.pods.release import Release
from tests.k8s.pods.workloads import Pod
from tests.k8s.smoke.kubelet import Kubelet, RunningPod
from tests.k8s.smoke.podman import PREFIX, podman, remove_everything
from tests.k8s.smoke.services import Service
from tests.k8s.tools import program

ROOT = Path(__file__).parents[3]
CHART = ROOT / "k8s" / "chart" / "facegrid"
NAMESPACE = RELEASE = "faces"
VALUES = [ROOT / "k8s" / "examples" / "values-production.yaml", Path(__file__).with_name("values.yaml")]


def render(image: str, *settings: str) -> Release:
    """The chart's objects with the example's values for production, this folder's over them, and an image's name.

    settings: `key=value`, as `helm --set` has them.
    """
    repository, tag = image.rsplit(":", 1)
    command = [program("helm"), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--skip-tests"]
    for path in VALUES:
        command += ["--values", str(path)]
    for setting in (f"image.repository={repository}", f"image.tag={tag}", *settings):
        command += ["--set", setting]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Release(yaml.safe_load_all(done.stdout), NAMESPACE)


class NotInTime(AssertionError):
    """What should have come about within the time did not."""


def wait_until(condition: Callable[[], bool], seconds: float, what: Callable[[], str]) -> float:
    """Seconds until `condition` held, asked five times a second. Raises NotInTime with what() after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise NotInTime(f"not within {seconds:.0f} s: {what()}")
        time.sleep(0.2)
    return time.monotonic() - began


class SmokeCluster:
    """Starts and replaces the pods of `release`. Everything has the label of this run; `close` removes it.

    secrets: may be changed; pods started later see it.   https: the gateways' Service.
    """

    def __init__(self, release: Release, models: Path | None) -> None:
        self.release = release
        self.run = f"{PREFIX}{secrets.token_hex(3)}"
        self.label = f"facegrid-smoke={self.run}"
        self.root = Path(tempfile.mkdtemp(prefix=f"{self.run}-"))
        self.root.chmod(0o755)
        self._suffixes = itertools.count(1)
        self._closing: list[Callable[[], None]] = [
            lambda: remove_everything(self.label),
            lambda: shutil.rmtree(self.root, ignore_errors=True),
        ]
        try:
            self._network()
            self._credentials()
            self.kubelet = Kubelet(self.run, self.label, self.run, self.root, self._aliases)
            self._closing.insert(0, self.kubelet.close)
            self._outside(models)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for step in self._closing:
            step()
        self._closing = []

    def _network(self) -> None:
        """A network of its own. Its first address is this machine; pods get the others, each once."""
        taken = (
            podman("network", "ls", "--format", "{{.Name}}")
            and subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=True).stdout
        )
        third = next(n for n in itertools.count(secrets.randbelow(200)) if f"10.91.{n % 256}." not in taken) % 256
        self._subnet = f"10.91.{third}"
        podman("network", "create", "--label", self.label, "--subnet", f"{self._subnet}.0/24", self.run)
        self._addresses = (f"{self._subnet}.{host}" for host in range(10, 250))

    def _credentials(self) -> None:
        name = self.release.name
        self.service_name = f"{name}-gateway.{NAMESPACE}.svc"
        self.authority, self.data_authority = Authority("Smoke test gateways"), Authority("Smoke test data plane")
        self.secrets: dict[str, dict[str, bytes]] = {
            # The operator makes the token where the release names no Secret.
            name: {"auth_token": secrets.token_hex(32).encode()},
            "facegrid-gateway-tls": self.authority.secret("gateway", [self.service_name, "localhost"], ["127.0.0.1"]),
            "facegrid-data-tls": self.data_authority.secret("facegrid", [f"*.{name}-shard", "facegrid"]),
            "facegrid-master-key": {"master.key": secrets.token_bytes(32)},
        }
        (self.root / "gateway-ca.pem").write_bytes(self.authority.pem)

    @property
    def gateway_authority(self) -> Path:
        """PEM file of the authority that signs gateways."""
        return self.root / "gateway-ca.pem"

    def _outside(self, models: Path | None) -> None:
        """What the release expects of others: PostgreSQL, a volume with networks; and the gateways' Service."""
        self.postgres = PostgresServer()
        self._closing.append(self.postgres.close)
        inside = Service("0.0.0.0", 0, lambda: [("127.0.0.1", self.postgres.port)])
        self._closing.append(inside.close)
        url = (
            self.postgres.new_database()
            .replace("127.0.0.1", f"{self._subnet}.1")
            .replace(str(self.postgres.port), str(inside.port))
        )
        self.secrets["facegrid-catalog"] = {"url": url.encode()}
        self.kubelet.storage.fill_claim("facegrid-models", files_of(models) if models else {}, None)
        ((_, target),) = self.release.service_ports(f"{self.release.name}-gateway")
        self.https = Service("127.0.0.1", 0, lambda: [(pod.address, target) for pod in self.ready("gateway")])
        self._closing.append(self.https.close)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https.port}"

    def _aliases(self, pod: RunnablePod) -> list[str]:
        return self.release.headless_names(pod.pod)

    def pods(self, component: str) -> list[RunningPod]:
        """Pods of a component: head, control, shard, gateway."""
        prefix = f"{self.release.name}-{component}-"
        return sorted((pod for name, pod in self.kubelet.pods.items() if name.startswith(prefix)), key=lambda p: p.name)

    def ready(self, component: str) -> list[RunningPod]:
        return [pod for pod in self.pods(component) if pod.is_ready]

    def pod(self, component: str, ordinal: int | None = None) -> RunningPod:
        """The one pod of a component, or of a StatefulSet that with this ordinal."""
        if ordinal is not None:
            return self.kubelet.pods[f"{self.release.name}-{component}-{ordinal}"]
        (found,) = self.pods(component)
        return found

    def start_head(self) -> RunningPod:
        return self._start(self.release.head(f"{next(self._suffixes):05d}"))

    def start_control(self) -> RunningPod:
        return self._start(self.release.stateful("control", 0))

    def start_shard(self, ordinal: int) -> RunningPod:
        return self._start(self.release.stateful("shard", ordinal))

    def start_gateway(self) -> RunningPod:
        return self._start(self.release.gateway(f"{next(self._suffixes):05d}"))

    def _start(self, pod: Pod) -> RunningPod:
        address = next(self._addresses)
        place = Place(address, "smoke-node", self.secrets, self.release.config_maps())
        return self.kubelet.start(runnable(pod, place), address)

    def renew(self, secret: str, data: dict[str, bytes]) -> None:
        """The Secret has other data: files in running pods follow, environments only in pods that start later."""
        self.secrets[secret] = data
        for pod in self.kubelet.pods.values():
            self.kubelet.storage.renew_files(pod.key, pod.runnable, secret, data)

    def wait_ready(self, *pods: RunningPod, seconds: float) -> float:
        """Seconds until all are ready; with what each says if they are not in time."""
        return wait_until(lambda: all(pod.is_ready for pod in pods), seconds, lambda: self.describe(*pods))

    def describe(self, *pods: RunningPod) -> str:
        """State, last probes and last lines of pods."""
        told = []
        for pod in pods or tuple(self.kubelet.pods.values()):
            state = f"ready={pod.is_ready} restarts={pod.restarts} {pod.address} probes={pod.seen}"
            told.append(f"--- {pod.name}: {state}\n{self.kubelet.logs(pod)}")
        return "\n".join(told)

    def not_exercised(self) -> dict[str, list[str]]:
        """Objects of the release that are not run, and fields of its pods that nothing here carries out."""
        fields = {one.rsplit(".", 1)[-1] for pod in self.kubelet.pods.values() for one in pod.runnable.not_exercised}
        return {"objects": self.release.not_exercised(), "fields": sorted(fields)}


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Name and content of each file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
