"""Reads over real sockets while the process of a replica is stopped (SIGSTOP): it accepts, and never answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.host import ShardHost
from coordinator.messages import ControlRequest, DataRequest, EnrollRequest, Reply
from coordinator.router import Router
from coordinator.types import Coverage, GalleryRoute
from shard.types import SearchParams
from tests.faces_like import batch_of, unit_rows
from tests.hosts import create_alone

SECRET = "0123456789abcdef0123456789abcdef"
GALLERY, DIM, SHARDS = "0123456789abcdef", 64, 2
ROUTE = GalleryRoute(GALLERY, "acme/staff", DIM, 256, None, (("a", "b"), ("b", "a")), (1, 1), None, 1)
ROWS = unit_rows(50, DIM, seed=1)


class Served:
    """A runtime of hosts in processes of their own, which are filled before they are served."""

    def __init__(self, directory: Path) -> None:
        self._loop = ClientLoop()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.clients: dict[str, DataClient] = {}
        for name in ("a", "b"):
            _fill(ShardHost(name, directory / name))
            command = [sys.executable, "-m", "tests.integration.serve_host", name, str(directory / name)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.processes[name] = process
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{SECRET}\n")
            process.stdin.flush()
            address = ("127.0.0.1", int(process.stdout.readline()))
            self.clients[name] = DataClient(name, address, SECRET.encode(), self._loop)

    def hosts(self) -> tuple[str, ...]:
        return tuple(self.clients)

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        return self.clients[host].submit(request, deadline)

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        raise NotImplementedError("control does not travel over the data plane")

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self._loop.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.communicate()


def _fill(host: ShardHost) -> None:
    for shard in range(SHARDS):
        create_alone(host, GALLERY, shard, DIM)
        host.execute(
            EnrollRequest(GALLERY, shard, 1, b"", batch_of(ROWS[shard::SHARDS], f"s{shard}-"), skip_existing=False)
        )
    host.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    yield opened
    opened.close()


def test_a_stopped_replica_delays_reads_and_fails_none(served: Served) -> None:
    router, probes, params = Router(served), unit_rows(3, DIM, seed=2), SearchParams(k=50, exact=True)
    whole = router.search(ROUTE, probes, params)
    for _ in range(40):
        router.search(ROUTE, probes, params)
    served.processes["a"].send_signal(signal.SIGSTOP)
    seconds = []
    for _ in range(60):
        begun = time.monotonic()
        found = router.search(ROUTE, probes, params, deadline_ms=60_000)
        seconds.append(time.monotonic() - begun)
        assert found.coverage == Coverage(SHARDS, SHARDS)
        assert found.candidates.template_ids == whole.candidates.template_ids
        assert [stats.templates for stats in router.stats(ROUTE)] == [25, 25]
    print(f"with a stopped replica: slowest {max(seconds) * 1e3:.1f} ms, median {sorted(seconds)[30] * 1e3:.2f} ms")
    print(*router.health(), sep="\n")
    served.processes["a"].send_signal(signal.SIGCONT)
    assert router.search(ROUTE, probes, params).candidates.template_ids == whole.candidates.template_ids


def test_a_killed_replica_is_not_noticed(served: Served) -> None:
    router, probes, params = Router(served), unit_rows(3, DIM, seed=2), SearchParams(k=50, exact=True)
    whole = router.search(ROUTE, probes, params)
    served.processes["a"].kill()
    for _ in range(20):
        found = router.search(ROUTE, probes, params)
        assert found.coverage == Coverage(SHARDS, SHARDS)
        assert found.candidates.template_ids == whole.candidates.template_ids
