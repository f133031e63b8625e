"""Processes in network namespaces, reached through their input and output, which no partition cuts."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, BinaryIO

from coordinator.messages import DataRequest
from coordinator.outcome import Outcome
from tests.integration.netns import Net

END_S = 60.0
"""How long a process may take to end."""


@dataclass(frozen=True)
class Send:
    """Ask a host, from here."""

    name: str
    address: tuple[str, int]
    request: DataRequest
    timeout_s: float


def write_frame(pipe: BinaryIO, value: object) -> None:
    """One pickled value with its length."""
    data = pickle.dumps(value)
    pipe.write(len(data).to_bytes(4, "little") + data)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> Any:
    """The next value, None at the end."""
    size = pipe.read(4)
    return pickle.loads(pipe.read(int.from_bytes(size, "little"))) if len(size) == 4 else None


class Piped:
    """A process in a namespace, reached through its input and output, which no partition cuts."""

    def __init__(self, net: Net, place: str, name: str, directory: str, secret: bytes) -> None:
        self._secret = secret
        command = [*net.command(place), sys.executable, "-m", "tests.integration.netns_host", name, directory]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([*command, net.address(place)], stdin=pipe, stdout=pipe)
        self._numbers = itertools.count()
        self._asked: dict[int, Future[Outcome]] = {}
        self._lock = threading.Lock()

    def begin(self) -> int:
        """Wait until it serves; its port."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        write_frame(self._process.stdin, self._secret)
        port = read_frame(self._process.stdout)
        assert port is not None, "a host did not start"
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        return int(port)

    def ask(self, work: object) -> Future[Outcome]:
        """Have something carried out there."""
        future: Future[Outcome] = Future()
        with self._lock:
            assert self._process.stdin is not None
            number = next(self._numbers)
            self._asked[number] = future
            write_frame(self._process.stdin, (number, work))
        return future

    def _read(self, pipe: Any) -> None:
        while (frame := read_frame(pipe)) is not None:
            self._asked.pop(frame[0]).set_result(frame[1])

    def close(self) -> None:
        """Let it end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        finally:
            self._process.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()
