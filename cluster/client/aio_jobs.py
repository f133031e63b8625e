"""`AsyncRemoteJobs`: the twin of `RemoteJobs` for asyncio; the same verbs, as coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.client.call import Operation, T
from cluster.client.job_files import opened, wanted_files
from cluster.client.job_waits import Waits
from cluster.client.operations import jobs as _jobs
from cluster.client.operations import reviews as _reviews
from cluster.client.operations.jobs import RemoteJobResult, Tell, state_text
from cluster.client.operations.reviews import Parts, RemoteApplyReport, RemoteReviewPage
from cluster.client.transport import AsyncTransport
from coordinator.job_types import JobRecord


class AsyncRemoteJobs:
    """As `RemoteJobs`. Files are written where the loop runs, which waits for the disk."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _run(self, operation: Operation[T]) -> T:
        return await self._transport.run(operation)

    async def submit(self, kind: str, gallery: str, parameters: Mapping[str, Any] | None = None) -> JobRecord:
        """Have a job run when it is its turn; QuotaExceeded if the tenant has too many that wait or run."""
        return await self._run(_jobs.submit(kind, gallery, parameters or {}))

    async def get(self, job_id: str) -> JobRecord:
        """A job as it is now; UnknownJob. Where it runs, and its tenant's id, are not told."""
        return await self._run(_jobs.get_job(job_id))

    async def list(
        self,
        *,
        tenant: str | None = None,
        gallery: str | None = None,
        kind: str | None = None,
        state: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[JobRecord]:
        """Jobs that the key may see, latest first. before: those submitted before the job of this id."""
        filters = {"tenant": tenant, "gallery": gallery, "kind": kind, "state": state_text(state)}
        return await self._run(_jobs.list_jobs(filters, limit, before))

    async def wait(
        self,
        job_id: str,
        *,
        poll_s: float = 2.0,
        timeout_s: float | None = None,
        progress: Callable[[JobRecord], None] | None = None,
    ) -> JobRecord:
        """The job when it has ended, well or not. Asks every `poll_s`, and tells `progress` what it hears.

        DeadlineExceeded after `timeout_s`; the job goes on.
        """
        waits = Waits(job_id, poll_s, timeout_s, progress)
        while (pause := waits.pause_after(await self.get(job_id))) is not None:
            await asyncio.sleep(pause)
        return waits.last

    async def cancel(self, job_id: str) -> JobRecord:
        """End a job after the blocks that are under way; one that has ended stays as it is."""
        return await self._run(_jobs.cancel(job_id))

    async def resume(self, job_id: str) -> JobRecord:
        """Have a job that failed or was cancelled go on where it stopped."""
        return await self._run(_jobs.resume(job_id))

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its files."""
        await self._run(_jobs.delete(job_id))

    async def logs(self, job_id: str, *, skip: int = 0) -> AsyncIterator[dict[str, Any]]:
        """What the job said of itself until now, without the first `skip` lines."""
        while True:
            entries, after = await self._run(_jobs.logs(job_id, skip))
            for one in entries:
                yield one
            if len(entries) < _jobs.PAGE or after <= skip:
                return
            skip = after

    async def result(self, job_id: str) -> RemoteJobResult:
        """What a job made; JobUnfinished while it runs."""
        return await self._run(_jobs.result(job_id))

    async def download(
        self, job_id: str, to: str | Path, *, files: Sequence[str] | None = None, progress: Tell | None = None
    ) -> tuple[Path, ...]:
        """Write the files of a result, or those that are named, into a directory, which is made; their paths.

        A file that is there is overwritten; one appears when it is whole. progress gets bytes done and in all, of each.
        """
        paths = []
        for name in wanted_files(await self.result(job_id), files):
            with opened(Path(to), name) as (path, take):
                await self._run(_jobs.download(job_id, name, take, progress))
            paths.append(path)
        return tuple(paths)

    # Of dedup jobs

    async def review(self, job_id: str, *, state: str = "open", after: int = -1, limit: int = 50) -> RemoteReviewPage:
        """Groups with a number above `after` that wait for review (open), were decided, or both (all)."""
        return await self._run(_reviews.review(job_id, state, after, limit))

    async def decide(
        self,
        job_id: str,
        action: str,
        groups: Sequence[int],
        *,
        parts: Parts = (),
        version: int | None = None,
        note: str = "",
    ) -> int:
        """accept, reject, split or reopen one group, or merge several; the review's version then.

        parts: of a split, lists of template ids. version: of the review that was looked at; ReviewConflict if there is
        a later one.
        """
        return await self._run(_reviews.decide(job_id, action, groups, parts, version, note))

    async def apply(
        self,
        job_id: str,
        action: str,
        *,
        dry_run: bool = True,
        gallery: str | None = None,
        key: str | None = None,
        accept_all: bool = False,
    ) -> RemoteApplyReport:
        """As `cluster.dedup.apply.apply`: delete duplicates, merge identities or tag, of groups as reviewed."""
        return await self._run(
            _reviews.apply(job_id, action, dry_run=dry_run, gallery=gallery, key=key, accept_all=accept_all)
        )

    async def undo(self, job_id: str, *, dry_run: bool = True) -> RemoteApplyReport:
        """Take the last apply back that was not taken back yet; UndoExpired after its time."""
        return await self._run(_reviews.undo(job_id, dry_run=dry_run))
