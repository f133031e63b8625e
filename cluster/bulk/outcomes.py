"""What becomes of each item of a unit: new, there already, or refused; and the ids that the job has met so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.bulk.batch import Batch
from cluster.bulk.items import decoded, encoded
from coordinator.snapshots.places import pyarrow
from shard.keys import template_keys
from shard.types import KeyArray

_TEXTS = ("items", "template_ids", "identities", "reasons", "messages")
_MERGE = 8


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Entry i of each field is of item i. is_new: enrolled by this job; reasons: why it was refused, or None.

    An item that is neither new nor refused was in the gallery before the job came to it.
    """

    items: tuple[str, ...]
    template_ids: tuple[str | None, ...]
    identities: tuple[str | None, ...]
    is_new: tuple[bool, ...]
    reasons: tuple[str | None, ...]
    messages: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def accepted_ids(self) -> list[str]:
        """Of the items that are not refused."""
        return [
            i for i, reason in zip(self.template_ids, self.reasons, strict=True) if reason is None and i is not None
        ]

    def refusing(self, faults: Mapping[int, tuple[str, str]]) -> Outcomes:
        """These items refused too: number to reason and message."""
        if not faults:
            return self
        return replace(
            self,
            is_new=tuple(new and i not in faults for i, new in enumerate(self.is_new)),
            reasons=tuple(faults[i][0] if i in faults else reason for i, reason in enumerate(self.reasons)),
            messages=tuple(faults[i][1] if i in faults else message for i, message in enumerate(self.messages)),
        )

    def to_bytes(self) -> bytes:
        """The same bytes for the same outcomes."""
        arrow = pyarrow()
        columns = {name: arrow.array(getattr(self, name), arrow.string()) for name in _TEXTS}
        return encoded(arrow.table({**columns, "is_new": arrow.array(self.is_new, arrow.bool_())}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Outcomes:
        """The outcomes of `to_bytes`."""
        table = decoded(data)
        return cls(**{name: tuple(table.column(name).to_pylist()) for name in table.column_names})


class SeenIds:
    """Ids accepted so far in this job, by their 64-bit keys: 8 bytes each, for there may be hundreds of millions."""

    def __init__(self) -> None:
        self._sorted: KeyArray = np.empty(0, np.uint64)
        self._fresh: set[int] = set()

    def add(self, template_ids: Sequence[str]) -> None:
        """Note ids."""
        self._fresh.update(template_keys(template_ids).tolist())
        if len(self._fresh) * _MERGE > len(self._sorted) and len(self._fresh) > 65_536:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._fresh, np.uint64))
            self._fresh.clear()

    def have(self, template_ids: Sequence[str]) -> list[bool]:
        """Whether each was noted."""
        keys = template_keys(template_ids)
        at = np.searchsorted(self._sorted, keys)
        inside = at < len(self._sorted)
        found = inside.copy()
        found[inside] = self._sorted[at[inside]] == keys[inside]
        return [bool(old) or key in self._fresh for old, key in zip(found, keys.tolist(), strict=True)]


def decided(batch: Batch, there: Mapping[str, str | None], seen: SeenIds) -> Outcomes:
    """What becomes of a unit. there: identity of those of its ids that the gallery has; seen: ids of earlier units.

    The first item of an id counts, in the order of the input. One that is there is skipped, under another identity it
    is refused (duplicate_id); a second item of an id is refused (repeated, or duplicate_id).
    """
    accepted = batch.accepted
    ids = [_given(batch.template_ids[i]) for i in accepted]
    known = dict(zip(accepted, seen.have(ids), strict=True))
    first: dict[str, str | None] = {}
    is_new = [False] * len(batch)
    faults: dict[int, tuple[str, str]] = {}
    for i, template_id in zip(accepted, ids, strict=True):
        identity = batch.identities[i]
        if template_id in first or known[i]:
            faults[i] = _twin(first.get(template_id, there.get(template_id, identity)), identity)
        elif template_id in there and there[template_id] != identity:
            faults[i] = another(there[template_id])
        else:
            is_new[i] = template_id not in there
            first[template_id] = identity
    outcomes = Outcomes(batch.items, batch.template_ids, batch.identities, tuple(is_new), batch.reasons, batch.messages)
    return outcomes.refusing(faults)


def another(identity: str | None) -> tuple[str, str]:
    """Reason and message where an id is somebody else's."""
    return "duplicate_id", f"its template id is enrolled as {identity!r}"


def _twin(other: str | None, identity: str | None) -> tuple[str, str]:
    return another(other) if other != identity else ("repeated", "the input has it before, under the same identity")


def _given(template_id: str | None) -> str:
    assert template_id is not None, "an accepted item has an id"
    return template_id


def new_rows(outcomes: Outcomes, batch: Batch) -> Iterator[tuple[int, int]]:
    """(item, vector) of what is to be written."""
    for vector, item in enumerate(batch.accepted):
        if outcomes.is_new[item]:
            yield item, vector
