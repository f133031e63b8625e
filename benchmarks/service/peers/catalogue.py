"""The peers: what each is, what it installs, how it is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """packages: for pip; none runs in this environment. needs_namespace: it listens on every address of the machine."""

    name: str
    module: str
    over: str
    exactness: str
    packages: tuple[str, ...]
    needs_namespace: bool = False


PEERS = (
    Peer("Facegrid, library", "facegrid_local", "in process", "recall 0.999 asked for", ()),
    Peer("Qdrant local mode", "qdrant_local", "in process", "exact", ("qdrant-client>=1.16",)),
    Peer("Qdrant Edge", "qdrant_edge", "in process", "HNSW, its defaults", ("qdrant-edge-py>=0.7", "numpy")),
    Peer(
        "Milvus Lite", "milvus_lite", "in process (gRPC)", "HNSW 16/200, its search defaults",
        ("pymilvus>=2.6", "milvus-lite>=2.5"),
    ),
    Peer(
        "Milvus server", "milvus_server", "HTTP (batches: gRPC)", "HNSW 16/200, its search defaults",
        ("milvus", "pymilvus>=2.3,<2.4", "marshmallow<4", "setuptools<80"), needs_namespace=True,
    ),
    Peer(
        "deepface server", "deepface_server", "HTTP", "HNSW 32, its defaults; no network, see the module",
        ("deepface[api]", "faiss-cpu"),
    ),
)  # fmt: skip
