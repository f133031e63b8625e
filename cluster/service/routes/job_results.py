"""What a job made: a list, and each file, whole or in ranges."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from cluster.service import job_schemas as schemas
from cluster.service.calls import Asked, Call
from cluster.service.downloads import FileDownload, asked_range, content_type
from cluster.service.job_access import job_of
from cluster.service.operations import operation
from cluster.service.problems import HttpProblem

router = APIRouter(prefix="/v1/jobs/{job_id}/result")


@operation(router, "GET", "", "jobs.result", reply=schemas.JobResultReply, tag="jobs")
async def result(call: Asked, job_id: str) -> Response:
    """The files of a job that succeeded, and its summary."""
    await job_of(call, job_id)
    found = await call.run(lambda: call.gateway.cluster.jobs.result(job_id), kind="read")
    files = [
        {"name": name, "size": (found.directory / name).stat().st_size, "content_type": content_type(name)}
        for name in found.files
    ]
    return call.reply({"files": files, "summary": found.summary})


@operation(router, "GET", "/{name:path}", "jobs.file", reply=None, produces=("application/octet-stream",), tag="jobs")
async def file(call: Asked, job_id: str, name: str) -> Response:
    """A file of a result, as an attachment. A `Range` of bytes is answered with 206."""
    await job_of(call, job_id)
    path, size = await call.run(lambda: _path(call, job_id, name), kind="read")
    asked = asked_range(call.request.headers.get("range"), size)
    return FileDownload(path, path.name, size=size, tag=f"{job_id}-{size:x}", asked=asked)


def _path(call: Call, job_id: str, name: str) -> tuple[Path, int]:
    """Where the file is, and its size; only of what the result itself lists. Blocks."""
    found = call.gateway.cluster.jobs.result(job_id)
    if name not in found.files:
        raise HttpProblem(404, "no_such_file", f"the result has no file {name!r:.80}; it has {', '.join(found.files)}")
    path = found.directory / name
    return path, path.stat().st_size
