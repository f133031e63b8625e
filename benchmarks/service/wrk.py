"""Closed-loop load by `wrk`: requests written beforehand, a fixed number of connections, one thread of the generator.

wrk is C and takes a few microseconds a request, so that two cores are left to what is measured. Each connection sends
its next request when the last one is answered. A status of 400 or more and every socket error is counted.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("load.lua")
WARM_UP_S = 2
TIMEOUT_S = 30


class LoadFailed(Exception):
    """wrk is not there, did not end in time, or printed nothing; the message has its output."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. headers: sent with each, as they are."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str]

    def request(self, body: bytes) -> bytes:
        """A whole HTTP/1.1 POST."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. statuses: answers of 400 or more. sockets: failed connects, reads and writes, and timeouts.

    generator_cpu_s: what wrk itself took of the machine.
    """

    connections: int
    requests: int
    seconds: float
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    statuses: int
    sockets: int
    generator_cpu_s: float

    @property
    def errors(self) -> int:
        """Requests that were not answered as they should be."""
        return self.statuses + self.sockets


def load(target: Target, bodies: Sequence[bytes], *, connections: int, seconds: int, warm_up: int = WARM_UP_S) -> Load:
    """Send the bodies in turn for some seconds, after a warm-up that does not count. LoadFailed."""
    with tempfile.NamedTemporaryFile(prefix="facegrid-load-") as file:
        write_requests(Path(file.name), target, bodies)
        if warm_up:
            _finished(start(target, Path(file.name), connections=connections, seconds=warm_up), warm_up)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = _finished(start(target, Path(file.name), connections=connections, seconds=seconds), seconds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read(found, connections, cpu)


def write_requests(path: Path, target: Target, bodies: Sequence[bytes]) -> None:
    """The file that the script reads."""
    with path.open("wb") as file:
        for body in bodies:
            request = target.request(body)
            file.write(len(request).to_bytes(4, "little"))
            file.write(request)


def start(target: Target, requests: Path, *, connections: int, seconds: int) -> subprocess.Popen[str]:
    """A running wrk; LoadFailed where there is none."""
    if shutil.which("wrk") is None:
        raise LoadFailed("wrk is not installed; Debian and Ubuntu have it as the package wrk")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "-s", str(SCRIPT)]
    url = f"http://{target.host}:{target.port}{target.path}"
    return subprocess.Popen([*command, url, "--", str(requests)], stdout=subprocess.PIPE, text=True)


def _finished(process: subprocess.Popen[str], seconds: int) -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=seconds + 2 * TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LoadFailed(f"wrk did not end {2 * TIMEOUT_S} s after its time") from None
    return parse(output)


def parse(output: str) -> dict[str, Any]:
    """What the script printed at the end; LoadFailed if it did not get there."""
    for line in output.splitlines():
        if line.startswith("LOAD "):
            found: dict[str, Any] = json.loads(line[5:])
            return found
    raise LoadFailed(f"wrk printed no figures: {output[-500:]!r}")


def read(found: Mapping[str, Any], connections: int, cpu_s: float) -> Load:
    """The figures as a `Load`."""
    return Load(
        connections=connections,
        requests=found["requests"],
        seconds=found["seconds"],
        per_s=found["requests"] / found["seconds"],
        p50_ms=found["p50_ms"],
        p90_ms=found["p90_ms"],
        p99_ms=found["p99_ms"],
        max_ms=found["max_ms"],
        statuses=found["statuses"],
        sockets=found["connect"] + found["read"] + found["write"] + found["timeouts"],
        generator_cpu_s=cpu_s,
    )
