"""What a kubelet does for its pods, with podman: init containers, probes, restarts, preStop and the grace period."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.k8s.pods.containers import Container, Probe, RunnablePod
from tests.k8s.smoke.podman import PodmanFailed, containers, execute, logs, podman
from tests.k8s.smoke.probing import succeeds
from tests.k8s.smoke.storage import Storage


@dataclass(slots=True)
class RunningPod:
    """One incarnation of a pod: `container` is its podman name, `address` its IP, which no other pod ever had."""

    runnable: RunnablePod
    container: str
    key: str
    address: str
    is_started: bool = False
    is_ready: bool = False
    is_ending: bool = False
    restarts: int = 0
    seen: dict[str, str] = field(default_factory=dict)
    began_s: float = 0.0
    _due: dict[str, float] = field(default_factory=dict)
    _row: dict[str, int] = field(default_factory=dict)
    _retry_s: float = 0.0

    @property
    def name(self) -> str:
        return self.runnable.pod.name


class Kubelet:
    """Runs pods on the network `network`. `aliases` says which names resolve to a pod; call `close` at the end."""

    def __init__(self, run: str, label: str, network: str, root: Path, aliases: Callable[[RunnablePod], list[str]]):
        self._run, self._label, self._network, self._aliases = run, label, network, aliases
        self.storage = Storage(run, label, root)
        self._numbers = itertools.count(1)
        self.pods: dict[str, RunningPod] = {}
        self.extra: list[str] = []
        self._closing = threading.Event()
        self._workers = ThreadPoolExecutor(max_workers=6)
        self._busy: set[tuple[str, str]] = set()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def start(self, pod: RunnablePod, address: str) -> RunningPod:
        """Runs init containers to their end, then the container. Raises PodmanFailed if an init container fails."""
        key = f"{pod.pod.name}-{next(self._numbers)}"
        running = RunningPod(pod, f"{self._run}-{key}", key, address)
        for init in pod.init:
            self._run_container(running, init, f"{running.container}-{init.name}", is_init=True)
        self._run_container(running, pod.main, running.container, is_init=False)
        running.began_s = time.monotonic()
        running.is_started = pod.main.startup is None
        self.pods[pod.pod.name] = running
        return running

    def _run_container(self, running: RunningPod, container: Container, name: str, *, is_init: bool) -> None:
        pod = running.runnable
        arguments = ["run", f"--name={name}", f"--label={self._label}", f"--hostname={pod.pod.name}"]
        arguments += ["--no-healthcheck", "--rm" if is_init else "--detach"]
        arguments += [f"--network={self._network}:ip={running.address}"]
        if not is_init:
            arguments += [f"--network-alias={alias}" for alias in self._aliases(pod)]
        if container.memory_bytes is not None:
            arguments += [f"--memory={container.memory_bytes}", f"--memory-swap={container.memory_bytes}"]
        arguments += [*container.arguments, *self.extra]
        arguments += [f"--env={key}={value}" for key, value in container.environment.items()]
        arguments += self.storage.arguments(running.key, container, pod.group)
        if container.entrypoint is not None:
            arguments.append(f"--entrypoint={container.entrypoint}")
        podman(*arguments, container.image, *container.words, timeout=300)

    def delete(self, running: RunningPod, *, grace_s: float | None = None) -> str:
        """As `kubectl delete pod`: preStop and SIGTERM within the grace, then SIGKILL. Returns what preStop said."""
        running.is_ending, running.is_ready = True, False
        grace = running.runnable.grace_s if grace_s is None else grace_s
        end = time.monotonic() + grace
        said = ""
        command = running.runnable.main.pre_stop
        if command is not None and grace > 0:
            status, output = execute(running.container, *command, timeout=grace)
            said = f"status {status}: {output}"
        left = max(0, round(end - time.monotonic()))
        podman("stop", "--time", str(left), running.container, timeout=grace + 60)
        self.forget(running)
        return said

    def lose(self, running: RunningPod) -> None:
        """SIGKILL and away with the container, as with a node that died. Claims stay."""
        running.is_ending, running.is_ready = True, False
        podman("kill", "--signal", "KILL", running.container)
        self.forget(running)

    def forget(self, running: RunningPod) -> None:
        podman("rm", "--force", "--volumes", "--time", "0", running.container)
        self.storage.forget_pod(running.key)
        if self.pods.get(running.name) is running:
            del self.pods[running.name]

    def logs(self, running: RunningPod, lines: int = 60) -> str:
        """Its last lines."""
        return logs(running.container, lines)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._workers.shutdown(wait=True)

    def _loop(self) -> None:
        checked = 0.0
        while not self._closing.wait(0.2):
            now = time.monotonic()
            for running in list(self.pods.values()):
                if not running.is_ending:
                    self._probe_due(running, now)
            if now - checked > 2:
                checked = now
                self._restart_ended(now)

    def _probe_due(self, running: RunningPod, now: float) -> None:
        main = running.runnable.main
        kinds: list[tuple[str, Probe | None]] = [("startup", main.startup)]
        if running.is_started:
            kinds = [("liveness", main.liveness), ("readiness", main.readiness)]
        for kind, probe in kinds:
            if probe is None:
                running.is_ready = running.is_ready or kind == "readiness"
                continue
            due = running._due.get(kind, running.began_s + probe.initial_delay)
            if now >= due and (running.key, kind) not in self._busy:
                running._due[kind] = now + probe.period
                self._busy.add((running.key, kind))
                self._workers.submit(self._probe, running, kind, probe)

    def _probe(self, running: RunningPod, kind: str, probe: Probe) -> None:
        try:
            is_good, seen = succeeds(probe, running.container, running.address)
            running.seen[kind] = seen
            row = running._row.get(kind, 0)
            row = max(row, 0) + 1 if is_good else min(row, 0) - 1
            running._row[kind] = row
            if not running.is_ending:
                self._judge(running, kind, probe, row)
        finally:
            self._busy.discard((running.key, kind))

    def _judge(self, running: RunningPod, kind: str, probe: Probe, row: int) -> None:
        if kind == "startup" and row >= probe.successes:
            running.is_started = True
        elif kind == "readiness" and row >= probe.successes:
            running.is_ready = True
        elif kind == "readiness" and -row >= probe.failures:
            running.is_ready = False
        elif kind in ("startup", "liveness") and -row >= probe.failures:
            # The container ends and is started again below, in the same pod, with the same address.
            podman("stop", "--time", "30", running.container, must=False)

    def _restart_ended(self, now: float) -> None:
        try:
            ended = {name for one in containers(self._label) if one["State"] == "exited" for name in one["Names"]}
        except (PodmanFailed, ValueError):
            return
        for running in list(self.pods.values()):
            if running.container not in ended or running.is_ending or now < running._retry_s:
                continue
            running.is_ready = False
            running.is_started = running.runnable.main.startup is None
            running._row.clear()
            running._due.clear()
            running.restarts += 1
            running._retry_s = now + min(300, 10 * 2 ** (running.restarts - 1))
            running.began_s = now
            podman("start", running.container, must=False)
