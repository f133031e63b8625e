"""A shard host in a process that a test puts into a network namespace: `python -m tests.integration.netns_host`.

Arguments: name, directory, address to bind; without a directory there is no host, only a client in that namespace.
Data requests come over the network as ever. What the coordinator would call on an actor, and what the client shall ask
of whom, comes pickled through this process's input, each with a number; outcomes go to its output with that number.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.server import DataServer
from coordinator.host import ShardHost
from coordinator.messages import ControlRequest
from coordinator.outcome import outcome_of
from coordinator.peer_clients import PeerClients
from coordinator.peers import Leases
from tests.integration.piped import Send, read_frame, write_frame


class Process:
    """What this process can do."""

    def __init__(self, name: str, directory: str, bind: str, secret: bytes) -> None:
        self._secret = secret
        self._loop = ClientLoop(use_uvloop=True)
        self._clients: dict[str, DataClient] = {}
        self._host: ShardHost | None = None
        self._server: DataServer | None = None
        self._peers = PeerClients(name, secret)
        self._lock = threading.Lock()
        self.port = 0
        if directory:
            self._host = ShardHost(name, Path(directory), self._peers, leases=Leases(name))
            self._server = DataServer(self._host, secret, bind, use_uvloop=True)
            self.port = self._server.address[1]

    def carry_out(self, work: ControlRequest | Send) -> object:
        """A control request here, or a data request elsewhere."""
        if not isinstance(work, Send):
            assert self._host is not None
            return self._host.execute(work)
        with self._lock:
            if work.name not in self._clients:
                self._clients[work.name] = DataClient(work.name, work.address, self._secret, self._loop)
        client = self._clients[work.name]
        return client.submit(work.request, time.monotonic() + work.timeout_s).result()

    def close(self) -> None:
        """As a host's actor does it."""
        if self._server is not None and self._host is not None:
            self._server.close()
            self._host.close()
        self._peers.close()
        for client in self._clients.values():
            client.close()
        self._loop.close()


def main() -> None:
    """Serve until the input ends."""
    pipe_in, pipe_out = sys.stdin.buffer, sys.stdout.buffer
    name, directory, bind = sys.argv[1:4]
    process = Process(name, directory, bind, read_frame(pipe_in))
    write_frame(pipe_out, process.port)
    writing = threading.Lock()

    def answer(number: int, work: ControlRequest | Send) -> None:
        outcome = outcome_of(lambda: process.carry_out(work), name)
        with writing:
            write_frame(pipe_out, (number, outcome))

    while (frame := read_frame(pipe_in)) is not None:
        threading.Thread(target=answer, args=frame, daemon=True).start()
    process.close()


if __name__ == "__main__":
    main()
