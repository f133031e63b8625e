"""Errors over HTTP: the one table from error classes to status codes, and RFC 9457 problem documents.

A message of ours says what the caller got wrong or what is down; it never holds a key, and of what is not the caller's
(paths, hosts) only what the class is meant to tell.
"""

from __future__ import annotations

import logging
from typing import Any

import orjson

from shard.errors import (
    AccessError,
    AlreadyExists,
    AuthenticationFailed,
    ClusterError,
    DeadlineExceeded,
    DuplicateTemplate,
    FacegridError,
    HostBusy,
    InvalidImage,
    InvalidInput,
    JobError,
    MissingExtra,
    ModelError,
    ModelFileCorrupt,
    ModelFileMissing,
    ModelMismatch,
    NotEnoughData,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ResultBusy,
    StorageError,
    Unauthenticated,
)

_LOG = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:facegrid:error:"

STATUSES: dict[type[FacegridError], int] = {
    InvalidInput: 422,
    DuplicateTemplate: 409,
    NotFound: 404,
    AlreadyExists: 409,
    Unauthenticated: 401,
    PermissionDenied: 403,
    QuotaExceeded: 403,
    RateLimited: 429,
    AccessError: 403,
    JobError: 409,
    NotEnoughData: 409,
    ModelMismatch: 409,
    ModelError: 500,
    ModelFileMissing: 501,
    MissingExtra: 501,
    HostBusy: 503,
    DeadlineExceeded: 504,
    AuthenticationFailed: 500,
    ClusterError: 503,
    StorageError: 503,
    FacegridError: 500,
}
"""Each class stands for those below it that are not here themselves."""

_HIDDEN: dict[type[FacegridError], str] = {
    StorageError: "the storage of the service has a fault",
    ModelFileMissing: "the service lacks a network that this needs",
    ModelFileCorrupt: "a network's file of the service has a fault",
}
"""Errors whose messages are for the log alone, and what callers are told instead."""

_TITLES = {
    400: "Malformed request",
    401: "Not authenticated",
    403: "Not permitted",
    404: "Not found",
    405: "Method not allowed",
    408: "Request took too long to arrive",
    409: "Conflict",
    413: "Request too large",
    414: "Target too long",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Invalid values",
    429: "Too many requests",
    431: "Headers too large",
    500: "Internal error",
    501: "Not available in this installation",
    503: "Not available now",
    504: "Deadline exceeded",
    505: "HTTP version not supported",
}


class HttpProblem(Exception):
    """A refusal that only HTTP knows: a status, a stable code and a sentence."""

    def __init__(self, status: int, code: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.extra = status, code, detail, extra


def malformed(detail: str) -> HttpProblem:
    """400: the request cannot be read."""
    return HttpProblem(400, "malformed_request", detail)


def status_of(error: type[FacegridError]) -> int:
    """The status of an error class: its own entry, or its nearest parent's."""
    return next(STATUSES[cls] for cls in error.__mro__ if cls in STATUSES)


def problem_of(error: BaseException) -> HttpProblem:
    """What a caller is told of an error. One that is no FacegridError is a bug: logged, and nothing of it is shown."""
    if isinstance(error, HttpProblem):
        return error
    if not isinstance(error, FacegridError):
        _LOG.error("a request failed by a bug", exc_info=error)
        return HttpProblem(500, "internal_error", "an internal error; the service's log has it under this request id")
    extra: dict[str, Any] = {}
    if isinstance(error, InvalidImage):
        extra["reason"] = error.reason
    if isinstance(error, RateLimited):
        extra["retry_after_s"] = round(error.retry_after_s, 3)
    status = status_of(type(error))
    detail = shown(error)
    if detail != str(error):
        _LOG.error("a request failed: %s", error)
    return HttpProblem(status, error.code, detail, is_retryable=error.is_retryable, **extra)


def shown(error: FacegridError) -> str:
    """The error's message, or what callers are told instead: it may name files of the machine, which are the
    operator's to know."""
    for hidden, what in _HIDDEN.items():
        if isinstance(error, hidden) and not isinstance(error, ResultBusy):
            return f"{what}; the service's log says more"
    return str(error)


def document(problem: HttpProblem, request_id: str) -> bytes:
    """The problem as JSON, RFC 9457."""
    return orjson.dumps(
        {
            "type": TYPE_PREFIX + problem.code,
            "title": _TITLES.get(problem.status, "Error"),
            "status": problem.status,
            "detail": problem.detail,
            "code": problem.code,
            "is_retryable": False,
            "request_id": request_id,
            **problem.extra,
        }
    )


def headers(problem: HttpProblem) -> list[tuple[bytes, bytes]]:
    """Headers that go with the document."""
    found = [(b"content-type", CONTENT_TYPE.encode())]
    if problem.status == 401:
        found.append((b"www-authenticate", b'Bearer realm="facegrid"'))
    if "retry_after_s" in problem.extra:
        found.append((b"retry-after", b"%d" % max(1, -int(-problem.extra["retry_after_s"] // 1))))
    elif problem.status in (503, 504):
        found.append((b"retry-after", b"1"))
    return found
