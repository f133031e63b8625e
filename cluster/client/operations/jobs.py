"""Batch jobs of a service, their logs and their results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.client.call import Call, Operation
from cluster.client.operations.requests import get, quoted, remove, write
from cluster.client.wire import entry, record, records
from coordinator.job_types import JobRecord, JobState
from coordinator.names import check_gallery_name
from shard.errors import InvalidParameter, ProtocolError, UnknownJob

_BASE = "/v1/jobs"
_UNTOLD = {"tenant_id": None, "owner": None, "heartbeat_at": None}
"""Where a job runs is the operator's to know."""
PAGE = 1_000
PIECE_BYTES = 8 << 20
"""Of a file, one request. A lost one is asked for again by itself, so a file may be of any size."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,3}")
"""Of files: what is written below a directory that the user names stays there, whatever a service says."""
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file of a job's result. size: bytes."""

    name: str
    size: int
    content_type: str


@dataclass(frozen=True, slots=True)
class RemoteJobResult:
    """What a job made: its files, to be had by `download`, and its summary."""

    files: tuple[ResultFile, ...]
    summary: Mapping[str, Any]


def job_path(job_id: str, *parts: str) -> str:
    """Path of a job, or of something of it. UnknownJob for an id that no job has."""
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise UnknownJob(f"no job {job_id!r:.80}")
    return "/".join((_BASE, job_id, *parts))


def job_of(document: Any) -> JobRecord:
    """A job from an answer; ProtocolError."""
    if not isinstance(document, dict):
        raise ProtocolError(f"expected a job in the answer, got {type(document).__name__}")
    try:
        state = JobState(entry(document, "state", str))
    except ValueError as error:
        raise ProtocolError(f"state: {error}") from None
    return record(JobRecord, document, state=state, parameters=entry(document, "parameters", dict), **_UNTOLD)


def state_text(state: str | None) -> str | None:
    """A state as a query has it; a JobState is text too."""
    return None if state is None else str(getattr(state, "value", state))


def submit(kind: str, gallery: str, parameters: Mapping[str, Any]) -> Operation[JobRecord]:
    """Have a job run. Sent again with the same key, it is one job."""
    body = {"kind": kind, "gallery": check_gallery_name(gallery), "parameters": dict(parameters)}
    return job_of((yield from write(_BASE, body, is_idempotent=True)))


def get_job(job_id: str) -> Operation[JobRecord]:
    """A job as it is now."""
    return job_of((yield from get(job_path(job_id))))


def list_jobs(filters: Mapping[str, object], limit: int, before: str | None) -> Operation[list[JobRecord]]:
    """Jobs that the key may see, latest first; before: those submitted before this one."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidParameter(f"limit: expected a whole number of at least 1, got {limit!r:.80}")
    found: list[JobRecord] = []
    while len(found) < limit:
        query = {**filters, "limit": min(PAGE, limit - len(found)), "cursor": before}
        document = yield from get(_BASE, query)
        found += [job_of(one) for one in entry(document, "jobs", list)]
        before = document.get("cursor")
        if before is None:
            break
    return found


def cancel(job_id: str) -> Operation[JobRecord]:
    """End a job; one that has ended stays as it is, so twice is once."""
    return job_of((yield from write(job_path(job_id, "cancel"), is_idempotent=True)))


def resume(job_id: str) -> Operation[JobRecord]:
    """Have a job that failed or was cancelled go on. Sent again with the same key, it is once."""
    return job_of((yield from write(job_path(job_id, "resume"), is_idempotent=True)))


def delete(job_id: str) -> Operation[None]:
    """Remove a job that has ended, with its files."""
    yield from remove(job_path(job_id))


def logs(job_id: str, start: int) -> Operation[tuple[list[dict[str, Any]], int]]:
    """A page of a job's log from a line on, and the number of the line after it."""
    document = yield from get(job_path(job_id, "logs"), {"start": start, "limit": PAGE})
    return entry(document, "entries", list), entry(document, "next", int)


def result(job_id: str) -> Operation[RemoteJobResult]:
    """What a job made."""
    document = yield from get(job_path(job_id, "result"))
    files = records(ResultFile, entry(document, "files", list), "files")
    for file in files:
        if not _PLAIN_PATH.fullmatch(file.name):
            raise ProtocolError(f"files: expected plain names in the answer, got {file.name!r:.160}")
    return RemoteJobResult(tuple(files), entry(document, "summary", dict))


def download(job_id: str, name: str, take: Callable[[bytes], object], tell: Tell | None = None) -> Operation[int]:
    """Hand the bytes of a result's file to `take`, in order; how many there were.

    tell gets bytes that came and bytes in all. ProtocolError if the file changes meanwhile.
    """
    done, size, tag = 0, None, None
    while size is None or done < size:
        headers = {"Range": f"bytes={done}-{done + PIECE_BYTES - 1}"}
        reply = yield Call("GET", job_path(job_id, "result", quoted(name)), headers=headers)
        total = _size_of(reply.headers.get("content-range"), done, len(reply.body)) if reply.status == 206 else None
        if total is None and (done or reply.status == 206):
            raise ProtocolError(f"{name}: expected the bytes from {done} on, got others")
        is_other = size not in (None, total) or (tag is not None and tag != reply.headers.get("etag"))
        if is_other:
            raise ProtocolError(f"{name}: the file changed while it was read")
        size, tag = len(reply.body) if total is None else total, reply.headers.get("etag")
        take(reply.body)
        done += len(reply.body)
        if tell is not None:
            tell(done, size)
    return done


def _size_of(header: str | None, first: int, length: int) -> int | None:
    """Bytes of the whole file by a Content-Range; None if that is not of these bytes."""
    found = None if header is None else _CONTENT_RANGE.fullmatch(header)
    if found is None or length == 0 or (int(found[1]), int(found[2])) != (first, first + length - 1):
        return None
    return int(found[3])
