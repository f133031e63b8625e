"""Runs `benchmarks.dedup.driver` as a process, and measures the memory of it and of its workers, together."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

SAMPLE_S = 0.05
_SOURCE = Path(__file__).resolve().parents[2]
_FIELDS = {"RssAnon:": "anonymous", "VmRSS:": "total"}


class DriverFailed(Exception):
    """The driver or its job failed; the message says how."""


@dataclass(slots=True)
class Peak:
    """Most bytes that all processes had at one moment: `anonymous` of heap and stacks, `total` with mapped files.

    Each is the most of its own. processes: the most there were. samples: how often it was looked.
    """

    anonymous: int = 0
    total: int = 0
    processes: int = 0
    samples: int = 0

    def take(self, sizes: list[dict[str, int]]) -> None:
        """One look: the sizes of each process."""
        self.anonymous = max(self.anonymous, sum(size["anonymous"] for size in sizes))
        self.total = max(self.total, sum(size["total"] for size in sizes))
        self.processes = max(self.processes, len(sizes))
        self.samples += 1


class Driver:
    """A driver under way. A context manager: it is killed if it still runs. Its workers end with it."""

    def __init__(
        self, home: Path, request: dict[str, Any], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it and wait until the home is open and the job there. environment: this process's if not given."""
        command = [sys.executable, "-m", "benchmarks.dedup.driver", str(home), json.dumps(request)]
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=_SOURCE, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
            )
        self.began = self._line()
        self.job_id: str = self.began["job_id"]
        self.directory = home / "jobs" / self.job_id

    def finished(self) -> dict[str, Any]:
        """Wait for its end; what it said. DriverFailed unless the job succeeded."""
        said = self._line()
        self.process.wait()
        if said["state"] != "succeeded":
            raise DriverFailed(f"the job is {said['state']}: {said['error']}")
        return said

    def measured(self) -> tuple[dict[str, Any], Peak]:
        """As `finished`, and the memory until then."""
        peak, stop = Peak(), threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLE_S):
                peak.take(list(sizes(family(self.process.pid))))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            return self.finished(), peak
        finally:
            stop.set()
            sampler.join()

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        return [pid for pid in family(self.process.pid) if b"cluster.jobs.worker" in _command(pid)]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        self.process.wait()
        raise DriverFailed(f"ended with {self.process.returncode}: {self._log.read_text(errors='replace')[-800:]}")

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


def family(pid: int) -> list[int]:
    """A process and all below it, as far as they are there."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        found.append(parent)
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:
                continue  # it has ended meanwhile
    return found


def sizes(pids: list[int]) -> Iterator[dict[str, int]]:
    """`anonymous` and `total` bytes of each process that is there, from /proc/<pid>/status."""
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue  # it has ended meanwhile
        values = dict(line.split(None, 1) for line in lines if line.startswith(tuple(_FIELDS)))
        if len(values) == len(_FIELDS):  # one that is ending has none
            yield {name: int(values[field].split()[0]) * 1024 for field, name in _FIELDS.items()}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
