"""A real service on loopback, in a thread of the test's process, with a home of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np

from cluster import Cluster
from cluster.service.gateway import Gateway, Limits
from cluster.service.serve import Listen, Service

MSGPACK = "application/msgpack"


@dataclass
class Running:
    """What a test has of a service. operator: an operator's key."""

    url: str
    cluster: Cluster
    gateway: Gateway
    operator: str

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client with a key, the operator's if none is given; "" for no key."""
        key = self.operator if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def tenant(self, name: str, **options: Any) -> None:
        """Make a tenant."""
        self.cluster.tenants.create(name, **options)

    def key(self, tenant: str | None, *scopes: str, **options: Any) -> str:
        """A key of a tenant with these scopes."""
        return self.cluster.tenants.create_key(tenant, "test", scopes=scopes, **options)[1]


@contextlib.contextmanager
def running(
    home: Path,
    *,
    limits: Limits | None = None,
    snapshot_store: str | None = None,
    listen: Listen | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """Start a service on a free port; stop it, then close its cluster."""
    with Cluster.open(home, **settings) as cluster:
        gateway = Gateway(cluster, limits=limits, snapshot_store=snapshot_store)
        service = Service(gateway, listen or Listen(port=0))
        listens = threading.Event()
        thread = threading.Thread(target=service.run, kwargs={"ready": listens.set}, name="service")
        thread.start()
        try:
            assert listens.wait(30), "the service did not begin to listen"
            _, secret = cluster.tenants.create_key(None, "test operator", scopes=("admin",))
            yield Running(service.url, cluster, gateway, secret)
        finally:
            service.stop()
            thread.join(30)
            assert not thread.is_alive(), "the service did not stop"


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as msgpack bodies have it."""
    return {"shape": list(array.shape), "data": np.ascontiguousarray(array, "<f4").tobytes()}


def post_msgpack(client: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """POST a msgpack body and ask for a msgpack answer."""
    return client.post(
        path, content=msgpack.packb(body), headers={"content-type": MSGPACK, "accept": MSGPACK, **headers}
    )


def faces_like(rows: int, dim: int = 64, seed: int = 0) -> np.ndarray:
    """Random embeddings, (rows, dim) float32."""
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
