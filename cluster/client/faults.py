"""Answers that are errors: a problem document (RFC 9457) becomes the error that the service raised."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any

from cluster.client.call import Reply
from shard.errors import (
    FacegridError,
    HostUnavailable,
    InvalidImage,
    ProtocolError,
    RateLimited,
    error_from_code,
)

PROBLEM = "application/problem+json"
BUSY_STATUSES = (429, 502, 503, 504)
"""Statuses that may be better in a moment."""
_LONGEST_MESSAGE = 2_000


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an attempt failed.

    is_transient: the same call may succeed later. may_be_done: the service may have carried it out all the same.
    retry_after_s: seconds that the service asks to wait for, at least.
    """

    error: FacegridError
    is_transient: bool
    may_be_done: bool
    retry_after_s: float = 0.0
    is_not_found: bool = False


def fault_of(reply: Reply, now: Callable[[], float]) -> Fault | None:
    """What is wrong with an answer, None if nothing is. now: unix seconds, for a Retry-After that is a date."""
    if 200 <= reply.status < 300:
        return None
    problem = _problem(reply)
    wait_s = _retry_after(reply, problem, now)
    error = _error(reply, problem, wait_s)
    # Without a problem document a proxy has answered, which does not know whether trying again helps.
    is_retryable = bool(problem.get("is_retryable", True)) if problem is not None else True
    return Fault(
        error,
        is_transient=reply.status in BUSY_STATUSES and is_retryable,
        # Who is told that there were too many requests has had none of them carried out.
        may_be_done=reply.status != 429,
        retry_after_s=wait_s,
        is_not_found=problem is not None and reply.status == 404,
    )


def _problem(reply: Reply) -> dict[str, Any] | None:
    if reply.content_type != PROBLEM:
        return None
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("code"), str) else None


def _error(reply: Reply, problem: dict[str, Any] | None, wait_s: float) -> FacegridError:
    if problem is None:
        return _foreign(reply)
    message = str(problem.get("detail") or problem.get("title") or "no message")[:_LONGEST_MESSAGE]
    error = error_from_code(problem["code"], message)
    reason = problem.get("reason")
    if isinstance(error, InvalidImage) and isinstance(reason, str):
        error.reason = reason
    if isinstance(error, RateLimited):
        error.retry_after_s = wait_s or error.retry_after_s
    return error


def _foreign(reply: Reply) -> FacegridError:
    """An answer that is not a Facegrid service's: of a proxy before it, or of something else altogether."""
    if 300 <= reply.status < 400:
        return ProtocolError(f"expected an answer, got a redirect ({reply.status}), which is not followed")
    if reply.status == 429:
        return RateLimited("too many requests, says whoever answers before the service")
    if reply.status in BUSY_STATUSES:
        return HostUnavailable(f"the service does not answer: status {reply.status} from what is before it")
    return ProtocolError(
        f"status {reply.status} without a problem document ({reply.content_type or 'no content type'}); "
        "is this a Facegrid service?"
    )


def _retry_after(reply: Reply, problem: dict[str, Any] | None, now: Callable[[], float]) -> float:
    """Seconds to wait that the answer names, 0 if it names none: from the document, else from the header."""
    named = None if problem is None else problem.get("retry_after_s")
    if isinstance(named, (int, float)) and math.isfinite(named):
        return max(0.0, float(named))
    header = reply.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        date = parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, date.timestamp() - now())
