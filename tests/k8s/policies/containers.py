"""What every container says: probes, resources with limits that add up, an image of the one version."""

import re
from collections.abc import Iterator
from itertools import chain

from tests.k8s.pods.quantities import quantity
from tests.k8s.workloads import ADDED_BY_OPERATOR, Manifest, Pod, pods

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
# Images of others, which have versions of their own.
FOREIGN = {"postgres"}


def have_probes(manifests: list[Manifest]) -> Iterator[str]:
    """Containers that run on are probed for starting, living and being ready; the ports they are asked at exist."""
    for pod in pods(manifests):
        for where, one, is_init in pod.containers():
            if pod.runs_on and not is_init and one["name"] not in ADDED_BY_OPERATOR:
                yield from (f"{where} has no {key}" for key in PROBES if key not in one)
            for key in PROBES:
                asked = one.get(key, {}).get("httpGet") or one.get(key, {}).get("tcpSocket") or {}
                if isinstance(asked.get("port"), str) and asked["port"] not in pod.ports():
                    yield f"{where}: {key} asks the port {asked['port']}, which it has not"


def have_resources(manifests: list[Manifest]) -> Iterator[str]:
    """CPU and memory are requested, memory is limited (and requested in full: no pod dies for its neighbour).

    No limit of CPU is asked for: it would slow searches down while cores idle.
    """
    for pod in pods(manifests):
        for where, one, _ in pod.containers():
            asked, most = (one.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
            yield from (f"{where} requests no {key}" for key in ("cpu", "memory") if key not in asked)
            if "memory" not in most:
                yield f"{where} has no limit of memory"
            for key in asked.keys() & most.keys():
                if quantity(asked[key]) > quantity(most[key]):
                    yield f"{where} requests {asked[key]} of {key}, limit {most[key]}"
            is_ours = one["name"] not in ADDED_BY_OPERATOR
            if is_ours and quantity(asked.get("memory", 0)) != quantity(most.get("memory", 0)):
                yield f"{where} may have {most.get('memory')} of memory, but requests {asked.get('memory')}"


def scratch_fits(manifests: list[Manifest]) -> Iterator[str]:
    """Every emptyDir has a bound, and those in memory fit into the container's limit."""
    for pod in pods(manifests):
        bounded: dict[str, Manifest] = {}
        for volume in pod.spec.get("volumes") or []:
            if "emptyDir" in volume:
                if "sizeLimit" not in (volume["emptyDir"] or {}):
                    yield f"{pod.owner}: volume {volume['name']} is an emptyDir without sizeLimit"
                bounded[volume["name"]] = volume["emptyDir"] or {}
        for where, one, _ in pod.containers():
            mounted = [bounded[m["name"]] for m in one.get("volumeMounts") or [] if m["name"] in bounded]
            in_memory = sum(
                quantity(v["sizeLimit"]) for v in mounted if v.get("medium") == "Memory" and "sizeLimit" in v
            )
            most = one.get("resources", {}).get("limits", {}).get("memory")
            if most is not None and in_memory > quantity(most) and one["name"] not in ADDED_BY_OPERATOR:
                yield f"{where} has volumes of {in_memory} bytes in {most} of memory"


def images_are_one(manifests: list[Manifest]) -> Iterator[str]:
    """One image in all pods, by version or digest, never `latest`; with GPUs its variant of the same version.

    A digest names one variant: beside one, the other is known by its tag alone.
    """
    versions = set()
    for pod in pods(manifests):
        for where, one, _ in pod.containers():
            repository, version = split_image(one.get("image") or "")
            if version in ("", "latest"):
                yield f"{where} has the image {one.get('image')!r}, without a version"
            if pod.component not in FOREIGN:
                versions.add((repository, version))
    tags = {(repository, version.removesuffix("-gpu")) for repository, version in versions if ":" not in version}
    digests = versions - {pair for pair in versions if ":" not in pair[1]}
    by_digest_alone = all(version.endswith("-gpu") for _, version in versions - digests)
    if len(tags) > 1 or len(digests) > 1 or (tags and digests and not by_digest_alone):
        yield f"images of several versions: {sorted(versions)}"
    if len({repository for repository, _ in versions}) > 1:
        yield f"images of several repositories: {sorted(versions)}"


def split_image(image: str) -> tuple[str, str]:
    """(repository, digest or tag) of an image's name; an empty string where it says neither."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # The colon is a registry's port.
        repository, tag = name, ""
    return repository, digest or tag


def names_fit(manifests: list[Manifest]) -> Iterator[str]:
    """What no schema says: lengths and shapes of names, labels and ports that Kubernetes refuses or cuts."""
    for one in manifests:
        about, where = one["metadata"], f"{one['kind']}/{one['metadata']['name']}"
        longest = {"Service": 63, "StatefulSet": 52, "CronJob": 52, "Job": 63}.get(one["kind"], 253)
        if len(about["name"]) > longest or not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", about["name"]):
            yield f"{where}: the name is no name of at most {longest} letters"
        if one["kind"] == "Service" and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", about["name"]):
            yield f"{where}: the name is no DNS label"
        yield from _labels(where, about.get("labels") or {})
    for pod in pods(manifests):
        yield from _labels(pod.owner, pod.labels)
        yield from _unique(pod)


def _labels(where: str, labels: dict[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value):
            yield f"{where}: the label {key}={value!r} is no label"


def _unique(pod: Pod) -> Iterator[str]:
    ports = list(chain.from_iterable(one.get("ports", []) for _, one, _ in pod.containers()))
    for said in ([port["containerPort"] for port in ports], [port["name"] for port in ports if "name" in port]):
        yield from (
            f"{pod.owner}: port {one} twice" for one in sorted({one for one in said if said.count(one) > 1}, key=str)
        )
    for port in ports:
        if len(port.get("name", "")) > 15:
            yield f"{pod.owner}: the port's name {port['name']} has more than 15 letters"
    for where, one, _ in pod.containers():
        for key, by in (("env", "name"), ("volumeMounts", "mountPath")):
            said = [item[by] for item in one.get(key) or []]
            yield from (
                f"{where}: {by} {item} twice" for item in sorted({item for item in said if said.count(item) > 1})
            )


CHECKS = [have_probes, have_resources, scratch_fits, images_are_one, names_fit]
