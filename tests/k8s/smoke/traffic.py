"""A writer and a searcher in closed loops, what was acknowledged, and the longest time without an answer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from cluster import Cluster
from cluster.client import RemoteCluster, RetryPolicy
from shard.errors import FacegridError

DIM = 128
BATCH = 4
_PAUSE_S = 0.02
"""Between two calls of a loop: one machine has all pods, and what they do counts too."""


def embedding(number: int) -> np.ndarray:
    """The embedding that belongs to a number: (DIM,) float32, unit norm, the same in every process."""
    vector = np.random.default_rng([7, number]).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def connect(url: str, key: str, authority: Path) -> RemoteCluster:
    """A client as a user would make it; calls are sent again for up to two minutes."""
    return Cluster.connect(
        url, key, verify=str(authority), timeout_s=10, retry=RetryPolicy(attempts=200, cap_s=1.0, deadline_s=120)
    )


class Loop:
    """Calls `step` until it is stopped. Answers and errors are noted with their time."""

    def __init__(self, name: str, step: Callable[[], None]) -> None:
        self.name = name
        self._step = step
        self.answers: list[float] = []
        self.errors: list[tuple[float, str]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=180)
        assert not self._thread.is_alive(), f"the {self.name} did not end"

    def _run(self) -> None:
        while not self._stopping.wait(_PAUSE_S):
            try:
                self._step()
            except FacegridError as error:
                self.errors.append((time.monotonic(), f"{type(error).__name__}: {error}"[:300]))
            else:
                self.answers.append(time.monotonic())

    def longest_gap(self, since: float, until: float) -> float:
        """Seconds of the longest time between two answers in that window, its ends counting as answers."""
        times = [since, *(t for t in self.answers if since <= t <= until), until]
        return max(after - before for before, after in itertools.pairwise(times))


class Ledger:
    """Numbers of the templates that were confirmed, and the next number that nobody has used."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.next = 0


class Traffic:
    """A writer and a searcher on one gallery. wrong: searches that gave another template than the probe's own."""

    def __init__(self, url: str, key: str, authority: Path, gallery: str, ledger: Ledger) -> None:
        self._clients = [connect(url, key, authority) for _ in range(2)]
        self._written, self._searched = (client.gallery(gallery) for client in self._clients)
        self._ledger = ledger
        self.wrong: list[str] = []
        self._random = np.random.default_rng(3)
        self.writer, self.searcher = Loop("writer", self._write), Loop("searcher", self._search)

    def __enter__(self) -> Traffic:
        self.writer.start()
        self.searcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.stop()
        self.searcher.stop()
        for client in self._clients:
            client.close()

    def _write(self) -> None:
        numbers = range(self._ledger.next, self._ledger.next + BATCH)
        # Numbers are never used again: a batch that failed may be there in part, and nobody promised that it is.
        self._ledger.next += BATCH
        self._written.enroll(
            np.stack([embedding(number) for number in numbers]),
            template_ids=[f"t{number}" for number in numbers],
            identities=[f"i{number}" for number in numbers],
        )
        self._ledger.acknowledged.extend(numbers)

    def _search(self) -> None:
        known = len(self._ledger.acknowledged)
        if not known:
            return
        number = self._ledger.acknowledged[int(self._random.integers(known))]
        batch = self._searched.search(embedding(number)[None], k=1, deadline_ms=3000)
        if batch.template_ids[0][0] != f"t{number}":
            self.wrong.append(f"t{number}: got {batch.template_ids[0]}")


def missing(client: RemoteCluster, gallery: str, numbers: list[int]) -> list[int]:
    """Those of the numbers that an exact search does not find first, with a score of 1."""
    found = client.gallery(gallery)
    lost: list[int] = []
    for start in range(0, len(numbers), 200):
        part = numbers[start : start + 200]
        batch = found.search(np.stack([embedding(number) for number in part]), k=1, exact=True)
        for row, number in enumerate(part):
            if list(batch.template_ids[row][:1]) != [f"t{number}"] or abs(float(batch.scores[row][0]) - 1) > 1e-4:
                lost.append(number)
    return lost
