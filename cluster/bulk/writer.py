"""`Writer`: units into a gallery, in the order of the input, each item once whatever dies in between.

A unit's outcomes are decided and kept as a checkpoint before anything of it is written, and templates that are there
are skipped when it is. So a unit that was interrupted is written again by the outcomes of the first time, and whether
an item was there before the job stays as it was. The checkpoint of a unit says that all units before it are durable.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cluster.bulk.batch import Batch
from cluster.bulk.outcomes import Outcomes, SeenIds, another, decided, new_rows
from cluster.bulk.room import Room
from cluster.gallery import Gallery
from cluster.jobs.context import JobContext
from shard.errors import ClusterError, FacegridError, InvalidFile, QuotaExceeded

PATIENCE_S = 60.0
"""How long a write that a host did not confirm is tried again."""


class Change(Protocol):
    """What a kind of job does to a unit before it is decided."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with other labels, or items refused."""


class Writer:
    """Writes the units of one job. `write` each in its order, beginning with `todo`."""

    def __init__(self, job: JobContext, gallery: Gallery, units: int, items: int, change: Change | None = None) -> None:
        """units, items: of the job, in all. change: what is done to each unit first."""
        self._job, self._gallery, self._items, self._change = job, gallery, items, change
        self._room = Room(job.cluster, gallery)
        self._seen = SeenIds()
        self._kept: set[int] = set()
        self.done = self.enrolled = self.there = 0
        self.reasons: Counter[str] = Counter()
        self.todo = self._resume(units)

    def _resume(self, units: int) -> list[int]:
        """Units that are to be done: those without a checkpoint, and the last one that has it."""
        names = self._job.checkpoints.names()
        self._kept = {number for number in range(units) if _name(number) in names}
        last = max(self._kept, default=-1)
        for number in sorted(self._kept):
            if number != last:
                self._count(Outcomes.from_bytes(self._job.checkpoints.read(_name(number))))
        return [number for number in range(units) if number not in self._kept or number == last]

    def write(self, number: int, batch: Batch) -> None:
        """Enroll a unit. QuotaExceeded, JobCancelled, InvalidFile if the input changed, and what the cluster raises."""
        batch = batch if self._change is None else self._change(batch)
        outcomes = self._outcomes(number, batch)
        rows = list(new_rows(outcomes, batch))
        if rows:
            outcomes = self._written(number, batch, outcomes, rows)
        self._count(outcomes)

    def tell(self) -> None:
        """Say how far the job is; JobCancelled."""
        self._job.progress(self.done, self._items, "items", "enrolling")

    def _outcomes(self, number: int, batch: Batch) -> Outcomes:
        if number in self._kept:
            outcomes = Outcomes.from_bytes(self._job.checkpoints.read(_name(number)))
            if (outcomes.items, outcomes.accepted_ids) != (batch.items, _subset(batch, outcomes)):
                raise InvalidFile(f"unit {number} is not what it was when the job came to it first: its source changed")
            return outcomes
        ids = [batch.template_ids[i] for i in batch.accepted]
        outcomes = decided(batch, self._there([i for i in ids if i is not None]), self._seen)
        self._check_room(sum(outcomes.is_new))
        self._job.checkpoints.write(_name(number), outcomes.to_bytes())
        self._kept.add(number)
        return outcomes

    def _check_room(self, templates: int) -> None:
        try:
            self._room.take(templates)
        except QuotaExceeded as error:
            raise QuotaExceeded(
                f"{error}; {self.enrolled:,} templates were enrolled of {self.done:,} items that were done of"
                f" {self._items:,}; the job goes on from there when it is resumed"
            ) from error

    def _there(self, template_ids: Sequence[str]) -> dict[str, str | None]:
        return {t.template_id: t.identity for t in self._gallery.templates(sorted(set(template_ids)))}

    def _written(self, number: int, batch: Batch, outcomes: Outcomes, rows: Sequence[tuple[int, int]]) -> Outcomes:
        items = [item for item, _ in rows]
        ids = [i for i in (batch.template_ids[item] for item in items) if i is not None]
        result = self._patiently(
            lambda: self._gallery.enroll(
                np.ascontiguousarray(batch.vectors[[vector for _, vector in rows]]),
                identities=[batch.identities[item] for item in items],
                template_ids=ids,
                metadata=[_object(batch.metadata[item]) for item in items],
                if_exists="skip",
            )
        )
        if not result.skipped:
            return outcomes
        # Of an earlier attempt, or somebody else enrolled some of them at the same moment.
        there = self._there(ids)
        faults = {
            item: another(there[template_id])
            for item, template_id in zip(items, ids, strict=True)
            if there.get(template_id, batch.identities[item]) != batch.identities[item]
        }
        if faults:
            outcomes = outcomes.refusing(faults)
            self._job.checkpoints.write(_name(number), outcomes.to_bytes())
        return outcomes

    def _patiently(self, write: Any) -> Any:
        """A write, repeated while hosts are away: it skips what it did before."""
        until, pause_s = time.monotonic() + PATIENCE_S, 0.2
        while True:
            try:
                return write()
            except FacegridError as error:
                if not (isinstance(error, ClusterError) and error.is_retryable) or time.monotonic() > until:
                    raise
                self._job.log("a write is repeated", code=error.code)
            self._job.check()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)

    def _count(self, outcomes: Outcomes) -> None:
        self._seen.add(outcomes.accepted_ids)
        self.done += len(outcomes)
        self.enrolled += sum(outcomes.is_new)
        self.there += len(outcomes.accepted_ids) - sum(outcomes.is_new)
        self.reasons.update(reason for reason in outcomes.reasons if reason is not None)


def outcomes_of(job: JobContext, number: int) -> Outcomes:
    """What became of a unit that was written."""
    return Outcomes.from_bytes(job.checkpoints.read(_name(number)))


def _name(number: int) -> str:
    return f"unit-{number:09d}"


def _subset(batch: Batch, outcomes: Outcomes) -> list[str]:
    """Ids of a batch's items that the outcomes accepted; what is new among the faults is not looked at."""
    return [
        template_id
        for template_id, reason, fault in zip(batch.template_ids, outcomes.reasons, batch.reasons, strict=True)
        if reason is None and fault is None and template_id is not None
    ]


def _object(metadata: str | None) -> Any:
    return None if metadata is None else json.loads(metadata)
