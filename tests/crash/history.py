"""What a writer did, as data: operations that the parent and the killed child describe with the same words.

The oracle is `History`: dicts of what must be there. An operation in flight at the kill is wholly there or not at all
in each shard, and `History.adopt` takes over which of the two it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from coordinator.placement import shards_of
from shard.types import FloatArray
from shard.validate import normalised
from tests.faces_like import unit_rows

DIM, SHARDS, SEGMENT_ROWS, CODE_BITS = 64, 3, 128, 256
GALLERY = "crash/main"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that the writer does. `names`: template ids, identities, or the name of a gallery."""

    verb: str
    names: tuple[str, ...] = ()
    identities: tuple[str | None, ...] = ()
    seed: int = 0

    def rows(self) -> FloatArray:
        """The embeddings of an enrollment, exactly as they are stored."""
        return normalised(unit_rows(len(self.names), DIM, self.seed))

    def metadata(self) -> list[dict[str, int] | None]:
        """The metadata of an enrollment: every other template has some."""
        return [{"seed": self.seed, "n": i} if i % 2 else None for i in range(len(self.names))]

    def to_line(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Operation:
        values = json.loads(line)
        return cls(values["verb"], tuple(values["names"]), tuple(values["identities"]), values["seed"])


class Kept(NamedTuple):
    """One template of the oracle: the bytes of its floats, its labels and its metadata."""

    floats: bytes
    identity: str | None
    metadata: dict[str, int] | None


@dataclass
class History:
    """What must be there: templates of the main gallery, and the names of all galleries."""

    templates: dict[str, Kept] = field(default_factory=dict)
    galleries: set[str] = field(default_factory=set)
    is_erased: bool = False
    """Nothing was deleted since the files were last rid of what was."""

    def apply(self, operation: Operation) -> None:
        """An acknowledged operation."""
        if operation.verb == "enroll":
            self.templates.update(_enrolled(operation))
        elif operation.verb in ("delete", "forget"):
            self.is_erased = False
            for template_id in self._doomed(operation):
                del self.templates[template_id]
        elif operation.verb == "erase":
            self.is_erased = True
        elif operation.verb == "create":
            self.galleries.update(operation.names)
        elif operation.verb == "drop":
            self.galleries.difference_update(operation.names)

    def adopt(self, operation: Operation, there: set[str]) -> None:
        """The operation in flight, template by template as it was found; whole within each shard, or AssertionError."""
        if operation.verb == "enroll":
            fresh = _enrolled(operation)
            _assert_whole(fresh, there)
            self.templates.update({i: kept for i, kept in fresh.items() if i in there})
        elif operation.verb in ("delete", "forget"):
            self.is_erased = False
            doomed = {i: self.templates[i] for i in self._doomed(operation)}
            _assert_whole(doomed, there)
            for template_id in doomed.keys() - there:
                del self.templates[template_id]

    def _doomed(self, operation: Operation) -> list[str]:
        if operation.verb == "delete":
            return [i for i in operation.names if i in self.templates]
        return [i for i, kept in self.templates.items() if kept.identity in operation.names]


def _enrolled(operation: Operation) -> dict[str, Kept]:
    rows = zip(operation.names, operation.rows(), operation.identities, operation.metadata(), strict=True)
    return {i: Kept(row.tobytes(), identity, metadata) for i, row, identity, metadata in rows}


def _assert_whole(templates: dict[str, Kept], there: Iterable[str]) -> None:
    present = set(there)
    for shard, ids in by_shard(templates).items():
        found = [i in present for i in ids]
        assert all(found) or not any(found), f"shard {shard} has {sum(found)} of the {len(ids)} templates in flight"


def by_shard(templates: dict[str, Kept]) -> dict[int, list[str]]:
    """Shard number to template ids."""
    if not templates:
        return {}
    shards = shards_of([kept.identity for kept in templates.values()], list(templates), SHARDS)
    cut: dict[int, list[str]] = {}
    for template_id, shard in zip(templates, shards.tolist(), strict=True):
        cut.setdefault(shard, []).append(template_id)
    return cut


class Plan:
    """Seeded operations, one after another; each depends on the history before it.

    To overwrite, templates are deleted, and then others are enrolled under the same ids: two operations.
    """

    def __init__(self, seed: int, first: int) -> None:
        """first: number of the first operation; it makes ids unlike those of earlier writers."""
        self._rng = np.random.default_rng([seed, first])
        self._number = first
        self._overwritten: tuple[str, ...] = ()

    def next(self, history: History) -> Operation:
        """The next operation. The gallery grows to a few thousand templates and then stays of that size."""
        self._number += 1
        if GALLERY not in history.galleries:
            return Operation("create", (GALLERY,))
        if self._overwritten:
            ids, self._overwritten = self._overwritten, ()
            return self._enroll(ids)
        size = len(history.templates)
        enrolls = 0.6 if size < 2_500 else 0.15
        others = {
            "delete": 5,
            "overwrite": 4,
            "forget": 4,
            "flush": 3,
            "erase": 3,
            "train": 2 if size >= 1_000 else 0,
            "create": 1,
            "drop": 1,
        }
        if self._rng.random() < enrolls or not size:
            n = int(self._rng.choice([1, 2, 40, 130, 500]))
            return self._enroll(tuple(f"t{self._number}-{i}" for i in range(n)))
        weights = np.array(list(others.values()), dtype=float)
        verb = str(self._rng.choice(list(others), p=weights / weights.sum()))
        if verb == "overwrite":
            self._overwritten = self._names("delete", history)
            return Operation("delete", self._overwritten)
        return Operation(verb, self._names(verb, history))

    def _enroll(self, ids: tuple[str, ...]) -> Operation:
        """Ids that are not there. Those that were have other floats now, and may be of another person and shard."""
        numbers = self._rng.integers(0, 600, len(ids)).tolist()
        people = tuple(f"p{person}" if person < 300 else None for person in numbers)
        return Operation("enroll", ids, people, seed=self._number)

    def _names(self, verb: str, history: History) -> tuple[str, ...]:
        side = sorted(history.galleries - {GALLERY})
        if verb == "create":
            return (f"crash/side-{self._number}",)
        if verb == "drop":
            return tuple(side[:1])
        if verb == "delete":
            n = min(len(history.templates), int(self._rng.choice([1, 10, 200])))
            return tuple(self._rng.choice(list(history.templates), n, replace=False).tolist())
        if verb == "forget":
            return tuple(f"p{person}" for person in self._rng.integers(0, 300, 4).tolist())
        return ()
