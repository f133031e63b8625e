"""A mixed load on a gallery while a test breaks things, with an oracle of what was acknowledged.

Each writer has template ids of its own and does one thing after another: enroll, delete, overwrite (delete and enroll
again with other floats). What a searcher may find follows from what was acknowledged before it asked and was not
touched until it was told. Every error that reaches a caller is kept: the test says which are allowed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from coordinator.router import Router
from coordinator.types import GalleryRoute
from shard.errors import FacegridError
from shard.types import MAX_K, SearchParams
from tests.faces_like import batch_of, unit_rows

DEADLINE_MS = 60_000
"""Of a search: longer than any recovery may take, so that every error that a search meets is one too many."""
KEPT = 60
"""Templates that a writer has at a time; with those that were there before, less than MAX_K."""


@dataclass
class Known:
    """One template id. floats: None while it is deleted; is_sure: no operation on it is under way or in doubt."""

    floats: np.ndarray | None
    is_sure: bool = True
    version: int = 0


class Oracle:
    """What was acknowledged, by template id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.templates: dict[str, Known] = {}

    def add(self, ids: tuple[str, ...], floats: np.ndarray | None) -> None:
        """Acknowledged without anybody having seen it on its way."""
        with self.changing(ids, floats):
            pass

    @contextmanager
    def changing(self, ids: tuple[str, ...], floats: np.ndarray | None) -> Iterator[None]:
        """An operation on these ids; they become what it makes of them, or stay in doubt if it raises."""
        with self._lock:
            for name in ids:
                known = self.templates.setdefault(name, Known(None))
                known.is_sure, known.version = False, known.version + 1
        yield
        with self._lock:
            for number, name in enumerate(ids):
                known = self.templates[name]
                known.floats, known.is_sure = None if floats is None else floats[number], True

    def sure(self) -> dict[str, tuple[int, bool]]:
        """Version, and whether it is there, of every id that nothing is done to just now."""
        with self._lock:
            return {n: (k.version, k.floats is not None) for n, k in self.templates.items() if k.is_sure}

    def alive(self) -> dict[str, bytes]:
        """The floats of what is there for sure."""
        with self._lock:
            return {n: k.floats.tobytes() for n, k in self.templates.items() if k.is_sure and k.floats is not None}

    def doubtful(self) -> set[str]:
        """Ids of operations that failed."""
        with self._lock:
            return {name for name, known in self.templates.items() if not known.is_sure}

    def floats_of(self, name: str) -> np.ndarray | None:
        """What it has now."""
        with self._lock:
            return self.templates[name].floats


@dataclass(frozen=True)
class Done:
    """An operation that succeeded, in time.monotonic() seconds."""

    began: float
    ended: float


@dataclass
class Load:
    """Threads that write and search until `stop`. Look at `errors` and `wrong` afterwards.

    first_id: another number for each load on an oracle.
    """

    router: Router
    route: GalleryRoute
    oracle: Oracle
    writers: int = 2
    searchers: int = 2
    first_id: int = 0
    writes: list[Done] = field(default_factory=list)
    searches: list[Done] = field(default_factory=list)
    errors: list[tuple[float, str, BaseException]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._write, args=(i,), name=f"writer-{i}") for i in range(self.writers)),
            *(threading.Thread(target=self._search, args=(i,), name=f"searcher-{i}") for i in range(self.searchers)),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let what is under way end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        rng = np.random.default_rng(number)
        mine: list[str] = []
        made = 0
        while not self._stopping.wait(0.005):
            began = time.monotonic()
            what = (
                "delete" if len(mine) > KEPT else str(rng.choice(["enroll", "delete", "overwrite"], p=[0.6, 0.2, 0.2]))
            )
            some = tuple(str(name) for name in rng.choice(mine, min(len(mine), 3), replace=False)) if mine else ()
            try:
                if what != "enroll" and some:
                    self._delete(some)
                    mine = [name for name in mine if name not in some]
                if what != "delete" or not some:
                    size = len(some) if what == "overwrite" and some else int(rng.integers(1, 5))
                    ids = (
                        some
                        if what == "overwrite" and some
                        else tuple(f"w{self.first_id}-{number}-{made + i}" for i in range(size))
                    )
                    made += size
                    self._enroll(ids, seed=made + 1_000_003 * (number + 1) + 1_000_003_000 * self.first_id)
                    mine += ids
            except FacegridError as error:
                self.errors.append((began, f"{what} after {time.monotonic() - began:.1f} s", error))
                mine = [name for name in mine if name not in self.oracle.doubtful()]
            else:
                self.writes.append(Done(began, time.monotonic()))

    def _enroll(self, ids: tuple[str, ...], seed: int) -> None:
        rows = unit_rows(len(ids), self.route.dim, seed=seed)
        batch = batch_of(rows)
        batch = type(batch)(rows, ids, batch.identities, batch.metadata)
        with self.oracle.changing(ids, rows):
            told = self.router.enroll(self.route, batch, skip_existing=False, new_ids=False)
            if told.enrolled != len(ids):
                self.wrong.append(f"enrolled {told.enrolled} of {ids}")

    def _delete(self, ids: tuple[str, ...]) -> None:
        with self.oracle.changing(ids, None):
            told = self.router.delete(self.route, template_ids=ids, identities=())
            if told != len(ids):
                self.wrong.append(f"deleted {told} of {ids}")

    def _search(self, number: int) -> None:
        rng = np.random.default_rng(1_000 + number)
        while not self._stopping.wait(0.005):
            before = self.oracle.sure()
            assert sum(is_there for _, is_there in before.values()) < MAX_K - 50, "one list cannot hold them all"
            probe_id = str(rng.choice([name for name, (_, is_there) in before.items() if is_there]))
            probe = self.oracle.floats_of(probe_id)
            if probe is None:
                continue
            is_exact = bool(rng.integers(2))
            params = SearchParams(k=MAX_K, exact=True) if is_exact else SearchParams(k=50)
            began = time.monotonic()
            try:
                found = self.router.search(self.route, probe[None], params, deadline_ms=DEADLINE_MS)
            except FacegridError as error:
                self.errors.append((began, f"search after {time.monotonic() - began:.1f} s", error))
                continue
            self.searches.append(Done(began, time.monotonic()))
            self._check(before, probe_id, list(found.candidates.template_ids[0]), is_exact)

    def _check(self, before: dict[str, tuple[int, bool]], probe_id: str, names: list[str], is_exact: bool) -> None:
        after = self.oracle.sure()
        same = {
            name: is_there for name, (version, is_there) in before.items() if after.get(name) == (version, is_there)
        }
        found = set(names)
        if len(found) != len(names):
            self.wrong.append(f"found twice: {sorted(name for name in found if names.count(name) > 1)}")
        if ghosts := sorted(name for name in found if same.get(name) is False):
            self.wrong.append(f"found though deleted: {ghosts}")
        if is_exact and (lost := sorted(name for name, is_there in same.items() if is_there and name not in found)):
            self.wrong.append(f"{len(lost)} not found though acknowledged: {lost[:5]}")
        if same.get(probe_id) and names[0] != probe_id:
            self.wrong.append(f"{probe_id} does not find itself, but {names[:1]}")

    # What was measured

    def first_write_after(self, moment: float) -> float | None:
        """Seconds until the first write that began at or after a moment had succeeded."""
        return min((done.ended for done in list(self.writes) if done.began >= moment), default=moment - 1) - moment

    def longest_gap(self, what: list[Done], begin: float, end: float) -> float:
        """The longest time between two successes that touches this span."""
        moments = sorted(done.ended for done in list(what))
        earlier = [moment for moment in moments if moment < begin][-1:] or [begin]
        later = [moment for moment in moments if moment > end][:1] or [end]
        marks = [*earlier, *(moment for moment in moments if begin <= moment <= end), *later]
        return max(b - a for a, b in pairwise(marks))

    def has_written_since(self, moment: float) -> bool:
        """A write that began after the moment has succeeded, and a search too."""
        return any(d.began > moment for d in list(self.writes)) and any(d.began > moment for d in list(self.searches))
