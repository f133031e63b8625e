"""Batch jobs: submit, follow, cancel, resume, delete. What they made is in `routes.job_results`."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cluster.job_document import job_document
from cluster.service import job_schemas as schemas
from cluster.service.calls import Asked, Call
from cluster.service.job_access import check_submission, is_visible, job_of, owner_of, shown_error, shown_line
from cluster.service.job_parameters import checked_parameters
from cluster.service.once import Attempt, once
from cluster.service.operations import operation
from coordinator.job_types import UNFINISHED, JobRecord, JobState
from shard.errors import UnknownTenant

router = APIRouter(prefix="/v1/jobs")
MAX_PAGE = 1_000


@operation(router, "POST", "", "jobs.submit", body=schemas.JobBody, reply=schemas.JobReply, status=201, tag="jobs")
async def submit(call: Asked) -> Response:
    """Have a job run when it is its turn. May carry an Idempotency-Key."""
    wanted = call.read(schemas.JobBody)
    check_submission(call, wanted.kind, wanted.gallery, wanted.parameters)

    async def perform(_: Attempt) -> dict[str, Any]:
        record = await call.run(lambda: _submitted(call, wanted), kind="write")
        await call.audit_now()
        return shown_job(record)

    return await once(call, 0, perform, 201)


def _submitted(call: Call, wanted: schemas.JobBody) -> JobRecord:
    """Blocks."""
    grid = call.gateway.cluster
    tenant = owner_of(call, wanted.gallery)
    parameters = checked_parameters(wanted.kind, wanted.parameters, tenant, grid.settings.bulk_sources)
    return grid.jobs.submit(
        wanted.kind, wanted.gallery, parameters, key_id=call.principal.key.key_id, max_unfinished=tenant.quotas.jobs
    )


@operation(router, "GET", "", "jobs.list", reply=schemas.JobsReply, tag="jobs")
async def list_jobs(
    call: Asked,
    tenant: Annotated[str | None, Query(max_length=63)] = None,
    gallery: Annotated[str | None, Query(max_length=130)] = None,
    kind: Annotated[schemas.Kind | None, Query()] = None,
    state: Annotated[schemas.State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    cursor: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
) -> Response:
    """The jobs that the key may see, latest first."""
    key = call.principal.key
    if key.tenant is not None and tenant not in (None, key.tenant):
        raise UnknownTenant(f"no tenant {tenant!r:.80}")

    def read() -> tuple[list[JobRecord], str | None]:
        named = key.tenant if key.tenant is not None else tenant
        tenant_id = None if named is None else call.gateway.tenant_id(call.principal, named)
        return _page(call, tenant_id, gallery, kind, None if state is None else JobState(state), limit, cursor)

    found, after = await call.run(read, kind="read")
    call.exchange.is_audited = True  # somebody who watches asks again and again
    return call.reply({"jobs": [shown_job(record) for record in found], "cursor": after})


def _page(
    call: Call,
    tenant_id: str | None,
    gallery: str | None,
    kind: str | None,
    state: JobState | None,
    limit: int,
    before: str | None,
) -> tuple[list[JobRecord], str | None]:
    """A page of visible jobs, and where the next one begins. Blocks."""
    jobs, key = call.gateway.cluster.jobs, call.principal.key
    found: list[JobRecord] = []
    while True:
        page = jobs.list(tenant_id, gallery, kind, state, MAX_PAGE, before)
        for record in page:
            if is_visible(key, record):
                found.append(record)
                if len(found) > limit:
                    return found[:limit], found[limit - 1].job_id
        if len(page) < MAX_PAGE:
            return found, None
        before = page[-1].job_id


@operation(router, "GET", "/{job_id}", "jobs.show", reply=schemas.JobReply, tag="jobs")
async def show(call: Asked, job_id: str) -> Response:
    """A job: its state, how far it is, and when it will be done."""
    record = await job_of(call, job_id)
    call.exchange.is_audited = True
    return call.reply(shown_job(record))


@operation(router, "POST", "/{job_id}/cancel", "jobs.cancel", reply=schemas.JobReply, tag="jobs")
async def cancel(call: Asked, job_id: str) -> Response:
    """End a job after the blocks that are under way. What it has done is kept: it can be resumed."""
    record = await job_of(call, job_id, None)
    if not record.state.has_ended:
        record = await call.run(lambda: call.gateway.cluster.jobs.cancel(job_id), kind="write")
    await call.audit_now()
    return call.reply(shown_job(record))


@operation(router, "POST", "/{job_id}/resume", "jobs.resume", reply=schemas.JobReply, tag="jobs")
async def resume(call: Asked, job_id: str) -> Response:
    """Have a job that failed or was cancelled go on where it stopped. May carry an Idempotency-Key."""
    record = await job_of(call, job_id, None)

    async def perform(_: Attempt) -> dict[str, Any]:
        resumed = await call.run(lambda: _resumed(call, record), kind="write")
        await call.audit_now()
        return shown_job(resumed)

    return await once(call, 0, perform)


def _resumed(call: Call, record: JobRecord) -> JobRecord:
    """Blocks."""
    tenant, jobs = owner_of(call, record.gallery), call.gateway.cluster.jobs
    most = tenant.quotas.jobs
    if record.state.has_ended and most is not None:
        counts = [len(jobs.list(tenant_id=tenant.tenant_id, state=state, limit=MAX_PAGE)) for state in UNFINISHED]
        tenant.quotas.check_jobs(tenant.name, sum(counts))
    return jobs.resume(record.job_id)


@operation(router, "DELETE", "/{job_id}", "jobs.delete", reply=None, status=204, tag="jobs")
async def delete(call: Asked, job_id: str) -> Response:
    """Remove a job that has ended, with its files."""
    await job_of(call, job_id, None)
    await call.run(lambda: call.gateway.cluster.jobs.delete(job_id), kind="write")
    await call.audit_now()
    return Response(status_code=204)


@operation(router, "GET", "/{job_id}/logs", "jobs.logs", reply=schemas.JobLogReply, tag="jobs")
async def logs(
    call: Asked,
    job_id: str,
    start: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
) -> Response:
    """What a job says of itself, line by line, from line `start` on."""
    await job_of(call, job_id)
    entries = await call.run(
        lambda: list(islice(call.gateway.cluster.jobs.logs(job_id, skip=start), limit)), kind="read"
    )
    call.exchange.is_audited = True
    shown = entries if call.principal.key.tenant is None else [shown_line(entry) for entry in entries]
    return call.reply({"entries": shown, "next": start + len(entries)})


def shown_job(record: JobRecord) -> dict[str, Any]:
    """A job as a body."""
    return {**job_document(record), "error": shown_error(record)}
