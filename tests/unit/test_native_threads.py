"""The compiled extension under several threads."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np

from shard import _native
from tests.unit.native_gallery import DIM, LISTS, PLANES, Gallery, cascade, make_probes


def test_rows_are_found_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    """A writer fills a mapped, preallocated file by plain writes while two readers search; each row is seen whole."""
    rows, step = 4_000, 40
    gallery = Gallery(tmp_path, (rows,))
    index = _native.Index(DIM)
    index.set_codes(PLANES, LISTS, [])
    path = tmp_path / "tail"
    with path.open("wb") as file:
        file.truncate(rows * DIM * 4)
    index.open_segment(str(path), rows)
    failures: list[str] = []
    done = threading.Event()

    def write() -> None:
        try:
            with path.open("r+b", buffering=0) as file:
                for first in range(0, rows, step):
                    part = slice(first, first + step)
                    file.write(gallery.floats[part].tobytes())
                    index.append(gallery.keys[part], gallery.coded[part])
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            seen = index.rows
            if seen == 0:
                continue
            row = seen - 1
            probe = gallery.floats[row : row + 1]
            # The row's own bits as projections: no other row agrees as much.
            values = np.unpackbits(gallery.codes[row : row + 1], axis=1).astype(np.float32) * 2 - 1
            for stage in (None, cascade(values, 1e9)):
                _, found, scores, _ = _native.search([index], probe, [stage], 1)
                if found[0, 0] != row or abs(scores[0, 0] - 1) > 1e-5:
                    failures.append(f"row {row} of {seen}: found {found[0, 0]} with {scores[0, 0]}")

    threads = [threading.Thread(target=target) for target in (read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert index.rows == rows


def test_the_gil_is_released_while_searching(tmp_path: Path) -> None:
    """A thread that waits for the GIL gets it although the main thread does nothing but search.

    The interpreter is told not to switch threads by itself, so that the other thread runs only if a search lets it.
    """
    gallery = Gallery(tmp_path, (3_000,))
    probes, values = make_probes(64)
    gate = threading.Lock()
    has_run = threading.Event()

    def run() -> None:
        with gate:
            has_run.set()

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=run)
    gate.acquire()
    thread.start()
    sys.setswitchinterval(1_000.0)
    try:
        gate.release()
        searches = 0
        while not has_run.is_set() and searches < 5_000:
            _native.search([gallery.index], probes, [cascade(values, 0)], 10)
            searches += 1
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert searches < 5_000, "no other thread ran during 5,000 searches"
