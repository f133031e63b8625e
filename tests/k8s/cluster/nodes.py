"""A node of the cluster: a containerd and a kubelet of its own, and a bridge for its pods.

All nodes are on one machine and share its address; what they do not share is all that a pod sees: its network, its
volumes, and whether it is there at all.
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

from tests.k8s.cluster.processes import Processes

CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = Path("/run/netns")
SHARES = 4096
"""A node's part of the machine, where one process beside it has 1024. With no more than that, Ray starts too slowly."""
VOLUMES = 4
"""Volumes that each node offers."""


class Node:
    """One node, by its number from 1."""

    def __init__(self, number: int, folder: Path, processes: Processes) -> None:
        self.name, self._number, self._processes = f"n{number}", number, processes
        self.folder = folder / self.name
        self.socket = self.folder / "containerd.sock"
        self._namespaces: set[Path] = set()
        for part in ("cni", "kubelet"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        for volume in self.volumes():
            volume.mkdir(exist_ok=True)
            volume.chmod(0o777)
            (volume / "lost+found").mkdir(mode=0o700, exist_ok=True)  # as of a new ext4 file system

    def volumes(self) -> list[Path]:
        """Folders that are offered as volumes."""
        return [self.folder / f"volume-{i}" for i in range(VOLUMES)]

    def start(self, programs: Path, address: str, kubeconfig: Path) -> None:
        """Start the runtime, bring the images into it, start the kubelet."""
        (self.folder / "cni/10-bridge.conflist").write_text(json.dumps(self._network()))
        (self.folder / "containerd.toml").write_text(self._runtime())
        self._processes.start(f"{self.name}-containerd", "containerd", "--config", self.folder / "containerd.toml")
        self._processes.until("containerd", lambda: self.ctr("version").returncode == 0)
        for image in sorted((programs / "images").glob("*.tar")):
            self.load(image)
        self._cgroups()
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet()))
        self._processes.start(
            f"{self.name}-kubelet", programs / "bin/kubelet", "--config", self.folder / "kubelet.json",
            "--kubeconfig", kubeconfig, "--root-dir", self.folder / "kubelet",
            "--cert-dir", self.folder / "certificates", "--hostname-override", self.name, "--node-ip", address,
            "--node-labels", f"topology.kubernetes.io/zone=zone-{self._number}",
        )  # fmt: skip

    def load(self, image: Path) -> None:
        """Bring an image of a file into the node."""
        done = self.ctr("images", "import", str(image))
        assert done.returncode == 0, done.stderr

    def lose(self) -> None:
        """Everything on it ends at once, as if its power was cut. Its volumes stay."""
        self._processes.stop(f"{self.name}-kubelet", signal.SIGKILL)
        self._namespaces |= self._network_namespaces()
        for task in self.ctr("tasks", "list", "--quiet").stdout.split():
            self.ctr("tasks", "kill", "--signal", "SIGKILL", task)
        self._processes.stop(f"{self.name}-containerd", signal.SIGKILL)

    def close(self) -> None:
        """Ends what `lose` ends, and takes away its mounts, its networks and its cgroups."""
        self.lose()
        subprocess.run(["pkill", "-9", "-f", f"containerd-shim.*{self.socket}"], check=False)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            where = line.split()[1]
            if where.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", where], check=False)
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "delete", namespace.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._bridge], check=False, capture_output=True)
        for controller in CGROUPS.iterdir():
            for below, _, _ in os.walk(controller / f"facegrid-{self.name}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(below)

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """containerd's own client."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @property
    def _bridge(self) -> str:
        return f"fgcni{self._number}"

    def _network_namespaces(self) -> set[Path]:
        """Those of its pods: containerd mounts them outside of the node's folder."""
        used = set()
        for line in self.ctr("tasks", "list").stdout.splitlines()[1:]:
            with contextlib.suppress(FileNotFoundError):
                used.add(Path("/proc", line.split()[1], "ns/net").stat().st_ino)
        return {path for path in NAMESPACES.glob("cni-*") if path.stat().st_ino in used}

    def _network(self) -> dict[str, object]:
        addresses: dict[str, object] = {"type": "host-local", "dataDir": str(self.folder / "addresses")}
        addresses["ranges"] = [[{"subnet": f"10.244.{self._number}.0/24"}]]
        addresses["routes"] = [{"dst": "0.0.0.0/0"}]
        bridge = {"type": "bridge", "bridge": self._bridge, "isGateway": True, "hairpinMode": True, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": self.name, "plugins": [bridge]}

    def _runtime(self) -> str:
        unused = ", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in ("btrfs", "zfs", "devmapper", "aufs"))
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""
version = 2
root = "{self.folder}/images"
state = "{self.folder}/state"
disabled_plugins = [{unused}]
[grpc]
address = "{self.socket}"
[{cri}]
sandbox_image = "localhost/pause:1"
stream_server_port = "0"
# A machine that is a container itself may not lower what it was given.
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{self.folder}/cni"
[{cri}.containerd]
snapshotter = "overlayfs"
"""

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "port": 10250 + 10 * self._number,
            "healthzPort": 10251 + 10 * self._number,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/facegrid-{self.name}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,  # they would stay in the machine's tables
            "failCgroupV1": False,
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "volumePluginDir": str(self.folder / "plugins"),
            "podLogsDir": str(self.folder / "logs"),
            "nodeStatusUpdateFrequency": "5s",
        }

    def _cgroups(self) -> None:
        for controller in CGROUPS.iterdir():
            if controller.is_dir() and not controller.is_symlink():
                (controller / f"facegrid-{self.name}").mkdir(exist_ok=True)
        shares = CGROUPS / "cpu" / f"facegrid-{self.name}" / "cpu.shares"
        if shares.exists():
            shares.write_text(str(SHARES))
        ours = CGROUPS / "cpuset" / f"facegrid-{self.name}"
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (CGROUPS / "cpuset" / file).exists():
                (ours / file).write_text((CGROUPS / "cpuset" / file).read_text())
