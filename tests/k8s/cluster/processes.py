"""Programs that a cluster consists of: started with a log each, ended in turn."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WAIT_S = 0.5


class Processes:
    """Running programs by name. `close` ends them, the latest first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *command: str | Path) -> None:
        """In a group of its own, so that an interrupted test ends them in order."""
        with (self._logs / f"{name}.log").open("ab") as log:
            words = [str(word) for word in command]
            self._running[name] = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, limit_s: float = 30.0) -> None:
        """End one; killed after the limit. Idempotent."""
        process = self._running.pop(name, None)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def until(self, what: str, holds: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Wait until it holds; AssertionError with the log's end if a program has ended, or after the limit."""
        for _ in polls(limit_s):
            if holds():
                return
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)}"
        raise AssertionError(f"{what}: not within {limit_s:g} s")

    def log(self, name: str) -> str:
        """The end of a program's log."""
        return (self._logs / f"{name}.log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End all."""
        for name in reversed(list(self._running)):
            self.stop(name)


def polls(limit_s: float) -> Iterator[float]:
    """Seconds gone by, at each look, until the limit."""
    began = time.monotonic()
    while (gone := time.monotonic() - began) < limit_s:
        yield gone
        time.sleep(WAIT_S)
