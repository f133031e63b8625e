"""`RayJobs`: the methods of `coordinator.jobs.JobCatalog`, carried out by the coordinator's actor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.actors import Actor
from coordinator.job_types import JobRecord, JobState

SIGN_S = 3.0
"""How long a sign may take: a driver that hears nothing has to find out before another takes its job."""
Records = list[JobRecord]


class RayJobs:
    """Jobs of a home whose coordinator is an actor. Thread-safe."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

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
        """See JobCatalog.submit."""
        options = {"max_unfinished": max_unfinished, "owner": owner}
        return self._record("submit", kind, gallery, dict(parameters), key_id, **options)

    def get(self, job_id: str) -> JobRecord:
        """See JobCatalog.get."""
        return self._record("get", job_id)

    def list(
        self,
        tenant_id: str | None = None,
        gallery: str | None = None,
        kind: str | None = None,
        state: JobState | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Records:
        """See JobCatalog.list."""
        records: Records = self._call("list", tenant_id, gallery, kind, state, limit, before)
        return records

    def counts(self) -> tuple[tuple[str, str, int], ...]:
        """See JobCatalog.counts."""
        return tuple(self._call("counts"))

    def claim(self, owner: str, job_id: str | None = None) -> JobRecord | None:
        """See JobCatalog.claim."""
        record: JobRecord | None = self._call("claim", owner, job_id)
        return record

    def progress(self, job_id: str, owner: str, done: int, total: int, unit: str, phase: str) -> JobState:
        """See JobCatalog.progress."""
        args = (job_id, owner, done, total, unit, phase)
        return JobState(self._actor.call("call", "jobs.progress", args, {}, timeout_s=SIGN_S))

    def finish(
        self, job_id: str, owner: str, state: JobState, error_code: str | None = None, error: str | None = None
    ) -> JobRecord:
        """See JobCatalog.finish."""
        return self._record("finish", job_id, owner, state, error_code, error)

    def cancel(self, job_id: str) -> JobRecord:
        """See JobCatalog.cancel."""
        return self._record("cancel", job_id)

    def resume(self, job_id: str, owner: str | None = None) -> JobRecord:
        """See JobCatalog.resume."""
        return self._record("resume", job_id, owner)

    def disown(self) -> int:
        """See JobCatalog.disown."""
        return int(self._call("disown"))

    def forget(self, job_id: str) -> None:
        """See JobCatalog.forget."""
        self._call("forget", job_id)

    def sweep(self) -> int:
        """See JobCatalog.sweep."""
        return int(self._call("sweep"))

    def _record(self, method: str, *args: object, **kwargs: object) -> JobRecord:
        record: JobRecord = self._call(method, *args, **kwargs)
        return record

    def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        return self._actor.call("call", f"jobs.{method}", args, kwargs)
