"""The parent's end of a worker: starts it with its threads set, asks, and tells missing, failed and stopped apart."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

Reply = dict[str, Any]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
_SOURCE = Path(__file__).resolve().parents[2]
_LOG_BYTES = 2_000


class PeerMissing(Exception):
    """The peer's library cannot be imported; the message says why."""


class PeerFailed(Exception):
    """The peer raised, died or did not answer; the message says what it said last."""


class PeerProcess:
    """A worker. Use as a context manager: the process is gone afterwards."""

    def __init__(self, target: str, dataset: Path, folder: Path, threads: int) -> None:
        """Start it, and do not wait for it."""
        self._log = folder.parent / f"{folder.name}-{threads}.log"
        command = ["env", *(f"{name}={threads}" for name in _THREAD_VARIABLES), f"PYTHONPATH={_SOURCE}", sys.executable]
        command += ["-m", "benchmarks.engine.worker", target, str(dataset), str(folder), str(threads)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._hello: Reply | None = None

    def hello(self) -> Reply:
        """What the worker says of its peer, once its library is imported. PeerMissing, PeerFailed."""
        if self._hello is None:
            self._hello = self._reply(None)
        if "missing" in self._hello:
            raise PeerMissing(self._hello["missing"])
        return self._hello

    def ask(self, do: str, *, timeout: float | None = None, **arguments: Any) -> Reply:
        """The reply to a request. PeerFailed; TimeoutError, with the process stopped, after `timeout` seconds."""
        self.hello()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(f"{do}: the process is gone; it said last: {self._last_words()}") from None
        reply = self._reply(timeout)
        if "error" in reply:
            raise PeerFailed(f"{do}: {reply['error']}")
        return reply

    def _reply(self, timeout: float | None) -> Reply:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            if not ready.select(timeout):
                self.close()
                raise TimeoutError(f"no answer in {timeout} s")
        line = stdout.readline()
        if not line:
            code = self._process.wait()
            raise PeerFailed(f"the process ended with {code}; it said last: {self._last_words()}")
        reply: Reply = json.loads(line)
        return reply

    def _last_words(self) -> str:
        return self._log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()

    def close(self) -> None:
        """Stop it. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
