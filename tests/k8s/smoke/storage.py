"""What pods mount: claims as podman volumes, scratch directories, and files of Secrets and ConfigMaps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.k8s.pods.containers import Container, RunnablePod
from tests.k8s.pods.volumes import Mount, Volume
from tests.k8s.smoke.podman import podman


class Storage:
    """Volumes of one run, named `<run>-<claim>`; directories of pods below `root`."""

    def __init__(self, run: str, label: str, root: Path) -> None:
        self._run, self._label, self._root = run, label, root
        self._claims: set[str] = set()

    def arguments(self, pod_key: str, container: Container, group: int | None) -> list[str]:
        """Options of `podman run` for the container's mounts. pod_key: names this incarnation of the pod."""
        return [self._argument(pod_key, mount, group) for mount in container.mounts]

    def _argument(self, pod_key: str, mount: Mount, group: int | None) -> str:
        volume = mount.volume
        if volume.kind == "memory":
            size = f",tmpfs-size={volume.size_bytes}" if volume.size_bytes else ""
            return f"--mount=type=tmpfs,destination={mount.path},tmpfs-mode=1777{size}"
        if volume.kind == "claim":
            source = self._claim(volume.name, group)
        elif volume.kind == "scratch":
            source = self._scratch(pod_key, volume, group)
        else:
            source = self._files(pod_key, volume, group)
        source = source / mount.sub_path
        if mount.sub_path and not source.exists():
            source.mkdir(parents=True)
            _own(source, group, 0o2775)
        mode = "ro" if mount.is_read_only or volume.kind == "files" else "rw"
        return f"--volume={source}:{mount.path}:{mode}"

    def _claim(self, claim: str, group: int | None) -> Path:
        """The claim's directory, as of a new ext4 volume: root's lost+found is in it.

        As a kubelet does for fsGroup, it belongs to that group and hands it on.
        """
        name = f"{self._run}-{claim}"
        if claim not in self._claims:
            podman("volume", "create", "--label", self._label, name)
            self._claims.add(claim)
            _own(self.path(claim), group, 0o2775)
            (self.path(claim) / "lost+found").mkdir(mode=0o700)
        return self.path(claim)

    def path(self, claim: str) -> Path:
        """Where the claim's files are on this machine."""
        return Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", f"{self._run}-{claim}").strip())

    def fill_claim(self, claim: str, files: Mapping[str, bytes], group: int | None) -> None:
        """Make the claim, with these files in it, as an administrator would have."""
        folder = self._claim(claim, group)
        for name, content in files.items():
            (folder / name).write_bytes(content)
            _own(folder / name, group, 0o644)

    def delete_claim(self, claim: str) -> None:
        """The volume and its files are gone, as with a lost disk."""
        podman("volume", "rm", "--force", f"{self._run}-{claim}")
        self._claims.discard(claim)

    def _scratch(self, pod_key: str, volume: Volume, group: int | None) -> Path:
        path = self._root / pod_key / volume.name
        if not path.exists():
            path.mkdir(parents=True)
            _own(path, group, 0o2777)
        return path

    def _files(self, pod_key: str, volume: Volume, group: int | None) -> Path:
        path = self._root / pod_key / volume.name
        if not path.exists():
            path.mkdir(parents=True)
            write_files(path, volume.files or {}, volume.mode, group)
        return path

    def renew_files(self, pod_key: str, pod: RunnablePod, secret: str, data: Mapping[str, bytes]) -> None:
        """The Secret changed: its files are replaced under a running container, as a kubelet does."""
        for volume in pod.pod.spec.get("volumes", ()):
            source = volume.get("secret", {})
            if source.get("secretName") == secret and (self._root / pod_key / volume["name"]).exists():
                mode = int(source.get("defaultMode", 0o644))
                write_files(self._root / pod_key / volume["name"], data, mode, pod.group)

    def forget_pod(self, pod_key: str) -> None:
        """The pod is gone, and its scratch directories with it."""
        shutil.rmtree(self._root / pod_key, ignore_errors=True)


def write_files(folder: Path, files: Mapping[str, bytes], mode: int, group: int | None) -> None:
    """Names are links to `..data/NAME`, and `..data` is a link to a directory that is replaced as a whole.

    With a group its members may read, whatever the mode says: so does fsGroup.
    """
    number = sum(1 for _ in folder.glob("..version-*"))
    version = folder / f"..version-{number}"
    version.mkdir()
    for name, content in files.items():
        target = version / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        _own(target, group, mode | (0o440 if group is not None else 0))
        link = folder / name.split("/")[0]
        if not link.is_symlink():
            link.symlink_to(f"..data/{link.name}")
    _own(version, group, 0o755)
    fresh = folder / "..data-new"
    fresh.symlink_to(version.name)
    fresh.replace(folder / "..data")


def _own(path: Path, group: int | None, mode: int) -> None:
    if group is not None:
        os.chown(path, 0, group)
    path.chmod(mode)
