"""What a request to a shard host costs the router's process, measured over TCP on this machine.

A shard host with one tiny shard serves in a process of its own; the router's side holds LANES connections to it, as if
to so many hosts, and asks all of them at once, as a fan-out does.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.server import DataServer
from coordinator.frames import encode_message
from coordinator.host import ShardHost
from coordinator.messages import ConfigureShards, CreateShard, EnrollRequest, SearchReply, SearchRequest
from coordinator.types import ShardConfig
from shard.types import EnrollBatch, FloatArray, SearchParams

LANES, ROUNDS, WARM = 16, 200, 20
SECRET = bytes(range(32))
GALLERY = "0123456789abcdef"
_ROWS = 64


def measure_wire(folder: Path, dim: int, k: int) -> dict[str, Any]:
    """router_cpu_s, host_cpu_s: CPU seconds of either process for one request; round_trip_s: wall time of one alone."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, str(folder), dim))
    process.start()
    try:
        address = here.recv()
        loop = ClientLoop(use_uvloop=True)
        clients = [DataClient(f"host-{lane}", address, SECRET, loop) for lane in range(LANES)]
        request = SearchRequest(GALLERY, (0,), _unit_rows(1, dim, 7), SearchParams(k=k, exact=True), (1,))
        found = _ask(clients, request)
        for client in clients:
            client.close()
        loop.close()
        here.send("end")
        host_cpu_s = here.recv() / (WARM * LANES + ROUNDS * LANES + ROUNDS)
        return {"lanes": LANES, **found, "host_cpu_s": host_cpu_s}
    finally:
        process.join()


def _ask(clients: list[DataClient], request: SearchRequest) -> dict[str, Any]:
    def fan_out() -> Any:
        deadline = time.monotonic() + 30.0
        futures = [client.submit(request, deadline) for client in clients]
        return [future.result(30.0) for future in futures]

    for _ in range(WARM):
        (reply, *_) = fan_out()
    assert isinstance(reply, SearchReply)
    began = time.process_time()
    for _ in range(ROUNDS):
        fan_out()
    router_cpu_s = (time.process_time() - began) / (ROUNDS * len(clients))
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        clients[0].submit(request, time.monotonic() + 30.0).result(30.0)
        times.append(time.perf_counter() - start)
    return {
        "router_cpu_s": router_cpu_s,
        "round_trip_s": float(np.median(times)),
        "request_bytes": len(encode_message(request)),
        "reply_bytes": len(encode_message(reply)),
    }


def _serve(connection: Connection, folder: str, dim: int) -> None:
    host = ShardHost("host", Path(folder))
    host.execute(CreateShard(GALLERY, 0, dim))
    host.execute(ConfigureShards((ShardConfig(GALLERY, 0, 1, "host", ("host",), ()),), (1,)))
    ids = tuple(f"template-{i:08}" for i in range(_ROWS))
    batch = EnrollBatch(_unit_rows(_ROWS, dim, 1), ids, ids, (None,) * _ROWS)
    host.execute(EnrollRequest(GALLERY, 0, 1, bytes(16), batch, False))
    server = DataServer(host, SECRET, use_uvloop=True)
    connection.send(server.address)
    began = time.process_time()
    connection.recv()
    connection.send(time.process_time() - began)
    server.close()
    host.close()


def _unit_rows(n: int, dim: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
