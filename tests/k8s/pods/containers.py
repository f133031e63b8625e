"""Containers of a pod as podman can run them: user, capabilities, read-only root, limits, environment, mounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.k8s.pods.environment import Place, expanded_words, variables
from tests.k8s.pods.fields import Untranslatable, check
from tests.k8s.pods.quantities import quantity, rounded_up
from tests.k8s.pods.volumes import Mount, mounts
from tests.k8s.pods.workloads import Pod


@dataclass(frozen=True, slots=True)
class Probe:
    """What the kubelet asks: a command in the container, or an address of the pod. Times in seconds."""

    command: tuple[str, ...] | None
    http: tuple[str, str, int] | None
    """scheme, path, port"""
    tcp_port: int | None
    initial_delay: float
    period: float
    timeout: float
    failures: int
    successes: int


@dataclass(frozen=True, slots=True)
class Container:
    """One container.

    memory_bytes: its limit, None without.   arguments: options of `podman run` that its security asks for.
    entrypoint, words: what runs; None and empty for the image's own.
    """

    name: str
    image: str
    entrypoint: str | None
    words: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    memory_bytes: int | None
    arguments: tuple[str, ...]
    startup: Probe | None
    liveness: Probe | None
    readiness: Probe | None
    pre_stop: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class RunnablePod:
    """A pod that podman can run. grace_s: seconds between SIGTERM and SIGKILL, counted from the start of preStop."""

    pod: Pod
    init: tuple[Container, ...]
    main: Container
    group: int | None
    grace_s: float
    not_exercised: tuple[str, ...]


def runnable(pod: Pod, place: Place) -> RunnablePod:
    """The pod as containers. Raises Untranslatable for whatever has no counterpart, and for more than one container."""
    containers = pod.spec["containers"]
    if len(containers) != 1:
        raise Untranslatable(f"{pod.name}: {len(containers)} containers; only pods of one are translated")
    if pod.spec.get("automountServiceAccountToken", True):
        raise Untranslatable(f"{pod.name}: a service account's token would be mounted; there is none")
    if pod.spec.get("restartPolicy", "Always") not in ("Always", "Never"):
        raise Untranslatable(f"{pod.name}: restartPolicy {pod.spec['restartPolicy']} is not translated")
    security = pod.spec.get("securityContext", {})
    left_out = [*pod.not_exercised, *check("pod security", security, f"{pod.name}.securityContext")]
    for container in (*containers, *pod.spec.get("initContainers", ())):
        left_out += check("container", container, f"{pod.name}.{container['name']}")
    return RunnablePod(
        pod=pod,
        init=tuple(_container(init, pod, place) for init in pod.spec.get("initContainers", ())),
        main=_container(containers[0], pod, place),
        group=security.get("fsGroup"),
        grace_s=float(pod.spec.get("terminationGracePeriodSeconds", 30)),
        not_exercised=tuple(left_out),
    )


def _container(container: Mapping[str, Any], pod: Pod, place: Place) -> Container:
    environment = variables(container, pod, place)
    command = expanded_words(container.get("command", ()), environment)
    limits = container.get("resources", {}).get("limits", {})
    probes = {
        kind: _probe(container.get(f"{kind}Probe"), container, pod) for kind in ("startup", "liveness", "readiness")
    }
    return Container(
        name=container["name"],
        image=container["image"],
        entrypoint=command[0] if command else None,
        words=(*command[1:], *expanded_words(container.get("args", ()), environment)),
        environment=environment,
        mounts=mounts(container, pod, place),
        memory_bytes=rounded_up(quantity(limits["memory"])) if "memory" in limits else None,
        arguments=_security(container, pod),
        pre_stop=_pre_stop(container, pod),
        **probes,
    )


def _security(container: Mapping[str, Any], pod: Pod) -> tuple[str, ...]:
    """The container's security context over the pod's, as options. Raises Untranslatable for a privileged one, for a
    user that is not said, and where runAsNonRoot forbids the user."""
    own = container.get("securityContext", {})
    check("container security", own, f"{pod.name}.{container['name']}.securityContext")
    both = {**pod.spec.get("securityContext", {}), **own}
    where = f"{pod.name}.{container['name']}.securityContext"
    if both.get("privileged"):
        raise Untranslatable(f"{where}: privileged")
    if both.get("seccompProfile", {"type": "RuntimeDefault"}) != {"type": "RuntimeDefault"}:
        raise Untranslatable(f"{where}.seccompProfile: only RuntimeDefault, podman's own; got {both['seccompProfile']}")
    if "runAsUser" not in both:
        raise Untranslatable(f"{where}: no runAsUser, so the image's user would decide")
    if both.get("runAsNonRoot") and both["runAsUser"] == 0:
        raise Untranslatable(f"{where}: runAsNonRoot and user 0")
    arguments = [f"--user={both['runAsUser']}:{both.get('runAsGroup', 0)}"]
    if "fsGroup" in both:
        arguments.append(f"--group-add={both['fsGroup']}")
    if both.get("readOnlyRootFilesystem"):
        # podman would make /tmp, /run and /var/tmp writable, which Kubernetes does not.
        arguments += ["--read-only", "--read-only-tmpfs=false"]
    if both.get("allowPrivilegeEscalation") is False:
        arguments.append("--security-opt=no-new-privileges")
    capabilities = both.get("capabilities", {})
    arguments += [f"--cap-drop={name}" for name in capabilities.get("drop", ())]
    arguments += [f"--cap-add={name}" for name in capabilities.get("add", ())]
    return tuple(arguments)


def _probe(probe: Mapping[str, Any] | None, container: Mapping[str, Any], pod: Pod) -> Probe | None:
    if probe is None:
        return None
    where = f"{pod.name}.{container['name']} probe"
    check("probe", probe, where)
    http = probe.get("httpGet")
    if http is not None and set(http) - {"path", "port", "scheme"}:
        raise Untranslatable(f"{where}: httpGet {sorted(http)}; only path, port and scheme are translated")
    return Probe(
        command=tuple(probe["exec"]["command"]) if "exec" in probe else None,
        http=None
        if http is None
        else (http.get("scheme", "HTTP").lower(), http["path"], _port(http["port"], container)),
        tcp_port=_port(probe["tcpSocket"]["port"], container) if "tcpSocket" in probe else None,
        initial_delay=float(probe.get("initialDelaySeconds", 0)),
        period=float(probe.get("periodSeconds", 10)),
        timeout=float(probe.get("timeoutSeconds", 1)),
        failures=int(probe.get("failureThreshold", 3)),
        successes=int(probe.get("successThreshold", 1)),
    )


def _port(port: int | str, container: Mapping[str, Any]) -> int:
    if isinstance(port, int):
        return port
    for named in container.get("ports", ()):
        if named.get("name") == port:
            return int(named["containerPort"])
    raise Untranslatable(f"{container['name']}: no port named {port}")


def _pre_stop(container: Mapping[str, Any], pod: Pod) -> tuple[str, ...] | None:
    lifecycle = container.get("lifecycle", {})
    if set(lifecycle) - {"preStop"} or set(lifecycle.get("preStop", {"exec": None})) != {"exec"}:
        raise Untranslatable(
            f"{pod.name}.{container['name']}.lifecycle: only preStop.exec is translated; got {lifecycle}"
        )
    return tuple(lifecycle["preStop"]["exec"]["command"]) if lifecycle else None
