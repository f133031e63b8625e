"""Volumes of a pod, and where its containers mount them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.k8s.pods.environment import Place
from tests.k8s.pods.fields import Untranslatable, check
from tests.k8s.pods.quantities import quantity, rounded_up
from tests.k8s.pods.workloads import Pod


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of a pod.

    `claim` outlives the pod under the name of its claim; `scratch` lives as long as the pod, on disk; `memory` as long
    as a container, size_bytes of memory (0: no limit of its own); `files` holds what a Secret or ConfigMap says, with
    `mode` for each file.
    """

    kind: Literal["claim", "scratch", "memory", "files"]
    name: str
    size_bytes: int = 0
    files: Mapping[str, bytes] | None = None
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Mount:
    volume: Volume
    path: str
    sub_path: str
    is_read_only: bool


def mounts(container: Mapping[str, Any], pod: Pod, place: Place) -> tuple[Mount, ...]:
    """Where this container mounts which volume. Raises Untranslatable, also for a mount of an unknown volume."""
    known = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
    made = []
    for mount in container.get("volumeMounts", ()):
        where = f"{pod.name}.{container['name']}.volumeMounts"
        check("mount", mount, where)
        if mount["name"] not in known:
            raise Untranslatable(f"{where}: no volume {mount['name']}; the pod has {sorted(known)}")
        volume = _volume(known[mount["name"]], pod, place)
        made.append(Mount(volume, mount["mountPath"], mount.get("subPath", ""), bool(mount.get("readOnly", False))))
    return tuple(made)


def _volume(volume: Mapping[str, Any], pod: Pod, place: Place) -> Volume:
    where = f"{pod.name}.volumes.{volume['name']}"
    check("volume", volume, where)
    ((kind, source),) = ((key, value) for key, value in volume.items() if key != "name")
    if kind == "persistentVolumeClaim":
        return Volume("claim", source["claimName"])
    if kind == "emptyDir":
        size = rounded_up(quantity(source["sizeLimit"])) if (source or {}).get("sizeLimit") else 0
        return Volume("memory" if (source or {}).get("medium") == "Memory" else "scratch", volume["name"], size)
    if kind == "projected":
        return _projected(volume["name"], source, place, where)
    name = source["secretName"] if kind == "secret" else source["name"]
    files = _chosen(kind, name, source, place, where)
    return Volume("files", volume["name"], files=files, mode=int(source.get("defaultMode", 0o644)))


def _projected(name: str, source: Mapping[str, Any], place: Place, where: str) -> Volume:
    files: dict[str, bytes] = {}
    for part in source["sources"]:
        ((kind, what),) = part.items()
        if kind not in ("secret", "configMap"):
            raise Untranslatable(f"{where}: projected {kind} is not translated")
        files.update(_chosen(kind, what["name"], what, place, where))
    return Volume("files", name, files=files, mode=int(source.get("defaultMode", 0o644)))


def _chosen(kind: str, name: str, source: Mapping[str, Any], place: Place, where: str) -> dict[str, bytes]:
    """The files that a Secret or ConfigMap gives, or those of its keys that `items` names."""
    table = place.secrets if kind == "secret" else place.config_maps
    if name not in table:
        if source.get("optional"):
            return {}
        raise Untranslatable(f"{where}: there is no {kind} {name}; known: {sorted(table)}")
    if "items" not in source:
        return dict(table[name])
    missing = [item["key"] for item in source["items"] if item["key"] not in table[name]]
    if missing:
        raise Untranslatable(f"{where}: {kind} {name} has no {missing[0]}; it has {sorted(table[name])}")
    return {item["path"]: table[name][item["key"]] for item in source["items"]}
