"""deepface's API server: `POST /search` under gunicorn with one worker, as in its Dockerfile; SQLite, FAISS HNSW.

Its server takes images only. So that the same embeddings are searched, the recognition network is replaced by a table:
an image's first pixels say which probe it is, and its embedding is looked up. Everything else is deepface's own: the
server, its database, its index (`build_index`), its search. What a network and a detector would take is left out, in
its favour. The gallery is written by deepface's own database client.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.service import wrk
from benchmarks.service.side import CALLERS, Figures, Task, found_rows, task, tell

MODEL, DETECTOR = "Facenet512", "skip"
TABLE = "FACEGRID_BENCH_PROBES"
_SOURCE = Path(__file__).resolve().parents[3]
_READY_S = 60


class Table:
    """A recognition network that knows the answers."""

    model_name, input_shape, output_shape = MODEL, (2, 2), 512

    def __init__(self) -> None:
        self._probes = np.load(os.environ[TABLE])

    def forward(self, img: Any) -> list[float]:
        """The embedding of the probe whose number is in the image's blue and green."""
        pixel = np.round(np.asarray(img).reshape(-1, 3)[0] * (255 if img.max() <= 1 else 1)).astype(int)
        embedding: list[float] = self._probes[pixel[0] * 256 + pixel[1]].tolist()
        return embedding


def app() -> Any:
    """What gunicorn runs: deepface's application with the table for a network."""
    from deepface.modules import modeling

    modeling.build_model.__globals__["cached_models"] = {task: {} for task in modeling.AVAILABLE_MODELS}
    modeling.build_model.__globals__["cached_models"]["facial_recognition"][MODEL] = Table()
    from deepface.api.src.app import create_app

    return create_app()


def main() -> None:
    """Fill the database, build the index, serve, search; stop."""
    given, result = task()
    database = given.folder / "deepface.db"
    np.save(given.folder / "table.npy", given.probes)
    os.environ |= {
        TABLE: str(given.folder / "table.npy"),
        "DEEPFACE_HOME": str(given.folder),
        "DEEPFACE_DATABASE_TYPE": "sqlite",
        "DEEPFACE_SQLITE_PATH": str(database),
        "DEEPFACE_LOG_LEVEL": "40",
    }
    begin = time.perf_counter()
    _fill(given, database)
    build_s = time.perf_counter() - begin
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "gunicorn", "--workers=1", "--timeout=7200", f"--bind=127.0.0.1:{port}",
        "--log-level=error", "benchmarks.service.peers.deepface_server:app()",
    ]  # fmt: skip
    server = subprocess.Popen(command, cwd=_SOURCE)
    try:
        target = wrk.Target("127.0.0.1", port, "/search", {"Content-Type": "application/json"})
        _wait(port)
        found = found_rows(lambda probe: _asked(target, _body(_number(given, probe), given.k)), given)
        tell(result, build_s=build_s, found=found, figures=_figures(target, given), packages=["deepface", "faiss-cpu"])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def _fill(given: Task, database: Path) -> None:
    from deepface import DeepFace
    from deepface.modules.database.sqlite import SqliteClient

    client = SqliteClient(str(database))
    for first in range(0, len(given.rows), 1_000):
        client.insert_embeddings(
            [
                {
                    "img_name": f"t{row:07d}",
                    "face": np.array([[[row]]], dtype=np.float32),
                    "model_name": MODEL,
                    "detector_backend": DETECTOR,
                    "aligned": True,
                    "l2_normalized": True,
                    "embedding": given.rows[row].tolist(),
                }
                for row in range(first, min(first + 1_000, len(given.rows)))
            ]
        )
    client.close()
    DeepFace.build_index(
        model_name=MODEL,
        detector_backend=DETECTOR,
        l2_normalize=True,
        database_type="sqlite",
        connection_details=str(database),
    )


def _wait(port: int) -> None:
    end = time.perf_counter() + _READY_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
        except OSError:
            if time.perf_counter() > end:
                raise
            time.sleep(0.2)
        else:
            return


def _number(given: Task, probe: Any) -> int:
    return int(np.flatnonzero((given.probes == probe).all(axis=1))[0])


def _body(number: int, k: int) -> bytes:
    image = "data:image/png;base64," + base64.b64encode(_png(number)).decode()
    return json.dumps(
        {
            "img": image,
            "model_name": MODEL,
            "detector_backend": DETECTOR,
            "l2_normalize": True,
            "search_method": "ann",
            "similarity_search": True,
            "k": k,
        }
    ).encode()


def _png(number: int) -> bytes:
    """Two by two pixels of one colour: red 0, green the low byte of the number, blue the high one."""
    colour = bytes([0, number % 256, number // 256])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + colour * 2 for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _asked(target: wrk.Target, body: bytes) -> Sequence[int]:
    url = f"http://{target.host}:{target.port}{target.path}"
    with urllib.request.urlopen(urllib.request.Request(url, body, dict(target.headers))) as answer:
        said = json.loads(answer.read())
    return [int(hit["img_name"][1:]) for hit in said["results"][0]]


def _figures(target: wrk.Target, given: Task) -> Figures:
    bodies = [_body(number, given.k) for number in range(len(given.probes))]
    seconds = max(10, round(given.seconds))
    single = wrk.load(target, bodies, connections=1, seconds=seconds)
    # Without a warm-up: what is left of it would still be worked on.
    crowd = wrk.load(target, bodies, connections=CALLERS, seconds=seconds, warm_up=0)
    return Figures(
        single.p50_ms, single.p99_ms, single.per_s, crowd.p50_ms, crowd.p99_ms, crowd.per_s, crowd.errors, None
    )


if __name__ == "__main__":
    main()
