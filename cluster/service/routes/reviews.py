"""What becomes of the groups of a dedup job: reviewed, applied to the galleries, taken back.

All of it needs the scope `write` in every gallery of the job: it does what single requests with that scope may do,
deleting templates and giving them another identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from cluster.dedup_document import apply_document, decision_document, page_document
from cluster.service import job_schemas as schemas
from cluster.service.calls import Asked, Call
from cluster.service.job_access import job_of
from cluster.service.once import Attempt, once
from cluster.service.operations import operation
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.dedup.apply import ApplyReport
    from cluster.dedup.decisions import Review
    from cluster.dedup.result_files import DedupResult
    from cluster.dedup.review import ReviewQueue
    from coordinator.job_types import JobRecord

router = APIRouter(prefix="/v1/jobs/{job_id}")


@operation(router, "GET", "/review", "jobs.review", reply=schemas.ReviewReply, tag="jobs")
async def review(
    call: Asked,
    job_id: str,
    state: Annotated[Literal["open", "decided", "all"], Query()] = "open",
    after: Annotated[int, Query(ge=-1, le=1 << 40)] = -1,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Groups of a dedup job that a person has to look at, and what was decided."""
    from cluster.dedup.review import ReviewQueue

    record = await job_of(call, job_id)
    page = await call.run(
        lambda: ReviewQueue(result_of(call, record)).page(state=state, after=after, limit=limit), kind="read"
    )
    return call.reply(page_document(page))


@operation(router, "POST", "/review", "jobs.decide", body=schemas.DecisionBody, reply=schemas.DecidedReply, tag="jobs")
async def decide(call: Asked, job_id: str) -> Response:
    """Decide about a group, or about several that are one. Changes no template. May carry an Idempotency-Key."""
    from cluster.dedup.review import ReviewQueue

    record = await job_of(call, job_id, "write")
    wanted = call.read(schemas.DecisionBody)

    async def perform(_: Attempt) -> dict[str, Any]:
        made = await call.run(
            lambda: _decided(ReviewQueue(result_of(call, record)), wanted, _reviewer(call)), kind="write"
        )
        await call.audit_now(len(wanted.groups))
        return {"version": made.version, "decision": decision_document(made.decisions[-1])}

    return await once(call, 0, perform)


def _decided(queue: ReviewQueue, wanted: schemas.DecisionBody, by: str) -> Review:
    """The review with the decision. Blocks."""
    from cluster.dedup.decisions import MemberRef

    about: dict[str, Any] = {"by": by, "version": wanted.version, "note": wanted.note}
    if wanted.action == "merge":
        return queue.merge(wanted.groups, **about)
    if len(wanted.groups) != 1:
        raise InvalidParameter(f"groups: expected one group to {wanted.action}, got {len(wanted.groups)}")
    (group,) = wanted.groups
    if wanted.action == "split":
        parts = [
            [m.template_id if m.gallery is None else MemberRef(m.gallery, m.template_id) for m in part]
            for part in wanted.parts
        ]
        return queue.split(group, parts, **about)
    verbs = {"accept": queue.accept, "reject": queue.reject, "reopen": queue.reopen}
    return verbs[wanted.action](group, **about)


@operation(router, "POST", "/apply", "jobs.apply", body=schemas.ApplyBody, reply=schemas.ApplyReply, tag="jobs")
async def apply(call: Asked, job_id: str) -> Response:
    """Delete the duplicates of a dedup job's groups, merge their identities, or tag them; a dry run unless told."""
    record = await job_of(call, job_id, "write")
    wanted = call.read(schemas.ApplyBody)

    async def perform(_: Attempt) -> dict[str, Any]:
        report = await call.run(lambda: _applied(call, record, wanted), kind="apply")
        await call.audit_now(0 if wanted.dry_run else report.templates)
        return apply_document(report)

    return await once(call, 0, perform)


def _applied(call: Call, record: JobRecord, wanted: schemas.ApplyBody) -> ApplyReport:
    """Blocks."""
    from cluster.dedup.apply import apply as perform
    from cluster.dedup.apply_plan import TAG_KEY

    return perform(
        call.gateway.cluster,
        result_of(call, record),
        wanted.action,
        dry_run=wanted.dry_run,
        gallery=wanted.gallery,
        key=wanted.key or TAG_KEY,
        accept_all=wanted.accept_all,
        by=_reviewer(call),
    )


@operation(router, "POST", "/undo", "jobs.undo", body=schemas.UndoBody, reply=schemas.ApplyReply, tag="jobs")
async def undo(call: Asked, job_id: str) -> Response:
    """Take the last apply back that was not taken back yet, while that can be done; a dry run unless told."""
    from cluster.dedup.apply import undo as perform_undo

    record = await job_of(call, job_id, "write")
    wanted = call.read(schemas.UndoBody)

    async def perform(_: Attempt) -> dict[str, Any]:
        report = await call.run(
            lambda: perform_undo(call.gateway.cluster, result_of(call, record), dry_run=wanted.dry_run), kind="apply"
        )
        await call.audit_now(0 if wanted.dry_run else report.templates)
        return apply_document(report)

    return await once(call, 0, perform)


def result_of(call: Call, record: JobRecord) -> DedupResult:
    """The groups of a dedup job; JobError for one that has not succeeded, InvalidParameter for another kind. Blocks."""
    gateway = call.gateway
    if record.kind != "dedup":
        raise InvalidParameter(f"job {record.job_id} is of kind {record.kind}; expected dedup")
    found = gateway.cluster.jobs.result(record.job_id)
    return gateway.results.get(found.directory.parent, record.finished_at)


def _reviewer(call: Call) -> str:
    key = call.principal.key
    return f"{key.name} ({key.key_id})"
