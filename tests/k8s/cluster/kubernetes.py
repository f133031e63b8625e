"""Kubernetes on this machine, of the programs that `build.sh` makes: API server, controllers, scheduler, kubelets, DNS,
network policies (kube-router) and KubeRay's operator. Nodes are `nodes.Node`; needs root, containerd and etcd."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.cluster.accounts import API_PORT, Accounts
from tests.k8s.cluster.nodes import Node
from tests.k8s.cluster.processes import Processes
from tests.k8s.tools import program

ETCD = "http://127.0.0.1:12379"
ETCD_PEERS = "http://127.0.0.1:12380"
PODS, SERVICES = "10.244.0.0/16", "10.96.0.0/16"
MASQUERADE = ("-s", PODS, "!", "-d", PODS, "-j", "MASQUERADE")


class Kubernetes:
    """A cluster that is up, until `close`."""

    def __init__(self, programs: Path, nodes: int = 3) -> None:
        """programs: the folder that build.sh filled."""
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="facegrid-k8s"))
        self._processes = Processes(self.folder / "logs")
        self.nodes = [Node(number, self.folder, self._processes) for number in range(1, nodes + 1)]
        self.address = _own_address()
        self._accounts = Accounts(self.folder / "accounts", self.address, [node.name for node in self.nodes])
        try:
            self._start_control_plane()
            for node in self.nodes:
                node.start(programs, self.address, self._accounts.kubeconfig(node.name))
            self._start_network()
            self._processes.until("nodes are ready", lambda: self._ready_nodes() == nodes, 180)
            self.apply((Path(__file__).with_name("addons.yaml")).read_text(), *self._volumes())
        except BaseException:
            self.close()
            raise

    def kubectl(self, *words: str, given: str | None = None, limit_s: float = 600.0) -> str:
        """What kubectl prints; AssertionError if it fails."""
        done = self.try_kubectl(*words, given=given, limit_s=limit_s)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def try_kubectl(
        self, *words: str, given: str | None = None, limit_s: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """kubectl as the administrator; `given` is its standard input."""
        command = [program("kubectl"), "--kubeconfig", str(self._accounts.kubeconfig("admin")), *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=limit_s, check=False)

    def typed(self, line: str, folder: Path, limit_s: float = 1200.0) -> str:
        """What a line of shell prints that the administrator types in a folder; AssertionError if it fails."""
        path = [str(Path(program(name)).parent) for name in ("kubectl", "helm")]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._accounts.kubeconfig("admin")),
            "PATH": os.pathsep.join([*path, os.environ["PATH"]]),
        }
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=limit_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def get(self, *words: str) -> Any:
        """`kubectl get … -o json`."""
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def apply(self, *manifests: str) -> None:
        """YAML or JSON, several documents each."""
        self.kubectl("apply", "--filename", "-", given="\n---\n".join(manifests))

    def load(self, image: Path) -> None:
        """Bring an image of a file to every node."""
        for node in self.nodes:
            node.load(image)

    def close(self) -> None:
        """End everything and remove its files."""
        for name in ("proxy", "policies", "scheduler", "controllers"):
            self._processes.stop(name)
        for node in self.nodes:
            node.close()
        self._processes.close()
        subprocess.run([self.programs / "bin/kube-router", "--cleanup-config"], check=False, capture_output=True)
        subprocess.run([self.programs / "bin/kube-proxy", "--cleanup"], check=False, capture_output=True)
        subprocess.run(["iptables", "-t", "nat", "-D", "POSTROUTING", *MASQUERADE], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_control_plane(self) -> None:
        start, bin_, own = self._processes.start, self.programs / "bin", self._accounts.folder
        start(
            "etcd", "etcd", "--data-dir", self.folder / "etcd", "--listen-client-urls", ETCD,
            "--advertise-client-urls", ETCD, "--listen-peer-urls", ETCD_PEERS,
            "--initial-advertise-peer-urls", ETCD_PEERS, "--initial-cluster", f"default={ETCD_PEERS}",
        )  # fmt: skip
        start(
            "api", bin_ / "kube-apiserver", f"--etcd-servers={ETCD}", f"--secure-port={API_PORT}",
            f"--advertise-address={self.address}", f"--tls-cert-file={own}/api.crt",
            f"--tls-private-key-file={own}/api.key", f"--client-ca-file={own}/ca.crt",
            f"--service-account-key-file={own}/accounts.key", f"--service-account-signing-key-file={own}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC", f"--token-auth-file={self._accounts.tokens_file}",
            "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        self._processes.until("the API answers", lambda: not self.try_kubectl("get", "--raw", "/readyz").returncode)
        kubeconfig = self._accounts.kubeconfig
        start(
            "controllers", bin_ / "kube-controller-manager", f"--kubeconfig={kubeconfig('controllers')}",
            f"--root-ca-file={own}/ca.crt", f"--service-account-private-key-file={own}/accounts.key",
            "--use-service-account-credentials=true", "--leader-elect=false", "--node-monitor-grace-period=20s",
            "--bind-address=127.0.0.1",
        )  # fmt: skip
        start(
            "scheduler", bin_ / "kube-scheduler", f"--kubeconfig={kubeconfig('scheduler')}", "--leader-elect=false",
            "--bind-address=127.0.0.1",
        )  # fmt: skip

    def _start_network(self) -> None:
        """Services by kube-proxy, policies by kube-router: once for all nodes, which share the machine's address."""
        bin_, name = self.programs / "bin", self.nodes[0].name
        subprocess.run(["iptables", "-t", "nat", "-A", "POSTROUTING", *MASQUERADE], check=True)
        self._processes.start(
            "proxy", bin_ / "kube-proxy", f"--kubeconfig={self._accounts.kubeconfig('proxy')}",
            f"--cluster-cidr={PODS}", "--proxy-mode=iptables", f"--hostname-override={name}",
            "--conntrack-max-per-core=0", "--metrics-bind-address=127.0.0.1:10249",
        )  # fmt: skip
        self._processes.until("the first node is there", lambda: self._ready_nodes() >= 1)
        self._processes.start(
            "policies", bin_ / "kube-router", f"--kubeconfig={self._accounts.kubeconfig('policies')}",
            "--run-router=false", "--run-service-proxy=false", "--run-firewall=true", f"--hostname-override={name}",
            f"--service-cluster-ip-range={SERVICES}", "--metrics-port=0", "--health-port=0",
        )  # fmt: skip

    def _ready_nodes(self) -> int:
        printed = self.try_kubectl("get", "nodes", "--no-headers").stdout
        return sum(line.split()[1] == "Ready" for line in printed.splitlines())

    def _volumes(self) -> list[str]:
        return [
            yaml.safe_dump(_volume(f"{node.name}-{i}", node.name, path))
            for node in self.nodes
            for i, path in enumerate(node.volumes())
        ]


def _volume(name: str, node: str, path: Path) -> dict[str, Any]:
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "200Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local",
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


def _own_address() -> str:
    """This machine's address as others see it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("203.0.113.1", 9))
        return str(probe.getsockname()[0])
