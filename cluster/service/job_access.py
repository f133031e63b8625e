"""Which jobs a key may see, and what may be asked of jobs over HTTP. Nowhere else.

A job of another tenant is not there, nor one that touches a gallery that the key may not use: 404 `unknown_job`, as for
one that never was, after the same look-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.service import problems
from cluster.service.calls import Call
from coordinator.job_types import JobRecord
from coordinator.tenant_types import KeyRecord, TenantRecord
from shard.errors import FacegridError, PermissionDenied, UnknownJob, error_from_code

SCOPES = {"dedup": "write", "enroll": "write", "reembed": "admin", "calibrate": "admin"}
"""What a key needs to submit, cancel, resume or delete a job of a kind: what the same needs by single requests. A dedup
job changes nothing by itself, but takes the machine for a while."""
OTHER_GALLERIES = ("other", "into")
"""Parameters that name a gallery besides the one that the job is submitted for."""
_TEXTS = ("message", "state", "error_code", "phase", "unit", "reason")
"""Of a line of a log, what a tenant sees besides numbers: no hosts, processes, paths or tracebacks."""


def galleries_of(gallery: str, parameters: Mapping[str, Any]) -> list[str]:
    """Every gallery that a job touches."""
    others = [parameters.get(name) for name in OTHER_GALLERIES]
    return [gallery, *(name for name in others if isinstance(name, str))]


def is_visible(key: KeyRecord, record: JobRecord) -> bool:
    """Whether the key may know of the job."""
    if key.tenant is None:
        return True
    if record.tenant_id != key.tenant_id:
        return False
    names = [name.partition("/") for name in galleries_of(record.gallery, record.parameters)]
    return all(tenant == key.tenant and (not key.galleries or own in key.galleries) for tenant, _, own in names)


async def job_of(call: Call, job_id: str, scope: str | None = "read") -> JobRecord:
    """A job that the key may see, and may do this with. scope: None for what the job's kind needs.

    UnknownJob, PermissionDenied.
    """
    record = await call.run(lambda: _found(call, job_id), kind="lookup")
    if record is None or not is_visible(call.principal.key, record):
        raise UnknownJob(f"no job {job_id!r:.80}")
    call.exchange.gallery = record.gallery
    needed = SCOPES.get(record.kind, "admin") if scope is None else scope
    for gallery in galleries_of(record.gallery, record.parameters):
        if not call.principal.key.allows(needed, gallery):
            raise PermissionDenied(f"this needs a key with the scope {needed}")
    return record


def _found(call: Call, job_id: str) -> JobRecord | None:
    try:
        return call.gateway.cluster.jobs.get(job_id)
    except UnknownJob:
        return None


def check_submission(call: Call, kind: str, gallery: str, parameters: Mapping[str, Any]) -> None:
    """That the key may use each of the galleries as the kind does; UnknownGallery, PermissionDenied."""
    for name in galleries_of(gallery, parameters)[1:]:
        call.named_gallery(name, SCOPES[kind])
    call.named_gallery(gallery, SCOPES[kind])  # the last, which the audit log names


def shown_error(record: JobRecord) -> str | None:
    """Why a job failed, in words for its tenant: of what is the machine's own, only what problem documents tell."""
    if record.error_code is None or record.error is None:
        return record.error
    error = error_from_code(record.error_code, record.error)
    if type(error) is FacegridError:
        return "an internal error; the service's log says more"
    return problems.shown(error)


def shown_line(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a job's log, for its tenant."""
    return {
        name: value
        for name, value in entry.items()
        if name in _TEXTS or value is None or isinstance(value, (bool, int, float))
    }


def owner_of(call: Call, gallery: str) -> TenantRecord:
    """The tenant that a gallery is of, as it is now. Blocks."""
    tenant = gallery.partition("/")[0]
    call.gateway.tenant_id(call.principal, tenant)  # the one that the key was made for
    return call.gateway.cluster.tenants.get(tenant)
