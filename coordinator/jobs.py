"""`JobCatalog`: the batch jobs of a home, in its catalog. What a job does, and where, is `cluster.jobs`.

A job that runs has an owner, the process that drives it, which gives a sign every second. One whose owner has been
silent for STALE_S may be taken over: every change of hands is a compare-and-set on the row, so that of two that want it
one has it, and the other, or an owner that was only slow, learns so at its next sign (JobTaken).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from coordinator.catalog import READY, Catalog
from coordinator.catalog_tables import GALLERIES, JOBS, SNAPSHOTS
from coordinator.job_rows import STALE_S, check_gallery, is_stale, job_record, locked_job
from coordinator.job_types import ENDED, UNFINISHED, JobRecord, JobState
from coordinator.names import check_gallery_name
from coordinator.timed_ids import new_timed_id
from shard.errors import (
    InvalidParameter,
    JobEnded,
    JobTaken,
    JobUnfinished,
    QuotaExceeded,
    UnknownGallery,
    UnknownJob,
    WorkerLost,
)
from shard.files import remove_tree

JOB_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
MAX_LOSSES = 5
"""How many processes may die over a job in a row before it counts as what kills them."""
MAX_LIST = 1_000
MAX_ERROR = 4_000
"""Characters of an error's message that are kept."""
Records = list[JobRecord]
_OWNED = (JobState.RUNNING.value, JobState.CANCELLING.value)


class JobCatalog:
    """Jobs of one home. Thread-safe; every method is one transaction."""

    def __init__(
        self, catalog: Catalog, directory: Path | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """directory: where the jobs' directories are, if they are this process's to remove. clock: unix seconds."""
        self._catalog, self._directory, self._clock = catalog, directory, clock

    def submit(
        self,
        kind: str,
        gallery: str,
        parameters: Mapping[str, Any],
        key_id: str | None = None,
        *,
        max_unfinished: int | None = None,
        owner: str | None = None,
    ) -> JobRecord:
        """A new job, queued, or the owner's at once. parameters: JSON. max_unfinished: of its tenant, this included.

        Raises UnknownGallery; QuotaExceeded.
        """
        now = self._clock()
        moment = datetime.fromtimestamp(now, timezone.utc)
        job_id = new_timed_id(moment)
        row = {
            "job_id": job_id, "kind": kind, "gallery": check_gallery_name(gallery), "key_id": key_id,
            "parameters": json.dumps(dict(parameters), sort_keys=True), "state": JobState.QUEUED.value,
            "created_at": now, "attempts": 0, "losses": 0, "done": 0, "total": 0, "unit": "", "phase": "",
            "phase_done": 0,
        }  # fmt: skip
        with self._catalog.writing() as db:
            query = sa.select(GALLERIES.c.gallery_id, GALLERIES.c.tenant_id)
            found = db.execute(query.where(GALLERIES.c.name == gallery, GALLERIES.c.state == READY)).first()
            if found is None:
                raise UnknownGallery(f"no gallery {gallery!r}")
            if max_unfinished is not None:
                _check_room(db, found.tenant_id, gallery, max_unfinished)
            db.execute(JOBS.insert(), {**row, "gallery_id": found.gallery_id, "tenant_id": found.tenant_id})
            return self._queued(db, job_id, owner)

    def _queued(self, db: Connection, job_id: str, owner: str | None) -> JobRecord:
        """A job that has just been queued: nobody else gets it before the owner that is given."""
        row = locked_job(db, job_id)
        taken = None if owner is None else self._take(db, row, owner)
        return taken or job_record(row)

    def get(self, job_id: str) -> JobRecord:
        """A job by its id; UnknownJob."""
        with self._catalog.reading() as db:
            row = db.execute(JOBS.select().where(JOBS.c.job_id == job_id)).first()
        if row is None:
            raise UnknownJob(f"no job {job_id!r:.80}")
        return job_record(row)

    def list(
        self,
        tenant_id: str | None = None,
        gallery: str | None = None,
        kind: str | None = None,
        state: JobState | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Records:
        """Jobs that meet all that is given, newest first. before: a job's id, of which only older ones are wanted.

        InvalidParameter for a limit that is not from 1 to MAX_LIST.
        """
        if not 1 <= limit <= MAX_LIST:
            raise InvalidParameter(f"limit: expected 1 to {MAX_LIST:,} jobs, got {limit!r}")
        query = JOBS.select().order_by(JOBS.c.job_id.desc()).limit(limit)
        wanted = {"tenant_id": tenant_id, "gallery": gallery, "kind": kind, "state": state and JobState(state).value}
        for name, value in wanted.items():
            query = query if value is None else query.where(JOBS.c[name] == value)
        if before is not None:
            query = query.where(JOBS.c.job_id < before)
        with self._catalog.reading() as db:
            return [job_record(row) for row in db.execute(query).all()]

    def counts(self) -> tuple[tuple[str, str, int], ...]:
        """(kind, state, how many jobs), of those that there are."""
        query = sa.select(JOBS.c.kind, JOBS.c.state, sa.func.count()).group_by(JOBS.c.kind, JOBS.c.state)
        with self._catalog.reading() as db:
            found = [(str(kind), str(state), int(count)) for kind, state, count in db.execute(query).all()]
        return tuple(sorted(found))

    # Whoever runs a job

    def claim(self, owner: str, job_id: str | None = None) -> JobRecord | None:
        """Make a job the owner's: the one named, or the oldest that is queued or whose owner has died.

        None if there is none that may be had. A job over which MAX_LOSSES owners have died fails instead. UnknownJob.
        """
        if job_id is not None:
            with self._catalog.writing() as db:
                return self._take(db, locked_job(db, job_id), owner)
        for found in self._claimable():  # most looks find nothing, and shall not take the lock of writers
            with self._catalog.writing() as db:
                row = db.execute(JOBS.select().where(JOBS.c.job_id == found).with_for_update()).first()
                taken = None if row is None else self._take(db, row, owner)
            if taken is not None:
                return taken
        return None

    def _claimable(self) -> Sequence[str]:
        is_old = sa.or_(JOBS.c.heartbeat_at.is_(None), JOBS.c.heartbeat_at < self._clock() - STALE_S)
        may_be = sa.or_(JOBS.c.state == JobState.QUEUED.value, sa.and_(JOBS.c.state.in_(_OWNED), is_old))
        query = sa.select(JOBS.c.job_id).where(may_be).order_by(JOBS.c.created_at, JOBS.c.job_id).limit(16)
        with self._catalog.reading() as db:
            return [str(found) for found in db.execute(query).scalars()]

    def _take(self, db: Connection, row: Row[Any], owner: str) -> JobRecord | None:
        """The claim of one job, whose row is locked."""
        now = self._clock()
        was_lost = is_stale(row, now)
        if row.state == JobState.CANCELLING.value and was_lost:
            _change(db, row, state=JobState.CANCELLED.value, finished_at=now, owner=None)
        if row.state != JobState.QUEUED.value and not (row.state == JobState.RUNNING.value and was_lost):
            return None
        losses = row.losses + int(was_lost)
        if losses >= MAX_LOSSES:
            message = f"{losses} processes in a row have died while they ran the job"
            error = {"error_code": WorkerLost.code, "error": message}
            _change(db, row, state=JobState.FAILED.value, finished_at=now, owner=None, **error)
            return None
        begun = {"started_at": row.started_at or now, "finished_at": None, "attempts": row.attempts + 1}
        fresh = {"error_code": None, "error": None, "phase_at": None}
        _change(db, row, state=JobState.RUNNING.value, owner=owner, heartbeat_at=now, losses=losses, **begun, **fresh)
        return job_record(locked_job(db, row.job_id))

    def progress(self, job_id: str, owner: str, done: int, total: int, unit: str, phase: str) -> JobState:
        """A sign of the owner, and how far it is; RUNNING, or CANCELLING if it shall stop.

        Raises JobTaken if the job is another's or has ended, UnknownJob if it was deleted or its tenant dropped,
        UnknownGallery if its gallery was dropped.
        """
        now = self._clock()
        with self._catalog.writing() as db:
            row = locked_job(db, job_id)
            _check_owner(row, owner)
            check_gallery(db, row)
            values: dict[str, object] = {"done": done, "total": total, "unit": unit, "phase": phase}
            if row.phase_at is None or (row.phase, row.unit) != (phase, unit):
                values |= {"phase_at": now, "phase_done": done}
            _change(db, row, heartbeat_at=now, **values)
        return JobState(row.state)

    def finish(
        self, job_id: str, owner: str, state: JobState, error_code: str | None = None, error: str | None = None
    ) -> JobRecord:
        """How the owner's job ended; QUEUED gives it back, for whoever claims it next.

        One that was to be cancelled and is given back is cancelled. Raises JobTaken, UnknownJob; InvalidParameter for
        another state.
        """
        state = JobState(state)
        if state not in (*ENDED, JobState.QUEUED):
            raise InvalidParameter(f"state: expected that of a job that has ended, or queued; got {state.value!r}")
        with self._catalog.writing() as db:
            row = locked_job(db, job_id)
            _check_owner(row, owner)
            if state is JobState.QUEUED and row.state == JobState.CANCELLING.value:
                state = JobState.CANCELLED
            at = self._clock() if state in ENDED else None
            message = None if error is None else error[:MAX_ERROR]
            ended = {"owner": None, "finished_at": at, "losses": 0, "error_code": error_code, "error": message}
            _change(db, row, state=state.value, **ended)
            return job_record(locked_job(db, job_id))

    def disown(self) -> int:
        """Have every job that runs count as one whose owner has died; how many there were.

        For a process that knows that it is the only one: it has just opened the home.
        """
        with self._catalog.writing() as db:
            return db.execute(JOBS.update().where(JOBS.c.state.in_(_OWNED)).values(heartbeat_at=0.0)).rowcount

    # Whoever asked for a job

    def cancel(self, job_id: str) -> JobRecord:
        """Have a job stopped: at once if nobody runs it, soon otherwise. Idempotent.

        JobEnded if it has succeeded or failed; UnknownJob.
        """
        now = self._clock()
        with self._catalog.writing() as db:
            row = locked_job(db, job_id)
            state = JobState(row.state)
            if state in (JobState.SUCCEEDED, JobState.FAILED):
                raise JobEnded(f"job {job_id} has {state.value} and cannot be cancelled")
            if state is JobState.QUEUED or is_stale(row, now):
                _change(db, row, state=JobState.CANCELLED.value, finished_at=now, owner=None)
            elif state is JobState.RUNNING:
                _change(db, row, state=JobState.CANCELLING.value)
            return job_record(locked_job(db, job_id))

    def resume(self, job_id: str, owner: str | None = None) -> JobRecord:
        """Queue a job that failed, was cancelled, or whose owner has died; it goes on from its checkpoints.

        owner: whose it becomes at once. No change to one that runs. Raises JobEnded if it has succeeded, JobUnfinished
        while it is being cancelled, UnknownGallery if its gallery was dropped; UnknownJob.
        """
        with self._catalog.writing() as db:
            row = locked_job(db, job_id)
            state, was_lost = JobState(row.state), is_stale(row, self._clock())
            if state is JobState.SUCCEEDED:
                raise JobEnded(f"job {job_id} has succeeded; there is nothing to resume")
            if state is JobState.CANCELLING and not was_lost:
                raise JobUnfinished(f"job {job_id} is being cancelled; resume it when that is done")
            if state in ENDED or was_lost:
                check_gallery(db, row)
                fresh = {"error_code": None, "error": None, "finished_at": None, "owner": None, "losses": 0}
                _change(db, row, state=JobState.QUEUED.value, **fresh)
            return self._queued(db, job_id, owner)

    def forget(self, job_id: str) -> None:
        """Remove a job with all its files. JobUnfinished if it is queued or runs; UnknownJob."""
        with self._catalog.writing() as db:
            row = locked_job(db, job_id)
            if JobState(row.state) in UNFINISHED and not is_stale(row, self._clock()):
                raise JobUnfinished(f"job {job_id} is {row.state}; cancel it before it is deleted")
            db.execute(JOBS.delete().where(JOBS.c.job_id == job_id))
        self.sweep()

    def sweep(self) -> int:
        """Remove directories of jobs that the catalog does not know (any more); how many there were.

        Snapshots that were in a job's directory and are not there any more are forgotten.
        """
        if self._directory is None or not self._directory.is_dir():
            return 0
        there = [path for path in self._directory.iterdir() if JOB_ID.fullmatch(path.name)]
        with self._catalog.reading() as db:
            known = set(db.execute(sa.select(JOBS.c.job_id)).scalars())
        gone = [path for path in there if path.name not in known]
        for path in gone:
            remove_tree(path)
        self._forget_snapshots(self._directory.absolute())
        return len(gone)

    def _forget_snapshots(self, directory: Path) -> None:
        own = SNAPSHOTS.c.store.startswith(f"{directory}/", autoescape=True)
        with self._catalog.reading() as db:
            stores = set(db.execute(sa.select(SNAPSHOTS.c.store).where(own)).scalars())
        gone = [store for store in stores if not Path(store).is_dir()]
        if gone:
            with self._catalog.writing() as db:
                db.execute(SNAPSHOTS.delete().where(SNAPSHOTS.c.store.in_(gone)))


def _change(db: Connection, row: Row[Any], **values: object) -> None:
    """Compare-and-set on what decides who may do what with a job."""
    same = (JOBS.c.job_id == row.job_id, JOBS.c.state == row.state, JOBS.c.attempts == row.attempts)
    if db.execute(JOBS.update().where(*same).values(**values)).rowcount != 1:
        raise JobTaken(f"job {row.job_id} was changed by another process meanwhile")


def _check_owner(row: Row[Any], owner: str) -> None:
    if row.owner != owner or row.state not in _OWNED:
        by = f"is run by {row.owner}" if row.state in _OWNED else f"is {row.state}"
        raise JobTaken(f"job {row.job_id} {by}, and is {owner}'s no more")


def _check_room(db: Connection, tenant_id: str | None, gallery: str, limit: int) -> None:
    own = (JOBS.c.tenant_id == tenant_id, JOBS.c.state.in_([state.value for state in UNFINISHED]))
    has = int(db.execute(sa.select(sa.func.count()).select_from(JOBS).where(*own)).scalar_one())
    if has >= limit:
        raise QuotaExceeded(
            f"the tenant of {gallery!r} may have {limit:,} jobs queued or running; it has {has:,}, asked for 1 more"
        )
