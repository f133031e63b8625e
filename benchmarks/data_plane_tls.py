"""What TLS costs on the data plane: one shard host in its own process, with a port of each kind, asked in turn.

`python -m benchmarks.data_plane --tls` runs it. Both ports are of the same host and the same gallery, and the ways are
measured one after the other, several times, so that what else the machine does falls on both.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.server import DataServer
from coordinator.dataplane.tls import TlsContexts, TlsFiles
from coordinator.host import ShardHost
from coordinator.messages import ConfigureShards, Reply, SearchRequest
from coordinator.types import GalleryRoute, ShardConfig

SECRET = bytes(range(32))
DEADLINE_S = 30.0
Search = Callable[[SearchRequest], Reply]


def compared(
    directory: Path, host: str, route: GalleryRoute, measure: Callable[[Search], dict[str, float]], rounds: int
) -> dict[str, object]:
    """What `measure` says of the data plane without TLS and with it: the median of `rounds`, and each.

    cpu_us_a_search: microseconds of CPU of both processes for one, which other work on the machine changes less.
    directory: of a shard host that is closed and holds the gallery alone.
    """
    found: dict[str, list[dict[str, float]]] = {"plain": [], "TLS": []}
    with serving(directory, host, route) as (ways, cpu_s):
        for _ in range(rounds):
            for way, search in ways.items():
                count, began = itertools.count(), cpu_s()
                run = measure(_counted(search, count))
                used_s = cpu_s() - began
                found[way].append({**run, "cpu_us_a_search": round(used_s * 1e6 / next(count), 1)})
    medians = {
        way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in found.items()
    }
    return {"cores": os.cpu_count(), "rounds": rounds, **medians, "runs": found}


@contextlib.contextmanager
def serving(directory: Path, host: str, route: GalleryRoute) -> Iterator[tuple[dict[str, Search], Callable[[], float]]]:
    """A search by each way, and what says how many seconds of CPU both processes have used."""
    with tempfile.TemporaryDirectory() as scratch:
        files = self_signed(Path(scratch))
        here, there = multiprocessing.Pipe()
        arguments = (there, directory, host, route, files)
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
        process.start()
        loop = ClientLoop(use_uvloop=True)
        plain, tls = here.recv()
        clients = [
            DataClient(host, plain, SECRET, loop),
            DataClient(host, tls, SECRET, loop, TlsContexts(files)),
        ]

        def cpu_s() -> float:
            here.send("cpu")
            theirs: float = here.recv()
            return theirs + time.process_time()

        try:
            yield {"plain": _search(clients[0]), "TLS": _search(clients[1])}, cpu_s
        finally:
            for client in clients:
                client.close()
            loop.close()
            here.send("end")
            process.join()


def _counted(search: Search, count: Iterator[int]) -> Search:
    def counting(request: SearchRequest) -> Reply:
        next(count)
        return search(request)

    return counting


def _search(client: DataClient) -> Search:
    return lambda request: client.submit(request, time.monotonic() + DEADLINE_S).result()


def _serve(connection: Connection, directory: Path, name: str, route: GalleryRoute, files: TlsFiles) -> None:
    host = ShardHost(name, directory)
    configs = tuple(
        ShardConfig(route.gallery_id, shard, epoch, name, (name,), ()) for shard, epoch in enumerate(route.epochs)
    )
    host.execute(ConfigureShards(configs, (1,) * len(configs)))
    plain = DataServer(host, SECRET, use_uvloop=True)
    tls = DataServer(host, SECRET, use_uvloop=True, tls=TlsContexts(files))
    connection.send((plain.address, tls.address))
    while connection.recv() == "cpu":
        connection.send(time.process_time())
    for server in (plain, tls):
        server.close()
    host.close()


def self_signed(directory: Path) -> TlsFiles:
    """A certificate on P-256 that is its own authority, for both ends."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "tls.crt")
    files.certificate.write_bytes(certificate)
    files.private_key.write_bytes(private)
    return files
