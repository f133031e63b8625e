"""Forks a child for each case: it has imported everything and started no thread, so a case costs milliseconds.

`python -m tests.crash.forkserver` reads requests from stdin, {"call": "module:function", "arguments": {…}}. A child
calls the function with `say`, which writes a line of JSON to stdout; after the child's last line the server writes
{"exit": status}, its exit code or minus the signal that ended it. One case at a time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30
"""A child that takes longer hangs."""


@dataclass(frozen=True)
class Report:
    """The lines that a child said, and how it ended."""

    lines: list[dict[str, Any]]
    exit: int

    def said(self, word: str) -> list[Any]:
        """The values of every line with this word."""
        return [line[word] for line in self.lines if word in line]

    @property
    def is_killed(self) -> bool:
        return self.exit == -signal.SIGKILL


class ForkServer:
    """The client's side. `shim`: a library to preload."""

    def __init__(self, errors: Path, shim: Path | None = None) -> None:
        # One BLAS thread: it would be started on import, and a forked child has no threads but its own.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        if shim is not None:
            environ["LD_PRELOAD"] = str(shim)
        self._errors_path = errors
        self._errors: IO[bytes] = errors.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forkserver"],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._rest = b""

    def call(self, function: str, **arguments: Any) -> Report:
        """Run `module:function` in a child of its own."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"call": function, "arguments": arguments}).encode() + b"\n")
        self._process.stdin.flush()
        lines = []
        for line in self._lines():
            if "exit" in line:
                return Report(lines, line["exit"])
            lines.append(line)
        raise AssertionError(f"the fork server ended: {self._errors_path.read_text()[-2_000:]}")

    def _lines(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                yield json.loads(line)
                continue
            assert select.select([fd], [], [], 2 * DEADLINE_S)[0], "the fork server hangs"
            more = os.read(fd, 1 << 16)
            if not more:
                return
            self._rest += more

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(DEADLINE_S)
        self._errors.close()


def say(**words: Any) -> None:
    """Report; a line that was written is there even if this process is killed next."""
    data = json.dumps(words).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    for module in ("workload", "damage", "resources", "home"):
        importlib.import_module(f"tests.crash.{module}")
    # What children would import at its first use takes longer than their cases do.
    for module in ("cluster.api", "numpy.ma", "numpy.random", "numpy.testing"):
        importlib.import_module(module)
    gc.freeze()  # no child collects what they share
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads: a child would lack all but one"
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_serve(request))
        status = os.waitpid(child, 0)[1]
        say(exit=os.waitstatus_to_exitcode(status))


def _serve(request: dict[str, Any]) -> int:
    signal.alarm(DEADLINE_S)
    try:
        module, _, name = request["call"].partition(":")
        getattr(importlib.import_module(module), name)(say, **request["arguments"])
    except BaseException:  # noqa: BLE001  (the child's boundary: whatever it was is reported)
        traceback.print_exc()
        say(wrong=f"raised {traceback.format_exc()[-1_500:]}")
        return 1
    return 0


if __name__ == "__main__":
    main()
