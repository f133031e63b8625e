"""The adapters, a module for each library or kind of index, and `PEERS`, which names them all.

`PEERS` holds names of classes and not classes, so that listing them imports no library.
"""

from __future__ import annotations

PEERS = {
    "facegrid": "benchmarks.engine.peers.facegrid:Facegrid",
    "faceflash": "benchmarks.engine.peers.face_flash:FaceFlash",
    "faiss-flat": "benchmarks.engine.peers.faiss_flat:FaissFlat",
    "faiss-binary": "benchmarks.engine.peers.faiss_binary:FaissBinary",
    "faiss-ivfpq": "benchmarks.engine.peers.faiss_ivf:FaissPQFastScan",
    "faiss-rabitq": "benchmarks.engine.peers.faiss_ivf:FaissRaBitQ",
    "faiss-rabitq-fs": "benchmarks.engine.peers.faiss_ivf:FaissRaBitQFastScan",
    "hnswlib": "benchmarks.engine.peers.hnsw:Hnswlib",
    "usearch-f16": "benchmarks.engine.peers.usearch_graphs:UsearchF16",
    "usearch-b1": "benchmarks.engine.peers.usearch_graphs:UsearchB1",
    "scann": "benchmarks.engine.peers.scann_tree:Scann",
}
"""Name to module:class, in the order measured and shown."""
